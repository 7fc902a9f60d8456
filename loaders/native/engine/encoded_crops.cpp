#include "engine/encoded_crops.hpp"

#include <atomic>
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

void place(EncodedCrop& row, const CropRule& rule, std::size_t sample, std::int32_t height, std::int32_t width) {
    row.box = box_of(rule, sample, height, width);
    if (rule.kind == CropKind::random_resized || rule.kind == CropKind::shift)
        row.flip = random_flip(rule.seed, rule.epoch, sample);
    if (rule.kind == CropKind::shift) row.shift = random_shift(rule.seed, rule.epoch, sample, rule.max_shift);
}

void splice_row(EncodedCrop& row, const scan::Header& header) {
    std::optional<SplicedJpeg> spliced = splice(header, {row.box.left, row.box.top, row.box.width, row.box.height});
    if (!spliced) return;
    row.memory = std::move(spliced->bytes);
    row.image = row.memory;
    row.box.left -= spliced->left;
    row.box.top -= spliced->top;
}

// Throws ImageError, or ForeignImageError for JPEGs as well of which other decoders may make something else.
void fill(EncodedCrop& row, const Records& records, std::size_t sample, const CropRule& rule, bool splices) {
    const Record record = records.read(sample % records.size(), row.memory);
    row.file = record.file;
    row.image = {record.data, record.size};
    if (record.raw) {
        row.height = record.height, row.width = record.width;
        return place(row, rule, sample, record.height, record.width);
    }
    check_is_jpeg(row.image);
    try {
        const scan::Header header = scan::read_header(row.image);
        record.check_size(header.height, header.width);
        check_is_usual(row.image, header, rule.turns_upright);
        place(row, rule, sample, header.height, header.width);
        if (splices) splice_row(row, header);
    } catch (const scan::NotForUs&) {
        throw ForeignImageError("the JPEG is damaged, or of a kind that is seldom seen");
    }
}

}  // namespace

EncodedCrops encoded_crops(const Records& records, std::span<const std::int64_t> samples, const CropRule& rule,
                           bool splices, std::int64_t* at) {
    EncodedCrops crops;
    crops.rows.resize(samples.size());
    for (const std::int64_t sample : samples) records.prefetch(static_cast<std::size_t>(sample) % records.size());
    for (std::size_t number = 0; number < samples.size(); ++number) {
        if (at) std::atomic_ref(*at).store(samples[number], std::memory_order_relaxed);
        EncodedCrop& row = crops.rows[number];
        const auto fail = [&](bool foreign, const char* reason) {
            // Zeros where bytes are missing may look like any damage.
            const bool is_whole = !row.file || row.file->is_whole();
            const auto at = static_cast<std::int64_t>(number);
            crops.failures.push_back({at, foreign && is_whole, is_whole ? reason : MappedFile::kCutShort});
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
