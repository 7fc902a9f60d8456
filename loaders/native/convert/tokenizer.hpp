// A JPEG's scan as tokens: symbols and values, no coefficient of which is ever computed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "convert/code_table.hpp"
#include "jpeg/header.hpp"
#include "jpeg/bit_reader.hpp"

namespace fastvit::scan {

// A block is 64 codes with their values.
constexpr std::size_t kMaxBlockBytes = 64 * 31 / 8;

// Which of the tables a symbol belongs to; the new file has two of each kind, for the first component and for the others.
constexpr int kTables = 4;
constexpr std::uint32_t table_number(std::size_t component, bool is_ac) { return (component > 0 ? 2u : 0u) + is_ac; }

// A symbol and the bits of its value as they come out of one scan and go into the other. Where AC codes stay as they are, a
// DC token is followed by two words instead: where in the scan the block's AC codes begin and how many they are, in bits.
using Token = std::uint32_t;
constexpr int kSymbolShift = 16;

// The data of a scan without the zeros that are stuffed behind each FF, and where its restart intervals end.
struct Scan {
    std::vector<std::uint8_t> bytes;
    std::vector<std::size_t> ends;
};

// A scan on its way to tokens, whose DC values are relative to those of the new restart intervals. Two images are read in
// turn, a few symbols at a time: a symbol cannot begin before the one in front of it has been looked up, so that one image
// alone would leave the processor waiting.
class Tokenizer {
  public:
    // Throws NotForUs. `jpeg` must stay as it is until the tokens are written.
    void begin(Bytes jpeg, int wanted_interval);

    // Read on until one of the two is at its end, or damaged; `other` may be null. Both keep their AC codes, or neither does.
    static void run(Tokenizer& one, Tokenizer* other);

    // Whether the image's AC codes are its own, and stay as they are.
    bool keeps_ac() const { return keeps_ac_; }

    bool is_finished() const { return is_damaged_ || mcu_ == num_mcus_; }
    bool is_damaged() const { return is_damaged_; }

    const Header& header() const { return header_; }
    std::uint32_t interval() const { return interval_; }
    std::span<const Token> tokens() const { return tokens_; }
    std::span<const std::size_t> interval_ends() const { return interval_ends_; }
    const std::uint8_t* scan() const { return scan_.bytes.data(); }

    // What is kept of the AC tables: the first component's, and the others'.
    const TableSpec& ac_table(std::size_t number) const {
        const Component& component = number ? header_.components.back() : header_.components.front();
        return header_.ac[component.ac_table];
    }

    std::span<const std::uint32_t, 256> frequencies(std::uint32_t table) const {
        return std::span(frequencies_).subspan(256 * table).first<256>();
    }

  private:
    static constexpr std::size_t kMaxMcuTokens = 10 * 64;

    // A block of an MCU: whose tables it has.
    struct Block {
        const CodeTable *dc, *ac;
        std::size_t component;
    };

    // What the inner loop keeps in registers.
    struct Cursor {
        BitReader reader;
        Token* token = nullptr;
        const CodeTable* ac = nullptr;
        std::uint32_t key = 0;  // of the AC table's symbols
        int k = 0;              // the coefficient that comes next, in zigzag order
    };

    void list_blocks();
    bool has_own_ac_tables() const;

    // What is always inlined is compiled twice, once for BMI2, as in HuffmanDecoder.
    static void run_bmi2(Tokenizer& one, Tokenizer* other);
    [[gnu::always_inline]] static void run_inline(Tokenizer& one, Tokenizer* other);
    template <bool kKeepsAc, bool kBoth>
    [[gnu::always_inline]] static void run_as(Tokenizer& one, Tokenizer& other);

    // These tell whether the image is finished.
    [[gnu::always_inline]] bool advance(Cursor& cursor);
    [[gnu::always_inline]] bool skim(Cursor& cursor);
    [[gnu::always_inline]] bool end_skimmed_block(Cursor& cursor);
    [[gnu::always_inline]] bool end_block(Cursor& cursor);
    [[gnu::always_inline]] void begin_mcu(Cursor& cursor);
    [[gnu::always_inline]] void begin_block(Cursor& cursor);
    [[gnu::always_inline]] void put(Cursor& cursor, std::uint32_t key, std::uint32_t value);
    void put_dc(Cursor& cursor, std::uint32_t key, int difference);
    void end_mcu(const std::uint8_t* next, std::int64_t num_bits, const Token* token);
    [[gnu::always_inline]] Token* make_room(Token* token);
    Token* grow(std::size_t num_tokens);
    std::uint32_t position(const BitReader& reader) const;

    Header header_;
    std::uint32_t interval_, old_interval_, num_mcus_, mcu_;
    Scan scan_;
    const std::uint8_t* interval_end_;  // of the old restart interval's bytes
    std::array<CodeTable, 4> dc_codes_, ac_codes_;
    std::vector<Block> blocks_;
    const Block *block_, *last_block_;
    std::array<std::uint32_t, 4> dc_, written_dc_;  // unsigned: the sums of damaged data may run over
    bool keeps_ac_, is_damaged_;
    Cursor cursor_;
    std::vector<Token> tokens_;
    std::vector<std::size_t> interval_ends_;
    std::array<std::uint32_t, kTables * 256> frequencies_;  // by table and symbol
};

}  // namespace fastvit::scan
