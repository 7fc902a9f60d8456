// Why there is no image.
#pragma once

#include <stdexcept>

namespace fastvit {

// An image that cannot be decoded; the message is the reason.
class ImageError : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

// An image of a format that is decoded elsewhere.
class ForeignImageError : public ImageError {
    using ImageError::ImageError;
};

}  // namespace fastvit
