// Lossless rewriting of a JPEG so that parts of it can be decoded without the rest.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace fastvit {

// The same coefficients as a sequential JPEG with Huffman tables made for it and a restart marker after every few MCUs: the
// number nearest to `wanted_interval` that divides a row of them. Metadata (EXIF, ICC profile, comments) are left out;
// the markers that tell the colour space stay. Throws ImageError.
std::vector<std::uint8_t> add_restart_markers(std::span<const std::uint8_t> jpeg, int wanted_interval);

}  // namespace fastvit
