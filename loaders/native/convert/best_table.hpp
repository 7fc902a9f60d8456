// Huffman codes made for one image.
#pragma once

#include <cstdint>
#include <span>

#include "jpeg/header.hpp"

namespace fastvit::scan {

// The Huffman code that makes the least of these frequencies, with codes of at most 16 bits, none of them all ones (ITU-T
// T.81, K.2).
TableSpec best_table(std::span<const std::uint32_t, 256> frequencies);

}  // namespace fastvit::scan
