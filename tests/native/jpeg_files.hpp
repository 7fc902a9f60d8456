// JPEGs for the other files here, written with libjpeg.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include <jpeglib.h>

using Bytes = std::vector<std::uint8_t>;

struct JpegKind {
    int components;  // 1: grey, 3: colour, 4: CMYK as it is
    int horizontal, vertical, quality, restart_interval;
    bool progressive, arithmetic, optimized;
};

// Noise on a coarse pattern.
inline Bytes encode(const JpegKind& kind, int height, int width, std::mt19937& random) {
    jpeg_compress_struct info{};
    jpeg_error_mgr errors;
    info.err = jpeg_std_error(&errors);
    jpeg_create_compress(&info);
    unsigned char* data = nullptr;
    unsigned long size = 0;
    jpeg_mem_dest(&info, &data, &size);
    info.image_height = static_cast<JDIMENSION>(height);
    info.image_width = static_cast<JDIMENSION>(width);
    info.input_components = kind.components;
    info.in_color_space = kind.components == 1 ? JCS_GRAYSCALE : kind.components == 3 ? JCS_RGB : JCS_CMYK;
    jpeg_set_defaults(&info);
    jpeg_set_quality(&info, kind.quality, TRUE);
    info.comp_info[0].h_samp_factor = kind.horizontal;
    info.comp_info[0].v_samp_factor = kind.vertical;
    info.restart_interval = static_cast<unsigned>(kind.restart_interval);
    info.optimize_coding = kind.optimized;
    info.arith_code = kind.arithmetic;
    if (kind.progressive) jpeg_simple_progression(&info);
    jpeg_start_compress(&info, TRUE);
    Bytes row(static_cast<std::size_t>(kind.components * width));
    for (int y = 0; y < height; ++y) {
        for (std::size_t x = 0; x < row.size(); ++x)
            row[x] = static_cast<std::uint8_t>(128 + 90 * ((x / 40 + static_cast<std::size_t>(y) / 16) % 2) + random() % 30);
        JSAMPROW pointer = row.data();
        jpeg_write_scanlines(&info, &pointer, 1);
    }
    jpeg_finish_compress(&info);
    jpeg_destroy_compress(&info);
    Bytes bytes(data, data + size);
    std::free(data);
    return bytes;
}
