#include "convert/scan_transcoder.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstdlib>
#include <cstring>
#include <numeric>

#include "convert/restart_interval.hpp"

namespace fastvit {

namespace {

using Bytes = std::span<const std::uint8_t>;

// Damage, or a kind of JPEG that is not for this transcoder.
struct NotForUs {};

void require(bool condition) {
    if (!condition) throw NotForUs{};
}

enum Marker : std::uint8_t {
    kSof0 = 0xC0, kSof1 = 0xC1, kDht = 0xC4, kRst0 = 0xD0, kSoi = 0xD8, kEoi = 0xD9, kSos = 0xDA, kDqt = 0xDB, kDri = 0xDD,
    kApp0 = 0xE0, kApp14 = 0xEE, kApp15 = 0xEF, kComment = 0xFE
};

int big_endian(const std::uint8_t* bytes) { return bytes[0] << 8 | bytes[1]; }

// A table as the file has it: how many codes there are of each length, and their symbols in the codes' order.
struct TableSpec {
    std::array<std::uint8_t, 17> counts{};
    std::vector<std::uint8_t> symbols;
};

struct Component {
    std::uint8_t id, h, v;
    std::uint8_t dc_table = 0, ac_table = 0;
};

// What stands before the scan's data.
struct Header {
    std::vector<Bytes> kept;  // segments that the new file takes over
    std::vector<Component> components;
    int width = 0, height = 0, restart_interval = 0;
    std::array<TableSpec, 4> dc, ac;
    Bytes scan;  // and what comes behind it

    std::uint32_t mcus_per_row() const { return mcus(width, &Component::h); }
    std::uint32_t num_mcus() const { return mcus_per_row() * mcus(height, &Component::v); }

  private:
    std::uint32_t mcus(int side, std::uint8_t Component::*factor) const {
        int largest = 1;  // one component's MCU is one block, whatever its sampling factors are
        if (components.size() > 1)
            for (const Component& component : components) largest = std::max<int>(largest, component.*factor);
        return static_cast<std::uint32_t>((side + 8 * largest - 1) / (8 * largest));
    }
};

void read_tables(Bytes body, Header& header) {
    while (!body.empty()) {
        require(body.size() >= 17 && (body[0] & 15) < 4 && body[0] >> 4 < 2);
        TableSpec& table = (body[0] >> 4 ? header.ac : header.dc)[body[0] & 15];
        std::copy_n(body.begin() + 1, 16, table.counts.begin() + 1);
        const std::size_t num_symbols = std::accumulate(table.counts.begin(), table.counts.end(), std::size_t{0});
        require(num_symbols <= 256 && body.size() >= 17 + num_symbols);
        table.symbols.assign(body.begin() + 17, body.begin() + 17 + static_cast<std::ptrdiff_t>(num_symbols));
        body = body.subspan(17 + num_symbols);
    }
}

void read_frame(Bytes body, Header& header) {
    require(header.components.empty() && body.size() >= 6 && body[0] == 8);
    header.height = big_endian(&body[1]);
    header.width = big_endian(&body[3]);
    const std::size_t num_components = body[5];
    require(header.height > 0 && header.width > 0 && (num_components == 1 || num_components == 3 || num_components == 4));
    require(body.size() == 6 + 3 * num_components);
    int blocks = 0;
    for (const std::uint8_t* at = &body[6]; header.components.size() < num_components; at += 3) {
        const Component component{at[0], static_cast<std::uint8_t>(at[1] >> 4), static_cast<std::uint8_t>(at[1] & 15)};
        require(component.h >= 1 && component.h <= 4 && component.v >= 1 && component.v <= 4);
        blocks += component.h * component.v;
        header.components.push_back(component);
    }
    require(num_components == 1 || blocks <= 10);
}

void read_scan_header(Bytes body, Header& header) {
    const std::size_t num_components = header.components.size();
    require(num_components > 0 && body.size() == 4 + 2 * num_components && body[0] == num_components);
    for (std::size_t number = 0; number < num_components; ++number) {
        Component& component = header.components[number];
        require(body[1 + 2 * number] == component.id);
        component.dc_table = body[2 + 2 * number] >> 4;
        component.ac_table = body[2 + 2 * number] & 15;
        require(component.dc_table < 4 && component.ac_table < 4);
    }
    require(body[1 + 2 * num_components] == 0 && body[2 + 2 * num_components] == 63 && body[3 + 2 * num_components] == 0);
}

bool tells_colours(std::uint8_t marker, Bytes body) {
    return (marker == kApp0 && body.size() >= 5 && std::memcmp(body.data(), "JFIF", 5) == 0) ||
           (marker == kApp14 && body.size() >= 12 && std::memcmp(body.data(), "Adobe", 5) == 0);
}

Header read_header(Bytes jpeg) {
    Header header;
    require(jpeg.size() > 2 && jpeg[0] == 0xFF && jpeg[1] == kSoi);
    for (std::size_t at = 2;;) {
        require(at + 4 <= jpeg.size() && jpeg[at] == 0xFF);
        const std::uint8_t marker = jpeg[at + 1];
        const auto length = static_cast<std::size_t>(big_endian(&jpeg[at + 2]));
        require(length >= 2 && at + 2 + length <= jpeg.size());
        const Bytes segment = jpeg.subspan(at, 2 + length), body = segment.subspan(4);
        at += segment.size();
        if (marker == kDht)
            read_tables(body, header);
        else if (marker == kSof0 || marker == kSof1)
            read_frame(body, header);
        else if (marker == kDri)
            require(body.size() == 2), header.restart_interval = big_endian(body.data());
        else if (marker == kSos)
            read_scan_header(body, header), header.scan = jpeg.subspan(at);
        else
            require(marker == kDqt || (marker >= kApp0 && marker <= kApp15) || marker == kComment);
        if (marker == kSof0 || marker == kSof1 || marker == kDqt || tells_colours(marker, body)) header.kept.push_back(segment);
        if (marker == kSos) return header;
    }
}

// The data of a scan without the zeros that are stuffed behind each FF, and where its restart intervals end.
struct Scan {
    std::vector<std::uint8_t> bytes;
    std::vector<std::size_t> ends;
};

// A block is 64 codes with their values. The longest MCU may be read behind the data.
constexpr std::size_t kMaxBlockBytes = 64 * 31 / 8;
constexpr std::size_t kMaxMcuBytes = 10 * kMaxBlockBytes + 16;

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

// Which of the tables a symbol belongs to; the new file has two of each kind, for the first component and for the others.
constexpr int kTables = 4;
constexpr std::uint32_t table_number(std::size_t component, bool is_ac) { return (component > 0 ? 2u : 0u) + is_ac; }

// A symbol and the bits of its value as they come out of one scan and go into the other. Where AC codes stay as they are, a
// DC token is followed by two words instead: where in the scan the block's AC codes begin and how many they are, in bits.
using Token = std::uint32_t;
constexpr int kSymbolShift = 16;

// Of values in 8-bit JPEGs. Two codes of 16 bits with such values are what one refill of the reader, and of the writer,
// holds.
constexpr int kMaxDcBits = 11, kMaxAcBits = 10;

// A table with a code for every AC symbol that there can be was made for no image in particular.
constexpr std::size_t kAllAcSymbols = 162;

// Codes by the bits that come next.
class CodeTable {
  public:
    struct alignas(4) Entry {
        std::uint8_t num_bits;  // of a code and its value; 0 where no (short) code begins like this
        std::uint8_t symbol;
        std::uint8_t step;  // the coefficients that it stands for
        std::uint8_t size;  // bits of the value
    };
    static constexpr int kEndOfBlock = 128;

    void build(const TableSpec& spec, bool is_dc) {
        require(!spec.symbols.empty());
        if (is_built_from(spec)) return;
        spec_ = {};  // until all of it is checked
        has_skims_ = false;
        entries_.fill({});
        std::uint32_t code = 0;
        std::size_t number = 0;
        for (int length = 1; length <= 16; ++length, code <<= 1) {
            first_codes_[length] = code;
            first_symbols_[length] = number;
            for (int left = spec.counts[length]; left > 0; --left, ++number, ++code) {
                require(code < (1u << length) - 1);  // all ones is none
                const Entry made = entry(spec.symbols[number], length, is_dc);  // checks the symbol
                if (length > kLookupBits) continue;
                const int rest = kLookupBits - length;
                std::fill_n(entries_.begin() + (code << rest), 1 << rest, made);
            }
        }
        spec_ = spec;
        is_dc_ = is_dc;
    }

    Entry find(std::uint64_t window) const {
        const Entry found = entries_[window >> (64 - kLookupBits)];
        return __builtin_expect(found.num_bits != 0, 1) ? found : find_long(window);
    }

    // What `find` makes of bits that are no code.
    static constexpr Entry kNoCode{1, 0, 255, 0};

    // As many whole codes with their values as there are in the next kSkimBits bits, not beyond the end of a block.
    struct alignas(2) Skim {
        std::uint8_t num_bits, step;
    };
    static constexpr int kSkimBits = 11;

    Skim skim(std::uint64_t window) const { return skims_[window >> (64 - kSkimBits)]; }

    // Before `skim`, and for AC codes.
    void make_skims() {
        if (has_skims_) return;
        has_skims_ = true;
        for (std::size_t bits = 0; bits < skims_.size(); ++bits) {
            const std::uint64_t window = std::uint64_t{bits} << (64 - kSkimBits);
            int num_bits = 0, step = 0;
            while (step < 64) {
                const Entry next = entries_[(window << num_bits) >> (64 - kLookupBits)];
                if (next.num_bits == 0 || num_bits + next.num_bits > kSkimBits) break;
                if (next.step != kEndOfBlock && step + next.step >= 64) break;  // or it could pass for an end
                num_bits += next.num_bits;
                step += next.step;
            }
            skims_[bits] = {static_cast<std::uint8_t>(num_bits), static_cast<std::uint8_t>(num_bits ? step : kNoCode.step)};
        }
    }

  private:
    static constexpr int kLookupBits = 10;

    bool is_built_from(const TableSpec& spec) const { return spec_.counts == spec.counts && spec_.symbols == spec.symbols; }

    static Entry entry(std::uint8_t symbol, int length, bool is_dc) {
        const int size = is_dc ? symbol : symbol & 15, zeros = symbol >> 4;
        require(size <= (is_dc ? kMaxDcBits : kMaxAcBits));
        require(is_dc || size > 0 || zeros == 0 || zeros == 15);
        const int step = is_dc ? 0 : symbol == 0 ? kEndOfBlock : zeros + 1;
        return {static_cast<std::uint8_t>(length + size), symbol, static_cast<std::uint8_t>(step), static_cast<std::uint8_t>(size)};
    }

    [[gnu::noinline]] Entry find_long(std::uint64_t window) const {
        for (int length = kLookupBits + 1; length <= 16; ++length) {
            const auto offset = static_cast<std::uint32_t>(window >> (64 - length)) - first_codes_[length];
            if (offset < spec_.counts[length]) return entry(spec_.symbols[first_symbols_[length] + offset], length, is_dc_);
        }
        return kNoCode;
    }

    TableSpec spec_;
    bool is_dc_ = false, has_skims_ = false;
    std::array<Entry, 1 << kLookupBits> entries_;
    std::array<Skim, 1 << kSkimBits> skims_;
    std::array<std::uint32_t, 17> first_codes_;
    std::array<std::size_t, 17> first_symbols_;
};

struct BitReader {
    const std::uint8_t* next = nullptr;
    std::uint64_t window = 0;
    std::int64_t num_bits = 0;

    // At least 56 bits.
    [[gnu::always_inline]] void refill() {
        std::uint64_t word;
        std::memcpy(&word, next, 8);
        window |= __builtin_bswap64(word) >> num_bits;
        next += (63 - num_bits) >> 3;
        num_bits |= 56;
    }
    [[gnu::always_inline]] std::uint32_t value(CodeTable::Entry entry) const {
        return static_cast<std::uint32_t>(window >> (64 - entry.num_bits)) & ((1u << entry.size) - 1);
    }
    [[gnu::always_inline]] void drop(std::uint8_t count) {
        window <<= count;
        num_bits -= count;
    }
};

// A scan on its way to tokens, whose DC values are relative to those of the new restart intervals. Two images are read in
// turn, a few symbols at a time: a symbol cannot begin before the one in front of it has been looked up, so that one image
// alone would leave the processor waiting.
class Tokenizer {
  public:
    // Throws NotForUs. `jpeg` must stay as it is until the tokens are written.
    void begin(Bytes jpeg, int wanted_interval) {
        header_ = read_header(jpeg);
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

    // Read on until one of the two is at its end, or damaged. Both keep their AC codes, or neither does.
    static void run(Tokenizer& one, Tokenizer& other) {
#if defined(__x86_64__)
        static const bool has_bmi2 = __builtin_cpu_supports("bmi2");
        if (has_bmi2) return run_bmi2(one, &other);
#endif
        run_inline(one, &other);
    }

    // Read all that is left.
    static void run(Tokenizer& one) { run_inline(one, nullptr); }

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

    void list_blocks() {
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

    bool has_own_ac_tables() const {
        const std::uint8_t others = header_.components.back().ac_table;
        return std::all_of(header_.components.begin(), header_.components.end(), [&](const Component& component) {
            return header_.ac[component.ac_table].symbols.size() < kAllAcSymbols &&
                   (&component == header_.components.data() || component.ac_table == others);
        });
    }

#if defined(__x86_64__)
    [[gnu::target("bmi2")]] static void run_bmi2(Tokenizer& one, Tokenizer* other) { run_inline(one, other); }
#endif

    [[gnu::always_inline]] static void run_inline(Tokenizer& one, Tokenizer* other) {
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
    [[gnu::always_inline]] static void run_as(Tokenizer& one, Tokenizer& other) {
        Cursor a = one.cursor_, b = other.cursor_;
        while (true) {
            if (kKeepsAc ? one.skim(a) : one.advance(a)) break;
            if constexpr (kBoth)
                if (kKeepsAc ? other.skim(b) : other.advance(b)) break;
        }
        one.cursor_ = a;
        if constexpr (kBoth) other.cursor_ = b;
    }

    [[gnu::always_inline]] void put(Cursor& cursor, std::uint32_t key, std::uint32_t value) {
        ++frequencies_[key];
        *cursor.token++ = key << kSymbolShift | value;
    }

    void put_dc(Cursor& cursor, std::uint32_t key, int difference) {
        const auto magnitude = static_cast<std::uint32_t>(std::abs(difference));
        const int size = std::bit_width(magnitude);
        is_damaged_ |= size > kMaxDcBits;
        const auto bits = static_cast<std::uint32_t>(difference - (difference < 0)) & ((1u << (size & 15)) - 1);
        put(cursor, key | (static_cast<std::uint32_t>(size) & 15), bits);
    }

    // Up to two symbols of a block; tells whether the image is finished.
    [[gnu::always_inline]] bool advance(Cursor& cursor) {
        cursor.reader.refill();
        for (int turn = 0; turn < 2; ++turn) {  // a code with its value has at most 26 bits
            const CodeTable::Entry entry = cursor.ac->find(cursor.reader.window);
            put(cursor, cursor.key | entry.symbol, cursor.reader.value(entry));
            cursor.reader.drop(entry.num_bits);
            cursor.k += entry.step;
            if (cursor.k >= 64) return end_block(cursor);
        }
        return false;
    }

    // Some symbols of a block, whose AC codes stay as they are; tells whether the image is finished.
    [[gnu::always_inline]] bool skim(Cursor& cursor) {
        cursor.reader.refill();
        for (int turn = 0; turn < 4; ++turn) {
            const CodeTable::Skim skimmed = cursor.ac->skim(cursor.reader.window);
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

    [[gnu::always_inline]] bool end_skimmed_block(Cursor& cursor) {
        cursor.token[1] = position(cursor.reader) - cursor.token[0];
        cursor.token += 2;
        return end_block(cursor);
    }

    std::uint32_t position(const BitReader& reader) const {
        return static_cast<std::uint32_t>(8 * (reader.next - scan_.bytes.data()) - reader.num_bits);
    }

    [[gnu::always_inline]] bool end_block(Cursor& cursor) {
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

    [[gnu::noinline]] void end_mcu(const std::uint8_t* next, std::int64_t num_bits, const Token* token) {
        is_damaged_ |= 8 * (next - interval_end_) > num_bits;
        if (mcu_ % interval_ == 0 || mcu_ == num_mcus_)
            interval_ends_.push_back(static_cast<std::size_t>(token - tokens_.data()));
    }

    [[gnu::always_inline]] void begin_mcu(Cursor& cursor) {
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
    [[gnu::always_inline]] Token* make_room(Token* token) {
        const auto num_tokens = static_cast<std::size_t>(token - tokens_.data());
        return __builtin_expect(tokens_.size() < num_tokens + kMaxMcuTokens, 0) ? grow(num_tokens) : token;
    }

    [[gnu::noinline]] Token* grow(std::size_t num_tokens) {
        tokens_.resize(2 * num_tokens + kMaxMcuTokens);
        return tokens_.data() + num_tokens;
    }

    [[gnu::always_inline]] void begin_block(Cursor& cursor) {
        const Block& block = *block_;
        cursor.reader.refill();
        const CodeTable::Entry entry = block.dc->find(cursor.reader.window);
        const std::uint32_t bits = cursor.reader.value(entry);
        cursor.reader.drop(entry.num_bits);
        const bool is_negative = entry.size > 0 && !(bits >> (entry.size - 1));
        int &value = dc_[block.component], &written = written_dc_[block.component];
        const bool is_first = written != value;  // of its component in the new interval
        value += static_cast<int>(bits) - (is_negative ? (1 << entry.size) - 1 : 0);
        const std::uint32_t key = table_number(block.component, false) << 8;
        if (__builtin_expect(is_first, 0))
            put_dc(cursor, key, value - written);
        else
            put(cursor, key | entry.size, bits);
        written = value;
        is_damaged_ |= entry.step == CodeTable::kNoCode.step;
        cursor.ac = block.ac;
        cursor.key = table_number(block.component, true) << 8;
        cursor.k = 1;
        if (keeps_ac_) cursor.token[0] = position(cursor.reader);
    }

    Header header_;
    std::uint32_t interval_, old_interval_, num_mcus_, mcu_;
    Scan scan_;
    const std::uint8_t* interval_end_;  // of the old restart interval's bytes
    std::array<CodeTable, 4> dc_codes_, ac_codes_;
    std::vector<Block> blocks_;
    const Block *block_, *last_block_;
    std::array<int, 4> dc_, written_dc_;
    bool keeps_ac_, is_damaged_;
    Cursor cursor_;
    std::vector<Token> tokens_;
    std::vector<std::size_t> interval_ends_;
    std::array<std::uint32_t, kTables * 256> frequencies_;  // by table and symbol
};

// The Huffman code that makes the least of these frequencies, with codes of at most 16 bits, none of them all ones (ITU-T
// T.81, K.2).
TableSpec best_table(std::span<const std::uint32_t, 256> frequencies) {
    struct Leaf {
        std::uint32_t frequency;
        std::uint8_t symbol;
    };
    std::vector<Leaf> leaves;
    for (int symbol = 0; symbol < 256; ++symbol)
        if (frequencies[symbol]) leaves.push_back({frequencies[symbol], static_cast<std::uint8_t>(symbol)});
    if (leaves.empty()) leaves.push_back({1, 0});  // some decoders want a table to have a code
    std::sort(leaves.begin(), leaves.end(), [](const Leaf& a, const Leaf& b) {
        return a.frequency != b.frequency ? a.frequency < b.frequency : a.symbol > b.symbol;
    });
    // The rarest node of all takes the code that is all ones. Nodes come in ascending order from leaves and from pairs.
    const std::size_t num_leaves = leaves.size() + 1, num_nodes = 2 * num_leaves - 1;
    std::vector<std::uint64_t> weights(num_nodes, 0);
    for (std::size_t number = 1; number < num_leaves; ++number) weights[number] = leaves[number - 1].frequency;
    std::vector<std::size_t> parents(num_nodes, 0);
    std::size_t leaf = 0, pair = num_leaves;
    for (std::size_t node = num_leaves; node < num_nodes; ++node) {
        for (int child = 0; child < 2; ++child) {
            const bool take_leaf = leaf < num_leaves && (pair == node || weights[leaf] <= weights[pair]);
            const std::size_t taken = take_leaf ? leaf++ : pair++;
            weights[node] += weights[taken];
            parents[taken] = node;
        }
    }
    std::vector<int> depths(num_nodes, 0);
    std::vector<int> counts(std::max<std::size_t>(num_leaves + 1, 17), 0);
    for (std::size_t node = num_nodes - 1; node-- > 0;) {
        depths[node] = depths[parents[node]] + 1;
        if (node < num_leaves) ++counts[static_cast<std::size_t>(depths[node])];
    }
    for (std::size_t length = counts.size() - 1; length > 16; --length) {
        while (counts[length] > 0) {
            std::size_t shorter = length - 2;
            while (counts[shorter] == 0) --shorter;
            counts[length] -= 2, ++counts[length - 1], counts[shorter + 1] += 2, --counts[shorter];
        }
    }
    std::size_t longest = 16;
    while (counts[longest] == 0) --longest;
    --counts[longest];
    TableSpec spec;
    std::copy_n(counts.begin(), 17, spec.counts.begin());
    for (auto one = leaves.rbegin(); one != leaves.rend(); ++one) spec.symbols.push_back(one->symbol);
    return spec;
}

// By table and symbol: the code with room for its value behind it, above the number of all those bits.
constexpr int kLengthBits = 5;
using NewCodes = std::array<std::uint32_t, kTables * 256>;

void number_codes(const TableSpec& spec, std::uint32_t table, NewCodes& codes) {
    std::uint32_t code = 0;
    auto symbol = spec.symbols.begin();
    for (std::uint32_t length = 1; length <= 16; ++length, code <<= 1)
        for (int left = spec.counts[length]; left > 0; --left, ++code) {
            const std::uint32_t size = *symbol & 15;
            codes[table << 8 | *symbol++] = code << (size + kLengthBits) | (length + size);
        }
}

class Writer {
  public:
    explicit Writer(std::size_t expected_bytes) { bytes_.reserve(expected_bytes); }

    void put(Bytes data) { bytes_.insert(bytes_.end(), data.begin(), data.end()); }

    void put_marker(std::uint8_t marker) { put({{0xFF, marker}}); }

    void put_segment(std::uint8_t marker, const std::vector<std::uint8_t>& body) {
        const std::size_t length = body.size() + 2;
        put_marker(marker);
        put({{static_cast<std::uint8_t>(length >> 8), static_cast<std::uint8_t>(length)}});
        put(body);
    }

    // With a zero behind each FF.
    void put_stuffed(Bytes data) {
        while (true) {
            const void* found = std::memchr(data.data(), 0xFF, data.size());
            if (!found) break;
            const auto length = static_cast<std::size_t>(static_cast<const std::uint8_t*>(found) - data.data()) + 1;
            put(data.first(length));
            bytes_.push_back(0);
            data = data.subspan(length);
        }
        put(data);
    }

    std::vector<std::uint8_t> take() { return std::move(bytes_); }

  private:
    std::vector<std::uint8_t> bytes_;
};

// A restart interval in the making, in memory with room for 4 bytes for each token and 8 more.
class BitWriter {
  public:
    BitWriter(const NewCodes& codes, std::uint8_t* to) : codes_(codes), to_(to) {}

    // At most two of these, or one and a `put` of no bits, between flushes.
    void put(Token token) {
        const std::uint32_t code = codes_[token >> kSymbolShift];
        put(code >> kLengthBits | (token & 0xFFFF), static_cast<int>(code & ((1u << kLengthBits) - 1)));
    }

    void put(std::uint64_t bits, int count) {
        bits_ = bits_ << count | bits;
        num_bits_ += count;
    }

    void flush() {
        const std::uint64_t word = __builtin_bswap64(bits_ << (-num_bits_ & 63));
        std::memcpy(to_, &word, 8);
        to_ += num_bits_ >> 3;
        num_bits_ &= 7;
    }

    // Pad with ones; where the interval ends.
    std::uint8_t* finish() {
        const int padding = -num_bits_ & 7;
        put((1u << padding) - 1, padding);
        flush();
        return to_;
    }

  private:
    const NewCodes& codes_;
    std::uint8_t* to_;
    std::uint64_t bits_ = 0;
    int num_bits_ = 0;
};

std::uint8_t* encode(std::span<const Token> tokens, const NewCodes& codes, std::uint8_t* to) {
    BitWriter out(codes, to);
    std::size_t number = 0;
    for (; number + 2 <= tokens.size(); number += 2) {  // 7 bits that are left and twice 27
        out.put(tokens[number]);
        out.put(tokens[number + 1]);
        out.flush();
    }
    if (number < tokens.size()) out.put(tokens[number]);
    return out.finish();
}

// The same for an image that keeps its AC codes.
std::uint8_t* encode_dc(std::span<const Token> tokens, const std::uint8_t* scan, const NewCodes& codes, std::uint8_t* to) {
    BitWriter out(codes, to);
    for (std::size_t number = 0; number < tokens.size(); number += 3) {
        out.put(tokens[number]);
        out.flush();
        std::uint32_t from = tokens[number + 1];
        for (std::uint32_t left = tokens[number + 2]; left > 0;) {
            const std::uint32_t count = std::min(left, 56u);
            std::uint64_t word;
            std::memcpy(&word, scan + (from >> 3), 8);
            out.put(__builtin_bswap64(word) << (from & 7) >> (64 - count), static_cast<int>(count));
            out.flush();
            from += count, left -= count;
        }
    }
    return out.finish();
}

void write_header(const Header& header, std::uint32_t interval, const std::array<TableSpec, kTables>& tables, Writer& out) {
    out.put_marker(kSoi);
    for (const Bytes segment : header.kept) out.put(segment);
    const auto num_components = static_cast<std::uint8_t>(header.components.size());
    std::vector<std::uint8_t> body;
    for (std::uint8_t number = 0; number < (num_components > 1 ? 2 : 1); ++number)
        for (std::uint8_t kind = 0; kind < 2; ++kind) {
            const TableSpec& table = tables[table_number(number, kind)];
            body.push_back(static_cast<std::uint8_t>(kind << 4 | number));
            body.insert(body.end(), table.counts.begin() + 1, table.counts.end());
            body.insert(body.end(), table.symbols.begin(), table.symbols.end());
        }
    out.put_segment(kDht, body);
    out.put_segment(kDri, {static_cast<std::uint8_t>(interval >> 8), static_cast<std::uint8_t>(interval)});
    body = {num_components};
    for (std::uint8_t number = 0; number < num_components; ++number)
        body.insert(body.end(), {header.components[number].id, static_cast<std::uint8_t>(number ? 0x11 : 0x00)});
    body.insert(body.end(), {0, 63, 0});
    out.put_segment(kSos, body);
}

// The file that a finished tokenizer's tokens make.
std::vector<std::uint8_t> write(const Tokenizer& image, std::vector<std::uint8_t>& scratch) {
    std::array<TableSpec, kTables> tables;
    NewCodes codes{};
    for (std::uint32_t table = 0; table < kTables; ++table) {
        const bool is_kept = image.keeps_ac() && table % 2 == 1;
        tables[table] = is_kept ? image.ac_table(table / 2) : best_table(image.frequencies(table));
        number_codes(tables[table], table, codes);
    }
    Writer out(image.header().scan.size() * 9 / 8);
    write_header(image.header(), image.interval(), tables, out);
    std::size_t begin = 0, number = 0;
    for (const std::size_t end : image.interval_ends()) {
        if (begin > 0) out.put_marker(static_cast<std::uint8_t>(kRst0 + number++ % 8));
        const std::span<const Token> part = image.tokens().subspan(begin, end - begin);
        const std::size_t room = image.keeps_ac() ? part.size() / 3 * kMaxBlockBytes + 8 : 4 * part.size() + 8;
        if (scratch.size() < room) scratch.resize(2 * room);
        std::uint8_t* const to = scratch.data();
        out.put_stuffed({to, image.keeps_ac() ? encode_dc(part, image.scan(), codes, to) : encode(part, codes, to)});
        begin = end;
    }
    out.put_marker(kEoi);
    return out.take();
}

}  // namespace

std::vector<std::optional<std::vector<std::uint8_t>>> transcode_scans(std::span<const Bytes> jpegs, int wanted_interval) {
    struct Slot {
        Tokenizer image;
        std::optional<std::size_t> number;
    };
    static thread_local std::array<Slot, 2> slots;
    static thread_local std::vector<std::uint8_t> scratch;
    std::vector<std::optional<std::vector<std::uint8_t>>> results(jpegs.size());
    std::size_t next = 0;
    const auto fill = [&](Slot& slot) {
        slot.number.reset();
        while (!slot.number && next < jpegs.size()) {
            try {
                slot.image.begin(jpegs[next], wanted_interval);
                slot.number = next;
            } catch (const NotForUs&) {
            }
            ++next;
        }
    };
    for (Slot& slot : slots) fill(slot);
    while (slots[0].number || slots[1].number) {
        Tokenizer &one = slots[0].image, &other = slots[1].image;
        if (slots[0].number && slots[1].number && one.keeps_ac() == other.keeps_ac())
            Tokenizer::run(one, other);
        else
            Tokenizer::run(slots[0].number ? one : other);
        for (Slot& slot : slots) {
            if (!slot.number || !slot.image.is_finished()) continue;
            if (!slot.image.is_damaged()) results[*slot.number] = write(slot.image, scratch);
            fill(slot);
        }
    }
    return results;
}

}  // namespace fastvit
