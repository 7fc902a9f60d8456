#include "engine/sampler.hpp"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "orientation/exif.hpp"

namespace fastvit {

namespace {

// By how much the crop is larger than what comes out, as far as libjpeg can shrink while it decodes.
int largest_shrink(const Placement& placement) {
    int shrink = 1;
    while (shrink < 8 && placement.rows.scale >= 2 * shrink && placement.columns.scale >= 2 * shrink) shrink *= 2;
    return shrink;
}

// Room in `memory` for RGB [side, side, 3].
std::uint8_t* square_of(std::int32_t side, std::vector<std::uint8_t>& memory) {
    memory.resize(3 * static_cast<std::size_t>(side) * static_cast<std::size_t>(side));
    return memory.data();
}

// `position` in [-side + 1, 2 * side - 2], folded back without repeating the border.
std::int32_t reflect(std::int32_t position, std::int32_t side) {
    return side - 1 - std::abs(side - 1 - std::abs(position));
}

// Mirror the image, RGB [side, side, 3], if so wanted, then shift it by less than half of `side`; what comes in from
// outside is reflected.
void flip_and_shift(const std::uint8_t* pixels, std::int32_t side, bool flip, const Shift& shift, std::uint8_t* out) {
    const std::int32_t kept = side - std::abs(shift.right), before = std::max(0, shift.right);
    const std::int32_t first = std::max(0, flip ? shift.right : -shift.right);  // that is kept, in the source's direction
    for (std::int32_t y = 0; y < side; ++y, out += 3 * side) {
        const std::uint8_t* row = pixels + 3 * side * reflect(y - shift.down, side) + 3 * first;
        if (flip)
            mirror_row(row, kept, out + 3 * before);
        else
            std::memcpy(out + 3 * before, row, 3 * static_cast<std::size_t>(kept));
        for (std::int32_t x = 0; x < before; ++x) copy_pixel(out + 3 * (2 * before - x), out + 3 * x);
        for (std::int32_t x = before + kept; x < side; ++x) copy_pixel(out + 3 * (2 * kept - 2 - x), out + 3 * x);
    }
}

}  // namespace

bool Sampler::begin(const Record& record, std::size_t sample, const CropRule& rule, std::uint8_t* out) {
    shifted_.reset();
    turned_.reset();
    if (rule.kind == CropKind::shift) {
        shifted_ = {out, rule.resolution, random_shift(rule.seed, rule.epoch, sample, rule.max_shift),
                    random_flip(rule.seed, rule.epoch, sample)};
        out = square_of(rule.resolution, whole_);
    }
    if (!record.raw) {
        begin_jpeg(record, sample, rule, out);
        return true;
    }
    resize_pixels(record.data, record.width, place(rule, sample, record.height, record.width), rule.interpolation, out);
    finish();
    return false;
}

bool Sampler::advance() {
    const bool unfinished = decoder_.advance(sink_);
    if (!unfinished) finish();
    return unfinished;
}

void Sampler::finish() {
    if (turned_) turn_pixels(as_stored_.data(), turned_->side, turned_->side, turned_->turn, turned_->pixels);
    if (shifted_) flip_and_shift(whole_.data(), shifted_->side, shifted_->flip, shifted_->shift, shifted_->pixels);
}

void Sampler::begin_jpeg(const Record& record, std::size_t sample, const CropRule& rule, std::uint8_t* out) {
    decoder_.open({record.data, record.size});
    const std::int32_t height = decoder_.height(), width = decoder_.width();
    record.check_size(height, width);
    Turn turn = rule.turns_upright ? turn_of(exif_orientation({record.data, record.size})) : Turn{};
    Placement placement = turn.transposes ? place(rule, sample, width, height) : place(rule, sample, height, width);
    if (turn.changes_pixels()) placement = as_stored(placement, height, width, turn);
    if (turn.changes_pixels()) {
        turned_ = {out, rule.resolution, turn};
        out = square_of(rule.resolution, as_stored_);
    }
    const int shrink = scaled_decode_ ? largest_shrink(placement) : 1;
    decoder_.start(shrink);
    if (shrink > 1) {
        placement.rows = shrunk(placement.rows, shrink, decoder_.output_height());
        placement.columns = shrunk(placement.columns, shrink, decoder_.output_width());
    }
    resizer_.start(placement.rows, placement.columns, rule.interpolation, placement.flip, out, turn.transposes);
    decoder_.begin({resizer_.first_column(), resizer_.first_row(), resizer_.end_column() - resizer_.first_column(),
                    resizer_.end_row() - resizer_.first_row()});
}

void Sampler::resize_pixels(const std::uint8_t* pixels, std::int32_t width, const Placement& placement,
                            Interpolation interpolation, std::uint8_t* out) {
    const Axis &rows = placement.rows, &columns = placement.columns;
    const std::size_t stride = 3 * static_cast<std::size_t>(width);
    if (rows.is_identity() && columns.is_identity()) {
        const std::uint8_t* from = pixels + stride * static_cast<std::size_t>(rows.begin) + 3 * columns.begin;
        const std::size_t row_bytes = 3 * static_cast<std::size_t>(columns.size);
        for (std::int32_t y = 0; y < rows.size; ++y, from += stride, out += row_bytes) {
            if (placement.flip)
                mirror_row(from, columns.size, out);
            else
                std::memcpy(out, from, row_bytes);
        }
        return;
    }
    resizer_.start(rows, columns, interpolation, placement.flip, out);
    const std::size_t row_bytes = 3 * static_cast<std::size_t>(resizer_.end_column() - resizer_.first_column());
    for (std::int32_t y = resizer_.first_row(); y < resizer_.end_row(); ++y) {
        // Copied, because the filter's loops read beyond a row's end, which may be the end of the mapped file.
        std::memcpy(resizer_.row_memory(0), pixels + stride * static_cast<std::size_t>(y) + 3 * resizer_.first_column(),
                    row_bytes);
        resizer_.push();
    }
}

}  // namespace fastvit
