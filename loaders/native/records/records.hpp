// Where the bytes of record i come from.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace fastvit {

class MappedFile;

struct Record {
    const std::uint8_t* data;
    std::size_t size;
    bool raw;                     // RGB pixels [height, width, 3]; otherwise an image file's bytes
    std::int32_t height, width;   // what the data set says of it; 0 where it does not
    const MappedFile* file = nullptr;  // that the bytes lie in, to be asked afterwards whether it was whole

    // Throws ImageError where the data set says that the image has another size.
    void check_size(std::int32_t decoded_height, std::int32_t decoded_width) const;
};

// A data set's records; `read` may be called by many threads at once.
class Records {
  public:
    Records() = default;
    Records(const Records&) = delete;
    Records& operator=(const Records&) = delete;
    virtual ~Records() = default;

    virtual std::size_t size() const = 0;

    // Record `index` < size(); its bytes lie in the data set's mapping or in `scratch` and stay valid until the next
    // call with the same scratch. Throws ImageError where they cannot be read.
    virtual Record read(std::size_t index, std::vector<std::uint8_t>& scratch) const = 0;

    // Tell the system that record `index` will be read soon.
    virtual void prefetch(std::size_t index) const = 0;
};

}  // namespace fastvit
