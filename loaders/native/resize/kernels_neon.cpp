#include <arm_neon.h>

#include "resize/kernels_simd.hpp"

namespace fastvit {

namespace {

// Rows of up to four taps are mixed in 16 bits: a weight is 128 * high + low, two bytes. The high parts of all taps
// make at most 255 * 128, the low parts of two taps at most 2 * 255 * 127.
struct ByteWeight {
    uint8x16_t high, low;

    explicit ByteWeight(std::int16_t weight)
        : high(vdupq_n_u8(static_cast<std::uint8_t>(weight >> 7))), low(vdupq_n_u8(weight & 127)) {}
};

struct Sixteen {
    uint16x8_t first, last;
};

Sixteen multiply(uint8x16_t row, uint8x16_t weight) {
    return {vmull_u8(vget_low_u8(row), vget_low_u8(weight)), vmull_high_u8(row, weight)};
}

Sixteen add_product(Sixteen sum, uint8x16_t row, uint8x16_t weight) {
    return {vmlal_u8(sum.first, vget_low_u8(row), vget_low_u8(weight)), vmlal_high_u8(sum.last, row, weight)};
}

void store(std::int16_t* out, Sixteen mixed) {
    vst1q_s16(out, vreinterpretq_s16_u16(mixed.first));
    vst1q_s16(out + 8, vreinterpretq_s16_u16(mixed.last));
}

// A pair of neighbouring pixels, of four channels each: what comes as the fourth makes no difference.
int32x4_t add_pair(int32x4_t sum, const std::int16_t* pair, const std::int32_t* weights) {
    const int16x4_t both = vreinterpret_s16_s32(vld1_s32(weights));
    return vmlal_lane_s16(vmlal_lane_s16(sum, vld1_s16(pair), both, 0), vld1_s16(pair + 3), both, 1);
}

struct Loops {
    static void widen_row(const std::uint8_t* row, int num_bytes, std::int16_t* out) {
        for (int x = 0; x < num_bytes; x += 16) {
            const uint8x16_t bytes = vld1q_u8(row + x);
            store(out + x, {vshll_n_u8(vget_low_u8(bytes), kMixedBits), vshll_high_n_u8(bytes, kMixedBits)});
        }
    }

    static void mix_two_rows(const std::uint8_t* const* rows, const std::int16_t* weights, int num_bytes, std::int16_t* out) {
        const ByteWeight weight_a(weights[0]), weight_b(weights[1]);
        for (int x = 0; x < num_bytes; x += 16) {
            const uint8x16_t a = vld1q_u8(rows[0] + x), b = vld1q_u8(rows[1] + x);
            const Sixteen high = add_product(multiply(a, weight_a.high), b, weight_b.high);
            const Sixteen low = add_product(multiply(a, weight_a.low), b, weight_b.low);
            store(out + x, {vrsraq_n_u16(high.first, low.first, 7), vrsraq_n_u16(high.last, low.last, 7)});
        }
    }

    static void mix_four_rows(const std::uint8_t* const* rows, const std::int16_t* weights, int num_bytes, std::int16_t* out) {
        const ByteWeight weight_a(weights[0]), weight_b(weights[1]), weight_c(weights[2]), weight_d(weights[3]);
        for (int x = 0; x < num_bytes; x += 16) {
            const uint8x16_t a = vld1q_u8(rows[0] + x), b = vld1q_u8(rows[1] + x);
            const uint8x16_t c = vld1q_u8(rows[2] + x), d = vld1q_u8(rows[3] + x);
            const Sixteen high_ab = add_product(multiply(a, weight_a.high), b, weight_b.high);
            const Sixteen high = add_product(add_product(high_ab, c, weight_c.high), d, weight_d.high);
            const Sixteen low_ab = add_product(multiply(a, weight_a.low), b, weight_b.low);
            const Sixteen low_cd = add_product(multiply(c, weight_c.low), d, weight_d.low);
            // Both low parts together may not fit into 16 bits, but half of them does.
            store(out + x, {vrsraq_n_u16(high.first, vhaddq_u16(low_ab.first, low_cd.first), 6),
                            vrsraq_n_u16(high.last, vhaddq_u16(low_ab.last, low_cd.last), 6)});
        }
    }

    static void mix_many_rows(const std::uint8_t* const* rows, const std::int16_t* weights, int num_taps, int num_bytes,
                              std::int16_t* out) {
        constexpr int kShift = kWeightBits - kMixedBits;
        for (int x = 0; x < num_bytes; x += 16) {
            int32x4_t sum0 = vdupq_n_s32(0), sum1 = sum0, sum2 = sum0, sum3 = sum0;
            for (int tap = 0; tap < num_taps; ++tap) {
                const uint8x16_t row = vld1q_u8(rows[tap] + x);
                const int16x8_t low = vreinterpretq_s16_u16(vmovl_u8(vget_low_u8(row)));
                const int16x8_t high = vreinterpretq_s16_u16(vmovl_high_u8(row));
                sum0 = vmlal_n_s16(sum0, vget_low_s16(low), weights[tap]);
                sum1 = vmlal_high_n_s16(sum1, low, weights[tap]);
                sum2 = vmlal_n_s16(sum2, vget_low_s16(high), weights[tap]);
                sum3 = vmlal_high_n_s16(sum3, high, weights[tap]);
            }
            vst1q_s16(out + x, vqrshrn_high_n_s32(vqrshrn_n_s32(sum0, kShift), sum1, kShift));
            vst1q_s16(out + x + 8, vqrshrn_high_n_s32(vqrshrn_n_s32(sum2, kShift), sum3, kShift));
        }
    }

    template <Weights kind, typename Int>
    static void mix_columns(const std::int16_t* row, const std::int32_t* offsets, const std::int32_t* weights, Int num_pairs,
                            int num_pixels, std::uint8_t* out) {
        constexpr int kShift = kWeightBits + kMixedBits;
        const int32x4_t half = vdupq_n_s32(1 << (kShift - 1));
        const uint8x16_t drop_fourth = {0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, 255, 255, 255, 255};
        for (int pixel = 0; pixel < num_pixels; pixel += 4, offsets += 4) {
            const std::int16_t *a = row + offsets[0], *b = row + offsets[1], *c = row + offsets[2], *d = row + offsets[3];
            int32x4_t sum_a = half, sum_b = half, sum_c = half, sum_d = half;
            for (int pair = 0; pair < num_pairs; ++pair, weights += 16) {
                const int at = 6 * pair;
                sum_a = add_pair(sum_a, a + at, weights);
                sum_b = add_pair(sum_b, b + at, weights + 4);
                sum_c = add_pair(sum_c, c + at, weights + 8);
                sum_d = add_pair(sum_d, d + at, weights + 12);
            }
            const int16x8_t ab = vshrn_high_n_s32(vshrn_n_s32(sum_a, 16), sum_b, 16);
            const int16x8_t cd = vshrn_high_n_s32(vshrn_n_s32(sum_c, 16), sum_d, 16);
            const uint8x16_t bytes = vqshrun_high_n_s16(vqshrun_n_s16(ab, kShift - 16), cd, kShift - 16);
            vst1q_u8(out + 3 * pixel, vqtbl1q_u8(bytes, drop_fourth));
        }
    }
};

}  // namespace

const ResizeKernels kernels::neon{"neon", VectorKernels<Loops>::mix_rows, VectorKernels<Loops>::mix_columns,
                                  VectorKernels<Loops>::mix_rows_signed, VectorKernels<Loops>::mix_columns_signed};

}  // namespace fastvit
