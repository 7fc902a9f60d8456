// What the converters do to images, for Python.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "bindings/bindings.hpp"
#include "convert/image_converter.hpp"
#include "convert/restart_transcoder.hpp"
#include "orientation/exif.hpp"
#include "orientation/turn.hpp"

namespace fastvit {

namespace {

using Pixels = nb::ndarray<const std::uint8_t, nb::shape<-1, -1, 3>, nb::c_contig, nb::device::cpu>;
using PixelArray = nb::ndarray<nb::numpy, std::uint8_t>;

std::span<const std::uint8_t> span_of(const ByteVector& bytes) { return {bytes.data(), bytes.shape(0)}; }

PixelView view_of(const Pixels& pixels) {
    if (pixels.size() == 0 || std::max(pixels.shape(0), pixels.shape(1)) > 65535)
        throw std::invalid_argument("an image must have 1 to 65535 pixels on each side");
    return {pixels.data(), static_cast<std::int32_t>(pixels.shape(0)), static_cast<std::int32_t>(pixels.shape(1))};
}

nb::bytes bytes_of(const std::vector<std::uint8_t>& data) { return nb::bytes(data.data(), data.size()); }

ImageConverter& converter() {
    static thread_local ImageConverter one;
    return one;
}

JpegOptions options_of(int quality, std::pair<int, int> chroma, int restart_interval) {
    if (quality < 1 || quality > 100) throw std::invalid_argument("quality must be from 1 to 100");
    if (chroma.first < 1 || chroma.first > 2 || chroma.second < 1 || chroma.second > 2)
        throw std::invalid_argument("chroma must be 1 or 2 columns and rows");
    if (restart_interval < 0) throw std::invalid_argument("restart_interval must not be negative");
    return {quality, chroma.first, chroma.second, restart_interval};
}

void check_interval(int interval) {
    if (interval < 1) throw std::invalid_argument("interval must be positive, got " + std::to_string(interval));
}

nb::bytes rewrite_one(const ByteVector& jpeg, int interval) {
    check_interval(interval);
    std::vector<std::uint8_t> rewritten;
    {
        const nb::gil_scoped_release unlocked;
        rewritten = add_restart_markers(span_of(jpeg), interval);
    }
    return bytes_of(rewritten);
}

nb::list rewrite_all(const std::vector<ByteVector>& jpegs, int interval) {
    check_interval(interval);
    std::vector<std::span<const std::uint8_t>> spans;
    for (const ByteVector& jpeg : jpegs) spans.push_back(span_of(jpeg));
    std::vector<Rewritten> rewritten;
    {
        const nb::gil_scoped_release unlocked;
        rewritten = add_restart_markers_to_all(spans, interval);
    }
    nb::list results;
    for (const Rewritten& one : rewritten) {
        if (one.fault.empty())
            results.append(bytes_of(one.jpeg));
        else
            results.append(nb::str(one.fault.c_str()));
    }
    return results;
}

auto read_jpeg_header(const ByteVector& jpeg) {
    const nb::gil_scoped_release unlocked;
    static thread_local JpegDecoder decoder;
    decoder.open(span_of(jpeg));
    return std::make_tuple(decoder.height(), decoder.width(), decoder.num_components(), decoder.scan_offset());
}

PixelArray array_of(const PixelView& view) {
    auto array = new_array<std::uint8_t>(view.height, view.width, 3);
    const nb::gil_scoped_release unlocked;
    std::copy_n(view.data, array.size(), array.data());
    return array;
}

PixelArray decode_jpeg(const ByteVector& jpeg, int max_side, int min_side) {
    PixelView view;
    std::unique_ptr<std::uint8_t[]> pixels;
    {
        const nb::gil_scoped_release unlocked;
        converter().release_pixels();  // those of an earlier image may take far more memory than this one's
        view = converter().decode(span_of(jpeg), {max_side, min_side}, false);
        pixels = converter().release_pixels();
    }
    return array_with(std::move(pixels), view.height, view.width, 3);
}

PixelArray shrink_pixels(const Pixels& pixels, int max_side, int min_side) {
    PixelView view = view_of(pixels);
    {
        const nb::gil_scoped_release unlocked;
        view = converter().shrink(view, {max_side, min_side});
    }
    return array_of(view);
}

PixelArray turned(const Pixels& pixels, int orientation) {
    const PixelView view = view_of(pixels);
    const Turn turn = turn_of(orientation);
    auto out = turn.transposes ? new_array<std::uint8_t>(view.width, view.height, 3)
                               : new_array<std::uint8_t>(view.height, view.width, 3);
    const nb::gil_scoped_release unlocked;
    turn_pixels(view.data, view.height, view.width, turn, out.data());
    return out;
}

template <typename Load>
auto encode(const Load& load, const JpegOptions& options) {
    PixelView view;
    std::vector<std::uint8_t> data;
    {
        const nb::gil_scoped_release unlocked;
        view = load();
        data = converter().encode(view, options);
    }
    return std::make_tuple(bytes_of(data), view.height, view.width);
}

auto reencode_jpeg(const ByteVector& jpeg, int max_side, int min_side, int quality, std::pair<int, int> chroma,
                   int restart_interval, int orientation) {
    const auto load = [&] { return converter().turn(converter().decode(span_of(jpeg), {max_side, min_side}, true), orientation); };
    return encode(load, options_of(quality, chroma, restart_interval));
}

auto encode_pixels(const Pixels& pixels, int max_side, int min_side, int quality, std::pair<int, int> chroma,
                   int restart_interval) {
    const PixelView view = view_of(pixels);
    return encode([&] { return converter().shrink(view, {max_side, min_side}); }, options_of(quality, chroma, restart_interval));
}

}  // namespace

void bind_converters(nb::module_& module) {
    module.def("add_restart_markers", &rewrite_one, nb::arg("jpeg"), nb::arg("interval") = 4);
    module.def("add_restart_markers_to_all", &rewrite_all, nb::arg("jpegs"), nb::arg("interval"));
    module.def("read_jpeg_header", &read_jpeg_header, nb::arg("jpeg"));
    module.def("decode_jpeg", &decode_jpeg, nb::arg("jpeg"), nb::kw_only(), nb::arg("max_side"), nb::arg("min_side"));
    module.def("shrink_pixels", &shrink_pixels, nb::arg("pixels"), nb::kw_only(), nb::arg("max_side"), nb::arg("min_side"));
    module.def("reencode_jpeg", &reencode_jpeg, nb::arg("jpeg"), nb::kw_only(), nb::arg("max_side"), nb::arg("min_side"),
               nb::arg("quality"), nb::arg("chroma"), nb::arg("restart_interval"), nb::arg("orientation") = kUpright);
    module.def("exif_orientation", [](const ByteVector& file) { return exif_orientation(span_of(file)); }, nb::arg("file"));
    module.def("turn_pixels", &turned, nb::arg("pixels"), nb::kw_only(), nb::arg("orientation"));
    module.def("encode_pixels", &encode_pixels, nb::arg("pixels"), nb::kw_only(), nb::arg("max_side"), nb::arg("min_side"),
               nb::arg("quality"), nb::arg("chroma"), nb::arg("restart_interval"));
}

}  // namespace fastvit
