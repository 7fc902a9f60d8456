// What stands in a JPEG before its first scan's data, of the kinds that are taken apart here: of 8 bits, Huffman coded, and
// progressive or with a single scan. libjpeg is not asked: segments are taken over as they are, and it does not hand them out.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "jpeg/huffman_codes.hpp"

namespace fastvit::scan {

using Bytes = std::span<const std::uint8_t>;

// Damage, or a kind of JPEG that is not taken apart.
struct NotForUs {};

inline void require(bool condition) {
    if (!condition) throw NotForUs{};
}

enum Marker : std::uint8_t {
    kSof0 = 0xC0, kSof1 = 0xC1, kSof2 = 0xC2, kDht = 0xC4, kRst0 = 0xD0, kSoi = 0xD8, kEoi = 0xD9, kSos = 0xDA,
    kDqt = 0xDB, kDri = 0xDD, kApp0 = 0xE0, kApp14 = 0xEE, kApp15 = 0xEF, kComment = 0xFE
};

// A table as the file has it: how many codes there are of each length, and their symbols in the codes' order.
struct TableSpec {
    std::array<std::uint8_t, kMaxCodeBits + 1> counts{};
    std::vector<std::uint8_t> symbols;
};

struct Component {
    std::uint8_t id, h, v, quantization_table;
    std::uint8_t dc_table = 0, ac_table = 0;
};

// What stands before the scan's data.
struct Header {
    std::vector<Bytes> segments;  // that decide what the pixels are, in their order
    std::vector<Component> components;
    int width = 0, height = 0, restart_interval = 0;
    bool is_progressive = false, has_jfif = false;
    std::optional<std::uint8_t> adobe_transform;
    std::array<TableSpec, 4> dc, ac;
    std::array<bool, 4> has_quantization_table{};
    Bytes frame;  // the segment that tells the image's size
    Bytes scan;   // its data, and what comes behind it

    // Whether it is grey, or YCbCr to everybody: it does not say that it is RGB, CMYK or YCCK.
    bool is_grey_or_ycc() const;

    std::uint32_t mcus_per_row() const { return mcus(width, &Component::h); }
    std::uint32_t num_mcus() const { return mcus_per_row() * mcus(height, &Component::v); }

    // In pixels. One component's MCU is one block, whatever its sampling factors are.
    int mcu_side(std::uint8_t Component::*factor) const { return 8 * (components.size() > 1 ? largest(factor) : 1); }

    int largest(std::uint8_t Component::*factor) const { return std::ranges::max(components, {}, factor).*factor; }

  private:
    std::uint32_t mcus(int side, std::uint8_t Component::*factor) const {
        return static_cast<std::uint32_t>((side + mcu_side(factor) - 1) / mcu_side(factor));
    }
};

// Throws NotForUs. The header's spans are parts of `jpeg`.
Header read_header(Bytes jpeg);

}  // namespace fastvit::scan
