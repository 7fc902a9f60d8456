// CRC-32C, the checksum of iSCSI, which TFRecord files have too.
#pragma once

#include <cstdint>
#include <span>

namespace fastvit {

// The checksum of bytes that are followed by `data`, where `before` is that of the bytes alone: 0 for none.
std::uint32_t crc32c(std::uint32_t before, std::span<const std::uint8_t> data);

}  // namespace fastvit
