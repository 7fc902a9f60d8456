#include "convert/image_converter.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "convert/restart_interval.hpp"
#include "jpeg/input_checks.hpp"
#include "jpeg/output.hpp"

namespace fastvit {

namespace {

struct Size {
    std::int32_t height, width;
};

Size limited(Size size, const SizeLimits& limits) {
    const auto fit = [](std::int32_t limit, std::int32_t side) { return limit > 0 ? static_cast<double>(limit) / side : 1; };
    const double scale = std::min({1.0, fit(limits.max_side, std::max(size.height, size.width)),
                                   fit(limits.min_side, std::min(size.height, size.width))});
    const auto resized = [&](std::int32_t side) {
        return std::max<std::int32_t>(1, static_cast<std::int32_t>(std::nearbyint(scale * side)));
    };
    return {resized(size.height), resized(size.width)};
}

Axis whole_axis(std::int32_t from, std::int32_t to) { return {0, static_cast<double>(from) / to, 0, from, to}; }

// Decoded rows one below the other.
class BufferSink final : public RowSink {
  public:
    BufferSink(std::uint8_t* pixels, std::size_t row_bytes) : next_(pixels), row_bytes_(row_bytes) {}
    std::uint8_t* row_memory(int ahead) override { return next_ + static_cast<std::size_t>(ahead) * row_bytes_; }
    void push() override { next_ += row_bytes_; }

  private:
    std::uint8_t* next_;
    const std::size_t row_bytes_;
};

struct Compressor {
    Compressor() {
        info.err = errors.get();
        errors.run(common(), [&] { jpeg_create_compress(&info); });
    }
    ~Compressor() { jpeg_destroy_compress(&info); }
    Compressor(const Compressor&) = delete;
    Compressor& operator=(const Compressor&) = delete;

    j_common_ptr common() { return reinterpret_cast<j_common_ptr>(&info); }

    JpegErrorManager errors;
    jpeg_compress_struct info{};
};

}  // namespace

PixelView ImageConverter::decode(std::span<const std::uint8_t> jpeg, const SizeLimits& limits, bool may_be_ycc) {
    decoder_.open(jpeg);
    const Size to = limited({decoder_.height(), decoder_.width()}, limits);
    int shrink = 1;
    while (shrink < 8 && decoder_.height() >= 2 * shrink * 2 * to.height && decoder_.width() >= 2 * shrink * 2 * to.width)
        shrink *= 2;
    is_ycc_ = decoder_.start(shrink, may_be_ycc);
    const std::int32_t height = decoder_.output_height(), width = decoder_.output_width();
    decoder_.begin({0, 0, width, height});
    if (start_resize(height, width, to.height, to.width)) {
        while (decoder_.advance(resizer_sink_)) continue;
    } else {
        BufferSink sink(pixels_.get(), 3 * static_cast<std::size_t>(width));
        while (decoder_.advance(sink)) continue;
    }
    return {pixels_.get(), to.height, to.width};
}

PixelView ImageConverter::shrink(const PixelView& pixels, const SizeLimits& limits) {
    is_ycc_ = false;
    const Size to = limited({pixels.height, pixels.width}, limits);
    if (!start_resize(pixels.height, pixels.width, to.height, to.width)) return pixels;
    const std::size_t row_bytes = 3 * static_cast<std::size_t>(pixels.width);
    for (std::int32_t y = 0; y < pixels.height; ++y) {
        std::memcpy(resizer_.row_memory(0), pixels.data + row_bytes * static_cast<std::size_t>(y), row_bytes);
        resizer_.push();
    }
    return {pixels_.get(), to.height, to.width};
}

// Make room for what comes out; false where nothing is to be resized.
bool ImageConverter::start_resize(std::int32_t height, std::int32_t width, std::int32_t to_height, std::int32_t to_width) {
    const std::size_t row_bytes = 3 * static_cast<std::size_t>(to_width);
    const std::size_t needed =
        row_bytes * static_cast<std::size_t>(to_height + JpegDecoder::kMaxRowsAtOnce) + 3 * RowSink::kMargin;
    if (needed > room_) {
        if (needed > kMaxJpegMemory) throw ImageError("its pixels would take more than 4 GiB");
        room_ = 0;
        pixels_.reset();
        pixels_ = std::make_unique_for_overwrite<std::uint8_t[]>(needed);
        room_ = needed;
    }
    if (height == to_height && width == to_width) return false;
    resizer_.start(whole_axis(height, to_height), whole_axis(width, to_width), Interpolation::bilinear, false, pixels_.get());
    return true;
}

std::vector<std::uint8_t> ImageConverter::encode(const PixelView& pixels, const JpegOptions& options) {
    Compressor compressor;
    jpeg_compress_struct& info = compressor.info;
    const J_COLOR_SPACE colours = is_ycc_ ? JCS_YCbCr : JCS_RGB;
    const int mcus_per_row = (pixels.width + 8 * options.chroma_columns - 1) / (8 * options.chroma_columns);
    const int interval = options.restart_interval ? nearest_divisor(mcus_per_row, options.restart_interval) : 0;
    JpegOutput output(info);
    compressor.errors.run(compressor.common(), [&info, &options, &pixels, colours, interval] {
        info.image_width = static_cast<JDIMENSION>(pixels.width);
        info.image_height = static_cast<JDIMENSION>(pixels.height);
        info.input_components = 3;
        info.in_color_space = colours;
        jpeg_set_defaults(&info);
        jpeg_set_colorspace(&info, JCS_YCbCr);
        jpeg_set_quality(&info, options.quality, TRUE);
        info.comp_info[0].h_samp_factor = options.chroma_columns;
        info.comp_info[0].v_samp_factor = options.chroma_rows;
        info.restart_interval = static_cast<unsigned>(interval);
        jpeg_start_compress(&info, TRUE);
        while (info.next_scanline < info.image_height) {
            // libjpeg only reads them.
            auto* row = const_cast<JSAMPROW>(pixels.data) + std::size_t{info.next_scanline} * 3 * info.image_width;
            jpeg_write_scanlines(&info, &row, 1);
        }
        jpeg_finish_compress(&info);
    });
    return output.take();
}

}  // namespace fastvit
