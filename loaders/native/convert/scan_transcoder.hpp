// The scan of a JPEG written anew, symbol by symbol: no coefficient is ever computed.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

namespace fastvit {

// Each image's coefficients with Huffman tables of the image's own and a restart marker every so many MCUs: the divisor of a
// row's MCUs nearest to `wanted_interval`. Comments, previews, colour profiles and EXIF are left behind. Nothing for what
// is damaged or no sequential, Huffman coded 8-bit JPEG of one scan. Several images take less time than one by one.
std::vector<std::optional<std::vector<std::uint8_t>>> transcode_scans(
    std::span<const std::span<const std::uint8_t>> jpegs, int wanted_interval);

}  // namespace fastvit
