#include <immintrin.h>

#include "resize_kernels.hpp"

namespace fastvit {

namespace {

void mix_rows(const std::uint8_t* const* rows, const std::int16_t* weights, int num_taps, int num_bytes,
              std::int16_t* out) {
    constexpr int kShift = kWeightBits - kMixedBits;
    const __m256i zero = _mm256_setzero_si256(), half = _mm256_set1_epi32(1 << (kShift - 1));
    for (int x = 0; x < num_bytes; x += 32) {
        __m256i sum0 = half, sum1 = half, sum2 = half, sum3 = half;
        for (int tap = 0; tap < num_taps; tap += 2) {
            const __m256i a = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[tap] + x));
            const __m256i b = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(rows[tap + 1] + x));
            std::int32_t pair;
            __builtin_memcpy(&pair, weights + tap, 4);
            const __m256i weight = _mm256_set1_epi32(pair);
            const __m256i low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpackhi_epi8(a, b);
            sum0 = _mm256_add_epi32(sum0, _mm256_madd_epi16(_mm256_unpacklo_epi8(low, zero), weight));
            sum1 = _mm256_add_epi32(sum1, _mm256_madd_epi16(_mm256_unpackhi_epi8(low, zero), weight));
            sum2 = _mm256_add_epi32(sum2, _mm256_madd_epi16(_mm256_unpacklo_epi8(high, zero), weight));
            sum3 = _mm256_add_epi32(sum3, _mm256_madd_epi16(_mm256_unpackhi_epi8(high, zero), weight));
        }
        // Packing undoes the interleaving within each half; the halves are put in order last.
        const __m256i first = _mm256_packs_epi32(_mm256_srai_epi32(sum0, kShift), _mm256_srai_epi32(sum1, kShift));
        const __m256i second = _mm256_packs_epi32(_mm256_srai_epi32(sum2, kShift), _mm256_srai_epi32(sum3, kShift));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + x), _mm256_permute2x128_si256(first, second, 0x20));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + x + 16), _mm256_permute2x128_si256(first, second, 0x31));
    }
}

__m256i load_two(const std::int16_t* a, const std::int16_t* b) {
    return _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(a))),
                                   _mm_loadu_si128(reinterpret_cast<const __m128i*>(b)), 1);
}

void mix_columns(const std::int16_t* row, const std::int32_t* offsets, const std::int32_t* weights, int num_pairs,
                 int num_pixels, std::uint8_t* out) {
    constexpr int kShift = kWeightBits + kMixedBits;
    const __m256i half = _mm256_set1_epi32(1 << (kShift - 1));
    // Two neighbouring pixels, RGBRGB, to R R, G G, B B, 0 0.
    const __m256i pair_up = _mm256_setr_epi8(0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11, -1, -1, -1, -1,  //
                                             0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11, -1, -1, -1, -1);
    const __m256i first_weights = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
    const __m256i second_weights = _mm256_setr_epi32(2, 2, 2, 2, 3, 3, 3, 3);
    const __m128i drop_fourth = _mm_setr_epi8(0, 1, 2, 8, 9, 10, 4, 5, 6, 12, 13, 14, -1, -1, -1, -1);
    for (int pixel = 0; pixel < num_pixels; pixel += 4, offsets += 4) {
        const std::int16_t *a = row + offsets[0], *b = row + offsets[1], *c = row + offsets[2], *d = row + offsets[3];
        __m256i sum_ab = half, sum_cd = half;
        for (int pair = 0; pair < num_pairs; ++pair, weights += 4) {
            const __m256i four =
                _mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(weights)));
            const __m256i ab = _mm256_shuffle_epi8(load_two(a + 6 * pair, b + 6 * pair), pair_up);
            const __m256i cd = _mm256_shuffle_epi8(load_two(c + 6 * pair, d + 6 * pair), pair_up);
            sum_ab = _mm256_add_epi32(
                sum_ab, _mm256_madd_epi16(ab, _mm256_permutevar8x32_epi32(four, first_weights)));
            sum_cd = _mm256_add_epi32(
                sum_cd, _mm256_madd_epi16(cd, _mm256_permutevar8x32_epi32(four, second_weights)));
        }
        const __m256i words = _mm256_packs_epi32(_mm256_srai_epi32(sum_ab, kShift), _mm256_srai_epi32(sum_cd, kShift));
        // a c | b d, four words each
        const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 3 * pixel), _mm_shuffle_epi8(bytes, drop_fourth));
    }
}

}  // namespace

const ResizeKernels kernels::avx2{"avx2", mix_rows, mix_columns};

}  // namespace fastvit
