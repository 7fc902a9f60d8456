// What decoders that are not ours need of a batch: the bytes of its images, and what to cut out of each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/engine.hpp"
#include "engine/placement.hpp"
#include "records/records.hpp"

namespace fastvit {

// The part of a box that becomes a sample; its sides may lie between pixels.
struct Window {
    double top, left, height, width;
};

// Where a sample comes from, before it is shifted.
struct Source {
    CropBox box;    // all that the resize's filter sees
    Window window;  // of the box, what the outputs divide evenly
    bool flip;
    Shift shift;
};

struct EncodedCrop {
    // A JPEG file's bytes, or RGB pixels [height, width, 3] where the height is not 0: where they lie in a mapped file,
    // or in `memory`. Empty where the row has failed.
    std::span<const std::uint8_t> image;
    std::int32_t height = 0, width = 0;
    Source source{};
    std::vector<std::uint8_t> memory;
    const MappedFile* file = nullptr;
};

struct EncodedCrops {
    std::vector<EncodedCrop> rows;
    std::vector<Failure> failures;  // sorted by row
};

// Sample `sample` of an image of this size.
Source source_of(const CropRule& rule, std::size_t sample, std::int32_t height, std::int32_t width);

// The images of sample samples[i], which is record samples[i] % (number of records), by `rule`. With `splices`, of JPEGs
// with restart intervals what the crop needs (see jpeg/splice.hpp). Foreign are images that are no JPEGs, and JPEGs of which
// other decoders may make other pixels than ours does, or whose damage they would not tell of.
// The records must outlive what is returned. `*at` becomes the sample that is being read, for whoever asks from another
// thread. May be called by several threads at once.
EncodedCrops encoded_crops(const Records& records, std::span<const std::int64_t> samples, const CropRule& rule, bool splices,
                           std::int64_t* at = nullptr);

}  // namespace fastvit
