// What the kernels for vector instructions share. Nothing here has external linkage: each file compiles it for its own
// instructions.
#pragma once

#include <cstdint>

#include "resize/kernels.hpp"

namespace fastvit {

namespace {

// The row that alone makes up the output; null where it is mixed of several.
const std::uint8_t* single_row(const std::uint8_t* const* rows, const std::int16_t* weights, int num_taps) {
    for (int tap = 0; tap < num_taps; ++tap)
        if (weights[tap] == kWeightOne) return rows[tap];
    return nullptr;
}

}  // namespace

}  // namespace fastvit
