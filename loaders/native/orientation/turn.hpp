// Turning pixels upright. All images are uint8 RGB [height, width, 3].
#pragma once

#include <cstdint>

namespace fastvit {

// What is done to stored pixels: mirrored upside down, mirrored left to right, then rows become columns.
struct Turn {
    bool mirrors_rows = false, mirrors_columns = false, transposes = false;

    bool changes_pixels() const { return mirrors_rows || mirrors_columns || transposes; }
};

// What turns pixels upright that are stored in EXIF's `orientation`, 1 to 8.
Turn turn_of(int orientation);

// Turn `pixels` into `out`, [width, height, 3] where the turn transposes; the two may not overlap.
void turn_pixels(const std::uint8_t* pixels, std::int32_t height, std::int32_t width, const Turn& turn, std::uint8_t* out);

inline void copy_pixel(const std::uint8_t* from, std::uint8_t* to) { to[0] = from[0], to[1] = from[1], to[2] = from[2]; }

// One row of pixels, the last one first.
void mirror_row(const std::uint8_t* row, std::int32_t num_pixels, std::uint8_t* out);

}  // namespace fastvit
