#include "jpeg/splice.hpp"

#include <algorithm>
#include <cstddef>

#include "jpeg/marker.hpp"

namespace fastvit {

namespace {

using scan::Bytes;
using scan::require;

// Tiles [first, last] of one side of the image: pixels [begin, end).
struct TileRange {
    std::uint32_t first, last;
    std::int32_t begin, end;

    bool holds(std::uint32_t number) const { return first <= number && number <= last; }
};

// The tiles that hold pixels [begin, end) and their context. All sizes are in pixels.
TileRange tiles_of(std::int32_t begin, std::int32_t end, std::int32_t side, std::int32_t tile, std::int32_t mcu) {
    std::int32_t first = std::max(0, begin - JpegDecoder::kContext) / tile;
    const std::int32_t last = (std::min(side, end + JpegDecoder::kContext) - 1) / tile;
    // Decoders upsample an image of a few pixels in another way.
    if (first > 0 && side - first * tile < mcu) --first;
    return {static_cast<std::uint32_t>(first), static_cast<std::uint32_t>(last), first * tile,
            std::min(side, (last + 1) * tile)};
}

// The data of the tiles in `rows` and `columns`, each up to the marker behind it.
std::vector<Bytes> find_intervals(const scan::Header& header, std::uint32_t tiles_per_row, const TileRange& rows,
                                  const TileRange& columns) {
    const auto interval = static_cast<std::uint32_t>(header.restart_interval);
    const std::uint32_t num_intervals = (header.num_mcus() + interval - 1) / interval;
    std::vector<Bytes> needed;
    const std::uint8_t* from = header.scan.data();
    const std::uint8_t* const end = from + header.scan.size();
    for (std::uint32_t row = 0, column = 0, number = 0;; ++number) {
        const std::uint8_t* const marker = find_marker(from, end);
        require(marker && marker[1] == (number + 1 == num_intervals ? scan::kEoi : scan::kRst0 + number % 8));
        if (rows.holds(row) && columns.holds(column)) needed.emplace_back(from, marker);
        if (row == rows.last && column == columns.last) return needed;
        from = marker + 2;
        if (++column == tiles_per_row) column = 0, ++row;
    }
}

std::vector<std::uint8_t> assemble(const scan::Header& header, const std::vector<Bytes>& intervals, std::int32_t height,
                                   std::int32_t width) {
    std::size_t size = 2;
    for (const Bytes segment : header.segments) size += segment.size();
    for (const Bytes interval : intervals) size += interval.size() + 2;
    std::vector<std::uint8_t> bytes;
    bytes.reserve(size);
    const auto put = [&bytes](Bytes data) { bytes.insert(bytes.end(), data.begin(), data.end()); };
    put({{0xFF, scan::kSoi}});
    for (const Bytes segment : header.segments) {
        put(segment);
        if (segment.data() != header.frame.data()) continue;
        std::uint8_t* const sides = bytes.data() + bytes.size() - segment.size() + 5;
        sides[0] = static_cast<std::uint8_t>(height >> 8), sides[1] = static_cast<std::uint8_t>(height);
        sides[2] = static_cast<std::uint8_t>(width >> 8), sides[3] = static_cast<std::uint8_t>(width);
    }
    for (std::size_t number = 0; number < intervals.size(); ++number) {
        put(intervals[number]);
        const bool is_last = number + 1 == intervals.size();
        put({{0xFF, static_cast<std::uint8_t>(is_last ? scan::kEoi : scan::kRst0 + number % 8)}});
    }
    return bytes;
}

}  // namespace

std::optional<SplicedJpeg> splice(const scan::Header& header, const Region& region) {
    const auto interval = static_cast<std::uint32_t>(header.restart_interval), row = header.mcus_per_row();
    if (interval == 0 || header.is_progressive || (row % interval != 0 && interval % row != 0)) return std::nullopt;
    const std::uint32_t tile_columns = std::min(interval, row), tile_rows = std::max(interval / row, 1u);
    const std::int32_t mcu_height = header.mcu_side(&scan::Component::v), mcu_width = header.mcu_side(&scan::Component::h);
    const std::int32_t tile_height = static_cast<std::int32_t>(tile_rows) * mcu_height;
    const std::int32_t tile_width = static_cast<std::int32_t>(tile_columns) * mcu_width;
    const TileRange rows = tiles_of(region.top, region.top + region.height, header.height, tile_height, mcu_height);
    const TileRange columns = tiles_of(region.left, region.left + region.width, header.width, tile_width, mcu_width);
    if (rows.begin == 0 && columns.begin == 0 && rows.end == header.height && columns.end == header.width)
        return std::nullopt;
    const std::vector<Bytes> intervals = find_intervals(header, row / tile_columns, rows, columns);
    return SplicedJpeg{assemble(header, intervals, rows.end - rows.begin, columns.end - columns.begin), columns.begin,
                       rows.begin};
}

}  // namespace fastvit
