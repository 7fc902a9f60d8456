// Random resizes, built with sanitizers: every instruction set must make the same of each row, and must neither read
// nor write more than it may.
//   resize NUM_IMAGES    prints with which instruction sets they came out the same
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "resize/resizer.hpp"

using namespace fastvit;

namespace {

using Bytes = std::vector<std::uint8_t>;
using Words = std::vector<std::int16_t>;

constexpr int kMaxSide = 600, kMaxSize = 300, kMaxRowBytes = 3 * kMaxSide;

const std::uint8_t* random_row(const Bytes& noise, std::mt19937& random) {
    return noise.data() + random() % (noise.size() - kMaxRowBytes - kRowPadding);
}

// What `run(kernels)` returns, whose first `count` numbers must be the same for every instruction set.
template <typename Run>
auto same_with_all(const char* loop, int count, const Run& run) {
    const auto expected = run(kernels::scalar);
    for (const ResizeKernels& kernels : resize_kernels()) {
        const auto made = run(kernels);
        if (std::equal(made.begin(), made.begin() + count, expected.begin())) continue;
        std::printf("%s: %s differs from scalar\n", kernels.name, loop);
        std::exit(1);
    }
    return expected;
}

// Kernels that run and compare those of all instruction sets, in memory of exactly the size that they may count on, and
// that write all that may be written behind the results.
void mix_rows(const std::uint8_t* const* rows, const std::int16_t* weights, int num_taps, int num_bytes,
              std::int16_t* out) {
    const Words tight_weights(weights, weights + num_taps);
    std::vector<Bytes> tight_rows;
    std::vector<const std::uint8_t*> taps;
    for (int tap = 0; tap < num_taps; ++tap) {
        tight_rows.emplace_back(rows[tap], rows[tap] + num_bytes + kRowPadding);
        taps.push_back(tight_rows.back().data());
    }
    const Words mixed = same_with_all("mix_rows", num_bytes, [&](const ResizeKernels& kernels) {
        Words to(static_cast<std::size_t>(num_bytes + kRowPadding), -1);
        kernels.mix_rows(taps.data(), tight_weights.data(), num_taps, num_bytes, to.data());
        return to;
    });
    std::copy(mixed.begin(), mixed.end(), out);
}

void mix_columns(const std::int16_t* row, const std::int32_t* offsets, const std::int32_t* weights, int num_pairs,
                 int num_pixels, std::uint8_t* out) {
    const std::vector<std::int32_t> tight_offsets(offsets, offsets + num_pixels);
    const std::vector<std::int32_t> tight_weights(weights, weights + num_pixels * num_pairs * kCopies);
    const int last = *std::max_element(offsets, offsets + num_pixels);
    const Words tight_row(row, row + last + 6 * num_pairs + kTapPadding);
    const Bytes pixels = same_with_all("mix_columns", 3 * num_pixels, [&](const ResizeKernels& kernels) {
        Bytes to(static_cast<std::size_t>(3 * num_pixels + kOutPadding), 255);
        kernels.mix_columns(tight_row.data(), tight_offsets.data(), tight_weights.data(), num_pairs, num_pixels,
                            to.data());
        return to;
    });
    std::copy(pixels.begin(), pixels.end(), out);
}

// Any weights that add up to kWeightOne: those of resizes rarely go to the limits of the kernels' 16 bits.
void mix_at_random(const Bytes& noise, std::mt19937& random) {
    Words weights(2 + 2 * (random() % 4), kWeightOne);
    std::generate(weights.begin(), weights.end() - 1, [&] { return static_cast<std::int16_t>(random() % kWeightOne); });
    std::sort(weights.begin(), weights.end());
    std::adjacent_difference(weights.begin(), weights.end(), weights.begin());
    std::vector<const std::uint8_t*> rows;
    for (std::size_t tap = 0; tap < weights.size(); ++tap) rows.push_back(random_row(noise, random));
    Words out(kMaxRowBytes + kRowPadding);
    mix_rows(rows.data(), weights.data(), static_cast<int>(weights.size()), kMaxRowBytes, out.data());
}

// All of a crop, or its middle.
Axis random_axis(std::mt19937& random) {
    const auto below = [&](int limit) { return static_cast<int>(random() % static_cast<unsigned>(limit)); };
    const int side = 1 + below(kMaxSide), size = 1 + below(kMaxSize);
    const int begin = below(side), end = begin + 1 + below(side - begin);
    const double share = below(2) ? 1 : (1 + below(1000)) / 1000.0;
    return {begin + (end - begin) * (1 - share) / 2, (end - begin) * share / size, begin, end, size};
}

}  // namespace

int main(int argc, char** argv) {
    const int num_images = argc > 1 ? std::atoi(argv[1]) : 2000;
    std::mt19937 random(1);
    Bytes noise(1 << 16);
    for (std::uint8_t& byte : noise) byte = static_cast<std::uint8_t>(random() % 3 ? random() : 255 * (random() % 2));
    const ResizeKernels comparing{"comparing", mix_rows, mix_columns};
    for (int number = 0; number < num_images; ++number) {
        const Axis rows = random_axis(random), columns = random_axis(random);
        Bytes out(3 * static_cast<std::size_t>(rows.size) * static_cast<std::size_t>(columns.size));
        Resizer resizer(comparing);  // a new one has no memory left over from larger images
        resizer.start(rows, columns, random() % 2, out.data());
        for (int row = resizer.first_row(); row < resizer.end_row(); ++row) {
            std::copy_n(random_row(noise, random), 3 * (resizer.end_column() - resizer.first_column()),
                        resizer.row_memory(0));
            resizer.push();
        }
        mix_at_random(noise, random);
    }
    std::printf("%d resizes, each the same with", num_images);
    const char* comma = " ";
    for (const ResizeKernels& kernels : resize_kernels()) std::printf("%s%s", std::exchange(comma, ", "), kernels.name);
    std::printf("\n");
    return 0;
}
