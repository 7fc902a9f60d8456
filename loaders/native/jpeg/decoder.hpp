// Decoding the part of a JPEG that a crop needs.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "jpeg/errors.hpp"
#include "jpeg/huffman_decoder.hpp"
#include "jpeg/libjpeg_check.hpp"

namespace fastvit {

// Pixels [top, top + height) x [left, left + width).
struct Region {
    std::int32_t left, top, width, height;
};

// Where decoded rows go.
class RowSink {
  public:
    static constexpr int kMargin = 64;

    virtual ~RowSink() = default;

    // Memory for the row that comes `ahead` rows after the next one, `ahead` < 4: room for kMargin pixels
    // before the region's first column and behind its last one, both of which are the decoder's to scribble on.
    virtual std::uint8_t* row_memory(int ahead) = 0;

    // The next row is there, RGB, in its memory.
    virtual void push() = 0;
};

// A libjpeg-turbo decoder that serves image after image, each in steps of a few rows. Two of them are faster in turn than
// one after the other: see HuffmanDecoder.
class JpegDecoder {
  public:
    static constexpr int kMaxRowsAtOnce = 4;  // libjpeg's MAX_SAMP_FACTOR

    // `may_take_over`: entropy decoding is HuffmanDecoder's for all images that it is for. Otherwise libjpeg does all of it:
    // the same pixels, slower.
    explicit JpegDecoder(bool may_take_over = can_take_over_from_libjpeg());
    ~JpegDecoder();
    JpegDecoder(const JpegDecoder&) = delete;
    JpegDecoder& operator=(const JpegDecoder&) = delete;

    // Both must be used by one thread.
    void pair_with(JpegDecoder& other) { huffman_.pair_with(other.huffman_); }

    // Read an image's header. Throws ImageError, or ForeignImageError for what is no JPEG. `jpeg` must stay as it is until
    // the image is decoded.
    void open(std::span<const std::uint8_t> jpeg);

    std::int32_t height() const { return static_cast<std::int32_t>(info_.image_height); }
    std::int32_t width() const { return static_cast<std::int32_t>(info_.image_width); }
    int num_components() const { return info_.num_components; }

    // Where in the file the first scan's data begins; to be asked before `start`.
    std::size_t scan_offset() const { return jpeg_size_ - info_.src->bytes_in_buffer; }

    // Get ready to decode at 1/`shrink` (1, 2, 4 or 8) of the size, to RGB or, with `may_be_ycc`, to YCbCr where that is what
    // the image is stored in; tells whether it is YCbCr. Throws ImageError.
    bool start(int shrink, bool may_be_ycc = false);

    // The size of what comes out: the image's divided by `shrink`, rounded up.
    std::int32_t output_height() const { return static_cast<std::int32_t>(info_.output_height); }
    std::int32_t output_width() const { return static_cast<std::int32_t>(info_.output_width); }

    // Get ready to decode the rows and columns of `region`, which lies in the output: the very pixels that decoding the
    // whole image would give. Damage outside what is needed goes unseen. Throws ImageError.
    void begin(const Region& region);

    // Decode the next rows, a few or none, into `sink`; false when there are no more. Throws ImageError.
    bool advance(RowSink& sink);

    // Whether libjpeg, which has begun an image, looks as HuffmanDecoder expects it to.
    bool can_be_taken_over() const { return HuffmanDecoder::knows_layout(info_); }

    // How far fancy upsampling looks beyond a pixel, in output pixels.
    static constexpr int kContext = 2;

  private:
    void create();
    template <typename Work>
    void run(const Work& work);
    bool lacks_scans() const;
    McuRange mcus_of(JDIMENSION left, JDIMENSION width, const Region& region) const;
    int read_scanlines(JSAMPARRAY rows, int wanted);
    int read_rows(int num_rows, RowSink& sink);
    int copy_row(RowSink& sink);

    const bool may_take_over_;
    jpeg_decompress_struct info_{};
    JpegErrorManager errors_;
    jpeg_progress_mgr progress_{};
    std::size_t jpeg_size_;
    HuffmanDecoder huffman_;
    bool is_ours_;               // the entropy decoding
    int rows_above_, rows_left_;  // of the region
    int columns_before_;          // that come out in front of the region's
    int region_width_;
    bool is_copied_;  // rows go through row_
    std::vector<std::uint8_t> row_;
};

}  // namespace fastvit
