// The two inner loops of resizing, for each instruction set.
#pragma once

#include <cstdint>
#include <span>

namespace fastvit {

constexpr int kWeightBits = 14;
constexpr int kWeightOne = 1 << kWeightBits;
constexpr int kMixedBits = 7;  // of fraction in a row between the two passes: 255 << 7 just fits into int16

constexpr int kRowPadding = 64;     // bytes that `mix_rows` may read and int16 that it may write behind a row
constexpr int kPixelsPerGroup = 4;  // `mix_columns` makes so many pixels at a time
constexpr int kCopies = 4;          // of a pair of weights: one for each channel, one that fills up 16 bytes
constexpr int kTapPadding = 2;      // int16 that `mix_columns` may read behind a pixel's taps
constexpr int kOutPadding = 4;      // bytes that `mix_columns` may write behind its pixels

struct ResizeKernels {
    const char* name;

    // out[x] = sum of rows[t][x] * weights[t], with kMixedBits of fraction, for x < num_bytes. `num_taps` is even, and the
    // weights, none of them negative, add up to kWeightOne.
    void (*mix_rows)(const std::uint8_t* const* rows, const std::int16_t* weights, int num_taps, int num_bytes,
                     std::int16_t* out);

    // The row's pixels, RGB int16 as `mix_rows` makes them (not less than 0), to `num_pixels` (a multiple of kPixelsPerGroup) RGB bytes.
    // Pixel i begins at row[offsets[i]]; the offsets rise or fall. Weights come as pairs, of taps 2p (low half) and
    // 2p + 1: int32 [num_pixels / kPixelsPerGroup, num_pairs, kPixelsPerGroup, kCopies].
    void (*mix_columns)(const std::int16_t* row, const std::int32_t* offsets, const std::int32_t* weights, int num_pairs,
                        int num_pixels, std::uint8_t* out);

    // The same for weights of either sign, whose absolute values add up to at most 2 * kWeightOne; what does not fit into
    // the output is clamped.
    void (*mix_rows_signed)(const std::uint8_t* const* rows, const std::int16_t* weights, int num_taps, int num_bytes,
                            std::int16_t* out);
    void (*mix_columns_signed)(const std::int16_t* row, const std::int32_t* offsets, const std::int32_t* weights,
                               int num_pairs, int num_pixels, std::uint8_t* out);
};

// Those that this machine can run, the fastest first; the last one is plain C++.
std::span<const ResizeKernels> resize_kernels();

inline const ResizeKernels& fastest_resize_kernels() { return resize_kernels().front(); }

namespace kernels {
extern const ResizeKernels scalar;
#if defined(__x86_64__)
extern const ResizeKernels avx2, avx512;
#elif defined(__aarch64__)
extern const ResizeKernels neon;
#endif
}  // namespace kernels

}  // namespace fastvit
