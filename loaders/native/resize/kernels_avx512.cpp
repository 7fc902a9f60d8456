#include "resize/kernels_x86.hpp"

namespace fastvit {

namespace {

struct Avx512 {
    using Vector = __m512i;

    static Vector load(const void* from) { return _mm512_loadu_si512(from); }
    static Vector fill16(std::int16_t number) { return _mm512_set1_epi16(number); }
    static Vector fill32(std::int32_t number) { return _mm512_set1_epi32(number); }
    static Vector add16(Vector a, Vector b) { return _mm512_add_epi16(a, b); }
    static Vector add32(Vector a, Vector b) { return _mm512_add_epi32(a, b); }
    static Vector subtract16(Vector a, Vector b) { return _mm512_sub_epi16(a, b); }
    static Vector average16(Vector a, Vector b) { return _mm512_avg_epu16(a, b); }
    static Vector multiply_bytes(Vector a, Vector b) { return _mm512_maddubs_epi16(a, b); }
    static Vector multiply_pairs(Vector a, Vector b) { return _mm512_madd_epi16(a, b); }
    static Vector unpack_low(Vector a, Vector b) { return _mm512_unpacklo_epi8(a, b); }
    static Vector unpack_high(Vector a, Vector b) { return _mm512_unpackhi_epi8(a, b); }
    static Vector pack32(Vector a, Vector b) { return _mm512_packs_epi32(a, b); }
    template <int count>
    static Vector shift_right16(Vector a) { return _mm512_srai_epi16(a, count); }
    template <int count>
    static Vector shift_right_unsigned16(Vector a) { return _mm512_srli_epi16(a, count); }
    template <int count>
    static Vector shift_right32(Vector a) { return _mm512_srai_epi32(a, count); }

    // 64 numbers whose 128-bit parts come as 0, 2, 4, 6 | 1, 3, 5, 7, which is how unpacking bytes leaves them.
    static void store(std::int16_t* out, Vector low, Vector high) {
        const Vector in_order_low = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
        const Vector in_order_high = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
        _mm512_storeu_si512(out, _mm512_permutex2var_epi64(low, in_order_low, high));
        _mm512_storeu_si512(out + 32, _mm512_permutex2var_epi64(low, in_order_high, high));
    }
};

struct Loops : RowLoops<Avx512> {
    static __m512i load_four(const std::int16_t* row, const std::int32_t* offsets) {
        const auto load = [&](int number) { return _mm_loadu_si128(reinterpret_cast<const __m128i*>(row + offsets[number])); };
        const __m256i low = _mm256_inserti128_si256(_mm256_castsi128_si256(load(0)), load(1), 1);
        const __m256i high = _mm256_inserti128_si256(_mm256_castsi128_si256(load(2)), load(3), 1);
        return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
    }

    template <Weights kind, typename Int>
    static void mix_columns(const std::int16_t* row, const std::int32_t* offsets, const std::int32_t* weights, Int num_pairs,
                            int num_pixels, std::uint8_t* out) {
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
                sum = _mm512_add_epi32(sum, _mm512_madd_epi16(pixels, Avx512::load(weights)));
            }
            const __m512i words = _mm512_srai_epi32(sum, kShift);
            const __m128i bytes = kind == Weights::positive
                                      ? _mm512_cvtepi32_epi8(words)
                                      : _mm512_cvtusepi32_epi8(_mm512_max_epi32(words, _mm512_setzero_si512()));
            _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 3 * pixel), _mm_shuffle_epi8(bytes, drop_fourth));
        }
    }
};

}  // namespace

const ResizeKernels kernels::avx512{"avx512", VectorKernels<Loops>::mix_rows, VectorKernels<Loops>::mix_columns,
                                  VectorKernels<Loops>::mix_rows_signed, VectorKernels<Loops>::mix_columns_signed};

}  // namespace fastvit
