// Record sources for Python, and what rewrites records.
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <stdexcept>
#include <utility>
#include <vector>

#include "bindings.hpp"
#include "mapped_records.hpp"
#include "restart_transcoder.hpp"

namespace fastvit {

namespace {

template <typename T>
std::span<const T> span_of(const nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>& array) {
    return {array.data(), array.shape(0)};
}

std::shared_ptr<Records> mapped_records(ByteVector file, Int64Vector offsets, Int64Vector sizes, ByteVector raw,
                                        Int64Vector heights, Int64Vector widths) {
    struct Arrays {
        ByteVector file, raw;
        Int64Vector offsets, sizes, heights, widths;
    };
    const auto arrays = std::make_shared<const Arrays>(Arrays{std::move(file), std::move(raw), std::move(offsets),
                                                              std::move(sizes), std::move(heights), std::move(widths)});
    const MappedRecords::Tables tables{span_of(arrays->file),    span_of(arrays->offsets), span_of(arrays->sizes),
                                       span_of(arrays->raw),     span_of(arrays->heights), span_of(arrays->widths)};
    return std::make_shared<MappedRecords>(tables, arrays);
}

std::shared_ptr<Records> file_records(std::vector<std::string> paths) {
    return std::make_shared<FileRecords>(std::move(paths));
}

nb::bytes rewrite_with_markers(const ByteVector& jpeg, int interval) {
    if (interval < 1) throw std::invalid_argument("interval must be positive, got " + std::to_string(interval));
    std::vector<std::uint8_t> rewritten;
    {
        const nb::gil_scoped_release unlocked;
        rewritten = add_restart_markers(std::span(jpeg.data(), jpeg.shape(0)), interval);
    }
    return nb::bytes(rewritten.data(), rewritten.size());
}

}  // namespace

void bind_records(nb::module_& module) {
    nb::class_<Records>(module, "Records");
    module.def("mapped_records", &mapped_records, nb::arg("file"), nb::kw_only(), nb::arg("offsets"), nb::arg("sizes"),
               nb::arg("raw"), nb::arg("heights"), nb::arg("widths"));
    module.def("file_records", &file_records, nb::arg("paths"));
    module.def("add_restart_markers", &rewrite_with_markers, nb::arg("jpeg"),
               nb::arg("interval") = 4);
}

}  // namespace fastvit
