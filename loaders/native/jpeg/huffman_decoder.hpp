// Entropy decoding for libjpeg. Three quarters of the time that a JPEG takes go into its Huffman codes. This decoder takes
// over that step alone, for 8-bit sequential JPEGs with one scan: it reads a code and its value with one look-up and goes
// from coefficient to coefficient and from block to block without a branch that would have to be guessed; it decodes two
// images in turn, symbol by symbol, so that the processor has something to do while it waits for a look-up; and it jumps
// over restart intervals that the crop does not touch. What comes before and after (markers, inverse DCT, upsampling,
// colours) remains libjpeg's, and so do the pixels.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <vector>

#include "jpeg/bit_reader.hpp"
#include "jpeg/errors.hpp"
#include "jpeg/huffman_codes.hpp"

namespace fastvit {

// MCUs [first_column, last_column] x [first_row, last_row].
struct McuRange {
    std::uint32_t first_column, last_column, first_row, last_row;
};

// The codes of DC differences or AC coefficients, for look-up by the bits that come next.
class HuffmanTable {
  public:
    // Shorter codes are found in one look-up; others are rare. More bits find more codes and take more of the first cache:
    // 10 was fastest (docs/native-engine.md).
    static constexpr int kLookupBits = 10;

    // What comes next: a code and the bits of its value. It stands for `step` coefficients, of which all but the last are 0.
    struct Entry {
        std::uint8_t num_bits;     // of both; 0 where no (short) code begins like this
        std::uint8_t right_shift;  // 64 - num_bits
        std::uint8_t value;        // number of its value_masks and value_offsets
        std::uint8_t step;
    };

    // libjpeg must have checked that the codes make sense, as it does when it starts a scan.
    HuffmanTable(const JHUFF_TBL& source, bool is_dc);

    bool is_made_from(const JHUFF_TBL& source) const;

    // For AC coefficients, and before `skim`.
    void make_skims();

    const Entry& find(std::uint64_t window) const { return entries_[window >> (64 - kLookupBits)]; }

    // Also finds codes that are too long for `find`. What is no code at all has num_bits 0 and ends the block.
    const Entry& find_long(std::uint64_t window) const {
        return long_entries_[(window >> (64 - kLongBits)) - long_begin_];
    }

    SkimTable::Skim skim(std::uint64_t window) const { return skims_.find(window); }

    // The value of an entry that was found for `window`.
    int value(const Entry& entry, std::uint64_t window) const {
        return static_cast<int>(static_cast<std::uint32_t>(window >> entry.right_shift) & value_masks_[entry.value]) +
               value_offsets_[entry.value];
    }

    // From zigzag to natural order. Damaged data may run beyond the last coefficient, and the end of a block is kept as a
    // long run of zeros before one more zero; both fall onto the last coefficient, which is 0 at the end of a block.
    static constexpr int kEndOfBlock = 64;
    std::array<std::uint8_t, 64 + kEndOfBlock> natural_order;

  private:
    static constexpr int kMaxSize = 16;
    static constexpr int kLongBits = 17;

    std::array<Entry, 1 << kLookupBits> entries_;  // by the next bits: a code, and the sign of its value
    SkimTable skims_;
    std::array<std::uint32_t, 2 * kMaxSize> value_masks_;  // by size, plus kMaxSize where the value is negative
    std::array<std::int32_t, 2 * kMaxSize> value_offsets_;
    std::vector<Entry> long_entries_;              // by the next kLongBits bits, from `long_begin_` on
    std::uint32_t long_begin_;
    const JHUFF_TBL source_;
};

class HuffmanDecoder {
  public:
    HuffmanDecoder() = default;
    HuffmanDecoder(const HuffmanDecoder&) = delete;
    HuffmanDecoder& operator=(const HuffmanDecoder&) = delete;

    // While `other` is at work, each decodes ahead when the other has to decode.
    void pair_with(HuffmanDecoder& other) { partner_ = &other, other.partner_ = this; }

    // Whether the image is sequential, Huffman coded, of 8 bits and in one scan.
    static bool can_decode(jpeg_decompress_struct& info);

    // Whether the libjpeg of `info`, which has been started, keeps the function that decodes an MCU where we would replace it.
    static bool knows_layout(const jpeg_decompress_struct& info);

    // Decode the MCUs of `info`, which has been started and whose source is in memory, from here on until `stop`; of those
    // outside `needed`, coefficients are missing. Only for what `can_decode`. `info.client_data` becomes ours.
    void take_over(jpeg_decompress_struct& info, const McuRange& needed);

    // Decode one more row of those above the needed ones; false when there is none left.
    bool approach(jpeg_decompress_struct& info);

    // Whether the row of MCUs that libjpeg will ask for next is decoded.
    bool has_row() const;

    // Forget the image.
    void stop() { mcu_ = end_ = blocks_left_ = 0; }

  private:
    static constexpr std::uint32_t kRows = 4;  // decoded ahead; of 1 to 8 what leaves the fewest symbols without a partner
    static constexpr int kChunkBytes = 4096;
    static constexpr int kReadAhead = 8;
    static constexpr int kMaxBlockBytes = 64 * 31 / 8 + 2 * kReadAhead;  // as many codes and values of up to 31 bits

    // A block of an MCU: its codes, and the sum of its component's DC differences.
    struct BlockKind {
        const HuffmanTable *dc, *ac;
        std::uint32_t* last_dc;
        const BlockKind* next;
    };

    // What the inner loop keeps in registers.
    struct Cursor {
        BitReader bits;
        const HuffmanTable* ac = nullptr;
        JCOEF* block = nullptr;
        std::int64_t k = 0;  // the last coefficient that was decoded, in zigzag order
    };

    // Consecutive images often have the same tables.
    using Tables = std::array<std::shared_ptr<HuffmanTable>, NUM_HUFF_TBLS>;

    HuffmanTable& table(Tables HuffmanDecoder::*kind, int number, const JHUFF_TBL& source);
    JCOEF* coefficients(std::uint32_t row, std::uint32_t column);
    static boolean decode_mcu(j_decompress_ptr info, JBLOCKROW* blocks);
    void decode_until(jpeg_decompress_struct& info, std::uint32_t mcu);
    bool prepare(std::uint32_t mcu);
    bool begin_segment();
    void finish_segment();
    void begin_interval();
    bool find_restart();
    bool rest_of_interval_is_needed() const;
    bool fail(int code, int parameter1 = 0, int parameter2 = 0);

    // What is always inlined here is compiled twice, once for BMI2: a function of its own would have one version only, and
    // would not keep the cursors in registers.
    static void decode_segments(HuffmanDecoder& one, HuffmanDecoder* other);
    static void decode_segments_bmi2(HuffmanDecoder& one, HuffmanDecoder* other);
    [[gnu::always_inline]] static void decode_segments_inline(HuffmanDecoder& one, HuffmanDecoder* other);
    template <bool kKeepOne, bool kBoth, bool kKeepOther>
    [[gnu::always_inline]] static void decode_until_finished(HuffmanDecoder& one, HuffmanDecoder& other);
    template <bool kKeep>
    bool decode_some(Cursor& cursor);
    bool decode_two(Cursor& cursor);
    bool skim(Cursor& cursor);
    bool next_block(Cursor& cursor);
    void begin_block(Cursor& cursor);
    const HuffmanTable::Entry& find_long(const HuffmanTable& table, std::uint64_t window);
    const std::uint8_t* read_chunk(const std::uint8_t* next);
    bool ran_out() const;

    HuffmanDecoder* partner_ = nullptr;
    Tables dc_tables_, ac_tables_;
    std::array<BlockKind, D_MAX_BLOCKS_IN_MCU> kinds_;
    std::array<std::uint32_t, MAX_COMPS_IN_SCAN> last_dc_;  // unsigned: the sums of damaged data may run over

    // Positions are numbers of MCUs from the image's beginning.
    McuRange needed_;
    bool can_skim_;
    std::uint32_t num_columns_, num_needed_columns_, blocks_per_mcu_;
    std::uint32_t mcu_ = 0;    // everything before is decoded, or skipped
    std::uint32_t limit_ = 0;  // how far decoding ahead may go before `row_` is used up
    std::uint32_t end_ = 0;    // of what is needed
    std::uint32_t taken_;      // handed over to libjpeg
    std::uint32_t restart_interval_, next_interval_;
    int next_restart_;  // number of the next restart marker, modulo 8
    std::vector<JCOEF> rows_;  // the needed MCUs of as many rows as are decoded ahead, by row modulo kRows
    std::array<JCOEF, DCTSIZE2> unneeded_;
    int error_code_, error_parameters_[2];

    // The segment that is being decoded: consecutive MCUs of one row, all needed or all not.
    std::uint32_t segment_mcus_, blocks_left_ = 0;
    std::ptrdiff_t block_stride_;
    const BlockKind* kind_;
    bool is_skimming_, bad_code_;
    Cursor cursor_;

    const std::uint8_t* data_;  // of the file, behind what is in the chunk
    const std::uint8_t* data_end_;
    const std::uint8_t* chunk_end_;
    const std::uint8_t* chunk_limit_;  // a block that begins behind this may need more than the chunk has
    bool is_last_chunk_, ran_out_;
    std::array<std::uint8_t, kChunkBytes + 2 * kMaxBlockBytes> chunk_;  // without the zeros that are stuffed behind each FF
};

}  // namespace fastvit
