// What the kernels for x86 share: all but a few instructions' names and how pixels are gathered. See kernels_simd.hpp for why
// none of it has external linkage.
#pragma once

#include <immintrin.h>

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

// `Set` is an instruction set: its vectors, and its names for the instructions. Unpacking keeps within 128-bit parts, and
// `Set::store` puts them into order.
template <typename Set>
struct RowLoops {
    using Vector = typename Set::Vector;
    static constexpr int kStep = sizeof(Vector);

    static void widen_row(const std::uint8_t* row, int num_bytes, std::int16_t* out) {
        const Vector zero = Set::fill16(0);
        for (int x = 0; x < num_bytes; x += kStep) {
            // Shifted by 8 bits, as high bytes, and back by what is too much.
            const Vector bytes = Set::load(row + x);
            const Vector low = Set::unpack_low(zero, bytes), high = Set::unpack_high(zero, bytes);
            Set::store(out + x, Set::template shift_right_unsigned16<8 - kMixedBits>(low),
                       Set::template shift_right_unsigned16<8 - kMixedBits>(high));
        }
    }

    static void mix_two_rows(const std::uint8_t* const* rows, const std::int16_t* weights, int num_bytes, std::int16_t* out) {
        const ByteWeights bytes(weights, 2);
        const Vector high = Set::fill16(bytes.high[0]), low = Set::fill16(bytes.low[0]), half = Set::fill16(64);
        const auto mix = [&](Vector ab) {
            const Vector rest = Set::template shift_right16<7>(Set::add16(Set::multiply_bytes(ab, low), half));
            return Set::add16(Set::multiply_bytes(ab, high), rest);
        };
        for (int x = 0; x < num_bytes; x += kStep) {
            const Vector a = Set::load(rows[0] + x), b = Set::load(rows[1] + x);
            Set::store(out + x, mix(Set::unpack_low(a, b)), mix(Set::unpack_high(a, b)));
        }
    }

    static void mix_four_rows(const std::uint8_t* const* rows, const std::int16_t* weights, int num_bytes, std::int16_t* out) {
        const ByteWeights bytes(weights, 4);
        const Vector high_ab = Set::fill16(bytes.high[0]), high_cd = Set::fill16(bytes.high[1]);
        const Vector low_ab = Set::fill16(bytes.low[0]), low_cd = Set::fill16(bytes.low[1]);
        const Vector first = Set::fill16(static_cast<std::int16_t>(kFirstOffset));
        const Vector second = Set::fill16(static_cast<std::int16_t>(kSecondOffset));
        const Vector average_offset = Set::fill16(kAverageOffset);
        const auto mix = [&](Vector ab, Vector cd) {
            const Vector average = Set::average16(Set::add16(Set::multiply_bytes(ab, low_ab), first),
                                                  Set::add16(Set::multiply_bytes(cd, low_cd), second));
            const Vector rest = Set::subtract16(Set::template shift_right_unsigned16<kAverageShift>(average), average_offset);
            const Vector whole = Set::add16(Set::multiply_bytes(ab, high_ab), Set::multiply_bytes(cd, high_cd));
            return Set::add16(whole, rest);
        };
        for (int x = 0; x < num_bytes; x += kStep) {
            const Vector a = Set::load(rows[0] + x), b = Set::load(rows[1] + x);
            const Vector c = Set::load(rows[2] + x), d = Set::load(rows[3] + x);
            Set::store(out + x, mix(Set::unpack_low(a, b), Set::unpack_low(c, d)),
                       mix(Set::unpack_high(a, b), Set::unpack_high(c, d)));
        }
    }

    static void mix_many_rows(const std::uint8_t* const* rows, const std::int16_t* weights, int num_taps, int num_bytes,
                              std::int16_t* out) {
        constexpr int kShift = kWeightBits - kMixedBits;
        const Vector zero = Set::fill16(0), half = Set::fill32(1 << (kShift - 1));
        for (int x = 0; x < num_bytes; x += kStep) {
            Vector sum0 = half, sum1 = half, sum2 = half, sum3 = half;
            for (int tap = 0; tap < num_taps; tap += 2) {
                const Vector a = Set::load(rows[tap] + x), b = Set::load(rows[tap + 1] + x);
                std::int32_t pair;
                __builtin_memcpy(&pair, weights + tap, 4);
                const Vector weight = Set::fill32(pair);
                const Vector low = Set::unpack_low(a, b), high = Set::unpack_high(a, b);
                sum0 = Set::add32(sum0, Set::multiply_pairs(Set::unpack_low(low, zero), weight));
                sum1 = Set::add32(sum1, Set::multiply_pairs(Set::unpack_high(low, zero), weight));
                sum2 = Set::add32(sum2, Set::multiply_pairs(Set::unpack_low(high, zero), weight));
                sum3 = Set::add32(sum3, Set::multiply_pairs(Set::unpack_high(high, zero), weight));
            }
            const auto pack = [](Vector first, Vector last) {
                return Set::pack32(Set::template shift_right32<kShift>(first), Set::template shift_right32<kShift>(last));
            };
            Set::store(out + x, pack(sum0, sum1), pack(sum2, sum3));
        }
    }
};

}  // namespace

}  // namespace fastvit
