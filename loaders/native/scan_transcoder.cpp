#include "scan_transcoder.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <numeric>

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

// The longest MCU: as many blocks of 64 codes with their values. So much may be read behind the data.
constexpr std::size_t kMaxMcuBytes = 10 * 64 * 31 / 8 + 16;

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

// A symbol and the bits of its value as they come out of one scan and go into the other.
using Token = std::uint32_t;
constexpr int kSymbolShift = 16;

// Of values in 8-bit JPEGs. Two codes of 16 bits with such values are what one refill of the reader, and of the writer, holds.
constexpr int kMaxDcBits = 11, kMaxAcBits = 10;

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
        entries_.fill({});
        std::uint32_t code = 0;
        std::size_t number = 0;
        for (int length = 1; length <= 16; ++length, code <<= 1) {
            first_codes_[length] = code;
            first_symbols_[length] = number;
            for (int left = spec.counts[length]; left > 0; --left, ++number, ++code) {
                require(code < (1u << length) - 1);  // all ones is none
                const Entry found = entry(spec.symbols[number], length, is_dc);
                if (length > kLookupBits) continue;
                const int rest = kLookupBits - length;
                std::fill_n(entries_.begin() + (code << rest), 1 << rest, found);
            }
        }
        spec_ = spec;
        is_dc_ = is_dc;
    }

    Entry find(std::uint64_t window) const {
        const Entry found = entries_[window >> (64 - kLookupBits)];
        return __builtin_expect(found.num_bits != 0, 1) ? found : find_long(window);
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
        throw NotForUs{};
    }

    TableSpec spec_;
    bool is_dc_ = false;
    std::array<Entry, 1 << kLookupBits> entries_;
    std::array<std::uint32_t, 17> first_codes_;
    std::array<std::size_t, 17> first_symbols_;
};

// The scan as tokens, DC values relative to those of the new restart intervals.
struct Tokens {
    std::vector<Token> tokens;
    std::vector<std::size_t> interval_ends;
    std::array<std::uint32_t, kTables * 256> frequencies;  // by table and symbol
};

struct BitReader {
    const std::uint8_t* next;
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
    [[gnu::always_inline]] void drop(CodeTable::Entry entry) {
        window <<= entry.num_bits;
        num_bits -= entry.num_bits;
    }
    bool is_within(const std::uint8_t* end) const { return 8 * (next - end) <= num_bits; }
};

// A block of an MCU: whose tables it has.
struct Block {
    const CodeTable *dc, *ac;
    std::size_t component;
};

class Tokenizer {
  public:
    Tokenizer(const Header& header, std::uint32_t interval, Scan& scan, std::array<CodeTable, 8>& codes, Tokens& out)
        : header_(header), interval_(interval), scan_(scan), out_(out) {
        for (std::size_t number = 0; number < header.components.size(); ++number) {
            const Component& component = header.components[number];
            codes[component.dc_table].build(header.dc[component.dc_table], true);
            codes[4 + component.ac_table].build(header.ac[component.ac_table], false);
            const int copies = header.components.size() > 1 ? component.h * component.v : 1;
            blocks_.insert(blocks_.end(), static_cast<std::size_t>(copies),
                           {&codes[component.dc_table], &codes[4 + component.ac_table], number});
        }
    }

    void run() {
#if defined(__x86_64__)
        static const bool has_bmi2 = __builtin_cpu_supports("bmi2");
        if (has_bmi2) return run_bmi2();
#endif
        run_inline();
    }

  private:
#if defined(__x86_64__)
    [[gnu::target("bmi2")]] void run_bmi2() { run_inline(); }
#endif

    [[gnu::always_inline]] void run_inline() {
        const std::uint32_t num_mcus = header_.num_mcus();
        const auto old_interval = header_.restart_interval ? static_cast<std::uint32_t>(header_.restart_interval) : num_mcus;
        require(scan_.ends.size() == (num_mcus + old_interval - 1) / old_interval);
        out_.frequencies.fill(0);
        out_.interval_ends.clear();
        std::size_t num_tokens = 0;
        BitReader reader{scan_.bytes.data()};
        const std::uint8_t* end = nullptr;
        std::array<int, 4> dc{}, written_dc{};
        for (std::uint32_t mcu = 0; mcu < num_mcus; ++mcu) {
            if (mcu % old_interval == 0) {
                if (mcu > 0) reader = {end};
                end = scan_.bytes.data() + scan_.ends[mcu / old_interval];
                dc = {};
            }
            if (mcu % interval_ == 0) {
                written_dc = {};
                if (mcu > 0) out_.interval_ends.push_back(num_tokens);
            }
            if (out_.tokens.size() < num_tokens + kMaxMcuTokens) out_.tokens.resize(2 * num_tokens + kMaxMcuTokens);
            Token* token = out_.tokens.data() + num_tokens;
            for (const Block& block : blocks_) {
                token = read_dc(reader, block, dc, written_dc, token);
                token = read_ac(reader, block, token);
            }
            num_tokens = static_cast<std::size_t>(token - out_.tokens.data());
            require(reader.is_within(end));
        }
        out_.interval_ends.push_back(num_tokens);
    }

    [[gnu::always_inline]] void put(Token* token, std::uint32_t table, std::uint32_t symbol, std::uint32_t value) {
        const std::uint32_t key = table << 8 | symbol;
        ++out_.frequencies[key];
        *token = key << kSymbolShift | value;
    }

    [[gnu::always_inline]] Token* read_dc(BitReader& reader, const Block& block, std::array<int, 4>& dc,
                                          std::array<int, 4>& written_dc, Token* token) {
        reader.refill();
        const CodeTable::Entry entry = block.dc->find(reader.window);
        const std::uint32_t bits = reader.value(entry);
        reader.drop(entry);
        const bool is_negative = entry.size > 0 && !(bits >> (entry.size - 1));
        const int difference = static_cast<int>(bits) - (is_negative ? (1 << entry.size) - 1 : 0);
        int &value = dc[block.component], &written = written_dc[block.component];
        value += difference;
        const int new_difference = value - written;
        written = value;
        const auto magnitude = static_cast<std::uint32_t>(new_difference < 0 ? -new_difference : new_difference);
        const int size = magnitude ? 32 - __builtin_clz(magnitude) : 0;
        require(size <= kMaxDcBits);
        const auto new_bits = static_cast<std::uint32_t>(new_difference - (new_difference < 0)) & ((1u << size) - 1);
        put(token, table_number(block.component, false), static_cast<std::uint32_t>(size), new_bits);
        return token + 1;
    }

    [[gnu::always_inline]] Token* read_ac(BitReader& reader, const Block& block, Token* token) {
        const std::uint32_t table = table_number(block.component, true);
        int k = 1;
        while (true) {
            reader.refill();
            for (int turn = 0; turn < 2; ++turn) {  // a code with its value has at most 26 bits
                const CodeTable::Entry entry = block.ac->find(reader.window);
                put(token++, table, entry.symbol, reader.value(entry));
                reader.drop(entry);
                k += entry.step;
                if (k < 64) continue;
                require(k == 64 || k >= CodeTable::kEndOfBlock);
                return token;
            }
        }
    }

    static constexpr std::size_t kMaxMcuTokens = 10 * 64;

    const Header& header_;
    const std::uint32_t interval_;
    Scan& scan_;
    Tokens& out_;
    std::vector<Block> blocks_;
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

// An interval's tokens as whole bytes, padded with ones; `to` has room for 4 bytes each and 8 more.
std::size_t encode(std::span<const Token> tokens, const NewCodes& codes, std::uint8_t* to) {
    std::uint8_t* const begin = to;
    std::uint64_t bits = 0;
    int num_bits = 0;
    const auto append = [&](Token token) {
        const std::uint32_t code = codes[token >> kSymbolShift];
        const int length = static_cast<int>(code & ((1u << kLengthBits) - 1));
        bits = bits << length | (code >> kLengthBits | (token & 0xFFFF));
        num_bits += length;
    };
    const auto flush = [&] {
        const std::uint64_t word = __builtin_bswap64(bits << ((64 - num_bits) & 63));
        std::memcpy(to, &word, 8);
        to += num_bits >> 3;
        num_bits &= 7;
    };
    std::size_t number = 0;
    for (; number + 2 <= tokens.size(); number += 2) {  // 7 bits that are left and twice 27
        append(tokens[number]);
        append(tokens[number + 1]);
        flush();
    }
    if (number < tokens.size()) append(tokens[number]);
    const int padding = -num_bits & 7;
    bits = bits << padding | ((1u << padding) - 1);
    num_bits += padding;
    flush();
    return static_cast<std::size_t>(to - begin);
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

struct Scratch {
    Scan scan;
    Tokens tokens;
    std::array<CodeTable, 8> codes;
    std::vector<std::uint8_t> encoded;
};

std::vector<std::uint8_t> transcode(Bytes jpeg, int wanted_interval, Scratch& scratch) {
    const Header header = read_header(jpeg);
    const auto interval =
        static_cast<std::uint32_t>(nearest_divisor(static_cast<int>(header.mcus_per_row()), wanted_interval));
    remove_stuffing(header.scan, scratch.scan);
    Tokens& tokens = scratch.tokens;
    Tokenizer(header, interval, scratch.scan, scratch.codes, tokens).run();
    std::array<TableSpec, kTables> tables;
    NewCodes codes{};
    for (std::uint32_t table = 0; table < kTables; ++table) {
        tables[table] = best_table(std::span(tokens.frequencies).subspan(256 * table).first<256>());
        number_codes(tables[table], table, codes);
    }
    Writer out(jpeg.size() + jpeg.size() / 8);
    write_header(header, interval, tables, out);
    std::size_t begin = 0, number = 0;
    for (const std::size_t end : tokens.interval_ends) {
        if (begin > 0) out.put_marker(static_cast<std::uint8_t>(kRst0 + number++ % 8));
        const std::span<const Token> part(tokens.tokens.data() + begin, end - begin);
        if (scratch.encoded.size() < 4 * part.size() + 8) scratch.encoded.resize(8 * part.size() + 8);
        out.put_stuffed({scratch.encoded.data(), encode(part, codes, scratch.encoded.data())});
        begin = end;
    }
    out.put_marker(kEoi);
    return out.take();
}

}  // namespace

int nearest_divisor(int number, int wanted) {
    wanted = std::min(wanted, number);
    for (int distance = 0;; ++distance) {
        if (wanted - distance >= 1 && number % (wanted - distance) == 0) return wanted - distance;
        if (wanted + distance <= number && number % (wanted + distance) == 0) return wanted + distance;
    }
}

std::optional<std::vector<std::uint8_t>> transcode_scan(std::span<const std::uint8_t> jpeg, int wanted_interval) {
    static thread_local Scratch scratch;
    try {
        return transcode(jpeg, wanted_interval, scratch);
    } catch (const NotForUs&) {
        return std::nullopt;
    }
}

}  // namespace fastvit
