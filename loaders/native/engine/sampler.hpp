// One sample from beginning to end: a record's bytes to the pixels of its crop.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "engine/placement.hpp"
#include "jpeg/decoder.hpp"
#include "orientation/turn.hpp"
#include "records/records.hpp"
#include "resize/resizer.hpp"
#include "resize/resizer_sink.hpp"

namespace fastvit {

// It keeps codec and scratch memory, so that nothing is allocated from sample to sample.
class Sampler {
  public:
    // `scaled_decode`: decode at 1/2, 1/4 or 1/8 of the size where the crop is at least that much larger than what
    // comes out; faster, but not the same pixels.
    explicit Sampler(bool scaled_decode, const ResizeKernels& kernels = fastest_resize_kernels())
        : scaled_decode_(scaled_decode), resizer_(kernels), sink_(resizer_) {}

    // Two that take turns, in one thread, are faster than one.
    void pair_with(Sampler& other) { decoder_.pair_with(other.decoder_); }

    // Begin to write the crop of `record`, as it is drawn for `sample`, to `out`: RGB [resolution, resolution, 3]. False when it is finished. Throws ImageError, or ForeignImageError where the record is an image of a format that
    // is decoded elsewhere.
    bool begin(const Record& record, std::size_t sample, const CropRule& rule, std::uint8_t* out);

    // Make some more rows of it; false when it is finished. Throws ImageError.
    bool advance();

    void load(const Record& record, std::size_t sample, const CropRule& rule, std::uint8_t* out) {
        for (bool unfinished = begin(record, sample, rule, out); unfinished;) unfinished = advance();
    }

  private:
    // A crop of the kind `shift` is made in two steps: the whole image, then the shifted one.
    struct ShiftedOut {
        std::uint8_t* pixels;
        std::int32_t side;
        Shift shift;
        bool flip;
    };

    // What is stored in another EXIF orientation than the upright one is turned after it is made.
    struct TurnedOut {
        std::uint8_t* pixels;
        std::int32_t side;
        Turn turn;
    };

    void finish();
    void begin_jpeg(const Record& record, std::size_t sample, const CropRule& rule, std::uint8_t* out);
    void resize_pixels(const std::uint8_t* pixels, std::int32_t width, const Placement& placement,
                       Interpolation interpolation, std::uint8_t* out);

    const bool scaled_decode_;
    JpegDecoder decoder_;
    Resizer resizer_;
    ResizerSink sink_;
    std::optional<ShiftedOut> shifted_;
    std::optional<TurnedOut> turned_;
    std::vector<std::uint8_t> whole_;      // RGB [resolution, resolution, 3], where it becomes a shifted one
    std::vector<std::uint8_t> as_stored_;  // the same, where it becomes a turned one
};

}  // namespace fastvit
