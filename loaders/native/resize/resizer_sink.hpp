// Decoded rows that go straight into the resize.
#pragma once

#include "jpeg/decoder.hpp"
#include "resize/resizer.hpp"

namespace fastvit {

class ResizerSink final : public RowSink {
    // The resize's memory has the room that the decoder wants.
    static_assert(Resizer::kMargin >= RowSink::kMargin && Resizer::kRowsAhead >= JpegDecoder::kMaxRowsAtOnce);

  public:
    explicit ResizerSink(Resizer& resizer) : resizer_(resizer) {}
    std::uint8_t* row_memory(int ahead) override { return resizer_.row_memory(ahead); }
    void push() override { resizer_.push(); }

  private:
    Resizer& resizer_;
};

}  // namespace fastvit
