// Philox 4x32-10: a counter-based generator, so that every random choice is a pure function of what it is for.
// Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
#pragma once

#include <array>
#include <cstdint>

namespace fastvit {

using Philox4 = std::array<std::uint32_t, 4>;

inline Philox4 philox4x32(Philox4 counter, std::uint64_t seed) {
    std::uint32_t key0 = static_cast<std::uint32_t>(seed);
    std::uint32_t key1 = static_cast<std::uint32_t>(seed >> 32);
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t product0 = std::uint64_t{0xD2511F53} * counter[0];
        const std::uint64_t product1 = std::uint64_t{0xCD9E8D57} * counter[2];
        counter = {static_cast<std::uint32_t>(product1 >> 32) ^ counter[1] ^ key0, static_cast<std::uint32_t>(product1),
                   static_cast<std::uint32_t>(product0 >> 32) ^ counter[3] ^ key1, static_cast<std::uint32_t>(product0)};
        key0 += 0x9E3779B9;
        key1 += 0xBB67AE85;
    }
    return counter;
}

// What a draw is for: the last counter word, so that no two uses ever share a counter.
enum class Purpose : std::uint32_t { permutation = 1u << 16, crop = 2u << 16, flip = 3u << 16, shift = 4u << 16 };

inline Philox4 draw(Purpose purpose, std::uint32_t attempt, std::uint64_t seed, std::uint32_t epoch, std::uint64_t item) {
    return philox4x32({static_cast<std::uint32_t>(item), static_cast<std::uint32_t>(item >> 32), epoch,
                       static_cast<std::uint32_t>(purpose) | attempt},
                      seed);
}

}  // namespace fastvit
