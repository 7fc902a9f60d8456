// The orientation that an image file's EXIF data tells.
#pragma once

#include <cstdint>
#include <span>

namespace fastvit {

inline constexpr int kUpright = 1;

// EXIF's orientation of an image file: how its pixels are to be turned to be seen upright (see `turn_of`), 1 to 8. It stands
// in a JPEG's or a WebP's EXIF data, a PNG's eXIf chunk or a TIFF's first directory. kUpright where a file of any format has
// none, or where what should tell it is damaged.
int exif_orientation(std::span<const std::uint8_t> file);

}  // namespace fastvit
