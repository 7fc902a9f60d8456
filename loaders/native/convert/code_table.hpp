// Codes of the file that is transcoded, by the bits that come next.
#pragma once

#include <array>
#include <cstdint>

#include "jpeg/header.hpp"
#include "jpeg/huffman_codes.hpp"

namespace fastvit::scan {

// Of values in 8-bit JPEGs. Two codes of 16 bits with such values are what one refill of the reader, and of the writer,
// holds.
constexpr int kMaxDcBits = 11, kMaxAcBits = 10;

class CodeTable {
  public:
    struct alignas(4) Entry {
        std::uint8_t num_bits;  // of a code and its value; 0 where no (short) code begins like this
        std::uint8_t symbol;
        std::uint8_t step;  // the coefficients that it stands for
        std::uint8_t size;  // bits of the value

        // Of the code that was found for `window`.
        std::uint32_t value(std::uint64_t window) const {
            return static_cast<std::uint32_t>(window >> (64 - num_bits)) & ((1u << size) - 1);
        }
    };

    // Of the code that ends a block.
    static constexpr int kEndOfBlock = SkimTable::kEnd;

    // What `find` makes of bits that are no code.
    static constexpr Entry kNoCode{1, 0, 255, 0};

    // Throws NotForUs where the codes make no sense.
    void build(const TableSpec& spec, bool is_dc);

    // Before `skim`, and for AC codes.
    void make_skims();

    Entry find(std::uint64_t window) const {
        const Entry found = entries_[window >> (64 - kLookupBits)];
        return __builtin_expect(found.num_bits != 0, 1) ? found : find_long(window);
    }

    SkimTable::Skim skim(std::uint64_t window) const { return skims_.find(window); }

  private:
    static constexpr int kLookupBits = 10;

    bool is_built_from(const TableSpec& spec) const { return spec_.counts == spec.counts && spec_.symbols == spec.symbols; }
    Entry find_long(std::uint64_t window) const;

    TableSpec spec_;
    bool is_dc_ = false;
    std::array<Entry, 1 << kLookupBits> entries_;
    SkimTable skims_;
    std::array<std::uint32_t, kMaxCodeBits + 1> code_ends_;        // by length: one past the last code; 0 where there is none
    std::array<std::uint32_t, kMaxCodeBits + 1> symbols_minus_codes_;  // by length: what makes a code its symbol's number
};

}  // namespace fastvit::scan
