// What the kernels for x86 share, none of it with external linkage either.
#pragma once

#include "resize/kernels_simd.hpp"

namespace fastvit {

namespace {

// Rows of up to four taps are mixed in 16 bits: a weight is 128 * high + low, two signed bytes, so that a pair of taps makes
// at most 255 * 128 of either. The weights must be below kWeightOne.
struct ByteWeights {
    std::int16_t high[2] = {}, low[2] = {};  // of taps 2i (low byte) and 2i + 1

    ByteWeights(const std::int16_t* weights, int num_taps) {
        for (int tap = 0; tap < num_taps; ++tap) {
            const int rounded = (weights[tap] + 63) >> 7, above = rounded < 127 ? rounded : 127;
            const int below = weights[tap] - 128 * above;
            high[tap / 2] |= static_cast<std::int16_t>(tap % 2 ? above << 8 : above);
            low[tap / 2] |= static_cast<std::int16_t>(tap % 2 ? below * 256 : below & 255);
        }
    }
};

// The sum of high parts, h, and of low parts, l, become h + (l + 64) / 128, rounded down. Sums of two pairs' low parts may not
// fit into 16 bits, so their average is taken, of unsigned numbers: the offsets add up to 2 * (32768 + 32) - 1, because the
// instruction rounds up.
constexpr int kFirstOffset = 32768 + 32 - 1, kSecondOffset = 32768 + 32;
constexpr int kAverageShift = 6, kAverageOffset = 32768 >> kAverageShift;

}  // namespace

}  // namespace fastvit
