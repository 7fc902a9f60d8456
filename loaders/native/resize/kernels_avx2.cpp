#include <immintrin.h>

#include "resize/kernels_x86.hpp"

namespace fastvit {

namespace {

__m256i load(const void* from) { return _mm256_loadu_si256(static_cast<const __m256i*>(from)); }

// 32 numbers whose 128-bit quarters come as 0, 2 | 1, 3, which is how unpacking bytes leaves them.
void store(std::int16_t* out, __m256i low, __m256i high) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm256_permute2x128_si256(low, high, 0x20));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + 16), _mm256_permute2x128_si256(low, high, 0x31));
}

void widen_row(const std::uint8_t* row, int num_bytes, std::int16_t* out) {
    const __m256i zero = _mm256_setzero_si256();
    for (int x = 0; x < num_bytes; x += 32) {
        // Shifted by 8 bits, as high bytes, and back by what is too much.
        const __m256i low = _mm256_unpacklo_epi8(zero, load(row + x)), high = _mm256_unpackhi_epi8(zero, load(row + x));
        store(out + x, _mm256_srli_epi16(low, 8 - kMixedBits), _mm256_srli_epi16(high, 8 - kMixedBits));
    }
}

void mix_two_rows(const std::uint8_t* const* rows, const std::int16_t* weights, int num_bytes, std::int16_t* out) {
    const ByteWeights bytes(weights, 2);
    const __m256i high = _mm256_set1_epi16(bytes.high[0]), low = _mm256_set1_epi16(bytes.low[0]);
    const __m256i half = _mm256_set1_epi16(64);
    const auto mix = [&](__m256i ab) {
        const __m256i rest = _mm256_srai_epi16(_mm256_add_epi16(_mm256_maddubs_epi16(ab, low), half), 7);
        return _mm256_add_epi16(_mm256_maddubs_epi16(ab, high), rest);
    };
    for (int x = 0; x < num_bytes; x += 32) {
        const __m256i a = load(rows[0] + x), b = load(rows[1] + x);
        store(out + x, mix(_mm256_unpacklo_epi8(a, b)), mix(_mm256_unpackhi_epi8(a, b)));
    }
}

void mix_four_rows(const std::uint8_t* const* rows, const std::int16_t* weights, int num_bytes, std::int16_t* out) {
    const ByteWeights bytes(weights, 4);
    const __m256i high_ab = _mm256_set1_epi16(bytes.high[0]), high_cd = _mm256_set1_epi16(bytes.high[1]);
    const __m256i low_ab = _mm256_set1_epi16(bytes.low[0]), low_cd = _mm256_set1_epi16(bytes.low[1]);
    const __m256i first = _mm256_set1_epi16(static_cast<std::int16_t>(kFirstOffset));
    const __m256i second = _mm256_set1_epi16(static_cast<std::int16_t>(kSecondOffset));
    const __m256i average_offset = _mm256_set1_epi16(kAverageOffset);
    const auto mix = [&](__m256i ab, __m256i cd) {
        const __m256i average = _mm256_avg_epu16(_mm256_add_epi16(_mm256_maddubs_epi16(ab, low_ab), first),
                                                 _mm256_add_epi16(_mm256_maddubs_epi16(cd, low_cd), second));
        const __m256i rest = _mm256_sub_epi16(_mm256_srli_epi16(average, kAverageShift), average_offset);
        const __m256i whole = _mm256_add_epi16(_mm256_maddubs_epi16(ab, high_ab), _mm256_maddubs_epi16(cd, high_cd));
        return _mm256_add_epi16(whole, rest);
    };
    for (int x = 0; x < num_bytes; x += 32) {
        const __m256i a = load(rows[0] + x), b = load(rows[1] + x), c = load(rows[2] + x), d = load(rows[3] + x);
        store(out + x, mix(_mm256_unpacklo_epi8(a, b), _mm256_unpacklo_epi8(c, d)),
              mix(_mm256_unpackhi_epi8(a, b), _mm256_unpackhi_epi8(c, d)));
    }
}

void mix_many_rows(const std::uint8_t* const* rows, const std::int16_t* weights, int num_taps, int num_bytes,
                   std::int16_t* out) {
    constexpr int kShift = kWeightBits - kMixedBits;
    const __m256i zero = _mm256_setzero_si256(), half = _mm256_set1_epi32(1 << (kShift - 1));
    for (int x = 0; x < num_bytes; x += 32) {
        __m256i sum0 = half, sum1 = half, sum2 = half, sum3 = half;
        for (int tap = 0; tap < num_taps; tap += 2) {
            const __m256i a = load(rows[tap] + x), b = load(rows[tap + 1] + x);
            std::int32_t pair;
            __builtin_memcpy(&pair, weights + tap, 4);
            const __m256i weight = _mm256_set1_epi32(pair);
            const __m256i low = _mm256_unpacklo_epi8(a, b), high = _mm256_unpackhi_epi8(a, b);
            sum0 = _mm256_add_epi32(sum0, _mm256_madd_epi16(_mm256_unpacklo_epi8(low, zero), weight));
            sum1 = _mm256_add_epi32(sum1, _mm256_madd_epi16(_mm256_unpackhi_epi8(low, zero), weight));
            sum2 = _mm256_add_epi32(sum2, _mm256_madd_epi16(_mm256_unpacklo_epi8(high, zero), weight));
            sum3 = _mm256_add_epi32(sum3, _mm256_madd_epi16(_mm256_unpackhi_epi8(high, zero), weight));
        }
        store(out + x, _mm256_packs_epi32(_mm256_srai_epi32(sum0, kShift), _mm256_srai_epi32(sum1, kShift)),
              _mm256_packs_epi32(_mm256_srai_epi32(sum2, kShift), _mm256_srai_epi32(sum3, kShift)));
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

// Two neighbouring pixels of `a` and of `b`, RGBRGB, to R R, G G, B B, 0 0.
__m256i load_pairs(const std::int16_t* a, const std::int16_t* b) {
    const __m256i pair_up = _mm256_setr_epi8(0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11, -1, -1, -1, -1,  //
                                             0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11, -1, -1, -1, -1);
    const __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(a))),
                                                 _mm_loadu_si128(reinterpret_cast<const __m128i*>(b)), 1);
    return _mm256_shuffle_epi8(both, pair_up);
}

// A number of pairs that is known (0: it is not) saves the inner loop.
template <int known_pairs>
void mix_columns(const std::int16_t* row, const std::int32_t* offsets, const std::int32_t* weights, int num_pairs,
                 int num_pixels, std::uint8_t* out) {
    if (known_pairs) num_pairs = known_pairs;
    constexpr int kShift = kWeightBits + kMixedBits;
    const __m256i half = _mm256_set1_epi32(1 << (kShift - 1));
    const __m128i drop_fourth = _mm_setr_epi8(0, 1, 2, 8, 9, 10, 4, 5, 6, 12, 13, 14, -1, -1, -1, -1);
    for (int pixel = 0; pixel < num_pixels; pixel += 4, offsets += 4) {
        const std::int16_t *a = row + offsets[0], *b = row + offsets[1], *c = row + offsets[2], *d = row + offsets[3];
        __m256i sum_ab = half, sum_cd = half;
        for (int pair = 0; pair < num_pairs; ++pair, weights += 16) {
            const int at = 6 * pair;
            sum_ab = _mm256_add_epi32(sum_ab, _mm256_madd_epi16(load_pairs(a + at, b + at), load(weights)));
            sum_cd = _mm256_add_epi32(sum_cd, _mm256_madd_epi16(load_pairs(c + at, d + at), load(weights + 8)));
        }
        const __m256i words = _mm256_packs_epi32(_mm256_srai_epi32(sum_ab, kShift), _mm256_srai_epi32(sum_cd, kShift));
        // a c | b d, four words each
        const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 3 * pixel), _mm_shuffle_epi8(bytes, drop_fourth));
    }
}

void mix_columns(const std::int16_t* row, const std::int32_t* offsets, const std::int32_t* weights, int num_pairs,
                 int num_pixels, std::uint8_t* out) {
    const auto mix = num_pairs == 1 ? mix_columns<1> : num_pairs == 2 ? mix_columns<2> : mix_columns<0>;
    mix(row, offsets, weights, num_pairs, num_pixels, out);
}

}  // namespace

const ResizeKernels kernels::avx2{"avx2", mix_rows, mix_columns};

}  // namespace fastvit
