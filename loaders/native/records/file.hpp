// A file that is read as a whole.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include <sys/stat.h>

namespace fastvit {

// Open a regular file for reading; returns its descriptor. Never waits, as it would for somebody who writes into a named
// pipe. Throws ImageError where it is something else, and std::system_error where it cannot be opened.
int open_regular_file(const char* path, struct stat& status);

class File {
  public:
    // Throws ImageError where it is no regular file, cannot be opened or is larger than an image may be.
    explicit File(const std::string& path);
    ~File();
    File(const File&) = delete;
    File& operator=(const File&) = delete;

    std::size_t size() const { return size_; }

    // Read the file up to its end, at most `size` bytes; returns how many. Throws ImageError.
    std::size_t read(std::uint8_t* to, std::size_t size) const;

  private:
    int descriptor_;
    std::size_t size_;
};

}  // namespace fastvit
