#include "jpeg/header.hpp"

#include <cstring>
#include <numeric>

namespace fastvit::scan {

namespace {

int big_endian(const std::uint8_t* bytes) { return bytes[0] << 8 | bytes[1]; }

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

void note_quantization_tables(Bytes body, Header& header) {
    while (!body.empty()) {
        const std::size_t size = body[0] >> 4 ? 129 : 65;
        require((body[0] & 15) < 4 && body.size() >= size);
        header.has_quantization_table[body[0] & 15] = true;
        body = body.subspan(size);
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
        const Component component{at[0], static_cast<std::uint8_t>(at[1] >> 4), static_cast<std::uint8_t>(at[1] & 15), at[2]};
        require(component.h >= 1 && component.h <= 4 && component.v >= 1 && component.v <= 4);
        blocks += component.h * component.v;
        header.components.push_back(component);
    }
    require(num_components == 1 || blocks <= 10);
    for (const Component& component : header.components)  // libjpeg says that it cannot resize others
        require(header.largest(&Component::h) % component.h == 0 && header.largest(&Component::v) % component.v == 0);
}

void read_scan_header(Bytes body, Header& header) {
    if (header.is_progressive) return;  // of one scan among many
    const std::size_t num_components = header.components.size();
    require(num_components > 0 && body.size() == 4 + 2 * num_components && body[0] == num_components);
    for (std::size_t number = 0; number < num_components; ++number) {
        Component& component = header.components[number];
        require(body[1 + 2 * number] == component.id);
        component.dc_table = body[2 + 2 * number] >> 4;
        component.ac_table = body[2 + 2 * number] & 15;
        require(component.dc_table < 4 && component.ac_table < 4);
        require(!header.dc[component.dc_table].symbols.empty() && !header.ac[component.ac_table].symbols.empty());
        require(component.quantization_table < 4 && header.has_quantization_table[component.quantization_table]);
    }
    require(body[1 + 2 * num_components] == 0 && body[2 + 2 * num_components] == 63 && body[3 + 2 * num_components] == 0);
}

// Whether the segment tells of the image's colours.
bool read_colours(std::uint8_t marker, Bytes body, Header& header) {
    if (marker == kApp0 && body.size() >= 14 && std::memcmp(body.data(), "JFIF", 5) == 0) return header.has_jfif = true;
    if (marker != kApp14 || body.size() < 12 || std::memcmp(body.data(), "Adobe", 5) != 0) return false;
    header.adobe_transform = body[11];
    return true;
}

}  // namespace

bool Header::is_grey_or_ycc() const {
    constexpr std::uint8_t kYcc = 1;
    if (components.size() == 1) return true;
    if (components.size() != 3 || adobe_transform.value_or(kYcc) != kYcc) return false;
    const bool is_named_rgb = components[0].id == 'R' && components[1].id == 'G' && components[2].id == 'B';
    return has_jfif || adobe_transform || !is_named_rgb;
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
        bool decides_pixels = true;
        if (marker == kDht)
            read_tables(body, header);
        else if (marker == kDqt)
            note_quantization_tables(body, header);
        else if (marker == kSof0 || marker == kSof1 || marker == kSof2)
            header.is_progressive = marker == kSof2, read_frame(body, header), header.frame = segment;
        else if (marker == kDri)
            require(body.size() == 2), header.restart_interval = big_endian(body.data());
        else if (marker == kSos)
            read_scan_header(body, header), header.scan = jpeg.subspan(at);
        else
            require((marker >= kApp0 && marker <= kApp15) || marker == kComment),
                decides_pixels = read_colours(marker, body, header);
        if (decides_pixels) header.segments.push_back(segment);
        if (marker == kSos) return header;
    }
}

}  // namespace fastvit::scan
