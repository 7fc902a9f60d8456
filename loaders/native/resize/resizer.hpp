// Antialiased resizing as torchvision and Pillow define it for uint8 images (antialias=True): a filter as wide as the larger
// of an input and an output pixel, a triangle (bilinear) or Keys's cubic with a = -0.5 (bicubic). Rows go in one by one, as a
// decoder makes them, and each output row comes out as soon as the rows below it are there, so that everything stays in the
// cache. All of it is integer arithmetic: every instruction set gives the same pixels.
//
// Rows are mixed before columns, which is less work. A cubic overshoots, and what lies outside [0, 255] between the two
// passes is clamped there, as the two libraries do; so bicubic mixes columns first, as they do, or rows first where these
// are the columns of the image as it is seen.
#pragma once

#include <cstdint>
#include <vector>

#include "resize/kernels.hpp"
#include "resize/pixel_memory.hpp"

namespace fastvit {

enum class Interpolation { bilinear, bicubic };

// Output i of `size` is centred at start + (i + 0.5) * scale on the input, of which only [begin, end) may be used.
struct Axis {
    double start, scale;
    std::int32_t begin, end, size;

    bool is_identity() const { return scale == 1 && start == begin && end - begin == size; }
};

// What each output of an axis is made of: `counts[i]` inputs from `firsts[i]` on, weighted by row i of `weights`, which add
// up to kWeightOne and are padded with zeros to `stride`.
class AxisWeights {
  public:
    void compute(const Axis& axis, Interpolation interpolation, std::int32_t taps_multiple);

    std::int32_t first_input, end_input;  // over all outputs
    std::int32_t stride;
    std::vector<std::int32_t> firsts, counts;
    std::vector<std::int16_t> weights;

  private:
    template <typename Filter>
    void quantize_all(double inverse);
    template <typename Filter>
    void quantize(double center, double inverse, std::int32_t count, std::int16_t* out);

    std::vector<double> centers_, exact_;
};

// One for each thread; its memory is kept from image to image.
class Resizer {
  public:
    // How many pixels a row may begin before first_column() and end behind end_column(), for the decoder's use.
    static constexpr int kMargin = 80;
    static constexpr int kRowsAhead = 4;

    explicit Resizer(const ResizeKernels& kernels) : kernels_(kernels) {}

    // Prepare for an image that becomes `out`, uint8 RGB [rows.size, columns.size, 3]. `is_transposed`: its rows are seen
    // as columns. Throws ImageError.
    void start(const Axis& rows, const Axis& columns, Interpolation interpolation, bool flip, std::uint8_t* out,
               bool is_transposed = false);

    // The inputs that are needed.
    std::int32_t first_row() const { return rows_.first_input; }
    std::int32_t end_row() const { return rows_.end_input; }
    std::int32_t first_column() const { return columns_.first_input; }
    std::int32_t end_column() const { return columns_.end_input; }

    // Where to put the row that comes `ahead` < kRowsAhead after the next one, from first_column() on.
    std::uint8_t* row_memory(int ahead) { return slot(next_row_ + ahead); }

    // The next row, from first_row() on, is in its memory.
    void push();

  private:
    std::uint8_t* slot(std::int32_t row) {
        return ring_.data() + static_cast<std::size_t>(row & (ring_rows_ - 1)) * slot_bytes_ + 3 * kMargin;
    }
    std::uint8_t* filtered(std::int32_t row) {
        return filtered_.data() + static_cast<std::size_t>(row & (ring_rows_ - 1)) * filtered_bytes_;
    }
    void filter_columns(const std::uint8_t* row, std::uint8_t* out);
    void emit(std::int32_t output);
    void emit_bilinear(const std::int16_t* weights, std::int32_t num_taps, std::int32_t rows_left, std::uint8_t* out);
    void emit_bicubic(const std::int16_t* weights, std::int32_t num_taps, std::uint8_t* out);
    void emit_bicubic_of_rows(const std::int16_t* weights, std::int32_t num_taps, std::uint8_t* out);
    void pair_columns(bool flip);

    const ResizeKernels& kernels_;
    AxisWeights rows_, columns_;
    Interpolation interpolation_;
    bool filters_rows_;  // bicubic: columns first
    std::int32_t num_rows_, num_columns_;  // of the output
    std::uint8_t* out_;
    std::int32_t next_row_, next_output_;
    std::int32_t ring_rows_;  // a power of two
    std::size_t slot_bytes_;
    PixelMemory ring_;  // the rows that the filter still needs
    std::size_t filtered_bytes_;
    PixelMemory filtered_;  // bicubic: what the first of the two passes made
    std::vector<const std::uint8_t*> taps_;
    std::vector<std::int16_t> mixed_row_;
    std::vector<std::int32_t> column_offsets_, column_pairs_;
    std::vector<std::uint8_t> line_;  // as long as what `mix_columns` writes
};

}  // namespace fastvit
