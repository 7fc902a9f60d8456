#include <immintrin.h>

#include "resize_kernels.hpp"

namespace fastvit {

namespace {

void mix_rows(const std::uint8_t* const* rows, const std::int16_t* weights, int num_taps, int num_bytes,
              std::int16_t* out) {
    constexpr int kShift = kWeightBits - kMixedBits;
    const __m512i zero = _mm512_setzero_si512(), half = _mm512_set1_epi32(1 << (kShift - 1));
    const __m512i in_order_low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
    const __m512i in_order_high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
    for (int x = 0; x < num_bytes; x += 64) {
        __m512i sum0 = half, sum1 = half, sum2 = half, sum3 = half;
        for (int tap = 0; tap < num_taps; tap += 2) {
            const __m512i a = _mm512_loadu_si512(rows[tap] + x), b = _mm512_loadu_si512(rows[tap + 1] + x);
            std::int32_t pair;
            __builtin_memcpy(&pair, weights + tap, 4);
            const __m512i weight = _mm512_set1_epi32(pair);
            const __m512i low = _mm512_unpacklo_epi8(a, b), high = _mm512_unpackhi_epi8(a, b);
            sum0 = _mm512_add_epi32(sum0, _mm512_madd_epi16(_mm512_unpacklo_epi8(low, zero), weight));
            sum1 = _mm512_add_epi32(sum1, _mm512_madd_epi16(_mm512_unpackhi_epi8(low, zero), weight));
            sum2 = _mm512_add_epi32(sum2, _mm512_madd_epi16(_mm512_unpacklo_epi8(high, zero), weight));
            sum3 = _mm512_add_epi32(sum3, _mm512_madd_epi16(_mm512_unpackhi_epi8(high, zero), weight));
        }
        // Packing undoes the interleaving within each quarter; the quarters are put in order last.
        const __m512i first = _mm512_packs_epi32(_mm512_srai_epi32(sum0, kShift), _mm512_srai_epi32(sum1, kShift));
        const __m512i second = _mm512_packs_epi32(_mm512_srai_epi32(sum2, kShift), _mm512_srai_epi32(sum3, kShift));
        _mm512_storeu_si512(out + x, _mm512_permutex2var_epi64(first, in_order_low, second));
        _mm512_storeu_si512(out + x + 32, _mm512_permutex2var_epi64(first, in_order_high, second));
    }
}

__m512i load_four(const std::int16_t* row, const std::int32_t* offsets) {
    const auto load = [&](int number) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + offsets[number])); };
    const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(load(0)), load(1), 1);
    const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(load(2)), load(3), 1);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
}

void mix_columns(const std::int16_t* row, const std::int32_t* offsets, const std::int32_t* weights, int num_pairs,
                 int num_pixels, std::uint8_t* out) {
    constexpr int kShift = kWeightBits + kMixedBits;
    const __m512i half = _mm512_set1_epi32(1 << (kShift - 1));
    // Two neighbouring pixels, RGBRGB, to R R, G G, B B, 0 0.
    const __m512i pair_up = _mm512_broadcast_i32x4(
        _mm_setr_epi8(0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11, -1, -1, -1, -1));
    const __m512i one_each = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
    const __m128i drop_fourth = _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1);
    for (int pixel = 0; pixel < num_pixels; pixel += 4, offsets += 4) {
        __m512i sum = half;
        for (int pair = 0; pair < num_pairs; ++pair, weights += 4) {
            const __m512i pixels = _mm512_shuffle_epi8(load_four(row + 6 * pair, offsets), pair_up);
            const __m512i four = _mm512_castsi128_si512(_mm_loadu_si128(reinterpret_cast<const __m128i*>(weights)));
            sum = _mm512_add_epi32(sum, _mm512_madd_epi16(pixels, _mm512_permutexvar_epi32(one_each, four)));
        }
        const __m128i bytes = _mm512_cvtepi32_epi8(_mm512_srai_epi32(sum, kShift));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 3 * pixel), _mm_shuffle_epi8(bytes, drop_fourth));
    }
}

}  // namespace

const ResizeKernels kernels::avx512{"avx512", mix_rows, mix_columns};

}  // namespace fastvit
