// Lossless rewriting of a JPEG so that parts of it can be decoded without the rest.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "jpeg/image_error.hpp"

namespace fastvit {

// What became of an image: a JPEG, or the reason why there is none.
struct Rewritten {
    std::vector<std::uint8_t> jpeg;
    std::string fault;
};

// Each image's coefficients as a sequential JPEG with Huffman tables of its own and a restart marker after every few MCUs:
// the number nearest to `wanted_interval` that divides a row of them. Metadata (EXIF, ICC profile, comments) are left out;
// the markers that tell the colour space stay. No pixel changes: an image of which decoders would make others gets a reason
// instead. Several images take less time than one by one.
std::vector<Rewritten> add_restart_markers_to_all(std::span<const std::span<const std::uint8_t>> jpegs, int wanted_interval);

// The same for one image. Throws ImageError.
inline std::vector<std::uint8_t> add_restart_markers(std::span<const std::uint8_t> jpeg, int wanted_interval) {
    Rewritten rewritten = std::move(add_restart_markers_to_all({&jpeg, 1}, wanted_interval).front());
    if (!rewritten.fault.empty()) throw ImageError(rewritten.fault);
    return std::move(rewritten.jpeg);
}

}  // namespace fastvit
