// Damaged JPEGs through the engine and the transcoder, built with sanitizers: each must decode or fail by name.
//   fuzz NUM_IMAGES    prints how many decoded and how many failed
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "engine.hpp"
#include "restart_transcoder.hpp"
#include "sampler.hpp"

using namespace fastvit;

namespace {

using Bytes = std::vector<std::uint8_t>;

struct Kind {
    int horizontal, vertical, quality, restart_interval;
    bool progressive, arithmetic, grey, optimized;
};

constexpr Kind kKinds[] = {
    {1, 1, 90, 0, false, false, false, false}, {2, 1, 90, 0, false, false, false, true},
    {1, 2, 80, 0, false, false, false, false}, {2, 2, 90, 0, false, false, false, false},
    {2, 2, 90, 2, false, false, false, true},  {2, 2, 90, 24, false, false, false, false},
    {4, 1, 50, 3, false, false, false, false}, {2, 2, 100, 0, false, false, false, false},
    {2, 2, 75, 0, true, false, false, false},  {2, 1, 75, 0, false, true, false, false},
    {1, 1, 90, 5, false, false, true, false},
};

Bytes encode(const Kind& kind, int height, int width, std::mt19937& random) {
    jpeg_compress_struct info{};
    jpeg_error_mgr errors;
    info.err = jpeg_std_error(&errors);
    jpeg_create_compress(&info);
    unsigned char* data = nullptr;
    unsigned long size = 0;
    jpeg_mem_dest(&info, &data, &size);
    info.image_height = static_cast<JDIMENSION>(height);
    info.image_width = static_cast<JDIMENSION>(width);
    info.input_components = kind.grey ? 1 : 3;
    info.in_color_space = kind.grey ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_set_defaults(&info);
    jpeg_set_quality(&info, kind.quality, TRUE);
    info.comp_info[0].h_samp_factor = kind.grey ? 1 : kind.horizontal;
    info.comp_info[0].v_samp_factor = kind.grey ? 1 : kind.vertical;
    info.restart_interval = static_cast<unsigned>(kind.restart_interval);
    info.optimize_coding = kind.optimized;
    info.arith_code = kind.arithmetic;
    if (kind.progressive) jpeg_simple_progression(&info);
    jpeg_start_compress(&info, TRUE);
    Bytes row(3 * static_cast<std::size_t>(width));
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

void mutate(Bytes& bytes, std::mt19937& random) {
    const auto anywhere = [&] { return random() % bytes.size(); };
    switch (random() % 5) {
        case 0:
            bytes.resize(anywhere() + 1);
            break;
        case 1:  // in the headers, mostly
            for (unsigned n = 1 + random() % 4; n; --n)
                bytes[random() % std::min<std::size_t>(bytes.size(), 700)] = static_cast<std::uint8_t>(random());
            break;
        case 2:
            for (unsigned n = 1 + random() % 8; n; --n) bytes[anywhere()] = static_cast<std::uint8_t>(random());
            break;
        case 3: {  // a marker out of nowhere
            const std::size_t at = anywhere();
            bytes[at] = 0xFF;
            if (at + 1 < bytes.size()) bytes[at + 1] = static_cast<std::uint8_t>(0xC0 + random() % 0x40);
            break;
        }
        default: {
            const std::size_t from = anywhere(), count = std::min<std::size_t>(bytes.size() - from, 1 + random() % 64);
            bytes.erase(bytes.begin() + static_cast<std::ptrdiff_t>(from),
                        bytes.begin() + static_cast<std::ptrdiff_t>(from + count));
            if (bytes.empty()) bytes.push_back(0);
        }
    }
}

}  // namespace

int main(int argc, char** argv) {
    const int num_images = argc > 1 ? std::atoi(argv[1]) : 20000;
    std::mt19937 random(1);
    std::vector<Bytes> originals;
    for (const Kind& kind : kKinds)
        for (const auto& [height, width] : {std::pair{97, 131}, {16, 16}, {1, 1}, {40, 7}})
            originals.push_back(encode(kind, height, width, random));
    Sampler exact(false), scaled(true);
    int decoded = 0, failed = 0;
    for (int number = 0; number < num_images; ++number) {
        Bytes bytes = originals[static_cast<std::size_t>(number) % originals.size()];
        const bool whole_file = number < static_cast<int>(originals.size());
        if (!whole_file) mutate(bytes, random);
        const CropRule rule{static_cast<CropKind>(random() % 3), 1 + static_cast<int>(random() % 60), 1, 0,
                            {0.08, 1, 0.75, 4.0 / 3}, 0.875};
        // Of exactly the needed size, so that a byte read or written beyond it is found.
        Bytes out(3 * static_cast<std::size_t>(rule.resolution) * static_cast<std::size_t>(rule.resolution));
        const Bytes tight(bytes.begin(), bytes.end());
        try {
            (number % 4 ? exact : scaled)
                .load({tight.data(), tight.size(), false, 0, 0}, static_cast<std::size_t>(number), rule, out.data());
            if (number % 8 == 0) add_restart_markers(tight, 1 + number % 5);
            ++decoded;
        } catch (const ImageError& error) {
            if (whole_file) {
                std::printf("a whole image failed: %s\n", error.what());
                return 1;
            }
            ++failed;
        }
    }
    std::printf("%d mutated JPEGs: %d decoded, %d failed by name\n", num_images, decoded, failed);
    return 0;
}
