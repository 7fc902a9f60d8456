#include "convert/code_table.hpp"

#include <algorithm>

namespace fastvit::scan {

namespace {

CodeTable::Entry make_entry(std::uint8_t symbol, int length, bool is_dc) {
    const int size = is_dc ? symbol : symbol & 15, zeros = symbol >> 4;
    require(size <= (is_dc ? kMaxDcBits : kMaxAcBits));
    require(is_dc || size > 0 || zeros == 0 || zeros == 15);
    const int step = is_dc ? 0 : symbol == 0 ? CodeTable::kEndOfBlock : zeros + 1;
    return {static_cast<std::uint8_t>(length + size), symbol, static_cast<std::uint8_t>(step), static_cast<std::uint8_t>(size)};
}

}  // namespace

void CodeTable::build(const TableSpec& spec, bool is_dc) {
    require(!spec.symbols.empty());
    if (is_built_from(spec)) return;
    spec_ = {};  // until all of it is checked
    skims_.clear();
    entries_.fill({});
    code_ends_.fill(0);
    std::uint32_t number = 0;
    for_each_code(spec.counts, spec.symbols.data(), [&](int length, std::uint32_t code, std::uint8_t symbol) {
        require(code < (1u << length) - 1);  // all ones is none
        const Entry entry = make_entry(symbol, length, is_dc);  // checks the symbol
        code_ends_[static_cast<std::size_t>(length)] = code + 1;
        symbols_minus_codes_[static_cast<std::size_t>(length)] = number++ - code;
        if (length > kLookupBits) return;
        const int rest = kLookupBits - length;
        std::fill_n(entries_.begin() + (code << rest), 1 << rest, entry);
    });
    spec_ = spec;
    is_dc_ = is_dc;
}

void CodeTable::make_skims() {
    if (skims_.is_built()) return;
    skims_.build([this](std::uint64_t window) -> SkimTable::Skim {
        const Entry& entry = entries_[window >> (64 - kLookupBits)];
        return {entry.num_bits, entry.step};
    });
}

// A shorter code than the window's would have been found, so bits below the end of a length's codes are one of them.
[[gnu::noinline]] CodeTable::Entry CodeTable::find_long(std::uint64_t window) const {
    for (std::size_t length = kLookupBits + 1; length <= kMaxCodeBits; ++length) {
        const auto code = static_cast<std::uint32_t>(window >> (64 - length));
        if (code < code_ends_[length])
            return make_entry(spec_.symbols[code + symbols_minus_codes_[length]], static_cast<int>(length), is_dc_);
    }
    return kNoCode;
}

}  // namespace fastvit::scan
