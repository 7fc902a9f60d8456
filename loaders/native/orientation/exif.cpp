#include "orientation/exif.hpp"

#include <algorithm>
#include <cstddef>
#include <string_view>

namespace fastvit {

namespace {

using namespace std::string_view_literals;

using Bytes = std::span<const std::uint8_t>;

enum class ByteOrder { little, big };

bool starts_with(Bytes bytes, std::string_view start) {
    return bytes.size() >= start.size() && std::equal(start.begin(), start.end(), bytes.begin(), [](char a, std::uint8_t b) {
               return static_cast<std::uint8_t>(a) == b;
           });
}

// What is left of `bytes` from `at` on: nothing, where that is beyond their end.
Bytes from(Bytes bytes, std::uint64_t at) { return bytes.subspan(std::min<std::uint64_t>(at, bytes.size())); }

Bytes part(Bytes bytes, std::uint64_t at, std::uint64_t size) {
    bytes = from(bytes, at);
    return bytes.first(std::min<std::uint64_t>(size, bytes.size()));
}

// The number of `size` bytes at `at`; bytes beyond the end count as 0.
std::uint64_t number(Bytes bytes, std::uint64_t at, std::size_t size, ByteOrder order) {
    std::uint64_t value = 0;
    for (std::size_t i = 0; i < size; ++i) {
        const Bytes byte = part(bytes, at + (order == ByteOrder::big ? i : size - 1 - i), 1);
        value = value << 8 | (byte.empty() ? 0u : byte[0]);
    }
    return value;
}

// TIFF's types BYTE, SHORT and LONG. EXIF has the orientation as SHORT, but some programs write the others.
std::size_t bytes_of_type(std::uint64_t type) { return type == 1 ? 1 : type == 3 ? 2 : type == 4 ? 4 : 0; }

// The tag in the first directory of a TIFF file, which EXIF data is as well.
int orientation_in_tiff(Bytes tiff) {
    constexpr unsigned kOrientation = 0x0112, kTiff = 42, kBigTiff = 43;
    const ByteOrder order = starts_with(tiff, "MM") ? ByteOrder::big : ByteOrder::little;
    const std::uint64_t version = number(tiff, 2, 2, order);
    if (!(starts_with(tiff, "MM") || starts_with(tiff, "II")) || (version != kTiff && version != kBigTiff)) return kUpright;
    const bool is_big = version == kBigTiff;
    const std::size_t word = is_big ? 8 : 4, count_bytes = is_big ? 8 : 2, entry_bytes = 4 + 2 * word;
    const Bytes directory = from(tiff, number(tiff, is_big ? 8 : 4, word, order));
    const std::uint64_t num_entries = number(directory, 0, count_bytes, order);
    Bytes entries = from(directory, count_bytes);
    for (std::uint64_t i = 0; i < num_entries && entries.size() >= entry_bytes; ++i, entries = entries.subspan(entry_bytes)) {
        if (number(entries, 0, 2, order) != kOrientation) continue;
        const std::size_t value_bytes = bytes_of_type(number(entries, 2, 2, order));
        const std::uint64_t value = number(entries, 4 + word, value_bytes, order);
        const bool is_one = number(entries, 4, word, order) == 1;
        return is_one && value >= 1 && value <= 8 ? static_cast<int>(value) : kUpright;
    }
    return kUpright;
}

// EXIF data as it lies in other files. Some writers of PNG and WebP leave out its name in front.
int orientation_in_exif(Bytes exif) { return orientation_in_tiff(starts_with(exif, "Exif\0\0"sv) ? exif.subspan(6) : exif); }

int orientation_in_jpeg(Bytes jpeg) {
    constexpr std::uint8_t kMarker = 0xFF, kTem = 0x01, kRst0 = 0xD0, kEoi = 0xD9, kSos = 0xDA, kApp1 = 0xE1;
    for (Bytes rest = jpeg.subspan(2);;) {
        rest = rest.subspan(static_cast<std::size_t>(std::find(rest.begin(), rest.end(), kMarker) - rest.begin()));
        if (rest.size() < 4) return kUpright;
        const std::uint8_t marker = rest[1];
        if (marker == kSos || marker == kEoi) return kUpright;
        // Stray and fill bytes in front of a marker, and markers without a body, are passed over, as libjpeg does.
        if (marker == 0 || marker == kMarker || marker == kTem || (marker & 0xF8) == kRst0) {
            rest = rest.subspan(1);
            continue;
        }
        const Bytes body = part(rest, 4, std::max<std::uint64_t>(number(rest, 2, 2, ByteOrder::big), 2) - 2);
        if (marker == kApp1 && starts_with(body, "Exif\0\0"sv)) return orientation_in_exif(body);
        rest = rest.subspan(4 + body.size());
    }
}

int orientation_in_png(Bytes png) {
    for (Bytes chunk = png.subspan(8); chunk.size() >= 8;) {
        const std::uint64_t size = number(chunk, 0, 4, ByteOrder::big);
        if (starts_with(chunk.subspan(4), "eXIf")) return orientation_in_exif(part(chunk, 8, size));
        chunk = from(chunk, 12 + size);
    }
    return kUpright;
}

int orientation_in_webp(Bytes webp) {
    for (Bytes chunk = webp.subspan(12); chunk.size() >= 8;) {
        const std::uint64_t size = number(chunk, 4, 4, ByteOrder::little);
        if (starts_with(chunk, "EXIF")) return orientation_in_exif(part(chunk, 8, size));
        chunk = from(chunk, 8 + size + size % 2);
    }
    return kUpright;
}

}  // namespace

int exif_orientation(Bytes file) {
    if (starts_with(file, "\xFF\xD8")) return orientation_in_jpeg(file);
    if (starts_with(file, "\x89PNG\r\n\x1A\n")) return orientation_in_png(file);
    if (starts_with(file, "RIFF") && starts_with(from(file, 8), "WEBP")) return orientation_in_webp(file);
    return orientation_in_tiff(file);
}

}  // namespace fastvit
