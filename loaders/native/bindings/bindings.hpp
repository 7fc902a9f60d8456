// What each part of the engine adds to the Python module, and arrays in the shapes that they share.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <cstddef>
#include <cstdint>
#include <memory>

namespace fastvit {

namespace nb = nanobind;

void bind_converters(nb::module_& module);  // convert.cpp
void bind_order(nb::module_& module);    // order.cpp
void bind_records(nb::module_& module);  // records.cpp
void bind_engine(nb::module_& module);   // engine.cpp
void bind_encoded(nb::module_& module);  // encoded.cpp

using Int64Vector = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ByteVector = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// An array of this memory, which Python owns from now on.
template <typename T, typename... Sizes>
nb::ndarray<nb::numpy, T> array_with(std::unique_ptr<T[]> storage, Sizes... sizes) {
    const std::size_t shape[] = {static_cast<std::size_t>(sizes)...};
    T* data = storage.get();
    nb::capsule owner(storage.release(), [](void* pointer) noexcept { delete[] static_cast<T*>(pointer); });
    return nb::ndarray<nb::numpy, T>(data, sizeof...(sizes), shape, owner);
}

// An array that Python owns, left uninitialised for the caller to fill.
template <typename T, typename... Sizes>
nb::ndarray<nb::numpy, T> new_array(Sizes... sizes) {
    const std::size_t total = (static_cast<std::size_t>(sizes) * ...);
    return array_with(std::make_unique_for_overwrite<T[]>(total), sizes...);
}

}  // namespace fastvit
