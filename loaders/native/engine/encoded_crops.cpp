#include "engine/encoded_crops.hpp"

#include <atomic>
#include <utility>

#include "jpeg/header.hpp"
#include "jpeg/image_error.hpp"
#include "jpeg/input_checks.hpp"
#include "orientation/exif.hpp"
#include "records/mapped_file.hpp"

namespace fastvit {

namespace {

// Throws ForeignImageError for all but those JPEGs of which any decoder makes the same.
scan::Header read_usual_header(std::span<const std::uint8_t> jpeg, bool turns_upright) {
    check_is_jpeg(jpeg);
    // Decoders fill up what is cut off, and say nothing.
    if (jpeg[jpeg.size() - 2] != 0xFF || jpeg[jpeg.size() - 1] != scan::kEoi)
        throw ForeignImageError("the JPEG has no end marker at its end");
    try {
        scan::Header header = scan::read_header(jpeg);
        if (!header.is_grey_or_ycc()) throw ForeignImageError("the JPEG is neither grey nor YCbCr");
        if (turns_upright && exif_orientation(jpeg) != kUpright) throw ForeignImageError("the JPEG is not stored upright");
        return header;
    } catch (const scan::NotForUs&) {
        throw ForeignImageError("the JPEG is of an unusual kind");
    }
}

void fill(EncodedCrop& row, const Records& records, std::size_t sample, const CropRule& rule) {
    const Record record = records.read(sample % records.size(), row.memory);
    row.file = record.file;
    std::int32_t height = record.height, width = record.width;
    const std::span bytes(record.data, record.size);
    if (!record.raw) {
        const scan::Header header = read_usual_header(bytes, rule.turns_upright);
        height = header.height, width = header.width;
        record.check_size(height, width);
    }
    row.box = box_of(rule, sample, height, width);
    if (rule.kind == CropKind::random_resized || rule.kind == CropKind::shift)
        row.flip = random_flip(rule.seed, rule.epoch, sample);
    if (rule.kind == CropKind::shift) row.shift = random_shift(rule.seed, rule.epoch, sample, rule.max_shift);
    if (record.raw) row.height = height, row.width = width;
    row.image = bytes;
}

}  // namespace

EncodedCrops encoded_crops(const Records& records, std::span<const std::int64_t> samples, const CropRule& rule, std::int64_t& at) {
    EncodedCrops crops;
    crops.rows.resize(samples.size());
    for (const std::int64_t sample : samples) records.prefetch(static_cast<std::size_t>(sample) % records.size());
    for (std::size_t number = 0; number < samples.size(); ++number) {
        std::atomic_ref(at).store(samples[number], std::memory_order_relaxed);
        EncodedCrop& row = crops.rows[number];
        const auto fail = [&](bool foreign, const char* reason) {
            // Zeros where bytes are missing may look like any damage.
            const bool is_whole = !row.file || row.file->is_whole();
            crops.failures.push_back({static_cast<std::int64_t>(number), foreign && is_whole, is_whole ? reason : MappedFile::kCutShort});
            row = EncodedCrop{.file = row.file};
        };
        try {
            fill(row, records, static_cast<std::size_t>(samples[number]), rule);
        } catch (const ForeignImageError& error) {
            fail(true, error.what());
        } catch (const std::exception& error) {
            fail(false, error.what());
        }
    }
    return crops;
}

}  // namespace fastvit
