#include "records/tar_index.hpp"

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <string_view>
#include <utility>

#include "records/header_pages.hpp"
#include "records/quoted.hpp"

namespace fastvit {

namespace {

constexpr std::int64_t kBlock = 512;
constexpr std::int64_t kLargestExtension = 1 << 20;

struct Field {
    std::size_t offset, size;
};
constexpr Field kName{0, 100}, kSize{124, 12}, kChecksum{148, 8}, kMagic{257, 6}, kPrefix{345, 155};
constexpr std::size_t kKind = 156;

// Up to the first NUL.
std::string text(const std::uint8_t* data, std::size_t size) {
    return {reinterpret_cast<const char*>(data), strnlen(reinterpret_cast<const char*>(data), size)};
}

std::string text(const std::uint8_t* header, Field field) { return text(header + field.offset, field.size); }

// Octal digits between spaces and NULs, or, behind a byte of 0x80 and more, a big-endian number in two's complement.
// Nothing where it is neither, is negative or needs more than 63 bits.
std::optional<std::int64_t> number(const std::uint8_t* header, Field field) {
    const std::uint8_t* at = header + field.offset;
    const std::uint8_t* const end = at + field.size;
    std::uint64_t value = 0;
    if (*at & 0x80) {
        if (*at & 0x40) return std::nullopt;
        for (value = *at++ & 0x3F; at < end; ++at) {
            if (value >> 55) return std::nullopt;
            value = value << 8 | *at;
        }
        return static_cast<std::int64_t>(value);
    }
    while (at < end && *at == ' ') ++at;
    for (; at < end && *at >= '0' && *at <= '7'; ++at) value = value << 3 | (*at - '0');
    for (; at < end; ++at)
        if (*at != ' ' && *at != 0) return std::nullopt;
    return static_cast<std::int64_t>(value);
}

bool has_its_checksum(const std::uint8_t* header) {
    std::int64_t sum = 0, signed_sum = 0;  // some old programs added signed bytes
    for (std::int64_t i = 0; i < kBlock; ++i) {
        sum += header[i];
        signed_sum += static_cast<std::int8_t>(header[i]);
    }
    // The checksum itself counts as spaces.
    std::int64_t spaces = 0, signed_spaces = 0;
    for (std::size_t i = kChecksum.offset; i < kChecksum.offset + kChecksum.size; ++i) {
        spaces += ' ' - header[i];
        signed_spaces += ' ' - static_cast<std::int8_t>(header[i]);
    }
    const auto expected = number(header, kChecksum);
    return expected == sum + spaces || expected == signed_sum + signed_spaces;
}

bool is_zero(std::span<const std::uint8_t> bytes) {
    return std::all_of(bytes.begin(), bytes.end(), [](std::uint8_t byte) { return byte == 0; });
}

std::string own_name(const std::uint8_t* header) {
    std::string name = text(header, kName);
    const bool is_ustar = std::memcmp(header + kMagic.offset, "ustar", kMagic.size) == 0;
    if (!is_ustar || header[kPrefix.offset] == 0) return name;
    return text(header, kPrefix) + "/" + name;
}

bool is_regular(char kind) { return kind == '0' || kind == '\0' || kind == '7'; }

bool has_no_bytes(char kind) { return kind >= '1' && kind <= '6'; }  // links, devices, folders, FIFOs

bool is_extension(char kind) { return std::strchr("LKxXg", kind) != nullptr && kind != '\0'; }

}  // namespace

struct TarReader::Extension {
    std::optional<std::string> name;
    std::optional<std::int64_t> size;
};

bool TarReader::next(TarMember& member) {
    Extension extension;
    for (std::int64_t begin = position_;;) {
        const std::uint8_t* const at = header();
        if (is_zero({at, kBlock})) {
            if (position_ != begin) fail("an extended header without a member", begin);
            check_is_end();
            return false;
        }
        if (!has_its_checksum(at)) fail("no header with a right checksum", position_);
        std::string name = own_name(at);
        char kind = static_cast<char>(at[kKind]);
        if (kind == '\0' && name.ends_with('/')) kind = '5';  // a folder in the V7 format
        if (kind == 'S') fail("a sparse file, which cannot be read in place,", position_);
        std::optional<std::int64_t> size = number(at, kSize);
        if (!is_extension(kind) && extension.size) size = extension.size;
        if (has_no_bytes(kind)) size = 0;
        const std::int64_t offset = position_ + kBlock;
        const auto length = static_cast<std::int64_t>(archive_.size());
        if (!size || *size > length - offset) fail("a member that does not end in the archive", position_);
        position_ = offset + (*size + kBlock - 1) / kBlock * kBlock;
        if (is_extension(kind)) {
            extend(extension, kind, offset, *size);
        } else if (is_regular(kind)) {
            member = {extension.name ? std::move(*extension.name) : std::move(name), begin, offset, *size};
            return true;
        } else {
            extension = {};
            begin = position_;
        }
    }
}

const std::uint8_t* TarReader::header() const {
    const auto length = static_cast<std::int64_t>(archive_.size());
    if (position_ < 0 || position_ > length - kBlock) fail("no header and no end mark", position_);
    return archive_.data() + position_;
}

void TarReader::extend(Extension& extension, char kind, std::int64_t offset, std::int64_t size) const {
    if (size > kLargestExtension) fail("an extended header of more than 1 MiB", offset - kBlock);
    if (kind == 'L') extension.name = text(archive_.data() + offset, static_cast<std::size_t>(size));
    if (kind == 'x' || kind == 'X' || kind == 'g') read_pax(extension, kind == 'g', offset, size);
}

// Records "LENGTH KEY=VALUE\n", where LENGTH counts the whole record.
void TarReader::read_pax(Extension& extension, bool is_global, std::int64_t offset, std::int64_t size) const {
    std::string_view left(reinterpret_cast<const char*>(archive_.data() + offset), static_cast<std::size_t>(size));
    while (!left.empty()) {
        std::size_t length = 0;
        const auto [digits_end, error] = std::from_chars(left.data(), left.data() + left.size(), length);
        const auto num_digits = static_cast<std::size_t>(digits_end - left.data());
        if (error != std::errc() || length > left.size() || length < num_digits + 2 || *digits_end != ' ' ||
            left[length - 1] != '\n')
            fail("a pax header that is damaged", offset - kBlock);
        const std::string_view record = left.substr(num_digits + 1, length - num_digits - 2);
        left.remove_prefix(length);
        const std::size_t equals = record.find('=');
        if (equals == record.npos) fail("a pax header that is damaged", offset - kBlock);
        const std::string_view key = record.substr(0, equals), value = record.substr(equals + 1);
        if (key.starts_with("GNU.sparse.")) fail("a sparse file, which cannot be read in place,", offset - kBlock);
        if (key != "path" && key != "size") continue;
        if (is_global) fail("a pax header with one " + std::string(key) + " for all members", offset - kBlock);
        if (key == "path") {
            extension.name = value;
        } else {
            std::int64_t parsed = -1;
            const auto [end, problem] = std::from_chars(value.data(), value.data() + value.size(), parsed);
            if (problem != std::errc() || end != value.data() + value.size() || parsed < 0)
                fail("a pax header with the size " + quoted(value), offset - kBlock);
            extension.size = parsed;
        }
    }
}

void TarReader::check_is_end() const {
    if (!is_zero(archive_.subspan(static_cast<std::size_t>(position_))))
        fail("an end mark with more behind it", position_);
}

void TarReader::fail(const std::string& problem, std::int64_t offset) const {
    throw std::invalid_argument(problem + " at byte " + std::to_string(offset) + " of " +
                                std::to_string(archive_.size()) +
                                "; not a tar archive, cut short or damaged: copy or write it again");
}

namespace {

struct Place {
    std::int64_t header, offset, size;
};

// A sample in the making.
struct Sample {
    std::string key;
    std::optional<Place> image, cls, json;
    std::string image_name;
    std::string odd_name;  // of a file that would count if its name had fewer dots
};

std::string explained(const std::string& odd_name, std::size_t key_length) {
    return quoted(odd_name) + " does not count, for a name ends at its first dot and the rest, " +
           quoted(std::string_view(odd_name).substr(key_length)) + ", is no ending of an image or a label: rename it";
}

[[noreturn]] void refuse(const Sample& sample, const std::string& problem) {
    std::string message = "sample " + quoted(sample.key) + " has " + problem +
                          "; its files must follow each other, one image and a .cls, or a .json with the label";
    if (!sample.odd_name.empty()) message += "; " + explained(sample.odd_name, sample.key.size());
    throw std::invalid_argument(message);
}

bool is_label(std::string_view extension) { return extension == "cls" || extension == "json"; }

void append(TarSamples& samples, const Sample& sample, std::span<const std::uint8_t> archive) {
    const auto& label = sample.cls ? sample.cls : sample.json;
    if (!sample.image && !label) return;
    if (!sample.image) refuse(sample, "a label but no image");
    if (!label) refuse(sample, "an image but no label");
    samples.headers.push_back(sample.image->header);
    samples.offsets.push_back(sample.image->offset);
    samples.sizes.push_back(sample.image->size);
    samples.label_is_json.push_back(!sample.cls);
    const auto text = archive.subspan(static_cast<std::size_t>(label->offset), static_cast<std::size_t>(label->size));
    samples.label_text.insert(samples.label_text.end(), text.begin(), text.end());
    samples.label_ends.push_back(static_cast<std::int64_t>(samples.label_text.size()));
}

}  // namespace

TarSamples find_tar_samples(std::span<const std::uint8_t> archive, const std::vector<std::string>& image_extensions) {
    const auto is_image_ending = [&](std::string_view ending) {
        return std::find(image_extensions.begin(), image_extensions.end(), ending) != image_extensions.end();
    };
    TarSamples samples;
    Sample sample;
    std::string odd_name;  // the first of all
    std::size_t odd_key_length = 0;
    HeaderPages pages(archive);
    TarReader reader(archive);
    for (TarMember member; reader.next(member); pages.step_to(reader.position())) {
        const std::size_t base = member.name.rfind('/') + 1;  // 0 where there is no slash
        const std::size_t dot = member.name.find('.', base);
        if (dot == std::string::npos || dot == base) continue;  // no extension, or a hidden file
        const std::string_view key = std::string_view(member.name).substr(0, dot);
        if (key != sample.key) {
            append(samples, sample, archive);
            sample = {std::string(key), {}, {}, {}, {}, {}};
        }
        std::string extension = member.name.substr(dot + 1);
        for (char& letter : extension)
            if (letter >= 'A' && letter <= 'Z') letter = static_cast<char>(letter - 'A' + 'a');
        const bool is_image = is_image_ending(extension);
        if (!is_image && !is_label(extension)) {
            const std::string_view last = std::string_view(extension).substr(extension.rfind('.') + 1);
            if (last.size() < extension.size() && (is_image_ending(last) || is_label(last))) {
                sample.odd_name = member.name;
                if (odd_name.empty()) odd_name = member.name, odd_key_length = dot;
            }
            continue;
        }
        auto& place = is_image ? sample.image : extension == "cls" ? sample.cls : sample.json;
        if (place)
            refuse(sample, is_image ? "two images, " + quoted(sample.image_name) + " and " + quoted(member.name)
                                    : "two files ." + extension);
        place = {member.header, member.offset, member.size};
        if (is_image) sample.image_name = std::move(member.name);
    }
    append(samples, sample, archive);
    if (samples.headers.empty() && !odd_name.empty())
        throw std::invalid_argument("no sample in it; " + explained(odd_name, odd_key_length));
    return samples;
}

}  // namespace fastvit
