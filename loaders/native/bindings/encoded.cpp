// Batches for decoders that are not ours, for Python.
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/bindings.hpp"
#include "engine/encoded_crops.hpp"
#include "records/mapped_file.hpp"

namespace fastvit {

namespace {

using At = nb::ndarray<std::int64_t, nb::shape<1>, nb::c_contig, nb::device::cpu>;
using Image = nb::ndarray<nb::numpy, const std::uint8_t>;
using FailureRow = std::tuple<std::int64_t, bool, std::string>;

// Where samples come from, a row of each array for each.
struct Sources {
    nb::ndarray<nb::numpy, std::int32_t> boxes, shifts;
    nb::ndarray<nb::numpy, double> windows;
    nb::ndarray<nb::numpy, bool> flips;

    explicit Sources(std::size_t size)
        : boxes(new_array<std::int32_t>(size, 4)), shifts(new_array<std::int32_t>(size, 2)),
          windows(new_array<double>(size, 4)), flips(new_array<bool>(size)) {}

    void set(std::size_t number, const Source& source) const {
        const auto& [box, window, flip, shift] = source;
        const std::int32_t box_sides[] = {box.top, box.left, box.height, box.width};
        const double window_sides[] = {window.top, window.left, window.height, window.width};
        std::copy_n(box_sides, 4, boxes.data() + 4 * number);
        std::copy_n(window_sides, 4, windows.data() + 4 * number);
        shifts.data()[2 * number] = shift.down, shifts.data()[2 * number + 1] = shift.right;
        flips.data()[number] = flip;
    }
};

// Images that lie in mapped files keep the records, and with them the mapping.
struct PythonCrops {
    nb::list images;
    Sources sources;
    std::vector<FailureRow> failures;
    std::vector<const MappedFile*> files;
    nb::object records;
};

Image image_of(EncodedCrop& row, const nb::object& records) {
    using Memory = std::vector<std::uint8_t>;
    const auto height = static_cast<std::size_t>(row.height), width = static_cast<std::size_t>(row.width);
    nb::object owner = records;
    if (!row.memory.empty())
        owner = nb::capsule(new Memory(std::move(row.memory)),
                            [](void* memory) noexcept { delete static_cast<Memory*>(memory); });
    if (!height) return Image(row.image.data(), {row.image.size()}, owner);
    return Image(row.image.data(), {height, width, 3}, owner);
}

PythonCrops crops_of(const nb::handle_t<Records>& records, const Int64Vector& samples, const CropRule& rule, bool splices,
                     const std::optional<At>& at) {
    const auto& source = nb::cast<const Records&>(records);
    const std::vector<std::int64_t> numbers(samples.data(), samples.data() + samples.shape(0));
    if (std::any_of(numbers.begin(), numbers.end(), [](std::int64_t number) { return number < 0; }))
        throw std::out_of_range("a sample's number is negative");
    if (source.size() == 0 && !numbers.empty()) throw std::out_of_range("there are no records");
    EncodedCrops crops;
    {
        const nb::gil_scoped_release unlocked;
        crops = encoded_crops(source, numbers, rule, splices, at ? at->data() : nullptr);
    }
    const std::size_t size = crops.rows.size();
    PythonCrops made{{}, Sources(size), {}, {}, nb::borrow(records)};
    for (std::size_t number = 0; number < size; ++number) {
        EncodedCrop& row = crops.rows[number];
        made.sources.set(number, row.source);
        made.files.push_back(row.file);
        made.images.append(image_of(row, made.records));
    }
    for (Failure& failure : crops.failures)
        made.failures.emplace_back(failure.row, failure.foreign, std::move(failure.reason));
    return made;
}

// Of one image of this size: what EncodedCrops has in its rows.
auto crop_of_image(std::int64_t sample, std::int32_t height, std::int32_t width, const CropRule& rule) {
    if (sample < 0 || height < 1 || width < 1) throw std::invalid_argument("sample and sides must be positive");
    const Sources sources(1);
    sources.set(0, source_of(rule, static_cast<std::size_t>(sample), height, width));
    return std::make_tuple(sources.boxes, sources.windows, sources.flips, sources.shifts);
}

std::vector<std::size_t> cut_rows(const PythonCrops& crops) {
    std::vector<std::size_t> rows;
    for (std::size_t row = 0; row < crops.files.size(); ++row)
        if (crops.files[row] && !crops.files[row]->is_whole()) rows.push_back(row);
    return rows;
}

}  // namespace

void bind_encoded(nb::module_& module) {
    const auto own = nb::rv_policy::automatic;  // the arrays keep their memory themselves
    nb::class_<PythonCrops>(module, "EncodedCrops")
        .def_ro("images", &PythonCrops::images)
        .def_prop_ro("boxes", [](const PythonCrops& crops) { return crops.sources.boxes; }, own)
        .def_prop_ro("windows", [](const PythonCrops& crops) { return crops.sources.windows; }, own)
        .def_prop_ro("flips", [](const PythonCrops& crops) { return crops.sources.flips; }, own)
        .def_prop_ro("shifts", [](const PythonCrops& crops) { return crops.sources.shifts; }, own)
        .def_ro("failures", &PythonCrops::failures)
        .def("cut_rows", &cut_rows);
    module.def("encoded_crops", &crops_of, nb::arg("records"), nb::arg("samples"), nb::arg("rule"), nb::kw_only(),
               nb::arg("splices"), nb::arg("at") = nb::none());
    module.def("crop_of_image", &crop_of_image, nb::arg("sample"), nb::arg("height"), nb::arg("width"), nb::arg("rule"));
}

}  // namespace fastvit
