#include "convert/tokenizer.hpp"

#include <algorithm>
#include <bit>
#include <cstring>

#include "convert/restart_interval.hpp"

namespace fastvit::scan {

namespace {

// The longest MCU may be read behind the data.
constexpr std::size_t kMaxMcuBytes = 10 * kMaxBlockBytes + 16;

// A table with a code for every AC symbol that there can be was made for no image in particular.
constexpr std::size_t kAllAcSymbols = 162;

void remove_stuffing(Bytes data, Scan& scan) {
    scan.ends.clear();
    scan.bytes.resize(data.size() + kMaxMcuBytes);
    std::uint8_t* to = scan.bytes.data();
    const std::uint8_t *from = data.data(), *const end = from + data.size();
    while (true) {
        const void* found = std::memchr(from, 0xFF, static_cast<std::size_t>(end - from));
        require(found);
        const auto* marker = static_cast<const std::uint8_t*>(found);
        require(end - marker >= 2);
        to = std::copy(from, marker, to);
        from = marker + 2;
        if (marker[1] == 0) {
            *to++ = 0xFF;
            continue;
        }
        const auto number = static_cast<std::uint8_t>(kRst0 + scan.ends.size() % 8);
        scan.ends.push_back(static_cast<std::size_t>(to - scan.bytes.data()));
        if (marker[1] == kEoi) break;
        require(marker[1] == number);
    }
    std::memset(to, 0, kMaxMcuBytes);
}

}  // namespace

void Tokenizer::begin(Bytes jpeg, int wanted_interval) {
    header_ = read_header(jpeg);
    require(!header_.is_progressive);
    interval_ = static_cast<std::uint32_t>(nearest_divisor(static_cast<int>(header_.mcus_per_row()), wanted_interval));
    remove_stuffing(header_.scan, scan_);
    num_mcus_ = header_.num_mcus();
    old_interval_ = header_.restart_interval ? static_cast<std::uint32_t>(header_.restart_interval) : num_mcus_;
    require(scan_.ends.size() == (num_mcus_ + old_interval_ - 1) / old_interval_);
    require(scan_.bytes.size() < std::size_t{1} << 29);  // whose bits can be counted in 32 bits
    list_blocks();
    keeps_ac_ = has_own_ac_tables();
    if (keeps_ac_)
        for (const Component& component : header_.components) ac_codes_[component.ac_table].make_skims();
    frequencies_.fill(0);
    interval_ends_.clear();
    mcu_ = 0;
    is_damaged_ = false;
    cursor_.reader.next = scan_.bytes.data();
    cursor_.token = tokens_.data();
    begin_mcu(cursor_);
    begin_block(cursor_);
}

// Shifting by a variable number takes one instruction instead of three where there is BMI2.
void Tokenizer::run(Tokenizer& one, Tokenizer* other) {
#if defined(__x86_64__)
    static const bool has_bmi2 = __builtin_cpu_supports("bmi2");
    if (has_bmi2) return run_bmi2(one, other);
#endif
    run_inline(one, other);
}

#if defined(__x86_64__)
[[gnu::target("bmi2")]] void Tokenizer::run_bmi2(Tokenizer& one, Tokenizer* other) { run_inline(one, other); }
#endif

void Tokenizer::list_blocks() {
    blocks_.clear();
    for (std::size_t number = 0; number < header_.components.size(); ++number) {
        const Component& component = header_.components[number];
        CodeTable &dc = dc_codes_[component.dc_table], &ac = ac_codes_[component.ac_table];
        dc.build(header_.dc[component.dc_table], true);
        ac.build(header_.ac[component.ac_table], false);
        const int copies = header_.components.size() > 1 ? component.h * component.v : 1;
        blocks_.insert(blocks_.end(), static_cast<std::size_t>(copies), {&dc, &ac, number});
    }
}

bool Tokenizer::has_own_ac_tables() const {
    const std::uint8_t others = header_.components.back().ac_table;
    return std::all_of(header_.components.begin(), header_.components.end(), [&](const Component& component) {
        return header_.ac[component.ac_table].symbols.size() < kAllAcSymbols &&
               (&component == header_.components.data() || component.ac_table == others);
    });
}

[[gnu::always_inline]] inline void Tokenizer::run_inline(Tokenizer& one, Tokenizer* other) {
    if (!other && one.keeps_ac_)
        run_as<true, false>(one, one);
    else if (!other)
        run_as<false, false>(one, one);
    else if (one.keeps_ac_)
        run_as<true, true>(one, *other);
    else
        run_as<false, true>(one, *other);
}

template <bool kKeepsAc, bool kBoth>
[[gnu::always_inline]] inline void Tokenizer::run_as(Tokenizer& one, Tokenizer& other) {
    Cursor a = one.cursor_, b = other.cursor_;
    while (true) {
        if (kKeepsAc ? one.skim(a) : one.advance(a)) break;
        if constexpr (kBoth)
            if (kKeepsAc ? other.skim(b) : other.advance(b)) break;
    }
    one.cursor_ = a;
    if constexpr (kBoth) other.cursor_ = b;
}

[[gnu::always_inline]] inline void Tokenizer::put(Cursor& cursor, std::uint32_t key, std::uint32_t value) {
    ++frequencies_[key];
    *cursor.token++ = key << kSymbolShift | value;
}

inline void Tokenizer::put_dc(Cursor& cursor, std::uint32_t key, int difference) {
    const auto unsigned_difference = static_cast<std::uint32_t>(difference);
    const std::uint32_t magnitude = difference < 0 ? 0 - unsigned_difference : unsigned_difference;
    const int size = std::bit_width(magnitude);
    is_damaged_ |= size > kMaxDcBits;
    const std::uint32_t bits = (unsigned_difference - (difference < 0)) & ((1u << (size & 15)) - 1);
    put(cursor, key | (static_cast<std::uint32_t>(size) & 15), bits);
}

// Up to two symbols of a block.
[[gnu::always_inline]] inline bool Tokenizer::advance(Cursor& cursor) {
    cursor.reader.refill();
    for (int turn = 0; turn < 2; ++turn) {  // a code with its value has at most 26 bits
        const CodeTable::Entry entry = cursor.ac->find(cursor.reader.window);
        put(cursor, cursor.key | entry.symbol, entry.value(cursor.reader.window));
        cursor.reader.drop(entry.num_bits);
        cursor.k += entry.step;
        if (cursor.k >= 64) return end_block(cursor);
    }
    return false;
}

// Some symbols of a block whose AC codes stay as they are.
[[gnu::always_inline]] inline bool Tokenizer::skim(Cursor& cursor) {
    cursor.reader.refill();
    for (int turn = 0; turn < 4; ++turn) {
        const SkimTable::Skim skimmed = cursor.ac->skim(cursor.reader.window);
        const int k = cursor.k + skimmed.step;
        if (k < 64) {
            cursor.reader.drop(skimmed.num_bits);
            cursor.k = k;
        } else if (k == 64 || (k >= CodeTable::kEndOfBlock && k < CodeTable::kEndOfBlock + 64)) {
            cursor.reader.drop(skimmed.num_bits);
            cursor.k = k;
            return end_skimmed_block(cursor);
        } else {  // a long code, or codes of two blocks
            cursor.reader.refill();
            const CodeTable::Entry entry = cursor.ac->find(cursor.reader.window);
            cursor.reader.drop(entry.num_bits);
            cursor.k += entry.step;
            return cursor.k >= 64 && end_skimmed_block(cursor);
        }
    }
    return false;
}

[[gnu::always_inline]] inline bool Tokenizer::end_skimmed_block(Cursor& cursor) {
    cursor.token[1] = position(cursor.reader) - cursor.token[0];
    cursor.token += 2;
    return end_block(cursor);
}

inline std::uint32_t Tokenizer::position(const BitReader& reader) const {
    return static_cast<std::uint32_t>(8 * (reader.next - scan_.bytes.data()) - reader.num_bits);
}

[[gnu::always_inline]] inline bool Tokenizer::end_block(Cursor& cursor) {
    is_damaged_ |= cursor.k > 64 && (cursor.k < CodeTable::kEndOfBlock || cursor.k >= CodeTable::kEndOfBlock + 64);
    if (__builtin_expect(++block_ == last_block_, 0)) {
        ++mcu_;
        end_mcu(cursor.reader.next, cursor.reader.num_bits, cursor.token);
        if (is_finished()) return true;
        begin_mcu(cursor);
    }
    begin_block(cursor);
    return false;
}

[[gnu::noinline]] void Tokenizer::end_mcu(const std::uint8_t* next, std::int64_t num_bits, const Token* token) {
    is_damaged_ |= 8 * (next - interval_end_) > num_bits;
    if (mcu_ % interval_ == 0 || mcu_ == num_mcus_)
        interval_ends_.push_back(static_cast<std::size_t>(token - tokens_.data()));
}

[[gnu::always_inline]] inline void Tokenizer::begin_mcu(Cursor& cursor) {
    block_ = blocks_.data();
    last_block_ = block_ + blocks_.size();
    if (mcu_ % old_interval_ == 0) {
        if (mcu_ > 0) cursor.reader.next = interval_end_;
        cursor.reader.window = 0, cursor.reader.num_bits = 0;
        interval_end_ = scan_.bytes.data() + scan_.ends[mcu_ / old_interval_];
        dc_ = {};
    }
    if (mcu_ % interval_ == 0) written_dc_ = {};
    cursor.token = make_room(cursor.token);
}

// For the tokens of one more MCU.
[[gnu::always_inline]] inline Token* Tokenizer::make_room(Token* token) {
    const auto num_tokens = static_cast<std::size_t>(token - tokens_.data());
    return __builtin_expect(tokens_.size() < num_tokens + kMaxMcuTokens, 0) ? grow(num_tokens) : token;
}

[[gnu::noinline]] Token* Tokenizer::grow(std::size_t num_tokens) {
    tokens_.resize(2 * num_tokens + kMaxMcuTokens);
    return tokens_.data() + num_tokens;
}

[[gnu::always_inline]] inline void Tokenizer::begin_block(Cursor& cursor) {
    const Block& block = *block_;
    cursor.reader.refill();
    const CodeTable::Entry entry = block.dc->find(cursor.reader.window);
    const std::uint32_t bits = entry.value(cursor.reader.window);
    cursor.reader.drop(entry.num_bits);
    const bool is_negative = entry.size > 0 && !(bits >> (entry.size - 1));
    std::uint32_t &value = dc_[block.component], &written = written_dc_[block.component];
    const bool is_first = written != value;  // of its component in the new interval
    value += bits - (is_negative ? (1u << entry.size) - 1 : 0);
    const std::uint32_t key = table_number(block.component, false) << 8;
    if (__builtin_expect(is_first, 0))
        put_dc(cursor, key, static_cast<int>(value - written));
    else
        put(cursor, key | entry.size, bits);
    written = value;
    is_damaged_ |= entry.step == CodeTable::kNoCode.step;
    cursor.ac = block.ac;
    cursor.key = table_number(block.component, true) << 8;
    cursor.k = 1;
    if (keeps_ac_) cursor.token[0] = position(cursor.reader);
}

}  // namespace fastvit::scan
