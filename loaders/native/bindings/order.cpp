// Order, crops and flips for Python: array-at-a-time versions of the pure functions in engine/.
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <stdexcept>
#include <tuple>

#include "bindings/bindings.hpp"
#include "engine/crop.hpp"
#include "engine/permutation.hpp"
#include "engine/philox.hpp"

namespace fastvit {

namespace {

nb::ndarray<nb::numpy, std::uint32_t> philox(std::uint32_t c0, std::uint32_t c1, std::uint32_t c2, std::uint32_t c3,
                                             std::uint64_t seed) {
    auto words = new_array<std::uint32_t>(4);
    const Philox4 drawn = philox4x32({c0, c1, c2, c3}, seed);
    std::copy(drawn.begin(), drawn.end(), words.data());
    return words;
}

nb::ndarray<nb::numpy, std::int64_t> permute(const Int64Vector& positions, std::int64_t size, std::uint64_t seed,
                                             std::uint32_t epoch, std::uint64_t item) {
    if (size < 1 || size > (std::int64_t{1} << 62)) throw std::invalid_argument("size must lie in [1, 2^62]");
    auto permuted = new_array<std::int64_t>(positions.shape(0));
    const Permutation permutation(static_cast<std::uint64_t>(size), seed, epoch, item);
    for (std::size_t i = 0; i < positions.shape(0); ++i) {
        const std::int64_t position = positions.data()[i];
        if (position < 0 || position >= size) throw std::out_of_range("a position lies outside [0, size)");
        permuted.data()[i] = static_cast<std::int64_t>(permutation(static_cast<std::uint64_t>(position)));
    }
    return permuted;
}

void check_same_length(const Int64Vector& indices, const Int64Vector& heights, const Int64Vector& widths) {
    if (heights.shape(0) != indices.shape(0) || widths.shape(0) != indices.shape(0))
        throw std::invalid_argument("indices, heights and widths must have the same length");
}

nb::ndarray<nb::numpy, std::int32_t> random_resized_crops(const Int64Vector& indices, const Int64Vector& heights,
                                                          const Int64Vector& widths, std::uint64_t seed,
                                                          std::uint32_t epoch, std::tuple<double, double> area,
                                                          std::tuple<double, double> ratio) {
    check_same_length(indices, heights, widths);
    const CropRange range{std::get<0>(area), std::get<1>(area), std::get<0>(ratio), std::get<1>(ratio)};
    auto boxes = new_array<std::int32_t>(indices.shape(0), 4);
    for (std::size_t i = 0; i < indices.shape(0); ++i) {
        const std::int64_t height = heights.data()[i], width = widths.data()[i];
        if (height < 1 || width < 1 || height > INT32_MAX || width > INT32_MAX)
            throw std::invalid_argument("heights and widths must lie in [1, 2^31)");
        const CropBox box = random_resized_crop(seed, epoch, static_cast<std::uint64_t>(indices.data()[i]),
                                                static_cast<std::int32_t>(height), static_cast<std::int32_t>(width), range);
        std::int32_t* row = boxes.data() + 4 * i;
        row[0] = box.top, row[1] = box.left, row[2] = box.height, row[3] = box.width;
    }
    return boxes;
}

nb::ndarray<nb::numpy, bool> random_flips(const Int64Vector& indices, std::uint64_t seed, std::uint32_t epoch) {
    auto flips = new_array<bool>(indices.shape(0));
    for (std::size_t i = 0; i < indices.shape(0); ++i)
        flips.data()[i] = random_flip(seed, epoch, static_cast<std::uint64_t>(indices.data()[i]));
    return flips;
}

nb::ndarray<nb::numpy, std::int32_t> random_shifts(const Int64Vector& indices, std::uint64_t seed, std::uint32_t epoch,
                                                   std::int32_t max_shift) {
    auto shifts = new_array<std::int32_t>(indices.shape(0), 2);
    for (std::size_t i = 0; i < indices.shape(0); ++i) {
        const Shift shift = random_shift(seed, epoch, static_cast<std::uint64_t>(indices.data()[i]), max_shift);
        shifts.data()[2 * i] = shift.down, shifts.data()[2 * i + 1] = shift.right;
    }
    return shifts;
}

}  // namespace

void bind_order(nb::module_& module) {
    module.def("philox", &philox, nb::arg("c0"), nb::arg("c1"), nb::arg("c2"), nb::arg("c3"), nb::arg("seed"));
    module.def("permute", &permute, nb::arg("positions"), nb::arg("size"), nb::arg("seed"), nb::arg("epoch"),
               nb::arg("item") = 0);
    module.def("random_resized_crops", &random_resized_crops, nb::arg("indices"), nb::arg("heights"), nb::arg("widths"),
               nb::arg("seed"), nb::arg("epoch"), nb::arg("area"), nb::arg("ratio"));
    module.def("random_flips", &random_flips, nb::arg("indices"), nb::arg("seed"), nb::arg("epoch"));
    module.def("random_shifts", &random_shifts, nb::arg("indices"), nb::arg("seed"), nb::arg("epoch"), nb::arg("max_shift"));
}

}  // namespace fastvit
