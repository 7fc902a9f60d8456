#include "engine/encoded_crops.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <exception>
#include <optional>
#include <utility>

#include "jpeg/header.hpp"
#include "jpeg/image_error.hpp"
#include "jpeg/input_checks.hpp"
#include "jpeg/splice.hpp"
#include "orientation/exif.hpp"
#include "records/mapped_file.hpp"

namespace fastvit {

namespace {

void check_is_usual(std::span<const std::uint8_t> jpeg, const scan::Header& header, bool turns_upright) {
    // What is cut off they fill up, and say nothing.
    if (jpeg[jpeg.size() - 2] != 0xFF || jpeg[jpeg.size() - 1] != scan::kEoi)
        throw ForeignImageError("the JPEG has no end marker at its end");
    if (!header.is_grey_or_ycc()) throw ForeignImageError("the JPEG is neither grey nor YCbCr");
    if (turns_upright && exif_orientation(jpeg) != kUpright) throw ForeignImageError("the JPEG is not stored upright");
}

// The pixels that the filter of a resize along `axis` sees, which lie less than its reach from an output: the first, and
// how many.
std::pair<std::int32_t, std::int32_t> seen_by_filter(const Axis& axis, Interpolation interpolation) {
    const double reach = (interpolation == Interpolation::bicubic ? 2 : 1) * std::max(axis.scale, 1.0);
    const double first_output = axis.start + axis.scale / 2, last_output = axis.start + axis.scale * (axis.size - 0.5);
    const auto first = std::max(axis.begin, static_cast<std::int32_t>(std::floor(first_output - reach - 0.5)) + 1);
    return {first, std::min(axis.end, static_cast<std::int32_t>(std::ceil(last_output + reach - 0.5))) - first};
}

void splice_row(EncodedCrop& row, const scan::Header& header) {
    CropBox& box = row.source.box;
    std::optional<SplicedJpeg> spliced = splice(header, {box.left, box.top, box.width, box.height});
    if (!spliced) return;
    row.memory = std::move(spliced->bytes);
    row.image = row.memory;
    box.left -= spliced->left;
    box.top -= spliced->top;
}

// Throws ImageError, or ForeignImageError for JPEGs as well of which other decoders may make something else.
void fill(EncodedCrop& row, const Records& records, std::size_t sample, const CropRule& rule, bool splices) {
    const Record record = records.read(sample % records.size(), row.memory);
    row.file = record.file;
    row.image = {record.data, record.size};
    if (record.raw) {
        row.height = record.height, row.width = record.width;
        row.source = source_of(rule, sample, record.height, record.width);
        return;
    }
    check_is_jpeg(row.image);
    try {
        const scan::Header header = scan::read_header(row.image);
        record.check_size(header.height, header.width);
        check_is_usual(row.image, header, rule.turns_upright);
        row.source = source_of(rule, sample, header.height, header.width);
        if (splices) splice_row(row, header);
    } catch (const scan::NotForUs&) {
        throw ForeignImageError("the JPEG is damaged, or of a kind that is seldom seen");
    }
}

}  // namespace

Source source_of(const CropRule& rule, std::size_t sample, std::int32_t height, std::int32_t width) {
    const Placement placement = place(rule, sample, height, width);
    const Axis &rows = placement.rows, &columns = placement.columns;
    const auto [top, box_height] = seen_by_filter(rows, rule.interpolation);
    const auto [left, box_width] = seen_by_filter(columns, rule.interpolation);
    Source source{{top, left, box_height, box_width},
                  {rows.start - top, columns.start - left, rows.scale * rows.size, columns.scale * columns.size},
                  placement.flip,
                  {}};
    if (rule.kind == CropKind::shift) {
        source.flip = random_flip(rule.seed, rule.epoch, sample);
        source.shift = random_shift(rule.seed, rule.epoch, sample, rule.max_shift);
    }
    return source;
}

EncodedCrops encoded_crops(const Records& records, std::span<const std::int64_t> samples, const CropRule& rule, bool splices,
                           std::int64_t* at) {
    EncodedCrops crops;
    crops.rows.resize(samples.size());
    for (const std::int64_t sample : samples) records.prefetch(static_cast<std::size_t>(sample) % records.size());
    for (std::size_t number = 0; number < samples.size(); ++number) {
        if (at) std::atomic_ref(*at).store(samples[number], std::memory_order_relaxed);
        EncodedCrop& row = crops.rows[number];
        const auto fail = [&](bool foreign, const char* reason) {
            // Zeros where bytes are missing may look like any damage.
            const bool is_whole = !row.file || row.file->is_whole();
            const auto failed = static_cast<std::int64_t>(number);
            crops.failures.push_back({failed, foreign && is_whole, is_whole ? reason : MappedFile::kCutShort});
            row = EncodedCrop{.file = row.file};
        };
        try {
            fill(row, records, static_cast<std::size_t>(samples[number]), rule, splices);
        } catch (const ForeignImageError& error) {
            fail(true, error.what());
        } catch (const std::exception& error) {
            fail(false, error.what());
        }
    }
    return crops;
}

}  // namespace fastvit
