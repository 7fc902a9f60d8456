// The engine for Python: batches as arrays, waiting without the GIL and open to Ctrl-C.
#include <nanobind/stl/pair.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <chrono>
#include <memory>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "bindings/bindings.hpp"
#include "engine/engine.hpp"
#include "engine/sampler.hpp"

namespace fastvit {

namespace {

using Images = nb::ndarray<std::uint8_t, nb::shape<-1, -1, -1, 3>, nb::c_contig, nb::device::cpu>;
using Pixels = nb::ndarray<const std::uint8_t, nb::shape<-1, -1, 3>, nb::c_contig, nb::device::cpu>;
using FailureRow = std::tuple<std::int64_t, bool, std::string>;

CropKind crop_kind(const std::string& name) {
    if (name == "random_resized") return CropKind::random_resized;
    if (name == "center") return CropKind::center;
    if (name == "whole") return CropKind::whole;
    if (name == "shift") return CropKind::shift;
    throw std::invalid_argument("unknown crop " + name);
}

Interpolation interpolation_named(const std::string& name) {
    if (name == "bilinear") return Interpolation::bilinear;
    if (name == "bicubic") return Interpolation::bicubic;
    throw std::invalid_argument("unknown interpolation " + name);
}

CropRule make_rule(const std::string& kind, std::int32_t resolution, std::uint64_t seed, std::uint32_t epoch,
                   std::tuple<double, double> area, std::tuple<double, double> ratio, double center_fraction,
                   std::int32_t max_shift, const std::string& interpolation, bool turns_upright) {
    if (resolution < 1 || resolution > 16384) throw std::invalid_argument("resolution must lie in [1, 16384]");
    if (max_shift < 0 || (kind == "shift" && 2 * max_shift >= resolution))
        throw std::invalid_argument("max_shift must lie in [0, resolution / 2), got " + std::to_string(max_shift) + " of " +
                                    std::to_string(resolution));
    return {crop_kind(kind),
            resolution,
            seed,
            epoch,
            {std::get<0>(area), std::get<1>(area), std::get<0>(ratio), std::get<1>(ratio)},
            center_fraction,
            max_shift,
            interpolation_named(interpolation),
            turns_upright};
}

void check_images(const Images& images, std::size_t num_images, const CropRule& rule) {
    const auto side = static_cast<std::size_t>(rule.resolution);
    if (images.shape(0) != num_images || images.shape(1) != side || images.shape(2) != side)
        throw std::invalid_argument("images must be uint8 [len(samples), resolution, resolution, 3]");
}

// An engine that also keeps the arrays alive which its threads write to.
class PythonEngine {
  public:
    PythonEngine(std::shared_ptr<const Records> records, int num_threads, bool scaled_decode)
        : engine_(std::move(records), num_threads, scaled_decode) {}

    ~PythonEngine() { close(); }
    PythonEngine(const PythonEngine&) = delete;
    PythonEngine& operator=(const PythonEngine&) = delete;

    std::shared_ptr<BatchJob> submit(const Int64Vector& samples, const CropRule& rule, Images images) {
        check_images(images, samples.shape(0), rule);
        const std::vector<std::int64_t> numbers(samples.data(), samples.data() + samples.shape(0));
        if (std::any_of(numbers.begin(), numbers.end(), [](std::int64_t number) { return number < 0; }))
            throw std::out_of_range("a sample's number is negative");
        auto job = std::make_shared<BatchJob>(numbers, rule, images.data());
        {
            const nb::gil_scoped_release unlocked;
            engine_.submit(job);
        }
        std::erase_if(in_use_, [](const auto& earlier) { return earlier.first->is_done(); });
        in_use_.emplace_back(job, std::move(images));
        return job;
    }

    std::vector<std::size_t> cancel() {
        return ending([&] { return engine_.cancel(); });
    }

    std::vector<std::size_t> close() {
        return ending([&] { return engine_.close(); });
    }

    std::vector<std::pair<std::size_t, double>> at_work() {
        std::vector<std::pair<std::size_t, double>> records;
        const nb::gil_scoped_release unlocked;
        for (const RecordAtWork& one : engine_.at_work()) records.emplace_back(one.record, one.seconds);
        return records;
    }

  private:
    using InUse = std::vector<std::pair<std::shared_ptr<BatchJob>, Images>>;

    template <typename End>
    std::vector<std::size_t> ending(const End& end) {
        InUse in_use = std::exchange(in_use_, {});  // what another thread submits meanwhile is none of it
        std::vector<std::size_t> records;
        {
            const nb::gil_scoped_release unlocked;
            records = end();
        }
        std::erase_if(in_use, [](const auto& one) { return one.first->is_done(); });
        if (!in_use.empty()) new InUse(std::move(in_use));  // never freed: a thread may come back and write
        return records;
    }

    Engine engine_;
    InUse in_use_;  // guarded by the GIL
};

std::vector<FailureRow> wait(BatchJob& job) {
    for (bool done = false; !done;) {
        {
            const nb::gil_scoped_release unlocked;
            done = job.wait_for(std::chrono::milliseconds(50));
        }
        if (!done && PyErr_CheckSignals() != 0) throw nb::python_error();
    }
    std::vector<FailureRow> rows;
    for (Failure& failure : job.failures())
        rows.emplace_back(failure.row, failure.foreign, std::move(failure.reason));
    return rows;
}

std::vector<std::string> resize_instructions() {
    std::vector<std::string> names;
    for (const ResizeKernels& kernels : resize_kernels()) names.emplace_back(kernels.name);
    return names;
}

const ResizeKernels& kernels_named(const std::string& name) {
    for (const ResizeKernels& kernels : resize_kernels())
        if (name == kernels.name) return kernels;
    throw std::invalid_argument("this machine has no instructions " + name);
}

nb::ndarray<nb::numpy, std::uint8_t> crop_pixels(const Pixels& pixels, std::int64_t sample, const CropRule& rule,
                                                 const std::string& instructions) {
    auto out = new_array<std::uint8_t>(rule.resolution, rule.resolution, 3);
    const Record record{pixels.data(), pixels.size(), true, static_cast<std::int32_t>(pixels.shape(0)),
                        static_cast<std::int32_t>(pixels.shape(1))};
    const ResizeKernels& kernels = instructions.empty() ? fastest_resize_kernels() : kernels_named(instructions);
    const nb::gil_scoped_release unlocked;
    Sampler(false, kernels).load(record, static_cast<std::size_t>(sample), rule, out.data());
    return out;
}

}  // namespace

void bind_engine(nb::module_& module) {
    nb::class_<CropRule>(module, "CropRule")
        .def(nb::new_(&make_rule), nb::arg("kind"), nb::kw_only(), nb::arg("resolution"), nb::arg("seed"),
             nb::arg("epoch"), nb::arg("area"), nb::arg("ratio"), nb::arg("center_fraction"),
             nb::arg("max_shift"), nb::arg("interpolation"), nb::arg("turns_upright") = false);
    nb::class_<BatchJob>(module, "BatchJob").def("wait", &wait);
    nb::class_<PythonEngine>(module, "Engine")
        .def(nb::init<std::shared_ptr<const Records>, int, bool>(), nb::arg("records"), nb::kw_only(),
             nb::arg("num_threads"), nb::arg("scaled_decode"))
        .def("submit", &PythonEngine::submit, nb::arg("samples"), nb::arg("rule"), nb::arg("images"))
        .def("cancel", &PythonEngine::cancel)
        .def("close", &PythonEngine::close)
        .def("at_work", &PythonEngine::at_work);
    module.def("resize_instructions", &resize_instructions);
    module.def("crop_pixels", &crop_pixels, nb::arg("pixels"), nb::arg("sample"), nb::arg("rule"),
               nb::arg("instructions") = "");
}

}  // namespace fastvit
