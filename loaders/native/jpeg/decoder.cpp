#include "jpeg/decoder.hpp"

#include <algorithm>

#include "jpeg/input_checks.hpp"

namespace fastvit {

namespace {

// What torchvision and Pillow make of (inverted) CMYK: k * c / 255, rounded.
std::uint8_t cmyk_channel(int ink, int key) {
    const int product = ink * key + 128;
    return static_cast<std::uint8_t>((product + (product >> 8)) >> 8);
}

}  // namespace

JpegDecoder::JpegDecoder(bool may_take_over) : may_take_over_(may_take_over) { create(); }

JpegDecoder::~JpegDecoder() { jpeg_destroy_decompress(&info_); }

void JpegDecoder::create() {
    info_.err = errors_.get();
    run([&] { jpeg_create_decompress(&info_); });
    limit_resources(info_, progress_);
}

// An error ends the image.
template <typename Work>
void JpegDecoder::run(const Work& work) {
    try {
        errors_.run(reinterpret_cast<j_common_ptr>(&info_), work);
    } catch (...) {
        huffman_.stop();
        throw;
    }
}

void JpegDecoder::open(std::span<const std::uint8_t> jpeg) {
    check_is_jpeg(jpeg);
    // libjpeg keeps tables for images that have none, whose pixels would depend on the image that came before.
    jpeg_destroy_decompress(&info_);
    create();
    jpeg_size_ = jpeg.size();
    run([&] {
        read_from_memory(info_, jpeg);
        jpeg_read_header(&info_, TRUE);
        // libjpeg-turbo 3 goes on with what it can't crop; the blocks of a lossless image are single samples there.
        if (info_.min_DCT_scaled_size != DCTSIZE) ERREXIT1(&info_, JERR_SOF_UNSUPPORTED, 0xC3);
        if (info_.data_precision != 8) ERREXIT1(&info_, JERR_BAD_PRECISION, info_.data_precision);
    });
}

bool JpegDecoder::start(int shrink, bool may_be_ycc) {
    const bool is_ycc = may_be_ycc && info_.jpeg_color_space == JCS_YCbCr;
    run([&] {
        info_.out_color_space = info_.num_components == 4 ? JCS_CMYK : is_ycc ? JCS_YCbCr : JCS_RGB;
        info_.scale_num = 1;
        info_.scale_denom = static_cast<unsigned>(shrink);
        jpeg_start_decompress(&info_);
        check_is_whole(info_);
    });
    return is_ycc;
}

// Whether the last bits of some coefficient are in none of the scans. libjpeg then smooths the image over two blocks and more.
bool JpegDecoder::lacks_scans() const {
    if (!info_.progressive_mode) return false;
    const int* const bits = info_.coef_bits[0];  // of each component's coefficients, how many are missing; -1: all
    return std::any_of(bits, bits + info_.num_components * DCTSIZE2, [](int missing) { return missing != 0; });
}

void JpegDecoder::begin(const Region& region) {
    // At the edge of cropped columns, smoothing would make other pixels than in the whole image.
    const bool all_columns = lacks_scans();
    const std::int32_t left = all_columns ? 0 : std::max(0, region.left - kContext);
    const std::int32_t right =
        all_columns ? output_width() : std::min(output_width(), region.left + region.width + kContext);
    JDIMENSION offset = static_cast<JDIMENSION>(left), width = static_cast<JDIMENSION>(right - left);
    run([&] {
        if (left > 0 || right < output_width()) jpeg_crop_scanline(&info_, &offset, &width);
    });
    columns_before_ = region.left - static_cast<int>(offset);
    region_width_ = region.width;
    is_copied_ = all_columns || info_.out_color_space == JCS_CMYK;
    rows_above_ = region.top;
    rows_left_ = region.height;
    is_ours_ = may_take_over_ && HuffmanDecoder::can_decode(info_);
    if (is_ours_) huffman_.take_over(info_, mcus_of(offset, width, region));
}

bool JpegDecoder::advance(RowSink& sink) {
    if (rows_above_ > 0) {
        run([&] {
            if (is_ours_ && huffman_.approach(info_)) return;
            jpeg_skip_scanlines(&info_, static_cast<JDIMENSION>(rows_above_));
            rows_above_ = 0;
        });
        return true;
    }
    // As many as a row of MCUs makes, and what has been decoded ahead.
    do {
        for (int left = info_.max_v_samp_factor * info_.min_DCT_scaled_size; left > 0 && rows_left_ > 0;) {
            const int got = is_copied_ ? copy_row(sink) : read_rows(std::min(left, rows_left_), sink);
            left -= got;
            rows_left_ -= got;
        }
    } while (rows_left_ > 0 && is_ours_ && huffman_.has_row());
    if (rows_left_ == 0) huffman_.stop();
    return rows_left_ > 0;
}

// The MCUs of output columns [left, left + width) and of the region's rows with their context.
McuRange JpegDecoder::mcus_of(JDIMENSION left, JDIMENSION width, const Region& region) const {
    const bool alone = info_.num_components == 1;  // one component's MCU is one block, whatever its sampling factors are
    const auto block = static_cast<JDIMENSION>(info_.min_DCT_scaled_size);
    const JDIMENSION mcu_width = block * static_cast<JDIMENSION>(alone ? 1 : info_.max_h_samp_factor);
    const JDIMENSION mcu_height = block * static_cast<JDIMENSION>(alone ? 1 : info_.max_v_samp_factor);
    const auto top = static_cast<JDIMENSION>(std::max(0, region.top - kContext));
    const auto bottom = static_cast<JDIMENSION>(region.top + region.height - 1 + kContext);
    return {left / mcu_width, (left + width - 1) / mcu_width, top / mcu_height, bottom / mcu_height};
}

// At least one row, at most `wanted`; tells how many.
int JpegDecoder::read_scanlines(JSAMPARRAY rows, int wanted) {
    int got = 0;
    run([&] {
        got = static_cast<int>(jpeg_read_scanlines(&info_, rows, static_cast<JDIMENSION>(wanted)));
        if (got == 0) ERREXIT(&info_, JERR_INPUT_EOF);
    });
    return got;
}

int JpegDecoder::read_rows(int num_rows, RowSink& sink) {
    const int wanted = std::min({num_rows, kMaxRowsAtOnce, info_.rec_outbuf_height});
    JSAMPROW rows[kMaxRowsAtOnce];
    for (int ahead = 0; ahead < wanted; ++ahead) rows[ahead] = sink.row_memory(ahead) - 3 * columns_before_;
    const int got = read_scanlines(rows, wanted);
    for (int row = 0; row < got; ++row) sink.push();
    return got;
}

// A row that is not RGB, or for which the sink has no room.
int JpegDecoder::copy_row(RowSink& sink) {
    const auto channels = static_cast<std::size_t>(info_.output_components);
    row_.resize(channels * info_.output_width);
    JSAMPROW row = row_.data();
    read_scanlines(&row, 1);
    const std::uint8_t* from = row_.data() + channels * static_cast<std::size_t>(columns_before_);
    std::uint8_t* to = sink.row_memory(0);
    if (info_.out_color_space == JCS_CMYK) {
        for (int x = 0; x < region_width_; ++x)
            for (int channel = 0; channel < 3; ++channel)
                to[3 * x + channel] = cmyk_channel(from[4 * x + channel], from[4 * x + 3]);
    } else {
        std::copy_n(from, 3 * region_width_, to);
    }
    sink.push();
    return 1;
}

}  // namespace fastvit
