// A file mapped into memory, which somebody may cut short while it is read.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <span>

namespace fastvit {

// Behind the end of a file that was cut short, a mapping has no bytes: whoever reads them gets SIGBUS, which ends the
// process. `catch_bus_errors` puts zeros there instead. So whoever has used bytes of the file asks `is_whole` afterwards,
// and throws away what came of them if it is not.
class MappedFile {
  public:
    static constexpr char kCutShort[] = "the file has become shorter since it was opened, or cannot be read any more";

    // Throws as `open_regular_file`, and std::system_error where it cannot be mapped.
    static MappedFile& map(const char* path);
    // The mapping that holds the byte at `address`; null where none does.
    static const MappedFile* at(const void* address);
    void unmap();

    MappedFile(const MappedFile&) = delete;
    MappedFile& operator=(const MappedFile&) = delete;

    std::span<const std::uint8_t> bytes() const { return {begin_.load(std::memory_order_relaxed), size_}; }

    // Whether the file still has the bytes that it had when it was mapped: two loads. The first one is of its last page,
    // and gets SIGBUS, which sets `is_cut_`, where that page is gone.
    bool is_whole() const {
        const bool has_its_end = *static_cast<const volatile std::uint8_t*>(last_) == last_value_;
        std::atomic_signal_fence(std::memory_order_seq_cst);
        return has_its_end && !is_cut_.load(std::memory_order_relaxed);
    }

  private:
    friend bool put_zeros_behind_cut(void* address);

    MappedFile() = default;
    static MappedFile& take_free_one();
    bool holds(const void* address) const;

    // Of all that there are, in a list to which a signal handler may come at any time: they are used again, but never
    // freed.
    MappedFile* next_ = nullptr;
    std::atomic<bool> is_taken_{true};
    std::atomic<const std::uint8_t*> begin_{nullptr}, end_{nullptr};
    std::atomic<bool> is_cut_{false};
    std::size_t size_ = 0;
    // The last byte that is not 0 in the file's last page, or any where all are: what is lost behind it reads as it was.
    const std::uint8_t* last_ = nullptr;
    std::uint8_t last_value_ = 0;
};

// See to it that SIGBUS for a mapped file is ours; any other one goes to the handler that was there before. May be called
// again, where another handler may have taken its place.
void catch_bus_errors();

}  // namespace fastvit
