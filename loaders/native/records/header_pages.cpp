#include "records/header_pages.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

namespace fastvit {

namespace {

constexpr std::size_t kFarApart = 1 << 16, kReadAhead = 1 << 20;

}  // namespace

HeaderPages::HeaderPages(std::span<const std::uint8_t> file) : file_(file) { advise(0, file.size(), MADV_RANDOM); }

HeaderPages::~HeaderPages() { advise(0, file_.size(), MADV_NORMAL); }

void HeaderPages::step_to(std::int64_t position) {
    const auto next = static_cast<std::size_t>(position);
    if (next - position_ > kFarApart) run_ = next;
    position_ = next;
    if (next - run_ < kFarApart || next < read_ahead_ || next >= file_.size()) return;
    read_ahead_ = std::min(next + kReadAhead, file_.size());
    advise(next, read_ahead_, MADV_WILLNEED);
}

void HeaderPages::advise(std::size_t begin, std::size_t end, int advice) const {
    static const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    const auto first = reinterpret_cast<std::uintptr_t>(file_.data() + begin) / page * page;
    const auto last = reinterpret_cast<std::uintptr_t>(file_.data() + end);
    madvise(reinterpret_cast<void*>(first), last - first, advice);
}

}  // namespace fastvit
