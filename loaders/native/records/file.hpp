// A file that is read as a whole.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include <sys/stat.h>

namespace fastvit {

// What is no regular file, such as "a folder" or "a named pipe": opening one for reading may wait for ever. Null for a file.
const char* kind_unless_file(mode_t mode);

class File {
  public:
    // Never waits for somebody who writes. Throws ImageError where it cannot be opened or is no regular file.
    explicit File(const std::string& path);
    ~File();
    File(const File&) = delete;
    File& operator=(const File&) = delete;

    std::size_t size() const { return size_; }

    // Read the file up to its end, at most `size` bytes; returns how many. Throws ImageError.
    std::size_t read(std::uint8_t* to, std::size_t size) const;

  private:
    const int descriptor_;
    std::size_t size_ = 0;
};

}  // namespace fastvit
