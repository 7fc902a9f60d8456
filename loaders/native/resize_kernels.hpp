// The two inner loops of resizing, for each instruction set.
#pragma once

#include <cstdint>
#include <span>

namespace fastvit {

constexpr int kWeightBits = 14;
constexpr int kWeightOne = 1 << kWeightBits;
constexpr int kMixedBits = 7;  // of fraction in a row between the two passes: 255 << 7 just fits into int16

constexpr int kRowPadding = 64;     // bytes that `mix_rows` may read and int16 that it may write behind a row
constexpr int kTapsPerGroup = 4;    // `mix_columns` takes its taps four at a time
constexpr int kPixelsPerGroup = 4;  // and makes so many pixels at a time

struct ResizeKernels {
    const char* name;

    // out[x] = sum of rows[t][x] * weights[t], with kMixedBits of fraction, for x < num_bytes. `num_taps` is even.
    void (*mix_rows)(const std::uint8_t* const* rows, const std::int16_t* weights, int num_taps, int num_bytes,
                     std::int16_t* out);

    // The row's pixels, RGB int16 as `mix_rows` makes them, to `num_pixels` (a multiple of kPixelsPerGroup) RGB bytes;
    // may write 4 bytes behind them. Pixel i begins at row[offsets[i]]. Weights come as pairs, of taps 2p (low half) and
    // 2p + 1: those of pixel i are weights[i / 4 * 4 * num_pairs + p * 4 + i % 4]; num_pairs is even.
    void (*mix_columns)(const std::int16_t* row, const std::int32_t* offsets, const std::int32_t* weights, int num_pairs,
                        int num_pixels, std::uint8_t* out);
};

// Those that this machine can run, the fastest first; the last one is plain C++.
std::span<const ResizeKernels> resize_kernels();

inline const ResizeKernels& fastest_resize_kernels() { return resize_kernels().front(); }

namespace kernels {
extern const ResizeKernels scalar;
#if defined(__x86_64__)
extern const ResizeKernels avx2, avx512;
#endif
}  // namespace kernels

}  // namespace fastvit
