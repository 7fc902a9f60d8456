// What converters do to an image before it is stored: decode it, make it smaller, encode it as JPEG.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "jpeg/decoder.hpp"
#include "resize/pixel_memory.hpp"
#include "resize/resizer.hpp"
#include "resize/resizer_sink.hpp"

namespace fastvit {

// An image with a longer or a shorter side of more pixels becomes smaller, about its own shape; 0 is no limit.
struct SizeLimits {
    std::int32_t max_side, min_side;
};

struct JpegOptions {
    int quality;
    int chroma_columns, chroma_rows;  // pixels that share their colour: 2 and 2 for 4:2:0
    int restart_interval;             // MCUs between two restart markers, about; 0 for none
};

// Pixels [height, width, 3].
struct PixelView {
    const std::uint8_t* data;
    std::int32_t height, width;
};

// Keeps its memory from image to image: one for each thread.
class ImageConverter {
  public:
    ImageConverter() : resizer_(fastest_resize_kernels()), resizer_sink_(resizer_) {}

    // Decode all of a JPEG, to RGB or, with `may_be_ycc`, to YCbCr where that is what it is stored in. One that is several
    // times too large is decoded at 1/2, 1/4 or 1/8 of its size, at least twice as large as it becomes. The view is valid
    // until the next call. Throws ImageError, or ForeignImageError.
    PixelView decode(std::span<const std::uint8_t> jpeg, const SizeLimits& limits, bool may_be_ycc);

    // The memory in which `decode` returned its pixels just now: it becomes the caller's.
    std::unique_ptr<std::uint8_t[]> release_pixels() { return pixels_.release(); }

    // RGB pixels, smaller where they have to be. The view is valid until the next call.
    PixelView shrink(const PixelView& pixels, const SizeLimits& limits);

    // What `decode` returned just now, turned upright from EXIF's `orientation`. The view is valid until the next call.
    PixelView turn(const PixelView& pixels, int orientation);

    // A JPEG of RGB pixels, or of what `decode` or `turn` returned just now.
    std::vector<std::uint8_t> encode(const PixelView& pixels, const JpegOptions& options);

  private:
    bool start_resize(std::int32_t height, std::int32_t width, std::int32_t to_height, std::int32_t to_width);

    JpegDecoder decoder_;
    Resizer resizer_;
    ResizerSink resizer_sink_;
    PixelMemory pixels_, turned_;
    bool is_ycc_ = false;
};

}  // namespace fastvit
