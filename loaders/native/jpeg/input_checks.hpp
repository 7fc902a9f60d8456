// What is refused: no JPEG at all, one that would take more memory or time than any real one, one that is cut short.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>  // jpeglib.h needs FILE
#include <iterator>
#include <span>

#include <jpeglib.h>
// After jpeglib.h, whose configuration decides which codes there are.
#include <jerror.h>

#include "jpeg/image_error.hpp"

namespace fastvit {

inline void check_is_jpeg(std::span<const std::uint8_t> data) {
    if (data.size() < 2 || data[0] != 0xFF || data[1] != 0xD8) throw ForeignImageError("it is not a JPEG");
}

// A progressive image needs all of its coefficients in memory: 3 GB for 20,000 x 20,000 pixels without subsampling. What is
// decoded whole may take as much.
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

// What a file without an end marker is taken to end with.
inline constexpr JOCTET kEndMarker[2] = {0xFF, JPEG_EOI};

// Have libjpeg read an image from memory. A file may lack its end marker, but no pixel: libjpeg tells of Huffman codes that
// are missing, not of arithmetic ones, and `check_is_whole` of whole scans.
inline void read_from_memory(jpeg_decompress_struct& info, std::span<const std::uint8_t> jpeg) {
    jpeg_mem_src(&info, jpeg.data(), static_cast<unsigned long>(jpeg.size()));
    info.src->fill_input_buffer = [](j_decompress_ptr decompress) -> boolean {
        const bool is_in_scans = decompress->input_scan_number > 0;
        if (!is_in_scans || decompress->arith_code) ERREXIT(decompress, JWRN_JPEG_EOF);
        decompress->src->next_input_byte = kEndMarker;
        decompress->src->bytes_in_buffer = sizeof kEndMarker;
        return TRUE;
    };
}

// Fail where an image of several scans, which libjpeg has read to their end, ends before its last one; a file with an end
// marker may leave scans out.
inline void check_is_whole(jpeg_decompress_struct& info) {
    if (info.src->next_input_byte != std::end(kEndMarker)) return;
    for (int number = 0; number < info.num_components; ++number) {
        const bool has_come = info.comp_info[number].quant_table;
        const int* bits = info.coef_bits ? info.coef_bits[number] : nullptr;
        if (!has_come || (bits && std::any_of(bits, bits + DCTSIZE2, [](int missing) { return missing != 0; })))
            ERREXIT(&info, JWRN_JPEG_EOF);
    }
}

}  // namespace fastvit
