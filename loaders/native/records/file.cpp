#include "records/file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "jpeg/image_error.hpp"

namespace fastvit {

namespace {

constexpr off_t kLargestFile = off_t{1} << 30;

}  // namespace

const char* kind_unless_file(mode_t mode) {
    if (S_ISREG(mode)) return nullptr;
    if (S_ISDIR(mode)) return "a folder";
    if (S_ISFIFO(mode)) return "a named pipe";
    if (S_ISSOCK(mode)) return "a socket";
    return "a device";
}

File::File(const std::string& path) : descriptor_(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY)) {
    const int error = errno;
    struct stat status {};
    const bool has_status = (descriptor_ < 0 ? stat(path.c_str(), &status) : fstat(descriptor_, &status)) == 0;
    std::string problem;
    if (const char* kind = has_status ? kind_unless_file(status.st_mode) : nullptr)
        problem = std::string("it is ") + kind + ", not a file";
    else if (descriptor_ < 0)
        problem = std::string("the file cannot be opened: ") + std::strerror(error);
    else if (!has_status)
        problem = std::strerror(errno);
    else if (status.st_size > kLargestFile)
        problem = "the file is larger than 1 GiB";
    size_ = static_cast<std::size_t>(status.st_size);
    if (problem.empty()) return;
    if (descriptor_ >= 0) close(descriptor_);
    throw ImageError(problem);
}

File::~File() { close(descriptor_); }

std::size_t File::read(std::uint8_t* to, std::size_t size) const {
    std::size_t done = 0;
    while (done < size) {
        const ssize_t got = ::read(descriptor_, to + done, size - done);
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) throw ImageError(std::string("the file cannot be read: ") + std::strerror(errno));
        if (got == 0) break;
        done += static_cast<std::size_t>(got);
    }
    return done;
}

}  // namespace fastvit
