#include "resize/resizer.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>

namespace fastvit {

namespace {

struct Triangle {
    static constexpr int kSupport = 1;
    static double weight(double distance) { return std::max(0.0, 1 - std::abs(distance)); }
    static std::int16_t round(double weight) { return static_cast<std::int16_t>(weight + 0.5); }
};

struct Cubic {
    static constexpr int kSupport = 2;
    static double weight(double distance) {
        const double x = std::abs(distance);
        if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
        if (x < 2) return ((-0.5 * x + 2.5) * x - 4) * x + 2;
        return 0;
    }
    static std::int16_t round(double weight) { return static_cast<std::int16_t>(std::lrint(weight)); }
};

// Rounding changes no weight above this by more than a 32nd. All are below it where more than 1,024 pixels become one.
constexpr int kLeastLargeWeight = 16;

std::int32_t round_up(std::int32_t number, std::int32_t multiple) {
    return (number + multiple - 1) / multiple * multiple;
}

// Mixed rows to bytes, clamped. Clamping comes first: all numbers then fit into 16 bits, and compilers make a short loop.
void round_row(const std::int16_t* mixed, std::int32_t num_bytes, std::uint8_t* out) {
    constexpr std::int16_t kBlack = 0, kWhite = 255 << kMixedBits;
    for (std::int32_t x = 0; x < num_bytes; ++x) {
        const std::int16_t inside = std::max(kBlack, std::min(kWhite, mixed[x]));
        out[x] = static_cast<std::uint8_t>((inside + (1 << (kMixedBits - 1))) >> kMixedBits);
    }
}

}  // namespace

void AxisWeights::compute(const Axis& axis, Interpolation interpolation, std::int32_t taps_multiple) {
    const bool is_bicubic = interpolation == Interpolation::bicubic;
    const double filter_scale = std::max(axis.scale, 1.0), inverse = 1.0 / filter_scale;
    const double support = (is_bicubic ? Cubic::kSupport : Triangle::kSupport) * filter_scale;
    const auto size = static_cast<std::size_t>(axis.size);
    firsts.resize(size);
    counts.resize(size);
    centers_.resize(size);
    first_input = axis.end;
    end_input = axis.begin;
    std::int32_t max_count = 0;
    for (std::size_t output = 0; output < size; ++output) {
        const double center = axis.start + (static_cast<double>(output) + 0.5) * axis.scale;
        const auto first = std::clamp(static_cast<std::int32_t>(center - support + 0.5), axis.begin, axis.end - 1);
        const auto end = std::clamp(static_cast<std::int32_t>(center + support + 0.5), first + 1, axis.end);
        firsts[output] = first;
        counts[output] = end - first;
        centers_[output] = center - first - 0.5;
        first_input = std::min(first_input, first);
        end_input = std::max(end_input, end);
        max_count = std::max(max_count, end - first);
    }
    stride = round_up(max_count, taps_multiple);
    weights.assign(size * static_cast<std::size_t>(stride), 0);
    exact_.resize(static_cast<std::size_t>(max_count));
    if (is_bicubic)
        quantize_all<Cubic>(inverse);
    else
        quantize_all<Triangle>(inverse);
}

template <typename Filter>
void AxisWeights::quantize_all(double inverse) {
    for (std::size_t output = 0; output < counts.size(); ++output)
        quantize<Filter>(centers_[output], inverse, counts[output],
                         weights.data() + output * static_cast<std::size_t>(stride));
}

// The weights of `count` inputs around a centre that lies `center` inputs behind the first, as integers that add up to
// kWeightOne; what rounding leaves over goes to the largest. Where all weights are small numbers, each is rounded together with
// what was left over before it: thousands of them rounded for themselves would leave too much to one, or all be 0.
template <typename Filter>
void AxisWeights::quantize(double center, double inverse, std::int32_t count, std::int16_t* out) {
    double total = 0;
    for (std::int32_t tap = 0; tap < count; ++tap) {
        const double weight = Filter::weight((tap - center) * inverse);
        exact_[static_cast<std::size_t>(tap)] = weight;
        total += weight;
    }
    const double unit = total > 0 ? kWeightOne / total : 0;
    const bool carries = inverse * kWeightOne < kLeastLargeWeight;
    std::int32_t left = kWeightOne, largest = 0;
    double carried = 0;
    for (std::int32_t tap = 0; tap < count; ++tap) {
        const double weight = exact_[static_cast<std::size_t>(tap)] * unit + carried;
        out[tap] = Filter::round(weight);
        if (carries) carried = weight - out[tap];
        left -= out[tap];
        if (out[tap] > out[largest]) largest = tap;
    }
    out[largest] = static_cast<std::int16_t>(out[largest] + left);
}

void Resizer::start(const Axis& rows, const Axis& columns, Interpolation interpolation, bool flip, std::uint8_t* out,
                    bool is_transposed) {
    rows_.compute(rows, interpolation, 2);
    columns_.compute(columns, interpolation, 2);
    interpolation_ = interpolation;
    filters_rows_ = interpolation == Interpolation::bicubic && !is_transposed;
    num_rows_ = rows.size;
    num_columns_ = columns.size;
    out_ = out;
    next_row_ = rows_.first_input;
    next_output_ = 0;
    pair_columns(flip);
    const std::int32_t width = columns_.end_input - columns_.first_input;
    ring_rows_ = static_cast<std::int32_t>(std::bit_ceil(static_cast<std::uint32_t>(rows_.stride + kRowsAhead)));
    slot_bytes_ = static_cast<std::size_t>(3 * (width + 2 * kMargin) + kRowPadding);
    ring_.make_room(slot_bytes_ * static_cast<std::size_t>(ring_rows_));
    taps_.resize(static_cast<std::size_t>(rows_.stride));
    // The last pixel's last taps, whose weights are 0, may lie behind the row.
    mixed_row_.resize(static_cast<std::size_t>(3 * std::max(width + columns_.stride, num_columns_) + kRowPadding));
    line_.resize(static_cast<std::size_t>(3 * round_up(num_columns_, kPixelsPerGroup) + kOutPadding));
    if (interpolation != Interpolation::bicubic) return;
    filtered_bytes_ = line_.size() + kRowPadding;
    filtered_.make_room(std::max(filtered_bytes_ * static_cast<std::size_t>(ring_rows_), slot_bytes_));
}

// The columns' weights in the order in which `mix_columns` wants them, mirrored where the image is to be.
void Resizer::pair_columns(bool flip) {
    const std::int32_t size = round_up(num_columns_, kPixelsPerGroup), num_pairs = columns_.stride / 2;
    column_offsets_.assign(static_cast<std::size_t>(size), 0);
    column_pairs_.assign(static_cast<std::size_t>(size * num_pairs * kCopies), 0);
    for (std::int32_t output = 0; output < num_columns_; ++output) {
        const auto from = static_cast<std::size_t>(flip ? num_columns_ - 1 - output : output);
        column_offsets_[static_cast<std::size_t>(output)] = 3 * (columns_.firsts[from] - columns_.first_input);
        const std::int16_t* weights = columns_.weights.data() + from * static_cast<std::size_t>(columns_.stride);
        const std::int32_t group = output / kPixelsPerGroup, pixel = output % kPixelsPerGroup;
        std::int32_t* pairs = column_pairs_.data() + (group * num_pairs * kPixelsPerGroup + pixel) * kCopies;
        for (std::int32_t pair = 0; pair < num_pairs; ++pair, weights += 2, pairs += kPixelsPerGroup * kCopies) {
            std::int32_t both;
            std::memcpy(&both, weights, sizeof both);
            std::fill_n(pairs, kCopies, both);
        }
    }
    // The pixels that fill the last group up see what the last one sees.
    std::fill(column_offsets_.begin() + num_columns_, column_offsets_.end(),
              column_offsets_[static_cast<std::size_t>(num_columns_ - 1)]);
}

void Resizer::push() {
    if (filters_rows_) filter_columns(slot(next_row_), filtered(next_row_));
    ++next_row_;
    while (next_output_ < num_rows_) {
        const auto output = static_cast<std::size_t>(next_output_);
        if (rows_.firsts[output] + rows_.counts[output] > next_row_) return;
        emit(next_output_++);
    }
}

void Resizer::emit(std::int32_t output) {
    const auto number = static_cast<std::size_t>(output);
    const std::int32_t first = rows_.firsts[number], count = rows_.counts[number];
    const std::int32_t num_taps = round_up(count, 2);
    const std::int16_t* weights = rows_.weights.data() + number * static_cast<std::size_t>(rows_.stride);
    std::uint8_t* out = out_ + 3 * number * static_cast<std::size_t>(num_columns_);
    if (filters_rows_) {
        for (std::int32_t tap = 0; tap < num_taps; ++tap)
            taps_[static_cast<std::size_t>(tap)] = filtered(first + std::min(tap, count - 1));
        emit_bicubic(weights, num_taps, out);
    } else {
        for (std::int32_t tap = 0; tap < num_taps; ++tap)
            taps_[static_cast<std::size_t>(tap)] = slot(first + std::min(tap, count - 1));
        if (interpolation_ == Interpolation::bicubic)
            emit_bicubic_of_rows(weights, num_taps, out);
        else
            emit_bilinear(weights, num_taps, num_rows_ - output, out);
    }
}

void Resizer::emit_bilinear(const std::int16_t* weights, std::int32_t num_taps, std::int32_t rows_left, std::uint8_t* out) {
    kernels_.mix_rows(taps_.data(), weights, num_taps, 3 * (columns_.end_input - columns_.first_input), mixed_row_.data());
    // Straight to the image, where what is written behind the row is overwritten by the rows to come.
    const std::size_t row_bytes = 3 * static_cast<std::size_t>(num_columns_);
    const bool fits = static_cast<std::size_t>(rows_left) * row_bytes >= line_.size();
    kernels_.mix_columns(mixed_row_.data(), column_offsets_.data(), column_pairs_.data(), columns_.stride / 2,
                         round_up(num_columns_, kPixelsPerGroup), fits ? out : line_.data());
    if (!fits) std::memcpy(out, line_.data(), row_bytes);
}

void Resizer::emit_bicubic(const std::int16_t* weights, std::int32_t num_taps, std::uint8_t* out) {
    const std::int32_t row_bytes = 3 * num_columns_;
    kernels_.mix_rows_signed(taps_.data(), weights, num_taps, row_bytes, mixed_row_.data());
    round_row(mixed_row_.data(), row_bytes, out);
}

void Resizer::emit_bicubic_of_rows(const std::int16_t* weights, std::int32_t num_taps, std::uint8_t* out) {
    const std::int32_t row_bytes = 3 * (columns_.end_input - columns_.first_input);
    kernels_.mix_rows_signed(taps_.data(), weights, num_taps, row_bytes, mixed_row_.data());
    round_row(mixed_row_.data(), row_bytes, filtered_.data());
    filter_columns(filtered_.data(), line_.data());
    std::memcpy(out, line_.data(), 3 * static_cast<std::size_t>(num_columns_));
}

// Mix a row's columns for all output rows that it is part of.
void Resizer::filter_columns(const std::uint8_t* row, std::uint8_t* out) {
    const std::uint8_t* const rows[2] = {row, row};
    constexpr std::int16_t kAlone[2] = {kWeightOne, 0};
    kernels_.mix_rows(rows, kAlone, 2, 3 * (columns_.end_input - columns_.first_input), mixed_row_.data());
    kernels_.mix_columns_signed(mixed_row_.data(), column_offsets_.data(), column_pairs_.data(), columns_.stride / 2,
                                round_up(num_columns_, kPixelsPerGroup), out);
}

}  // namespace fastvit
