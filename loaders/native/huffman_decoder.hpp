// Entropy decoding for libjpeg. Three quarters of the time that a JPEG takes go into its Huffman codes. This decoder takes
// over that step alone, for 8-bit sequential JPEGs with one scan: it reads a code and its value with one look-up and no
// branch, it only skims blocks that the crop does not need, and it jumps over restart intervals that the crop does not
// touch. What comes before and after (markers, inverse DCT, upsampling, colours) remains libjpeg's, and so do the pixels.
#pragma once

#include <array>
#include <cstdint>

#include "jpeg_error.hpp"

namespace fastvit {

// MCUs [first_column, last_column] x [first_row, last_row].
struct McuRange {
    std::uint32_t first_column, last_column, first_row, last_row;
};

class HuffmanDecoder {
  public:
    // Whether the image is sequential, Huffman coded, of 8 bits and in one scan.
    static bool can_decode(jpeg_decompress_struct& info);

    // Decode the MCUs of `info`, which has been started and whose source is in memory, from here on; of those outside
    // `needed`, coefficients are missing. Only for what `can_decode`. `info.client_data` becomes ours.
    void take_over(jpeg_decompress_struct& info, const McuRange& needed);

  private:
    // Codes up to this length are found in one look-up; longer ones are rare.
    static constexpr int kLookupBits = 10;
    static constexpr int kChunkBytes = 4096;
    static constexpr int kPadding = 16;

    // A code and what it stands for: `zeros` coefficients that are 0, and then one of `size` bits.
    struct Entry {
        std::uint8_t num_bits;  // of the code and the value behind it; 0 where there is no such (short) code
        std::uint8_t code_bits, size, zeros;
    };

    struct Table {
        std::array<Entry, 1 << kLookupBits> entries;  // by the next bits
        // For longer codes, by their length: where they end, in 16 bits, and the number of their first symbol minus code.
        std::array<std::uint32_t, 17> code_end;
        std::array<std::int32_t, 17> symbol_offset;
        JHUFF_TBL source;  // what it was made from: consecutive images often have the same tables
        bool made = false;
    };

    // The bits that come next, at the top of `window`, and the bytes behind them.
    struct Bits {
        Entry look_up(const Table& table) const;
        static Entry look_up_long(const Table& table, std::uint64_t next_16_bits);
        int take_value(Entry entry);
        void drop(int count);

        std::uint64_t window = 0;
        int num_bits = 0;
        const std::uint8_t* next = nullptr;
        const std::uint8_t* end = nullptr;
    };

    static void make_table(Table& table, const JHUFF_TBL& source);
    static Entry entry_of(int symbol, int code_bits);

    static boolean decode_mcu(j_decompress_ptr info, JBLOCKROW* blocks);
    template <bool kKeep>
    bool decode_blocks(j_decompress_ptr info, JBLOCKROW* blocks);
    template <bool kKeep>
    bool decode_block(Bits& bits, const Table& dc, const Table& ac, int& last_dc, JCOEF* block);
    void refill(Bits& bits);
    const std::uint8_t* read_chunk(const std::uint8_t* next, const std::uint8_t* end);
    bool ran_out() const;
    void restart(j_decompress_ptr info);
    bool interval_is_needed() const;

    std::array<Table, NUM_HUFF_TBLS> dc_tables_, ac_tables_;
    McuRange needed_;
    std::uint32_t column_, row_, num_columns_;
    std::uint32_t restart_interval_, mcus_to_restart_;
    int next_restart_;
    bool skipping_;  // until the next restart
    std::array<int, MAX_COMPS_IN_SCAN> last_dc_;

    Bits bits_;
    const std::uint8_t* data_;  // of the file, behind what is in the chunk
    const std::uint8_t* data_end_;
    std::array<std::uint8_t, kChunkBytes + kPadding> chunk_;  // without the zeros that are stuffed behind each FF
    std::int64_t num_made_up_;                                // bytes behind the end of the data
};

}  // namespace fastvit
