#include <immintrin.h>

#include "resize/kernels_x86.hpp"

namespace fastvit {

namespace {

__m512i load(const void* from) { return _mm512_loadu_si512(from); }

// 64 numbers whose 128-bit parts come as 0, 2, 4, 6 | 1, 3, 5, 7, which is how unpacking bytes leaves them.
void store(std::int16_t* out, __m512i low, __m512i high) {
    const __m512i in_order_low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i in_order_high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    _mm512_storeu_si512(out, _mm512_permutex2var_epi64(low, in_order_low, high));
    _mm512_storeu_si512(out + 32, _mm512_permutex2var_epi64(low, in_order_high, high));
}

void widen_row(const std::uint8_t* row, int num_bytes, std::int16_t* out) {
    const __m512i zero = _mm512_setzero_si512();
    for (int x = 0; x < num_bytes; x += 64) {
        // Shifted by 8 bits, as high bytes, and back by what is too much.
        const __m512i low = _mm512_unpacklo_epi8(zero, load(row + x)), high = _mm512_unpackhi_epi8(zero, load(row + x));
        store(out + x, _mm512_srli_epi16(low, 8 - kMixedBits), _mm512_srli_epi16(high, 8 - kMixedBits));
    }
}

void mix_two_rows(const std::uint8_t* const* rows, const std::int16_t* weights, int num_bytes, std::int16_t* out) {
    const ByteWeights bytes(weights, 2);
    const __m512i high = _mm512_set1_epi16(bytes.high[0]), low = _mm512_set1_epi16(bytes.low[0]);
    const __m512i half = _mm512_set1_epi16(64);
    const auto mix = [&](__m512i ab) {
        const __m512i rest = _mm512_srai_epi16(_mm512_add_epi16(_mm512_maddubs_epi16(ab, low), half), 7);
        return _mm512_add_epi16(_mm512_maddubs_epi16(ab, high), rest);
    };
    for (int x = 0; x < num_bytes; x += 64) {
        const __m512i a = load(rows[0] + x), b = load(rows[1] + x);
        store(out + x, mix(_mm512_unpacklo_epi8(a, b)), mix(_mm512_unpackhi_epi8(a, b)));
    }
}

void mix_four_rows(const std::uint8_t* const* rows, const std::int16_t* weights, int num_bytes, std::int16_t* out) {
    const ByteWeights bytes(weights, 4);
    const __m512i high_ab = _mm512_set1_epi16(bytes.high[0]), high_cd = _mm512_set1_epi16(bytes.high[1]);
    const __m512i low_ab = _mm512_set1_epi16(bytes.low[0]), low_cd = _mm512_set1_epi16(bytes.low[1]);
    const __m512i first = _mm512_set1_epi16(static_cast<std::int16_t>(kFirstOffset));
    const __m512i second = _mm512_set1_epi16(static_cast<std::int16_t>(kSecondOffset));
    const __m512i average_offset = _mm512_set1_epi16(kAverageOffset);
    const auto mix = [&](__m512i ab, __m512i cd) {
        const __m512i average = _mm512_avg_epu16(_mm512_add_epi16(_mm512_maddubs_epi16(ab, low_ab), first),
                                                 _mm512_add_epi16(_mm512_maddubs_epi16(cd, low_cd), second));
        const __m512i rest = _mm512_sub_epi16(_mm512_srli_epi16(average, kAverageShift), average_offset);
        const __m512i whole = _mm512_add_epi16(_mm512_maddubs_epi16(ab, high_ab), _mm512_maddubs_epi16(cd, high_cd));
        return _mm512_add_epi16(whole, rest);
    };
    for (int x = 0; x < num_bytes; x += 64) {
        const __m512i a = load(rows[0] + x), b = load(rows[1] + x), c = load(rows[2] + x), d = load(rows[3] + x);
        store(out + x, mix(_mm512_unpacklo_epi8(a, b), _mm512_unpacklo_epi8(c, d)),
              mix(_mm512_unpackhi_epi8(a, b), _mm512_unpackhi_epi8(c, d)));
    }
}

void mix_many_rows(const std::uint8_t* const* rows, const std::int16_t* weights, int num_taps, int num_bytes,
                   std::int16_t* out) {
    constexpr int kShift = kWeightBits - kMixedBits;
    const __m512i zero = _mm512_setzero_si512(), half = _mm512_set1_epi32(1 << (kShift - 1));
    for (int x = 0; x < num_bytes; x += 64) {
        __m512i sum0 = half, sum1 = half, sum2 = half, sum3 = half;
        for (int tap = 0; tap < num_taps; tap += 2) {
            const __m512i a = load(rows[tap] + x), b = load(rows[tap + 1] + x);
            std::int32_t pair;
            __builtin_memcpy(&pair, weights + tap, 4);
            const __m512i weight = _mm512_set1_epi32(pair);
            const __m512i low = _mm512_unpacklo_epi8(a, b), high = _mm512_unpackhi_epi8(a, b);
            sum0 = _mm512_add_epi32(sum0, _mm512_madd_epi16(_mm512_unpacklo_epi8(low, zero), weight));
            sum1 = _mm512_add_epi32(sum1, _mm512_madd_epi16(_mm512_unpackhi_epi8(low, zero), weight));
            sum2 = _mm512_add_epi32(sum2, _mm512_madd_epi16(_mm512_unpacklo_epi8(high, zero), weight));
            sum3 = _mm512_add_epi32(sum3, _mm512_madd_epi16(_mm512_unpackhi_epi8(high, zero), weight));
        }
        store(out + x, _mm512_packs_epi32(_mm512_srai_epi32(sum0, kShift), _mm512_srai_epi32(sum1, kShift)),
              _mm512_packs_epi32(_mm512_srai_epi32(sum2, kShift), _mm512_srai_epi32(sum3, kShift)));
    }
}

void mix_rows(const std::uint8_t* const* rows, const std::int16_t* weights, int num_taps, int num_bytes,
              std::int16_t* out) {
    if (const std::uint8_t* row = single_row(rows, weights, num_taps))
        widen_row(row, num_bytes, out);
    else if (num_taps == 2)
        mix_two_rows(rows, weights, num_bytes, out);
    else if (num_taps == 4)
        mix_four_rows(rows, weights, num_bytes, out);
    else
        mix_many_rows(rows, weights, num_taps, num_bytes, out);
}

__m512i load_four(const std::int16_t* row, const std::int32_t* offsets) {
    const auto load = [&](int number) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + offsets[number])); };
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(load(0)), load(1), 1);
    const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(load(2)), load(3), 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

template <int known_pairs>
void mix_columns(const std::int16_t* row, const std::int32_t* offsets, const std::int32_t* weights, int num_pairs,
                 int num_pixels, std::uint8_t* out) {
    if (known_pairs) num_pairs = known_pairs;
    constexpr int kShift = kWeightBits + kMixedBits;
    const __m512i half = _mm512_set1_epi32(1 << (kShift - 1));
    // Two neighbouring pixels, RGBRGB, to R R, G G, B B, 0 0.
    const __m512i pair_up = _mm512_broadcast_i32x4(
        _mm_setr_epi8(0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11, -1, -1, -1, -1));
    const __m128i drop_fourth = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    for (int pixel = 0; pixel < num_pixels; pixel += 4, offsets += 4) {
        __m512i sum = half;
        for (int pair = 0; pair < num_pairs; ++pair, weights += 16) {
            const __m512i pixels = _mm512_shuffle_epi8(load_four(row + 6 * pair, offsets), pair_up);
            sum = _mm512_add_epi32(sum, _mm512_madd_epi16(pixels, load(weights)));
        }
        const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_srai_epi32(sum, kShift));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 3 * pixel), _mm_shuffle_epi8(bytes, drop_fourth));
    }
}

void mix_columns(const std::int16_t* row, const std::int32_t* offsets, const std::int32_t* weights, int num_pairs,
                 int num_pixels, std::uint8_t* out) {
    const auto mix = num_pairs == 1 ? mix_columns<1> : num_pairs == 2 ? mix_columns<2> : mix_columns<0>;
    mix(row, offsets, weights, num_pairs, num_pixels, out);
}

}  // namespace

const ResizeKernels kernels::avx512{"avx512", mix_rows, mix_columns};

}  // namespace fastvit
