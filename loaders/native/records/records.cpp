#include "records/records.hpp"

#include <string>

#include "jpeg/image_error.hpp"

namespace fastvit {

namespace {

std::string size_text(std::int32_t height, std::int32_t width) {
    return std::to_string(height) + " x " + std::to_string(width) + " pixels";
}

}  // namespace

void Record::check_size(std::int32_t decoded_height, std::int32_t decoded_width) const {
    if (!height || (height == decoded_height && width == decoded_width)) return;
    throw ImageError("it decodes to " + size_text(decoded_height, decoded_width) + ", where the file's table says " +
                     size_text(height, width));
}

}  // namespace fastvit
