// The Python module loaders._native.
#include <nanobind/stl/string.h>

#include <stdexcept>
#include <string>

#include "bindings/bindings.hpp"
#include "jpeg/image_error.hpp"
#include "jpeg/libjpeg_check.hpp"

namespace fastvit {

namespace {

// Once, before the first image is decoded. Other libraries than libjpeg-turbo lack functions that this is linked with, so
// that the system refuses them.
void check_libjpeg(nb::module_& module) {
    module.attr("built_with_libjpeg") = built_with_libjpeg();
    module.attr("loaded_libjpeg") = loaded_libjpeg();
    try {
        module.attr("uses_own_huffman_decoder") = can_take_over_from_libjpeg();
    } catch (const ImageError& error) {
        throw std::runtime_error("fastvit was built with " + built_with_libjpeg() + " and cannot use " + loaded_libjpeg() +
                                 ": " + error.what() + "; install that libjpeg-turbo, or build fastvit again: " +
                                 "pip install --force-reinstall --no-cache-dir fastvit");
    }
}

}  // namespace

}  // namespace fastvit

NB_MODULE(_native, module) {
    module.doc() = "The engine in C++: order and crops, JPEG decoding, resizing, record sources and the loading threads.";
    // At the end of the process something may be left, which the system frees: with threads that wait for a read, or in a
    // loader that nobody closed.
    nanobind::set_leak_warnings(false);
    fastvit::check_libjpeg(module);
    fastvit::bind_converters(module);
    fastvit::bind_order(module);
    fastvit::bind_records(module);
    fastvit::bind_engine(module);
    fastvit::bind_encoded(module);
}
