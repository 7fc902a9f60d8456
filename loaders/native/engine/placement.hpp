// Which part of an image becomes the sample, for each kind of crop: two axes for the resize.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <utility>

#include "engine/crop.hpp"
#include "orientation/turn.hpp"
#include "resize/resizer.hpp"

namespace fastvit {

enum class CropKind { random_resized, center, whole, shift };

// What is to be cut out of every image of a batch.
struct CropRule {
    CropKind kind;
    std::int32_t resolution;  // side of what comes out, in pixels
    std::uint64_t seed;
    std::uint32_t epoch;
    CropRange range;         // for random_resized
    double center_fraction;  // for center: share of the short side
    std::int32_t max_shift;  // for shift, in pixels: less than half of the resolution
    Interpolation interpolation;
    bool turns_upright = false;  // crop images as their EXIF orientation says that they are to be seen
};

struct Placement {
    Axis rows, columns;
    bool flip;
};

// `box` of the image, resized to `resolution`; the filter sees nothing outside the box.
inline Placement place_box(const CropBox& box, std::int32_t resolution, bool flip) {
    const auto axis = [&](std::int32_t begin, std::int32_t side) {
        return Axis{static_cast<double>(begin), static_cast<double>(side) / resolution, begin, begin + side, resolution};
    };
    return {axis(box.top, box.height), axis(box.left, box.width), flip};
}

// torchvision's Resize(short side) followed by CenterCrop, without making the pixels that the second cuts off.
inline Placement place_center(std::int32_t height, std::int32_t width, std::int32_t resolution, double center_fraction) {
    const auto target = std::max<std::int64_t>(resolution, std::llrint(resolution / center_fraction));
    const auto short_side = std::min(height, width);
    const auto axis = [&](std::int32_t side) {
        const std::int64_t resized = side == short_side ? target : target * side / short_side;
        const double scale = static_cast<double>(side) / static_cast<double>(resized);
        const double offset = std::nearbyint(static_cast<double>(resized - resolution) / 2);
        return Axis{offset * scale, scale, 0, side, resolution};
    };
    return {axis(height), axis(width), false};
}

// Of which part of an image sample `sample` is made, before it is shifted.
inline Placement place(const CropRule& rule, std::size_t sample, std::int32_t height, std::int32_t width) {
    switch (rule.kind) {
        case CropKind::random_resized:
            return place_box(random_resized_crop(rule.seed, rule.epoch, sample, height, width, rule.range),
                             rule.resolution, random_flip(rule.seed, rule.epoch, sample));
        case CropKind::center:
            return place_center(height, width, rule.resolution, rule.center_fraction);
        default:
            return place_box({0, 0, height, width}, rule.resolution, false);
    }
}

// Where `axis` lies in an image of `side` pixels when it is mirrored.
inline Axis mirrored(const Axis& axis, std::int32_t side) {
    return {side - (axis.start + axis.scale * axis.size), axis.scale, side - axis.end, side - axis.begin, axis.size};
}

// Where to find a square that lies at `placement` in an image that is seen after `turn`, in its stored pixels, [height,
// width, 3]. `turn` becomes what remains to be done to the square once it is made.
inline Placement as_stored(const Placement& seen, std::int32_t height, std::int32_t width, Turn& turn) {
    Placement stored = seen;
    if (turn.transposes) std::swap(stored.rows, stored.columns);
    if (turn.mirrors_rows) stored.rows = mirrored(stored.rows, height);
    if (turn.mirrors_columns) stored.columns = mirrored(stored.columns, width);
    // The flip is of what is seen, whose columns may be rows here. The resize mirrors columns as it writes them.
    bool& mirrors = turn.transposes ? turn.mirrors_rows : turn.mirrors_columns;
    mirrors = mirrors != seen.flip;
    stored.flip = std::exchange(turn.mirrors_columns, false);
    return stored;
}

// Where to find `axis` in an image decoded at 1/`shrink` of its size, of which `side` pixels came out.
inline Axis shrunk(const Axis& axis, std::int32_t shrink, std::int32_t side) {
    return {axis.start / shrink, axis.scale / shrink, axis.begin / shrink,
            std::min(side, (axis.end + shrink - 1) / shrink), axis.size};
}

}  // namespace fastvit
