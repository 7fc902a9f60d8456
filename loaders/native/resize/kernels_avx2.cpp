#include "resize/kernels_x86.hpp"

namespace fastvit {

namespace {

struct Avx2 {
    using Vector = __m256i;

    static Vector load(const void* from) { return _mm256_loadu_si256(static_cast<const Vector*>(from)); }
    static Vector fill16(std::int16_t number) { return _mm256_set1_epi16(number); }
    static Vector fill32(std::int32_t number) { return _mm256_set1_epi32(number); }
    static Vector add16(Vector a, Vector b) { return _mm256_add_epi16(a, b); }
    static Vector add32(Vector a, Vector b) { return _mm256_add_epi32(a, b); }
    static Vector subtract16(Vector a, Vector b) { return _mm256_sub_epi16(a, b); }
    static Vector average16(Vector a, Vector b) { return _mm256_avg_epu16(a, b); }
    static Vector multiply_bytes(Vector a, Vector b) { return _mm256_maddubs_epi16(a, b); }
    static Vector multiply_pairs(Vector a, Vector b) { return _mm256_madd_epi16(a, b); }
    static Vector unpack_low(Vector a, Vector b) { return _mm256_unpacklo_epi8(a, b); }
    static Vector unpack_high(Vector a, Vector b) { return _mm256_unpackhi_epi8(a, b); }
    static Vector pack32(Vector a, Vector b) { return _mm256_packs_epi32(a, b); }
    template <int count>
    static Vector shift_right16(Vector a) { return _mm256_srai_epi16(a, count); }
    template <int count>
    static Vector shift_right_unsigned16(Vector a) { return _mm256_srli_epi16(a, count); }
    template <int count>
    static Vector shift_right32(Vector a) { return _mm256_srai_epi32(a, count); }

    // 32 numbers whose 128-bit quarters come as 0, 2 | 1, 3, which is how unpacking bytes leaves them.
    static void store(std::int16_t* out, Vector low, Vector high) {
        _mm256_storeu_si256(reinterpret_cast<Vector*>(out), _mm256_permute2x128_si256(low, high, 0x20));
        _mm256_storeu_si256(reinterpret_cast<Vector*>(out + 16), _mm256_permute2x128_si256(low, high, 0x31));
    }
};

struct Loops : RowLoops<Avx2> {
    // Two neighbouring pixels of `a` and of `b`, RGBRGB, to R R, G G, B B, 0 0.
    static __m256i load_pairs(const std::int16_t* a, const std::int16_t* b) {
        const __m256i pair_up = _mm256_setr_epi8(0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11, -1, -1, -1, -1,  //
                                                 0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11, -1, -1, -1, -1);
        const __m128i first = _mm_loadu_si128(reinterpret_cast<const __m128i*>(a));
        const __m128i second = _mm_loadu_si128(reinterpret_cast<const __m128i*>(b));
        return _mm256_shuffle_epi8(_mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1), pair_up);
    }

    template <Weights kind, typename Int>
    static void mix_columns(const std::int16_t* row, const std::int32_t* offsets, const std::int32_t* weights, Int num_pairs,
                            int num_pixels, std::uint8_t* out) {
        constexpr int kShift = kWeightBits + kMixedBits;
        const __m256i half = _mm256_set1_epi32(1 << (kShift - 1));
        const __m128i drop_fourth = _mm_setr_epi8(0, 1, 2, 8, 9, 10, 4, 5, 6, 12, 13, 14, -1, -1, -1, -1);
        for (int pixel = 0; pixel < num_pixels; pixel += 4, offsets += 4) {
            const std::int16_t *a = row + offsets[0], *b = row + offsets[1], *c = row + offsets[2], *d = row + offsets[3];
            __m256i sum_ab = half, sum_cd = half;
            for (int pair = 0; pair < num_pairs; ++pair, weights += 16) {
                const int at = 6 * pair;
                sum_ab = _mm256_add_epi32(sum_ab, _mm256_madd_epi16(load_pairs(a + at, b + at), Avx2::load(weights)));
                sum_cd = _mm256_add_epi32(sum_cd, _mm256_madd_epi16(load_pairs(c + at, d + at), Avx2::load(weights + 8)));
            }
            const __m256i words = _mm256_packs_epi32(_mm256_srai_epi32(sum_ab, kShift), _mm256_srai_epi32(sum_cd, kShift));
            // a c | b d, four words each
            const __m128i bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 3 * pixel), _mm_shuffle_epi8(bytes, drop_fourth));
        }
    }
};

}  // namespace

const ResizeKernels kernels::avx2{"avx2", VectorKernels<Loops>::mix_rows, VectorKernels<Loops>::mix_columns,
                                  VectorKernels<Loops>::mix_rows_signed, VectorKernels<Loops>::mix_columns_signed};

}  // namespace fastvit
