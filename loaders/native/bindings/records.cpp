// Record sources for Python.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/bindings.hpp"
#include "records/mapped_records.hpp"
#include "records/tar_index.hpp"

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
    const int descriptor = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (descriptor < 0) raise_os_error(errno, path);
    struct stat status {};
    int code = fstat(descriptor, &status) == 0 ? 0 : errno;
    if (!code && !S_ISREG(status.st_mode)) code = S_ISDIR(status.st_mode) ? EISDIR : EINVAL;
    const auto size = static_cast<std::size_t>(status.st_size);
    void* data = nullptr;
    if (!code && size) {
        data = mmap(nullptr, size, PROT_READ, MAP_SHARED, descriptor, 0);
        if (data == MAP_FAILED) code = errno;
    }
    close(descriptor);
    if (code) raise_os_error(code, path);
    struct Mapping {
        void* data;
        std::size_t size;
    };
    const nb::capsule owner(new Mapping{data, size}, [](void* pointer) noexcept {
        const std::unique_ptr<const Mapping> mapping(static_cast<Mapping*>(pointer));
        if (mapping->data) munmap(mapping->data, mapping->size);
    });
    return nb::ndarray<nb::numpy, const std::uint8_t>(data, {size}, owner);
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

}  // namespace

void bind_records(nb::module_& module) {
    nb::class_<Records>(module, "Records");
    module.def("mapped_records", &mapped_records, nb::arg("file"), nb::kw_only(), nb::arg("offsets"), nb::arg("sizes"),
               nb::arg("raw"), nb::arg("heights"), nb::arg("widths"));
    module.def("file_records", &file_records, nb::arg("paths"));
    module.def("joined_records", &joined_records, nb::arg("parts"));
    module.def("map_file", &map_file, nb::arg("path"));
    module.def("tar_samples", &tar_samples, nb::arg("archive"), nb::kw_only(), nb::arg("image_extensions"));
    module.def("tar_member_name", &tar_member_name, nb::arg("archive"), nb::arg("header"));
}

}  // namespace fastvit
