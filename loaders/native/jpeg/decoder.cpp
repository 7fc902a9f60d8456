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

void JpegDecoder::begin(const Region& region) {
    const std::int32_t left = std::max(0, region.left - kContext);
    const std::int32_t right = std::min(output_width(), region.left + region.width + kContext);
    JDIMENSION offset = static_cast<JDIMENSION>(left), width = static_cast<JDIMENSION>(right - left);
    run([&] {
        if (left > 0 || right < output_width()) jpeg_crop_scanline(&info_, &offset, &width);
    });
    columns_before_ = region.left - static_cast<int>(offset);
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
            const int got =
                info_.out_color_space == JCS_CMYK ? read_cmyk_row(sink) : read_rows(std::min(left, rows_left_), sink);
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

int JpegDecoder::read_cmyk_row(RowSink& sink) {
    cmyk_.resize(4 * static_cast<std::size_t>(info_.output_width));
    JSAMPROW row = cmyk_.data();
    read_scanlines(&row, 1);
    const std::uint8_t* cmyk = cmyk_.data() + 4 * columns_before_;
    std::uint8_t* rgb = sink.row_memory(0);
    const int width = static_cast<int>(info_.output_width) - columns_before_;
    for (int x = 0; x < width; ++x)
        for (int channel = 0; channel < 3; ++channel)
            rgb[3 * x + channel] = cmyk_channel(cmyk[4 * x + channel], cmyk[4 * x + 3]);
    sink.push();
    return 1;
}

}  // namespace fastvit
