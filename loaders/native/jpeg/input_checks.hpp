// What is refused, as no JPEG at all or as one that would take more memory or time than any real one.
#pragma once

#include <cstdint>
#include <cstdio>  // jpeglib.h needs FILE
#include <span>

#include <jpeglib.h>
// After jpeglib.h, whose configuration decides which codes there are.
#include <jerror.h>

#include "jpeg/image_error.hpp"

namespace fastvit {

inline void check_is_jpeg(std::span<const std::uint8_t> data) {
    if (data.size() < 2 || data[0] != 0xFF || data[1] != 0xD8) throw ForeignImageError("it is not a JPEG");
}

// A progressive image needs all of its coefficients in memory: 3 GB for 20,000 x 20,000 pixels without subsampling.
constexpr long kMaxJpegMemory = 4L << 30;

// No encoder makes more than a dozen; thousands of scans over a large image are an attack.
constexpr int kMaxScans = 200;

// Have libjpeg refuse an image that wants more memory or has more scans than any real one.
inline void limit_resources(jpeg_decompress_struct& info, jpeg_progress_mgr& progress) {
    info.mem->max_memory_to_use = kMaxJpegMemory;
    progress.progress_monitor = [](j_common_ptr common) {
        const auto decompress = reinterpret_cast<j_decompress_ptr>(common);
        if (decompress->input_scan_number > kMaxScans) ERREXIT(decompress, JERR_BAD_PROGRESSION);
    };
    info.progress = &progress;
}

}  // namespace fastvit
