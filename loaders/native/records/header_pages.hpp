// What the system reads of a mapped file while its headers are looked at.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace fastvit {

// Left to itself the system reads 128 KB around every page: the whole file.
class HeaderPages {
  public:
    explicit HeaderPages(std::span<const std::uint8_t> file);
    ~HeaderPages();
    HeaderPages(const HeaderPages&) = delete;
    HeaderPages& operator=(const HeaderPages&) = delete;

    // Tell that the header at `position` comes next. Where headers have been close together for a while, many are read
    // in one go.
    void step_to(std::int64_t position);

  private:
    void advise(std::size_t begin, std::size_t end, int advice) const;

    const std::span<const std::uint8_t> file_;
    std::size_t position_ = 0;
    std::size_t run_ = 0;  // where the last headers that lie close together begin
    std::size_t read_ahead_ = 0;
};

}  // namespace fastvit
