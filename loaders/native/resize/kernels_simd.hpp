// What the kernels for vector instructions share. Each file compiles it for its own instructions, so nothing in here may
// have external linkage, and no inline function of the standard library may be called: of several copies of one function
// the linker keeps any one, and the one compiled for AVX-512 would then run on machines without it.
#pragma once

#include <cstdint>

#include "resize/kernels.hpp"

namespace fastvit {

namespace {

// The row that alone makes up the output; null where it is mixed of several.
const std::uint8_t* single_row(const std::uint8_t* const* rows, const std::int16_t* weights, int num_taps) {
    for (int tap = 0; tap < num_taps; ++tap)
        if (weights[tap] == kWeightOne) return rows[tap];
    return nullptr;
}

// Weights that are not negative make bytes that need no clamping.
enum class Weights { positive, any };

// The kernels, of loops for each number of rows and of taps.
template <typename Loops>
struct VectorKernels {
    static void mix_rows(const std::uint8_t* const* rows, const std::int16_t* weights, int num_taps, int num_bytes,
                         std::int16_t* out) {
        if (const std::uint8_t* row = single_row(rows, weights, num_taps))
            Loops::widen_row(row, num_bytes, out);
        else if (num_taps == 2)
            Loops::mix_two_rows(rows, weights, num_bytes, out);
        else if (num_taps == 4)
            Loops::mix_four_rows(rows, weights, num_bytes, out);
        else
            Loops::mix_many_rows(rows, weights, num_taps, num_bytes, out);
    }

    // A number of pairs that is known saves the inner loop.
    static void mix_columns(const std::int16_t* row, const std::int32_t* offsets, const std::int32_t* weights, int num_pairs,
                            int num_pixels, std::uint8_t* out) {
        if (num_pairs == 1)
            Loops::template mix_columns<Weights::positive>(row, offsets, weights, Number<1>(), num_pixels, out);
        else if (num_pairs == 2)
            Loops::template mix_columns<Weights::positive>(row, offsets, weights, Number<2>(), num_pixels, out);
        else
            Loops::template mix_columns<Weights::positive>(row, offsets, weights, num_pairs, num_pixels, out);
    }

    static void mix_rows_signed(const std::uint8_t* const* rows, const std::int16_t* weights, int num_taps, int num_bytes,
                                std::int16_t* out) {
        Loops::mix_many_rows(rows, weights, num_taps, num_bytes, out);
    }

    static void mix_columns_signed(const std::int16_t* row, const std::int32_t* offsets, const std::int32_t* weights,
                                   int num_pairs, int num_pixels, std::uint8_t* out) {
        if (num_pairs == 2)
            Loops::template mix_columns<Weights::any>(row, offsets, weights, Number<2>(), num_pixels, out);
        else
            Loops::template mix_columns<Weights::any>(row, offsets, weights, num_pairs, num_pixels, out);
    }

  private:
    template <int value>
    struct Number {
        constexpr operator int() const { return value; }
    };
};

}  // namespace

}  // namespace fastvit
