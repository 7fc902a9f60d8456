// A small JPEG made of those restart intervals of a large one that a region needs, for decoders that decode whole files.
// Nothing is decoded: an interval's codes do not depend on what stands in front of it.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "jpeg/decoder.hpp"
#include "jpeg/header.hpp"

namespace fastvit {

struct SplicedJpeg {
    std::vector<std::uint8_t> bytes;
    std::int32_t left, top;  // where its pixels lie in the whole image
};

// The pixels of `region`, which lies in the image, are the very same in both files. None where the intervals are no tiles,
// for they neither divide a row of MCUs nor consist of whole rows, and where the region needs all of them.
// Throws scan::NotForUs where a restart marker is missing up to the last interval that is needed.
std::optional<SplicedJpeg> splice(const scan::Header& header, const Region& region);

}  // namespace fastvit
