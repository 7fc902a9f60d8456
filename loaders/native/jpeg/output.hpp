// Memory that libjpeg writes a file to: a vector, so that nothing is lost or freed twice when an error ends the writing.
#pragma once

#include <cstdint>
#include <new>
#include <utility>
#include <vector>

#include "jpeg/errors.hpp"

namespace fastvit {

class JpegOutput {
  public:
    explicit JpegOutput(jpeg_compress_struct& info) {
        destination_.output = this;
        destination_.base.init_destination = [](j_compress_ptr) {};
        destination_.base.empty_output_buffer = [](j_compress_ptr compress) -> boolean {
            if (!of(compress).grow()) ERREXIT1(compress, JERR_OUT_OF_MEMORY, 0);
            return TRUE;
        };
        destination_.base.term_destination = [](j_compress_ptr compress) {
            JpegOutput& output = of(compress);
            output.bytes_.resize(output.bytes_.size() - output.destination_.base.free_in_buffer);
        };
        bytes_.resize(kFirstBytes);
        use_from(0);
        info.dest = &destination_.base;
    }
    JpegOutput(const JpegOutput&) = delete;
    JpegOutput& operator=(const JpegOutput&) = delete;

    // The file, once it is finished.
    std::vector<std::uint8_t> take() { return std::move(bytes_); }

  private:
    static constexpr std::size_t kFirstBytes = 1 << 16;

    struct Destination {
        jpeg_destination_mgr base{};  // the first member: libjpeg's pointer to it is a pointer to all
        JpegOutput* output = nullptr;
    };

    static JpegOutput& of(j_compress_ptr compress) { return *reinterpret_cast<Destination*>(compress->dest)->output; }

    // libjpeg has filled all there is.
    bool grow() {
        const std::size_t size = bytes_.size();
        try {
            bytes_.resize(2 * size);
        } catch (const std::bad_alloc&) {
            return false;
        }
        use_from(size);
        return true;
    }

    void use_from(std::size_t position) {
        destination_.base.next_output_byte = bytes_.data() + position;
        destination_.base.free_in_buffer = bytes_.size() - position;
    }

    Destination destination_;
    std::vector<std::uint8_t> bytes_;
};

}  // namespace fastvit
