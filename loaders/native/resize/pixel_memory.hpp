// Memory for an image's pixels.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>

#include "jpeg/image_error.hpp"

namespace fastvit {

// Kept from image to image. Not filled with zeros: a damaged file that claims to be huge must not take memory for pixels that
// it does not have.
class PixelMemory {
  public:
    // Have so many bytes; what was in them is lost where there are too few. Throws ImageError.
    void make_room(std::size_t num_bytes) {
        if (num_bytes <= num_bytes_) return;
        if (num_bytes > kMaxBytes) throw ImageError("its pixels would take more than 4 GiB");
        num_bytes_ = 0;
        bytes_.reset();
        bytes_ = std::make_unique_for_overwrite<std::uint8_t[]>(num_bytes);
        num_bytes_ = num_bytes;
    }

    std::uint8_t* data() { return bytes_.get(); }

    // The memory is the caller's now, and there is none here.
    std::unique_ptr<std::uint8_t[]> release() {
        num_bytes_ = 0;
        return std::move(bytes_);
    }

  private:
    static constexpr std::size_t kMaxBytes = std::size_t{4} << 30;

    std::unique_ptr<std::uint8_t[]> bytes_;
    std::size_t num_bytes_ = 0;
};

}  // namespace fastvit
