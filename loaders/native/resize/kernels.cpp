#include "resize/kernels.hpp"

#include <algorithm>
#include <limits>
#include <vector>

namespace fastvit {

namespace {

// `number` for an output that it fits into, or is made to fit into.
template <typename Out, bool clamps>
Out fit(std::int32_t number) {
    using Limits = std::numeric_limits<Out>;
    return static_cast<Out>(clamps ? std::clamp<std::int32_t>(number, Limits::min(), Limits::max()) : number);
}

template <bool clamps>
void mix_rows(const std::uint8_t* const* rows, const std::int16_t* weights, int num_taps, int num_bytes,
              std::int16_t* out) {
    constexpr int kShift = kWeightBits - kMixedBits;
    for (int x = 0; x < num_bytes; ++x) {
        std::int32_t sum = 1 << (kShift - 1);
        for (int tap = 0; tap < num_taps; ++tap) sum += rows[tap][x] * weights[tap];
        out[x] = fit<std::int16_t, clamps>(sum >> kShift);
    }
}

template <bool clamps>
void mix_columns(const std::int16_t* row, const std::int32_t* offsets, const std::int32_t* weights, int num_pairs,
                 int num_pixels, std::uint8_t* out) {
    constexpr int kShift = kWeightBits + kMixedBits;
    for (int pixel = 0; pixel < num_pixels; ++pixel) {
        const std::int32_t* pairs = weights + (pixel / kPixelsPerGroup * kPixelsPerGroup * num_pairs +
                                                       pixel % kPixelsPerGroup) * kCopies;
        for (int channel = 0; channel < 3; ++channel) {
            const std::int16_t* taps = row + offsets[pixel] + channel;
            std::int32_t sum = 1 << (kShift - 1);
            for (int pair = 0; pair < num_pairs; ++pair) {
                const std::int32_t both = pairs[kPixelsPerGroup * kCopies * pair];
                sum += taps[6 * pair] * static_cast<std::int16_t>(both) + taps[6 * pair + 3] * (both >> 16);
            }
            out[3 * pixel + channel] = fit<std::uint8_t, clamps>(sum >> kShift);
        }
    }
}

std::vector<ResizeKernels> available() {
    std::vector<ResizeKernels> found;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) found.push_back(kernels::avx512);
    if (__builtin_cpu_supports("avx2")) found.push_back(kernels::avx2);
#elif defined(__aarch64__)
    found.push_back(kernels::neon);
#endif
    found.push_back(kernels::scalar);
    return found;
}

}  // namespace

const ResizeKernels kernels::scalar{"scalar", mix_rows<false>, mix_columns<false>, mix_rows<true>, mix_columns<true>};

std::span<const ResizeKernels> resize_kernels() {
    static const std::vector<ResizeKernels> found = available();
    return found;
}

}  // namespace fastvit
