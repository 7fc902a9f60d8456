#include "jpeg/huffman_decoder.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <cstring>

#include "jpeg/marker.hpp"

namespace fastvit {

namespace {

// The beginning of libjpeg's private struct jpeg_entropy_decoder, as it has been since libjpeg 6. libjpeg offers no way to
// hand it coefficients, so its function is replaced, which only libjpeg_check.cpp makes sure that one can.
struct EntropyDecoder {
    void (*start_pass)(j_decompress_ptr info);
    boolean (*decode_mcu)(j_decompress_ptr info, JBLOCKROW* blocks);
};

// The file that was loaded with this function in it; null where it is no such address.
template <typename Function>
const void* file_of(Function* function) {
    Dl_info file;
    return dladdr(reinterpret_cast<const void*>(function), &file) ? file.dli_fbase : nullptr;
}

constexpr std::uint8_t kNaturalOrder[DCTSIZE2] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
    41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
    30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

}  // namespace

bool HuffmanTable::is_made_from(const JHUFF_TBL& source) const {
    return std::memcmp(source_.bits, source.bits, sizeof source.bits) == 0 &&
           std::memcmp(source_.huffval, source.huffval, sizeof source.huffval) == 0;
}

HuffmanTable::HuffmanTable(const JHUFF_TBL& source, bool is_dc) : source_(source) {
    natural_order.fill(DCTSIZE2 - 1);
    std::copy(std::begin(kNaturalOrder), std::end(kNaturalOrder), natural_order.begin());
    for (int size = 0; size < kMaxSize; ++size) {  // values that begin with 0 are negative (ITU-T T.81, F.2.2.1)
        value_masks_[size] = value_masks_[kMaxSize + size] = (1u << size) - 1;
        value_offsets_[size] = 0;
        value_offsets_[kMaxSize + size] = 1 - (1 << size);
    }
    entries_.fill({});
    long_begin_ = 0;  // where the short codes end
    for (int length = 1; length < kLookupBits; ++length)
        long_begin_ += std::uint32_t{source.bits[length]} << (kLongBits - length);
    long_entries_.assign((1 << kLongBits) - long_begin_, {0, 63, 0, kEndOfBlock + 1});
    for_each_code(source.bits, source.huffval, [&](int length, std::uint32_t code, std::uint8_t symbol) {
        const bool is_short = length < kLookupBits;  // a code is looked up together with the sign of its value
        Entry* const entries = is_short ? entries_.data() : long_entries_.data() - long_begin_;
        const int size = symbol & 15, zeros = symbol >> 4, num_bits = length + size;
        const bool is_end = size == 0 && zeros != 15;
        Entry entry{static_cast<std::uint8_t>(num_bits), static_cast<std::uint8_t>(64 - num_bits),
                    static_cast<std::uint8_t>(size > 0 ? kMaxSize + size : 0),
                    static_cast<std::uint8_t>(is_dc ? 1 : is_end ? kEndOfBlock + 1 : zeros + 1)};
        const int half = (is_short ? kLookupBits : kLongBits) - length - 1;
        Entry* const begin = entries + (code << (half + 1));
        std::fill_n(begin, 1 << half, entry);
        entry.value = static_cast<std::uint8_t>(size);
        std::fill_n(begin + (1 << half), 1 << half, entry);
    });
}

void HuffmanTable::make_skims() {
    if (skims_.is_built()) return;
    skims_.build([this](std::uint64_t window) -> SkimTable::Skim {
        const Entry& entry = find(window);
        return {entry.num_bits, static_cast<std::uint8_t>(entry.step > kEndOfBlock ? SkimTable::kEnd : entry.step)};
    });
}

bool HuffmanDecoder::can_decode(jpeg_decompress_struct& info) {
    return !info.progressive_mode && !info.arith_code && info.data_precision == 8 && !jpeg_has_multiple_scans(&info) &&
           info.comps_in_scan == info.num_components;
}

bool HuffmanDecoder::knows_layout(const jpeg_decompress_struct& info) {
    const auto& entropy = *reinterpret_cast<const EntropyDecoder*>(info.entropy);
    const void* const libjpeg = file_of(info.err->reset_error_mgr);  // which JpegErrorManager leaves as it is
    return file_of(entropy.start_pass) == libjpeg && file_of(entropy.decode_mcu) == libjpeg &&
           reinterpret_cast<const void*>(entropy.start_pass) != reinterpret_cast<const void*>(entropy.decode_mcu);
}

// The table that was made from `source` for the image before or for the partner's, whose copy would only crowd the cache;
// else a new one.
HuffmanTable& HuffmanDecoder::table(Tables HuffmanDecoder::*kind, int number, const JHUFF_TBL& source) {
    const auto fits = [&](const auto& table) { return table && table->is_made_from(source); };
    std::shared_ptr<HuffmanTable>& own = (this->*kind)[static_cast<std::size_t>(number)];
    if (fits(own)) return *own;
    const Tables& others = (partner_ ? partner_ : this)->*kind;
    const auto found = std::find_if(others.begin(), others.end(), fits);
    own = found != others.end() ? *found : std::make_shared<HuffmanTable>(source, kind == &HuffmanDecoder::dc_tables_);
    return *own;
}

void HuffmanDecoder::take_over(jpeg_decompress_struct& info, const McuRange& needed) {
    // With restart markers, too little is left to skim to make a table for it.
    can_skim_ = info.restart_interval == 0;
    blocks_per_mcu_ = static_cast<std::uint32_t>(info.blocks_in_MCU);
    for (std::uint32_t number = 0; number < blocks_per_mcu_; ++number) {
        const int which = info.MCU_membership[number];
        const jpeg_component_info& component = *info.cur_comp_info[which];
        const int dc_number = component.dc_tbl_no, ac_number = component.ac_tbl_no;
        HuffmanTable& dc = table(&HuffmanDecoder::dc_tables_, dc_number, *info.dc_huff_tbl_ptrs[dc_number]);
        HuffmanTable& ac = table(&HuffmanDecoder::ac_tables_, ac_number, *info.ac_huff_tbl_ptrs[ac_number]);
        if (can_skim_) ac.make_skims();
        kinds_[number] = {&dc, &ac, &last_dc_[which], &kinds_[(number + 1) % blocks_per_mcu_]};
    }
    needed_ = needed;
    num_columns_ = info.MCUs_per_row;
    num_needed_columns_ = needed.last_column - needed.first_column + 1;
    rows_.resize(std::size_t{kRows} * num_needed_columns_ * blocks_per_mcu_ * DCTSIZE2);
    mcu_ = taken_ = 0;
    limit_ = (needed.first_row + kRows) * num_columns_ + needed.first_column;
    end_ = needed.last_row * num_columns_ + needed.last_column + 1;
    restart_interval_ = info.restart_interval ? info.restart_interval : num_columns_ * info.MCU_rows_in_scan;
    next_interval_ = next_restart_ = 0;
    error_code_ = 0;
    blocks_left_ = 0;
    data_ = info.src->next_input_byte;
    data_end_ = data_ + info.src->bytes_in_buffer;
    info.client_data = this;
    reinterpret_cast<EntropyDecoder*>(info.entropy)->decode_mcu = decode_mcu;
}

boolean HuffmanDecoder::decode_mcu(j_decompress_ptr info, JBLOCKROW* blocks) {
    auto& self = *static_cast<HuffmanDecoder*>(info->client_data);
    const McuRange& needed = self.needed_;
    const std::uint32_t row = self.taken_ / self.num_columns_, column = self.taken_ % self.num_columns_;
    ++self.taken_;
    if (!blocks || row < needed.first_row || row > needed.last_row || column < needed.first_column ||
        column > needed.last_column)
        return TRUE;
    if (column == needed.first_column)
        self.decode_until(*info, self.taken_ + needed.last_column - needed.first_column);
    const JCOEF* from = self.coefficients(row, column);
    for (std::uint32_t number = 0; number < self.blocks_per_mcu_; ++number)
        std::memcpy(blocks[number][0], from + DCTSIZE2 * number, sizeof(JBLOCK));
    if (column == needed.last_column) self.limit_ += self.num_columns_;
    return TRUE;
}

JCOEF* HuffmanDecoder::coefficients(std::uint32_t row, std::uint32_t column) {
    const std::size_t mcu = std::size_t{row % kRows} * num_needed_columns_ + column - needed_.first_column;
    return rows_.data() + mcu * blocks_per_mcu_ * DCTSIZE2;
}

bool HuffmanDecoder::has_row() const { return mcu_ > taken_ + needed_.last_column; }

bool HuffmanDecoder::approach(jpeg_decompress_struct& info) {
    const std::uint32_t first = needed_.first_row * num_columns_;
    if (mcu_ >= first) return false;
    decode_until(info, std::min(first, (mcu_ / num_columns_ + 1) * num_columns_));
    return true;
}

// Decode what comes before position `mcu`, and as much of the partner's image as its limits allow meanwhile.
void HuffmanDecoder::decode_until(jpeg_decompress_struct& info, std::uint32_t mcu) {
    while (prepare(mcu)) {
        const bool both = partner_ && partner_->prepare(std::min(partner_->limit_, partner_->end_));
        decode_segments(*this, both ? partner_ : nullptr);
    }
    if (mcu_ >= mcu) return;
    info.err->msg_code = error_code_;
    std::copy_n(error_parameters_, 2, info.err->msg_parm.i);
    (*info.err->error_exit)(reinterpret_cast<j_common_ptr>(&info));
}

// Have a segment to decode; false when there is none before position `mcu`, or the image is damaged.
bool HuffmanDecoder::prepare(std::uint32_t mcu) {
    while (blocks_left_ == 0 && mcu_ < mcu)
        if (error_code_ || !begin_segment()) return false;
    return blocks_left_ > 0;
}

// Go on at `mcu_`: with a segment, or behind what is not needed of a restart interval.
bool HuffmanDecoder::begin_segment() {
    const bool begins_interval = mcu_ == next_interval_;
    if (begins_interval) {
        if (mcu_ > 0 && !find_restart()) return false;
        next_interval_ += restart_interval_;
    }
    if (!rest_of_interval_is_needed()) {
        mcu_ = next_interval_;
        return true;
    }
    if (begins_interval) begin_interval();
    const std::uint32_t row = mcu_ / num_columns_, column = mcu_ % num_columns_;
    const bool needed = row >= needed_.first_row && column >= needed_.first_column && column <= needed_.last_column;
    std::uint32_t segment_end = num_columns_;
    if (needed)
        segment_end = needed_.last_column + 1;
    else if (row >= needed_.first_row && column < needed_.first_column)
        segment_end = needed_.first_column;
    segment_mcus_ = std::min(segment_end - column, next_interval_ - mcu_);
    blocks_left_ = segment_mcus_ * blocks_per_mcu_;
    if (needed) {
        cursor_.block = coefficients(row, column);
        std::memset(cursor_.block, 0, blocks_left_ * sizeof(JBLOCK));
    } else {
        cursor_.block = unneeded_.data();
    }
    block_stride_ = needed ? DCTSIZE2 : 0;
    is_skimming_ = !needed && can_skim_;
    kind_ = kinds_.data();
    bad_code_ = false;
    begin_block(cursor_);
    return true;
}

// Shifting by a variable number takes one instruction instead of three where there is BMI2.
void HuffmanDecoder::decode_segments(HuffmanDecoder& one, HuffmanDecoder* other) {
#if defined(__x86_64__)
    static const bool has_bmi2 = __builtin_cpu_supports("bmi2");
    if (has_bmi2) return decode_segments_bmi2(one, other);
#endif
    decode_segments_inline(one, other);
}

#if defined(__x86_64__)
[[gnu::target("bmi2")]] void HuffmanDecoder::decode_segments_bmi2(HuffmanDecoder& one, HuffmanDecoder* other) {
    decode_segments_inline(one, other);
}
#endif

[[gnu::always_inline]] inline void HuffmanDecoder::decode_segments_inline(HuffmanDecoder& one, HuffmanDecoder* other) {
    const bool keep_one = !one.is_skimming_, keep_other = other && !other->is_skimming_;
    if (!other && keep_one)
        decode_until_finished<true, false, false>(one, one);
    else if (!other)
        decode_until_finished<false, false, false>(one, one);
    else if (keep_one && keep_other)
        decode_until_finished<true, true, true>(one, *other);
    else if (keep_one)
        decode_until_finished<true, true, false>(one, *other);
    else if (keep_other)
        decode_until_finished<true, true, false>(*other, one);
    else
        decode_until_finished<false, true, false>(one, *other);
}

// Decode until the segment of one or, with `kBoth`, either of them is finished.
template <bool kKeepOne, bool kBoth, bool kKeepOther>
[[gnu::always_inline]] inline void HuffmanDecoder::decode_until_finished(HuffmanDecoder& one, HuffmanDecoder& other) {
    // Copies whose addresses nobody has, so that they stay in registers.
    Cursor a = one.cursor_, b = other.cursor_;
    while (true) {
        if (one.decode_some<kKeepOne>(a) && !one.next_block(a)) break;
        if constexpr (kBoth)
            if (other.decode_some<kKeepOther>(b) && !other.next_block(b)) break;
    }
    one.cursor_ = a;
    if constexpr (kBoth) other.cursor_ = b;
    one.finish_segment();
    if constexpr (kBoth) other.finish_segment();
}

void HuffmanDecoder::finish_segment() {
    if (blocks_left_ > 0) return;
    if (bad_code_)
        fail(JWRN_HUFF_BAD_CODE);
    else if (ran_out())
        fail(JWRN_HIT_MARKER);
    else
        mcu_ += segment_mcus_;
}

// A few coefficients of a block; tells whether it is finished.
template <bool kKeep>
[[gnu::always_inline]] inline bool HuffmanDecoder::decode_some(Cursor& cursor) {
    cursor.bits.refill();
    return kKeep ? decode_two(cursor) : skim(cursor);
}

[[gnu::always_inline]] inline bool HuffmanDecoder::decode_two(Cursor& cursor) {
    for (int turn = 0; turn < 2; ++turn) {  // a short code with its value has at most 25 bits, a long one 31
        const HuffmanTable::Entry* entry = &cursor.ac->find(cursor.bits.window);
        if (__builtin_expect(entry->num_bits == 0, 0)) {
            cursor.bits.refill();
            entry = &find_long(*cursor.ac, cursor.bits.window);
        }
        cursor.k += entry->step;
        cursor.block[cursor.ac->natural_order[static_cast<std::size_t>(cursor.k)]] =
            static_cast<JCOEF>(cursor.ac->value(*entry, cursor.bits.window));
        cursor.bits.drop(entry->num_bits);
        if (cursor.k >= DCTSIZE2 - 1) return true;
    }
    return false;
}

[[gnu::always_inline]] inline bool HuffmanDecoder::skim(Cursor& cursor) {
    for (int turn = 0; turn < 4; ++turn) {
        const SkimTable::Skim skimmed = cursor.ac->skim(cursor.bits.window);
        const auto k = cursor.k + skimmed.step;
        if (k < DCTSIZE2 - 1) {
            cursor.k = k;
            cursor.bits.drop(skimmed.num_bits);
        } else if (k == DCTSIZE2 - 1 || (k >= SkimTable::kEnd && k < SkimTable::kEnd + DCTSIZE2 - 1)) {
            cursor.bits.drop(skimmed.num_bits);
            return true;
        } else {  // a long code, or entries that go beyond the block's last coefficient
            cursor.bits.refill();
            const HuffmanTable::Entry* entry = &cursor.ac->find(cursor.bits.window);
            if (entry->num_bits == 0) entry = &find_long(*cursor.ac, cursor.bits.window);
            cursor.k += entry->step;
            cursor.bits.drop(entry->num_bits);
            if (cursor.k >= DCTSIZE2 - 1) return true;
            cursor.bits.refill();
        }
    }
    return false;
}

// Go on to the segment's next block; false when there is none.
[[gnu::always_inline]] inline bool HuffmanDecoder::next_block(Cursor& cursor) {
    if (--blocks_left_ == 0) return false;
    cursor.block += block_stride_;
    kind_ = kind_->next;
    begin_block(cursor);
    return true;
}

[[gnu::always_inline]] inline void HuffmanDecoder::begin_block(Cursor& cursor) {
    if (__builtin_expect(cursor.bits.next > chunk_limit_, 0)) cursor.bits.next = read_chunk(cursor.bits.next);
    cursor.bits.refill();
    const HuffmanTable::Entry* entry = &kind_->dc->find(cursor.bits.window);
    if (__builtin_expect(entry->num_bits == 0, 0)) entry = &find_long(*kind_->dc, cursor.bits.window);
    *kind_->last_dc += static_cast<std::uint32_t>(kind_->dc->value(*entry, cursor.bits.window));
    cursor.bits.drop(entry->num_bits);
    cursor.block[0] = static_cast<JCOEF>(*kind_->last_dc);
    cursor.ac = kind_->ac;
    cursor.k = 0;
}

[[gnu::noinline]] const HuffmanTable::Entry& HuffmanDecoder::find_long(const HuffmanTable& table,
                                                                       std::uint64_t window) {
    const HuffmanTable::Entry& entry = table.find_long(window);
    bad_code_ |= entry.num_bits == 0;
    return entry;
}

// Begin at a marker, or at the image's beginning.
void HuffmanDecoder::begin_interval() {
    cursor_ = {};
    last_dc_ = {};
    is_last_chunk_ = ran_out_ = false;
    chunk_end_ = chunk_.data();
    cursor_.bits.next = read_chunk(chunk_end_);
}

// Move the bytes from `next` on to the front of the chunk, fill it up from the data, and return where to go on. Behind the
// data, which end at a marker, there are made-up zeros, as many as anyone wants.
[[gnu::noinline]] const std::uint8_t* HuffmanDecoder::read_chunk(const std::uint8_t* next) {
    if (is_last_chunk_) {
        ran_out_ = true;
        return chunk_end_;
    }
    std::uint8_t* to = std::copy(next, chunk_end_, chunk_.data());
    std::uint8_t* const full = chunk_.data() + kChunkBytes;
    while (to < full && !is_last_chunk_) {
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
        } else {
            is_last_chunk_ = found || data_ == data_end_;
        }
    }
    if (is_last_chunk_) std::memset(to, 0, 2 * kMaxBlockBytes);
    chunk_end_ = to;
    chunk_limit_ = is_last_chunk_ ? to + kReadAhead : to - kMaxBlockBytes;
    return chunk_.data();
}

// Whether bits were taken that are not in the data.
bool HuffmanDecoder::ran_out() const {
    return ran_out_ || (is_last_chunk_ && 8 * (cursor_.bits.next - chunk_end_) > cursor_.bits.num_bits);
}

// Go to the next restart marker; what is left of the interval is nothing, or padding, or all of it where it was skipped.
bool HuffmanDecoder::find_restart() {
    const std::uint8_t* const marker = find_marker(data_, data_end_);
    if (!marker) return fail(JWRN_JPEG_EOF);
    data_ = marker;
    if (data_[1] != JPEG_RST0 + next_restart_) return fail(JWRN_MUST_RESYNC, data_[1], next_restart_);
    data_ += 2;
    next_restart_ = (next_restart_ + 1) & 7;
    return true;
}

// Whether the crop touches what the restart interval has from `mcu_` on.
bool HuffmanDecoder::rest_of_interval_is_needed() const {
    const std::uint32_t row = mcu_ / num_columns_, column = mcu_ % num_columns_;
    const std::uint32_t last = column + next_interval_ - mcu_ - 1;
    if (last >= num_columns_) return row + last / num_columns_ >= needed_.first_row && row <= needed_.last_row;
    return row >= needed_.first_row && row <= needed_.last_row && column <= needed_.last_column &&
           last >= needed_.first_column;
}

bool HuffmanDecoder::fail(int code, int parameter1, int parameter2) {
    error_code_ = code;
    error_parameters_[0] = parameter1, error_parameters_[1] = parameter2;
    return false;
}

}  // namespace fastvit
