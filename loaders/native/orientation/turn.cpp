#include "orientation/turn.hpp"

#include <algorithm>
#include <cstddef>
#include <cstring>

namespace fastvit {

namespace {

// What `mirror_row` and `transpose` copy a pixel by: one byte more than it has, for a single load and a single store. The
// byte too many is overwritten by the pixel that comes next; for the last one there may be no such byte that is ours.
constexpr std::size_t kPixelAndByte = 4;

// Stored rows become columns, some at a time: as many as have room in the cache for the columns that come next, and enough
// that what is written is long pieces of rows.
void transpose(const std::uint8_t* pixels, std::int32_t height, std::int32_t width, const Turn& turn, std::uint8_t* out) {
    constexpr std::int32_t kRows = 256;
    const std::ptrdiff_t row_bytes = 3 * std::ptrdiff_t{width}, step = turn.mirrors_rows ? -row_bytes : row_bytes;
    for (std::int32_t left = 0; left < height; left += kRows) {
        const std::int32_t right = std::min(height, left + kRows);
        const std::uint8_t* first = pixels + (turn.mirrors_rows ? height - 1 - left : left) * row_bytes;
        for (std::int32_t y = 0; y < width; ++y) {
            const std::int32_t column = turn.mirrors_columns ? width - 1 - y : y;
            const std::uint8_t* from = first + 3 * column;
            std::uint8_t* to = out + 3 * (std::ptrdiff_t{y} * height + left);
            std::int32_t x = left;
            // The last column has the image's last pixel.
            for (; column < width - 1 && x < right - 1; ++x, from += step, to += 3) std::memcpy(to, from, kPixelAndByte);
            for (; x < right; ++x, from += step, to += 3) copy_pixel(from, to);
        }
    }
}

}  // namespace

Turn turn_of(int orientation) {
    switch (orientation) {
        case 2: return {false, true, false};
        case 3: return {true, true, false};
        case 4: return {true, false, false};
        case 5: return {false, false, true};
        case 6: return {true, false, true};
        case 7: return {true, true, true};
        case 8: return {false, true, true};
        default: return {};
    }
}

void turn_pixels(const std::uint8_t* pixels, std::int32_t height, std::int32_t width, const Turn& turn, std::uint8_t* out) {
    if (turn.transposes) {
        transpose(pixels, height, width, turn, out);
        return;
    }
    const std::size_t row_bytes = 3 * static_cast<std::size_t>(width);
    for (std::int32_t y = 0; y < height; ++y, out += row_bytes) {
        const std::uint8_t* row = pixels + row_bytes * static_cast<std::size_t>(turn.mirrors_rows ? height - 1 - y : y);
        if (turn.mirrors_columns)
            mirror_row(row, width, out);
        else
            std::memcpy(out, row, row_bytes);
    }
}

void mirror_row(const std::uint8_t* row, std::int32_t num_pixels, std::uint8_t* out) {
    out += 3 * (num_pixels - 1);
    for (std::int32_t x = 0; x < num_pixels - 1; ++x, row += 3, out -= 3) {
        std::uint32_t pixel;
        std::memcpy(&pixel, row, kPixelAndByte);
        pixel <<= 8;
        std::memcpy(out - 1, &pixel, kPixelAndByte);
    }
    copy_pixel(row, out);
}

}  // namespace fastvit
