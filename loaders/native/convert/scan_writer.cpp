#include "convert/scan_writer.hpp"

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstring>
#include <span>
#include <utility>

#include "convert/best_table.hpp"
#include "jpeg/huffman_codes.hpp"

namespace fastvit::scan {

namespace {

// By table and symbol: the code with room for its value behind it, above the number of all those bits.
constexpr int kLengthBits = 5;
using NewCodes = std::array<std::uint32_t, kTables * 256>;

void number_codes(const TableSpec& spec, std::uint32_t table, NewCodes& codes) {
    for_each_code(spec.counts, spec.symbols.data(), [&](int length, std::uint32_t code, std::uint8_t symbol) {
        const int size = symbol & 15;
        codes[table << 8 | symbol] = code << (size + kLengthBits) | static_cast<std::uint32_t>(length + size);
    });
}

// The file in the making.
class FileWriter {
  public:
    explicit FileWriter(std::size_t expected_bytes) { bytes_.reserve(expected_bytes); }

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

void write_header(const Header& header, std::uint32_t interval, const std::array<TableSpec, kTables>& tables, FileWriter& out) {
    out.put_marker(kSoi);
    for (const Bytes segment : header.segments)
        if (segment[1] != kDht && segment[1] != kDri && segment[1] != kSos) out.put(segment);
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

}  // namespace

std::vector<std::uint8_t> write_scan(const Tokenizer& image, std::vector<std::uint8_t>& scratch) {
    std::array<TableSpec, kTables> tables;
    NewCodes codes{};
    for (std::uint32_t table = 0; table < kTables; ++table) {
        const bool is_kept = image.keeps_ac() && table % 2 == 1;
        tables[table] = is_kept ? image.ac_table(table / 2) : best_table(image.frequencies(table));
        number_codes(tables[table], table, codes);
    }
    FileWriter out(image.header().scan.size() * 9 / 8);
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

}  // namespace fastvit::scan
