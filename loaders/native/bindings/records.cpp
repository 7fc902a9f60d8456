// Record sources for Python.
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <stdexcept>
#include <string>
#include <system_error>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/bindings.hpp"
#include "jpeg/image_error.hpp"
#include "records/file.hpp"
#include "records/mapped_file.hpp"
#include "records/mapped_records.hpp"
#include "records/tar_index.hpp"
#include "records/tfrecord_index.hpp"

namespace fastvit {

namespace {

template <typename T>
std::span<const T> span_of(const nb::ndarray<const T, nb::ndim<1>, nb::c_contig, nb::device::cpu>& array) {
    return {array.data(), array.shape(0)};
}

[[noreturn]] void raise_os_error(int code, const nb::bytes& path) {
    errno = code;
    PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path.ptr());
    throw nb::python_error();
}

// A file's bytes, mapped read-only for as long as the array lives. Unlike Python's mmap it keeps no descriptor open: a
// data set may have more shards than a process may have open files.
nb::ndarray<nb::numpy, const std::uint8_t> map_file(const nb::bytes& path) {
    MappedFile* file = nullptr;
    try {
        file = &MappedFile::map(path.c_str());
    } catch (const std::system_error& error) {
        raise_os_error(error.code().value(), path);
    } catch (const ImageError& error) {
        // There is no number for it.
        PyErr_SetObject(PyExc_OSError, nb::make_tuple(EINVAL, error.what(), path).ptr());
        throw nb::python_error();
    }
    const nb::capsule owner(file, [](void* pointer) noexcept { static_cast<MappedFile*>(pointer)->unmap(); });
    const auto bytes = file->bytes();
    return nb::ndarray<nb::numpy, const std::uint8_t>(bytes.data(), {bytes.size()}, owner);
}

bool is_whole(const ByteVector& file) {
    const MappedFile* const mapped = MappedFile::at(file.data());
    return !mapped || mapped->is_whole();
}

// The bytes of an image file; an OSError says why they cannot be read.
nb::bytes read_file(const nb::bytes& path) {
    std::vector<std::uint8_t> data;
    std::string problem;
    {
        const nb::gil_scoped_release unlocked;
        try {
            const File file(path.c_str());
            data.resize(file.size());
            data.resize(file.read(data.data(), data.size()));
        } catch (const ImageError& error) {
            problem = error.what();
        }
    }
    if (!problem.empty()) {
        PyErr_SetString(PyExc_OSError, problem.c_str());
        throw nb::python_error();
    }
    return nb::bytes(data.data(), data.size());
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

// Names as bytes, for not all of them are UTF-8.
std::shared_ptr<Records> file_records(const std::vector<nb::bytes>& paths) {
    std::vector<std::string> names;
    names.reserve(paths.size());
    for (const nb::bytes& path : paths) names.emplace_back(path.c_str(), path.size());
    return std::make_shared<FileRecords>(std::move(names));
}

std::shared_ptr<Records> joined_records(std::vector<std::shared_ptr<const Records>> parts) {
    return std::make_shared<JoinedRecords>(std::move(parts));
}

template <typename T>
nb::ndarray<nb::numpy, T> array_of(const std::vector<T>& values) {
    auto array = new_array<T>(values.size());
    std::copy(values.begin(), values.end(), array.data());
    return array;
}

auto tar_samples(const ByteVector& archive, const std::vector<std::string>& image_extensions) {
    TarSamples samples;
    {
        const nb::gil_scoped_release unlocked;
        samples = find_tar_samples(span_of(archive), image_extensions);
    }
    return std::make_tuple(array_of(samples.headers), array_of(samples.offsets), array_of(samples.sizes),
                           array_of(samples.label_is_json), nb::bytes(samples.label_text.data(), samples.label_text.size()),
                           array_of(samples.label_ends));
}

nb::bytes tar_member_name(const ByteVector& archive, std::int64_t header) {
    TarMember member;
    if (!TarReader(span_of(archive), header).next(member)) throw std::out_of_range("the archive ends there");
    return nb::bytes(member.name.data(), member.name.size());
}

auto tfrecord_images(const ByteVector& file, std::vector<std::string> image_features,
                     std::vector<std::string> label_features) {
    const TFRecordFeatures features{std::move(image_features), std::move(label_features)};
    TFRecordImages images;
    {
        const nb::gil_scoped_release unlocked;
        images = find_tfrecord_images(span_of(file), features);
    }
    return std::make_tuple(array_of(images.records), array_of(images.offsets), array_of(images.sizes),
                           array_of(images.labels));
}

bool is_sound_tfrecord(const ByteVector& file, std::int64_t record) {
    const nb::gil_scoped_release unlocked;
    return tfrecord_is_sound(span_of(file), record);
}

std::uint32_t checksum_of_pieces(const std::vector<nb::bytes>& pieces) {
    std::vector<std::span<const std::uint8_t>> spans;
    spans.reserve(pieces.size());
    for (const nb::bytes& piece : pieces) spans.emplace_back(static_cast<const std::uint8_t*>(piece.data()), piece.size());
    return tfrecord_checksum(spans);
}

}  // namespace

void bind_records(nb::module_& module) {
    nb::class_<Records>(module, "Records");
    module.def("mapped_records", &mapped_records, nb::arg("file"), nb::kw_only(), nb::arg("offsets"), nb::arg("sizes"),
               nb::arg("raw"), nb::arg("heights"), nb::arg("widths"));
    module.def("file_records", &file_records, nb::arg("paths"));
    module.def("joined_records", &joined_records, nb::arg("parts"));
    module.def("map_file", &map_file, nb::arg("path"));
    module.def("is_whole", &is_whole, nb::arg("file"));
    module.def("catch_bus_errors", &catch_bus_errors);
    module.attr("cut_short") = MappedFile::kCutShort;
    module.def("read_file", &read_file, nb::arg("path"));
    module.def("tar_samples", &tar_samples, nb::arg("archive"), nb::kw_only(), nb::arg("image_extensions"));
    module.def("tar_member_name", &tar_member_name, nb::arg("archive"), nb::arg("header"));
    module.def("tfrecord_images", &tfrecord_images, nb::arg("file"), nb::kw_only(), nb::arg("image_features"),
               nb::arg("label_features"));
    module.def("tfrecord_is_sound", &is_sound_tfrecord, nb::arg("file"), nb::arg("record"));
    module.def("tfrecord_checksum", &checksum_of_pieces, nb::arg("pieces"));
}

}  // namespace fastvit
