// Whether the libjpeg that the process has found is one that this was made for: it need not be the one at build time.
#pragma once

#include <string>

namespace fastvit {

// The libjpeg-turbo whose headers this was built with, such as "libjpeg-turbo 2.1.5".
std::string built_with_libjpeg();

// The libjpeg in use: its file and what it says of itself, which is no version.
std::string loaded_libjpeg();

// Whether HuffmanDecoder may take over from the libjpeg in use, which takes a function of a private struct of it. The first
// call finds out, by means of a small JPEG. Throws ImageError where libjpeg cannot decode that by itself.
bool can_take_over_from_libjpeg();

}  // namespace fastvit
