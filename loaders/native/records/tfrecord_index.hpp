// TFRecord files that hold a tf.train.Example for each image: the images and labels are found by the heads of the records
// and the tags of the fields, without reading an image.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace fastvit {

// A file's records in order, one entry each.
struct TFRecordImages {
    std::vector<std::int64_t> records;         // where each record begins
    std::vector<std::int64_t> offsets, sizes;  // the images'
    std::vector<std::int64_t> labels;
};

// The names that the image's feature may have, and those of the label's: the first one that an Example has counts.
struct TFRecordFeatures {
    std::vector<std::string> image, label;
};

// Of a mapped file only the pages of heads and tags are read, where images are large; so the checksums of lengths are
// checked, and those of the Examples, which hold the images, are not.
// Throws std::invalid_argument, naming the record, where the file is damaged, cut short or compressed, or an Example has
// not one image and one label from 0.
TFRecordImages find_tfrecord_images(std::span<const std::uint8_t> file, const TFRecordFeatures& features);

// Whether the Example of the record at `position` is what its checksum says. Throws std::invalid_argument where no record
// is.
bool tfrecord_is_sound(std::span<const std::uint8_t> file, std::int64_t position);

// The checksum that a record has of its length and of its Example: the pieces are what lies one behind the other.
std::uint32_t tfrecord_checksum(const std::vector<std::span<const std::uint8_t>>& pieces);

}  // namespace fastvit
