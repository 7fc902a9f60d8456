// A JPEG file from the tokens of its scan.
#pragma once

#include <cstdint>
#include <vector>

#include "convert/tokenizer.hpp"

namespace fastvit::scan {

// The file that a finished tokenizer's tokens make. `scratch` is memory to be used again.
std::vector<std::uint8_t> write_scan(const Tokenizer& image, std::vector<std::uint8_t>& scratch);

}  // namespace fastvit::scan
