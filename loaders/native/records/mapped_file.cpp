#include "records/mapped_file.hpp"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "records/file.hpp"

namespace fastvit {

namespace {

std::atomic<MappedFile*> first_file{nullptr};
struct sigaction handler_before;

std::uintptr_t page_size() {
    static const auto size = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    return size;
}

std::uintptr_t page_of(const void* address) { return reinterpret_cast<std::uintptr_t>(address) / page_size() * page_size(); }

const std::uint8_t* last_byte_not_zero(std::span<const std::uint8_t> bytes) {
    const auto* const page = reinterpret_cast<const std::uint8_t*>(page_of(&bytes.back()));
    for (const std::uint8_t* byte = &bytes.back(); byte > page; --byte)
        if (*byte) return byte;
    return page;
}

}  // namespace

MappedFile& MappedFile::map(const char* path) {
    static constexpr std::uint8_t kNothing = 0;
    struct stat status {};
    const int descriptor = open_regular_file(path, status);
    const auto size = static_cast<std::size_t>(status.st_size);
    void* const data = size ? mmap(nullptr, size, PROT_READ, MAP_SHARED, descriptor, 0) : nullptr;
    const int error = errno;
    close(descriptor);
    if (data == MAP_FAILED) throw std::system_error(error, std::generic_category());
    catch_bus_errors();
    MappedFile& file = take_free_one();
    const auto* const begin = static_cast<const std::uint8_t*>(data);
    file.size_ = size;
    file.is_cut_.store(false);
    file.end_.store(begin + size);
    file.begin_.store(begin);
    file.last_ = size ? last_byte_not_zero(file.bytes()) : &kNothing;
    file.last_value_ = *file.last_;
    return file;
}

const MappedFile* MappedFile::at(const void* address) {
    const MappedFile* file = first_file.load();
    while (file && !file->holds(address)) file = file->next_;
    return file;
}

void MappedFile::unmap() {
    auto* const data = const_cast<std::uint8_t*>(begin_.exchange(nullptr));
    end_.store(nullptr);
    if (data) munmap(data, size_);
    is_taken_.store(false);
}

MappedFile& MappedFile::take_free_one() {
    for (MappedFile* file = first_file.load(); file; file = file->next_)
        if (!file->is_taken_.load() && !file->is_taken_.exchange(true)) return *file;
    auto* const file = new MappedFile;
    file->next_ = first_file.load();
    while (!first_file.compare_exchange_weak(file->next_, file)) continue;
    return *file;
}

// `begin_` is read twice, as another thread may use the entry for another file meanwhile. The file that an address in use
// belongs to stays.
bool MappedFile::holds(const void* address) const {
    const std::uint8_t* const begin = begin_.load();
    const std::uint8_t* const end = end_.load();
    return begin && address >= begin && address < end && begin_.load() == begin;
}

// In a signal handler: only what may be called there. False where the address is in no mapped file.
bool put_zeros_behind_cut(void* address) {
    auto* const file = const_cast<MappedFile*>(MappedFile::at(address));
    if (!file) return false;
    file->is_cut_.store(true);  // before there are zeros that another thread could read
    const std::uintptr_t begin = page_of(address), end = reinterpret_cast<std::uintptr_t>(file->end_.load());
    return mmap(reinterpret_cast<void*>(begin), end - begin, PROT_READ, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) !=
           MAP_FAILED;
}

namespace {

void give_to_handler_before(int number, siginfo_t* info, void* context) {
    if (handler_before.sa_flags & SA_SIGINFO) {
        handler_before.sa_sigaction(number, info, context);
    } else if (handler_before.sa_handler == SIG_DFL) {
        // What was done comes again, and ends the process; a signal that somebody sent has to be sent again.
        signal(number, SIG_DFL);
        if (info->si_code <= 0) raise(number);
    } else if (handler_before.sa_handler != SIG_IGN) {
        handler_before.sa_handler(number);
    }
}

void handle_bus_error(int number, siginfo_t* info, void* context) {
    const int error = errno;
    if (info->si_code != BUS_ADRERR || !put_zeros_behind_cut(info->si_addr)) give_to_handler_before(number, info, context);
    errno = error;
}

}  // namespace

void catch_bus_errors() {
    page_size();  // a static variable is not to be made in the handler
    struct sigaction current {};
    sigaction(SIGBUS, nullptr, &current);
    if (current.sa_flags & SA_SIGINFO && current.sa_sigaction == &handle_bus_error) return;
    handler_before = current;
    struct sigaction ours {};
    ours.sa_sigaction = &handle_bus_error;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
    sigaction(SIGBUS, &ours, nullptr);
}

}  // namespace fastvit
