// One sample from beginning to end: a record's bytes to the pixels of its crop.
#pragma once

#include <cstddef>
#include <cstdint>

#include "jpeg_decoder.hpp"
#include "placement.hpp"
#include "records.hpp"
#include "resize.hpp"

namespace fastvit {

// One for each thread: it keeps codec and scratch memory, so that nothing is allocated from image to image.
class Sampler {
  public:
    // `scaled_decode`: decode at 1/2, 1/4 or 1/8 of the size where the crop is at least that much larger than what
    // comes out; faster, but not the same pixels.
    explicit Sampler(bool scaled_decode, const ResizeKernels& kernels = fastest_resize_kernels())
        : scaled_decode_(scaled_decode), resizer_(kernels) {}

    // Write the crop of `record`, which is number `index` of its data set, to `out`: RGB [resolution, resolution, 3].
    // Throws ImageError, or ForeignImageError where the record is an image of a format that is decoded elsewhere.
    void load(const Record& record, std::size_t index, const CropRule& rule, std::uint8_t* out);

  private:
    void load_jpeg(const Record& record, std::size_t index, const CropRule& rule, std::uint8_t* out);
    void resize_pixels(const std::uint8_t* pixels, std::int32_t width, const Placement& placement, std::uint8_t* out);

    const bool scaled_decode_;
    JpegDecoder decoder_;
    Resizer resizer_;
};

}  // namespace fastvit
