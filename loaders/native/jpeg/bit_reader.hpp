// The bits of an entropy-coded scan, after the zeros stuffed behind each FF byte are removed.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>

namespace fastvit {

static_assert(std::endian::native == std::endian::little, "bits are loaded and stored by swapping a word's bytes");

// The next bits are at the top of `window`; `num_bits` of it are counted on. It is copied into registers by the loops that
// read codes, so it knows no end: whoever reads checks the position once per block or MCU, and has readable bytes behind it.
struct BitReader {
    std::uint64_t window = 0;
    std::int64_t num_bits = 0;
    const std::uint8_t* next = nullptr;

    // At least 56 bits. A whole word is loaded whatever is missing: bits beyond `num_bits` are or-ed in again, as the same
    // bits, by the next call. That takes no branch, and no loop over bytes.
    [[gnu::always_inline]] void refill() {
        std::uint64_t word;
        std::memcpy(&word, next, 8);
        window |= __builtin_bswap64(word) >> num_bits;
        next += (63 - num_bits) >> 3;
        num_bits |= 56;
    }

    [[gnu::always_inline]] void drop(std::uint8_t count) {
        window <<= count;
        num_bits -= count;
    }
};

}  // namespace fastvit
