// The Python module loaders._native.
#include "bindings/bindings.hpp"

NB_MODULE(_native, module) {
    module.doc() = "The engine in C++: order and crops, JPEG decoding, resizing, record sources and the loading threads.";
    fastvit::bind_converters(module);
    fastvit::bind_order(module);
    fastvit::bind_records(module);
    fastvit::bind_engine(module);
}
