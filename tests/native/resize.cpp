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
template <auto kernel>
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
        (kernels.*kernel)(taps.data(), tight_weights.data(), num_taps, num_bytes, to.data());
        return to;
    });
    std::copy(mixed.begin(), mixed.end(), out);
}

template <auto kernel>
void mix_columns(const std::int16_t* row, const std::int32_t* offsets, const std::int32_t* weights, int num_pairs,
                 int num_pixels, std::uint8_t* out) {
    const std::vector<std::int32_t> tight_offsets(offsets, offsets + num_pixels);
    const std::vector<std::int32_t> tight_weights(weights, weights + num_pixels * num_pairs * kCopies);
    const int last = *std::max_element(offsets, offsets + num_pixels);
    const Words tight_row(row, row + last + 6 * num_pairs + kTapPadding);
    const Bytes pixels = same_with_all("mix_columns", 3 * num_pixels, [&](const ResizeKernels& kernels) {
        Bytes to(static_cast<std::size_t>(3 * num_pixels + kOutPadding), 255);
        (kernels.*kernel)(tight_row.data(), tight_offsets.data(), tight_weights.data(), num_pairs, num_pixels, to.data());
        return to;
    });
    std::copy(pixels.begin(), pixels.end(), out);
}

const ResizeKernels kComparing{"comparing", mix_rows<&ResizeKernels::mix_rows>, mix_columns<&ResizeKernels::mix_columns>,
                               mix_rows<&ResizeKernels::mix_rows_signed>, mix_columns<&ResizeKernels::mix_columns_signed>};

// Any weights that add up to kWeightOne: those of resizes rarely go to the limits of the kernels' 16 bits.
void mix_at_random(const Bytes& noise, std::mt19937& random) {
    Words weights(2 + 2 * (random() % 4), kWeightOne);
    std::generate(weights.begin(), weights.end() - 1, [&] { return static_cast<std::int16_t>(random() % kWeightOne); });
    std::sort(weights.begin(), weights.end());
    std::adjacent_difference(weights.begin(), weights.end(), weights.begin());
    std::vector<const std::uint8_t*> rows;
    for (std::size_t tap = 0; tap < weights.size(); ++tap) rows.push_back(random_row(noise, random));
    Words out(kMaxRowBytes + kRowPadding);
    kComparing.mix_rows(rows.data(), weights.data(), static_cast<int>(weights.size()), kMaxRowBytes, out.data());
}

// Weights of either sign, up to what a signed kernel must bear: 1.5 times kWeightOne above 0 and half of it below.
void mix_signed_at_random(const Bytes& noise, std::mt19937& random) {
    const auto num_pairs = 1 + random() % 4;
    Words weights(2 * num_pairs);
    std::vector<const std::uint8_t*> rows;
    for (std::size_t pair = 0; pair < num_pairs; ++pair) {
        const auto below = static_cast<int>(random() % (kWeightOne / 2 / num_pairs + 1));
        const auto above = static_cast<int>(pair ? 0 : kWeightOne) + below;
        const bool swapped = random() % 2;
        weights[2 * pair + swapped] = static_cast<std::int16_t>(above);
        weights[2 * pair + !swapped] = static_cast<std::int16_t>(-below);
        for (int row = 0; row < 2; ++row) rows.push_back(random_row(noise, random));
    }
    Words mixed(kMaxRowBytes + kRowPadding), bytes(mixed.size());
    kComparing.mix_rows_signed(rows.data(), weights.data(), static_cast<int>(weights.size()), kMaxRowBytes, mixed.data());
    // Columns of bytes, as `mix_rows` widens them.
    std::transform(rows[0], rows[0] + kMaxRowBytes, bytes.begin(), [](std::uint8_t byte) { return byte << kMixedBits; });
    std::vector<std::int32_t> offsets, pairs;
    for (int pixel = 0; pixel < 64; ++pixel) offsets.push_back(static_cast<std::int32_t>(3 * (random() % (kMaxSide - 8))));
    std::sort(offsets.begin(), offsets.end());
    for (std::size_t group = 0; group < offsets.size() / kPixelsPerGroup; ++group)
        for (std::size_t pair = 0; pair < num_pairs; ++pair)
            for (int copy = 0; copy < kPixelsPerGroup * kCopies; ++copy)
                pairs.push_back((weights[2 * pair] & 0xFFFF) | weights[2 * pair + 1] * 65536);
    Bytes out(3 * offsets.size() + kOutPadding);
    kComparing.mix_columns_signed(bytes.data(), offsets.data(), pairs.data(), static_cast<int>(num_pairs),
                                  static_cast<int>(offsets.size()), out.data());
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
    for (int number = 0; number < num_images; ++number) {
        const Axis rows = random_axis(random), columns = random_axis(random);
        Bytes out(3 * static_cast<std::size_t>(rows.size) * static_cast<std::size_t>(columns.size));
        Resizer resizer(kComparing);  // a new one has no memory left over from larger images
        resizer.start(rows, columns, static_cast<Interpolation>(number % 2), random() % 2, out.data());
        for (int row = resizer.first_row(); row < resizer.end_row(); ++row) {
            std::copy_n(random_row(noise, random), 3 * (resizer.end_column() - resizer.first_column()),
                        resizer.row_memory(0));
            resizer.push();
        }
        mix_at_random(noise, random);
        mix_signed_at_random(noise, random);
    }
    std::printf("%d resizes, each the same with", num_images);
    const char* comma = " ";
    for (const ResizeKernels& kernels : resize_kernels()) std::printf("%s%s", std::exchange(comma, ", "), kernels.name);
    std::printf("\n");
    return 0;
}
