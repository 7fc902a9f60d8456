// JPEGs for the other files here, written with libjpeg.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <initializer_list>
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

// 2^18 grey blocks, each of which is brighter than the one before by 2^15 - 1: their sum does not fit into 32 bits.
inline Bytes encode_rising() {
    constexpr std::size_t kBlocks = std::size_t{1} << 18;
    Bytes bytes{0xFF, 0xD8, 0xFF, 0xDB, 0, 67, 0};  // quantised by 1
    bytes.insert(bytes.end(), 64, 1);
    const auto put = [&](std::initializer_list<std::uint8_t> more) { bytes.insert(bytes.end(), more); };
    put({0xFF, 0xC0, 0, 11, 8, 0x10, 0, 0x10, 0, 1, 1, 0x11, 0});  // 4096 x 4096
    for (const std::uint8_t symbol : {std::uint8_t{15}, std::uint8_t{0}}) {  // differences of 15 bits; the end of a block
        put({0xFF, 0xC4, 0, 20, static_cast<std::uint8_t>(symbol ? 0 : 0x10), 1});
        bytes.insert(bytes.end(), 15, 0);
        put({symbol});
    }
    put({0xFF, 0xDA, 0, 8, 1, 1, 0, 0, 63, 0});
    std::uint64_t bits = 0;
    int num_bits = 0;
    for (std::size_t block = 0; block < kBlocks; ++block) {
        bits = bits << 17 | 0b0'111111111111111'0;
        for (num_bits += 17; num_bits >= 8; num_bits -= 8) {
            bytes.push_back(static_cast<std::uint8_t>(bits >> (num_bits - 8)));
            if (bytes.back() == 0xFF) bytes.push_back(0);
        }
    }
    put({0xFF, 0xD9});
    return bytes;
}
