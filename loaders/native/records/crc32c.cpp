#include "records/crc32c.hpp"

#include <array>
#include <cstddef>

namespace fastvit {

namespace {

constexpr std::uint32_t kPolynomial = 0x82F63B78;  // of Castagnoli, its lowest bit first
constexpr std::size_t kStep = 8;                   // bytes that are taken at once

// Table i has what a byte that i others follow adds to the checksum.
constexpr auto kTables = [] {
    std::array<std::array<std::uint32_t, 256>, kStep> tables{};
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
        std::uint32_t crc = byte;
        for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ (crc & 1 ? kPolynomial : 0);
        tables[0][byte] = crc;
    }
    for (std::size_t i = 1; i < kStep; ++i)
        for (std::size_t byte = 0; byte < 256; ++byte)
            tables[i][byte] = tables[i - 1][byte] >> 8 ^ tables[0][tables[i - 1][byte] & 0xFF];
    return tables;
}();

}  // namespace

std::uint32_t crc32c(std::uint32_t before, std::span<const std::uint8_t> data) {
    std::uint32_t crc = ~before;
    for (; data.size() >= kStep; data = data.subspan(kStep)) {
        std::uint32_t next = 0;
        for (std::size_t i = 0; i < kStep; ++i)
            next ^= kTables[kStep - 1 - i][data[i] ^ (i < 4 ? crc >> 8 * i & 0xFF : 0)];
        crc = next;
    }
    for (const std::uint8_t byte : data) crc = crc >> 8 ^ kTables[0][(crc ^ byte) & 0xFF];
    return ~crc;
}

}  // namespace fastvit
