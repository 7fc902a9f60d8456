// Random resized crops as torchvision draws them (RandomResizedCrop.get_params), flips and shifts, all from a counter
// instead of a state.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "engine/philox.hpp"

namespace fastvit {

struct CropBox {
    std::int32_t top, left, height, width;
};

struct CropRange {
    double min_area, max_area, min_ratio, max_ratio;
};

inline double unit(std::uint32_t word) { return word * (1.0 / 4294967296.0); }

inline std::int32_t below(std::uint32_t word, std::int32_t limit) {
    return static_cast<std::int32_t>((std::uint64_t{word} * static_cast<std::uint64_t>(limit)) >> 32);
}

inline CropBox centered(std::int32_t height, std::int32_t width, std::int32_t crop_height, std::int32_t crop_width) {
    return {(height - crop_height) / 2, (width - crop_width) / 2, crop_height, crop_width};
}

inline CropBox random_resized_crop(std::uint64_t seed, std::uint32_t epoch, std::uint64_t index, std::int32_t height,
                                   std::int32_t width, const CropRange& range) {
    const double min_log = std::log(range.min_ratio), max_log = std::log(range.max_ratio);
    for (std::uint32_t attempt = 0; attempt < 10; ++attempt) {
        const Philox4 words = draw(Purpose::crop, attempt, seed, epoch, index);
        const double area = static_cast<double>(height) * width *
                            (range.min_area + unit(words[0]) * (range.max_area - range.min_area));
        const double ratio = std::exp(min_log + unit(words[1]) * (max_log - min_log));
        const auto crop_width = static_cast<std::int64_t>(std::nearbyint(std::sqrt(area * ratio)));
        const auto crop_height = static_cast<std::int64_t>(std::nearbyint(std::sqrt(area / ratio)));
        if (crop_width > 0 && crop_width <= width && crop_height > 0 && crop_height <= height) {
            const auto h = static_cast<std::int32_t>(crop_height), w = static_cast<std::int32_t>(crop_width);
            return {below(words[2], height - h + 1), below(words[3], width - w + 1), h, w};
        }
    }
    const double ratio = static_cast<double>(width) / height;
    if (ratio < range.min_ratio) {
        const auto crop_height = static_cast<std::int32_t>(std::nearbyint(width / range.min_ratio));
        return centered(height, width, std::clamp(crop_height, 1, height), width);
    }
    if (ratio > range.max_ratio) {
        const auto crop_width = static_cast<std::int32_t>(std::nearbyint(height * range.max_ratio));
        return centered(height, width, height, std::clamp(crop_width, 1, width));
    }
    return centered(height, width, height, width);
}

inline bool random_flip(std::uint64_t seed, std::uint32_t epoch, std::uint64_t index) {
    return (draw(Purpose::flip, 0, seed, epoch, index)[0] & 1u) != 0;
}

// In pixels.
struct Shift {
    std::int32_t down, right;
};

inline Shift random_shift(std::uint64_t seed, std::uint32_t epoch, std::uint64_t index, std::int32_t max_shift) {
    const Philox4 words = draw(Purpose::shift, 0, seed, epoch, index);
    return {below(words[0], 2 * max_shift + 1) - max_shift, below(words[1], 2 * max_shift + 1) - max_shift};
}

}  // namespace fastvit
