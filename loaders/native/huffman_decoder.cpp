#include "huffman_decoder.hpp"

#include <algorithm>
#include <cstring>

namespace fastvit {

namespace {

// The beginning of libjpeg's private struct jpeg_entropy_decoder, as it has been since libjpeg 6.
struct EntropyDecoder {
    void (*start_pass)(j_decompress_ptr info);
    boolean (*decode_mcu)(j_decompress_ptr info, JBLOCKROW* blocks);
};

// From zigzag to natural order; damaged data may run 15 coefficients beyond the last one.
constexpr std::uint8_t kNaturalOrder[64 + 16] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13,
    6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31,
    39, 46, 53, 60, 61, 54, 47, 55, 62, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63, 63};

std::uint64_t load_big_endian(const std::uint8_t* bytes) {
    std::uint64_t word;
    std::memcpy(&word, bytes, 8);
    return __builtin_bswap64(word);
}

}  // namespace

// The next code; one with num_bits 0 when there is none. Needs 16 bits.
[[gnu::always_inline]] inline HuffmanDecoder::Entry HuffmanDecoder::Bits::look_up(const Table& table) const {
    const Entry entry = table.entries[window >> (64 - kLookupBits)];
    return __builtin_expect(entry.num_bits != 0, 1) ? entry : look_up_long(table, window >> 48);
}

[[gnu::noinline]] HuffmanDecoder::Entry HuffmanDecoder::Bits::look_up_long(const Table& table,
                                                                           std::uint64_t next_16_bits) {
    const auto top = static_cast<std::uint32_t>(next_16_bits);
    for (int length = kLookupBits + 1; length <= 16; ++length)
        if (top < table.code_end[length]) {
            const int number = table.symbol_offset[length] + static_cast<int>(top >> (16 - length));
            return entry_of(table.source.huffval[number & 255], length);
        }
    return {};
}

// Drop a code and the bits of its value, and return the value: those that begin with 0 are negative (ITU-T T.81, F.2.2.1).
[[gnu::always_inline]] inline int HuffmanDecoder::Bits::take_value(Entry entry) {
    const std::uint64_t value_first = window << entry.code_bits;
    const auto magnitude = static_cast<int>(value_first >> 1 >> (63 - entry.size));
    const int negative = ~static_cast<int>(static_cast<std::int64_t>(value_first) >> 63);
    drop(entry.num_bits);
    return magnitude + (negative & (static_cast<int>(~0u << entry.size) + 1));
}

[[gnu::always_inline]] inline void HuffmanDecoder::Bits::drop(int count) {
    window <<= count;
    num_bits -= count;
}

bool HuffmanDecoder::can_decode(jpeg_decompress_struct& info) {
    return !info.progressive_mode && !info.arith_code && info.data_precision == 8 && !jpeg_has_multiple_scans(&info) &&
           info.comps_in_scan == info.num_components;
}

void HuffmanDecoder::take_over(jpeg_decompress_struct& info, const McuRange& needed) {
    for (int number = 0; number < info.comps_in_scan; ++number) {
        const jpeg_component_info& component = *info.cur_comp_info[number];
        make_table(dc_tables_[component.dc_tbl_no], *info.dc_huff_tbl_ptrs[component.dc_tbl_no]);
        make_table(ac_tables_[component.ac_tbl_no], *info.ac_huff_tbl_ptrs[component.ac_tbl_no]);
    }
    needed_ = needed;
    column_ = row_ = 0;
    num_columns_ = info.MCUs_per_row;
    restart_interval_ = mcus_to_restart_ = info.restart_interval;
    next_restart_ = 0;
    last_dc_ = {};
    bits_ = {};
    data_ = info.src->next_input_byte;
    data_end_ = data_ + info.src->bytes_in_buffer;
    num_made_up_ = 0;
    skipping_ = restart_interval_ && !interval_is_needed();
    info.client_data = this;
    reinterpret_cast<EntropyDecoder*>(info.entropy)->decode_mcu = decode_mcu;
}

// libjpeg has checked that the codes make sense when it started the scan.
void HuffmanDecoder::make_table(Table& table, const JHUFF_TBL& source) {
    if (table.made && std::memcmp(table.source.bits, source.bits, sizeof source.bits) == 0 &&
        std::memcmp(table.source.huffval, source.huffval, sizeof source.huffval) == 0)
        return;
    std::memcpy(&table.source, &source, sizeof source);
    table.made = true;
    table.entries.fill({});
    std::uint32_t code = 0;
    int symbols = 0;
    for (int length = 1; length <= 16; ++length, code <<= 1) {
        table.symbol_offset[length] = symbols - static_cast<std::int32_t>(code);
        for (int number = 0; number < source.bits[length]; ++number, ++code, ++symbols) {
            if (length > kLookupBits) continue;
            const int rest = kLookupBits - length;
            const Entry entry = entry_of(source.huffval[symbols & 255], length);
            for (std::uint32_t tail = 0; tail < (1u << rest); ++tail)
                table.entries[((code << rest) + tail) & ((1u << kLookupBits) - 1)] = entry;
        }
        table.code_end[length] = code << (16 - length);
    }
}

HuffmanDecoder::Entry HuffmanDecoder::entry_of(int symbol, int code_bits) {
    const int size = symbol & 15;
    return {static_cast<std::uint8_t>(code_bits + size), static_cast<std::uint8_t>(code_bits),
            static_cast<std::uint8_t>(size), static_cast<std::uint8_t>(symbol >> 4)};
}

boolean HuffmanDecoder::decode_mcu(j_decompress_ptr info, JBLOCKROW* blocks) {
    auto& self = *static_cast<HuffmanDecoder*>(info->client_data);
    if (self.restart_interval_ && self.mcus_to_restart_-- == 0) self.restart(info);
    if (!self.skipping_) {
        const bool keep = blocks && self.column_ >= self.needed_.first_column &&
                          self.column_ <= self.needed_.last_column && self.row_ >= self.needed_.first_row;
        if (!(keep ? self.decode_blocks<true>(info, blocks) : self.decode_blocks<false>(info, blocks)))
            ERREXIT(info, JWRN_HUFF_BAD_CODE);
        if (self.ran_out()) ERREXIT(info, JWRN_HIT_MARKER);
    }
    if (++self.column_ == self.num_columns_) {
        self.column_ = 0;
        ++self.row_;
    }
    return TRUE;
}

template <bool kKeep>
bool HuffmanDecoder::decode_blocks(j_decompress_ptr info, JBLOCKROW* blocks) {
    Bits bits = bits_;
    for (int number = 0; number < info->blocks_in_MCU; ++number) {
        const int which = info->MCU_membership[number];
        const jpeg_component_info& component = *info->cur_comp_info[which];
        if (!decode_block<kKeep>(bits, dc_tables_[component.dc_tbl_no], ac_tables_[component.ac_tbl_no], last_dc_[which],
                                 kKeep ? blocks[number][0] : nullptr))
            return false;
    }
    bits_ = bits;
    return true;
}

template <bool kKeep>
[[gnu::always_inline]] inline bool HuffmanDecoder::decode_block(Bits& bits, const Table& dc, const Table& ac,
                                                                int& last_dc, JCOEF* block) {
    refill(bits);
    const Entry first = bits.look_up(dc);
    if (__builtin_expect(first.num_bits == 0, 0)) return false;
    last_dc += bits.take_value(first);
    if constexpr (kKeep) block[0] = static_cast<JCOEF>(last_dc);
    for (int k = 0;;) {
        refill(bits);
        for (int turn = 0; turn < 2; ++turn) {  // a short code with its value has at most 25 bits, a long one 31
            const Entry entry = bits.look_up(ac);
            if (__builtin_expect(entry.size == 0, 0)) {
                if (entry.num_bits == 0) return false;
                bits.drop(entry.num_bits);
                if (entry.zeros != 15) return true;
                if ((k += 16) >= 63) return true;
                break;
            }
            const int value = bits.take_value(entry);
            k += entry.zeros + 1;
            if constexpr (kKeep) block[kNaturalOrder[k]] = static_cast<JCOEF>(value);
            if (k >= 63) return true;
            if (entry.num_bits > 25) break;
        }
    }
}

// At least 56 bits.
[[gnu::always_inline]] inline void HuffmanDecoder::refill(Bits& bits) {
    if (__builtin_expect(bits.end - bits.next < 8, 0)) {
        bits.end = read_chunk(bits.next, bits.end);
        bits.next = chunk_.data();
    }
    bits.window |= load_big_endian(bits.next) >> bits.num_bits;
    const int num_bytes = (63 - bits.num_bits) >> 3;
    bits.next += num_bytes;
    bits.num_bits += 8 * num_bytes;
}

// Move the bytes that are left, fewer than 8, to the front of the chunk, fill it up from the data, and return its end.
// Behind the data, which end at a marker, come made-up zeros.
[[gnu::noinline]] const std::uint8_t* HuffmanDecoder::read_chunk(const std::uint8_t* next, const std::uint8_t* end) {
    std::uint8_t* to = std::copy(next, end, chunk_.data());
    std::uint8_t* const full = chunk_.data() + kChunkBytes;
    while (to < full) {
        const auto space = static_cast<std::size_t>(std::min<std::ptrdiff_t>(full - to, data_end_ - data_));
        const void* found = space ? std::memchr(data_, 0xFF, space) : nullptr;
        const auto length = found ? static_cast<std::size_t>(static_cast<const std::uint8_t*>(found) - data_) : space;
        std::memcpy(to, data_, length);
        to += length;
        data_ += length;
        const bool stuffed = found && data_end_ - data_ >= 2 && data_[1] == 0;
        if (stuffed) {
            *to++ = 0xFF;
            data_ += 2;
        } else if (found || data_ == data_end_) {
            std::memset(to, 0, 8);  // within the padding
            num_made_up_ += 8;
            return to + 8;
        }
    }
    return to;
}

// Whether bits were taken that are not in the data.
bool HuffmanDecoder::ran_out() const { return bits_.num_bits + 8 * (bits_.end - bits_.next) < 8 * num_made_up_; }

void HuffmanDecoder::restart(j_decompress_ptr info) {
    // What is left of the interval: nothing, or padding, or all of it when it is skipped.
    while (true) {
        const void* found = std::memchr(data_, 0xFF, static_cast<std::size_t>(data_end_ - data_));
        data_ = found ? static_cast<const std::uint8_t*>(found) : data_end_;
        if (data_end_ - data_ < 2) ERREXIT(info, JWRN_JPEG_EOF);
        if (data_[1] != 0 && data_[1] != 0xFF) break;
        data_ += data_[1] == 0 ? 2 : 1;
    }
    if (data_[1] != JPEG_RST0 + next_restart_) ERREXIT2(info, JWRN_MUST_RESYNC, data_[1], next_restart_);
    data_ += 2;
    bits_ = {};
    num_made_up_ = 0;
    last_dc_ = {};
    next_restart_ = (next_restart_ + 1) & 7;
    mcus_to_restart_ = restart_interval_ - 1;
    skipping_ = !interval_is_needed();
}

// Whether the crop touches the restart interval that begins here.
bool HuffmanDecoder::interval_is_needed() const {
    const std::uint32_t last = column_ + restart_interval_ - 1;
    if (last >= num_columns_) return row_ + last / num_columns_ >= needed_.first_row && row_ <= needed_.last_row;
    return row_ >= needed_.first_row && row_ <= needed_.last_row && column_ <= needed_.last_column &&
           last >= needed_.first_column;
}

}  // namespace fastvit
