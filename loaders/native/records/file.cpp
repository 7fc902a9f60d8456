#include "records/file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "jpeg/image_error.hpp"

namespace fastvit {

namespace {

constexpr off_t kLargestFile = off_t{1} << 30;

const char* kind_of(mode_t mode) {
    if (S_ISFIFO(mode)) return "a named pipe";
    if (S_ISSOCK(mode)) return "a socket";
    return "a device";
}

}  // namespace

int open_regular_file(const char* path, struct stat& status) {
    const int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
    int error = errno;
    const bool has_status = (descriptor < 0 ? stat(path, &status) : fstat(descriptor, &status)) == 0;
    if (descriptor >= 0) error = has_status ? 0 : errno;
    if (has_status && S_ISDIR(status.st_mode)) error = EISDIR;
    const bool is_other_kind = has_status && !S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode);
    if (!error && !is_other_kind) return descriptor;
    if (descriptor >= 0) close(descriptor);
    if (is_other_kind) throw ImageError(std::string("it is ") + kind_of(status.st_mode) + ", not a file");
    throw std::system_error(error, std::generic_category());
}

File::File(const std::string& path) {
    struct stat status {};
    try {
        descriptor_ = open_regular_file(path.c_str(), status);
    } catch (const std::system_error& error) {
        throw ImageError(std::string("the file cannot be opened: ") + error.what());
    }
    size_ = static_cast<std::size_t>(status.st_size);
    if (status.st_size <= kLargestFile) return;
    close(descriptor_);
    throw ImageError("the file is larger than 1 GiB");
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
