#include "records/mapped_records.hpp"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>

#include "records/file.hpp"
#include "records/mapped_file.hpp"

namespace fastvit {

namespace {

// Below this the system call costs more than the wait for the disk that it may spare.
constexpr std::int64_t kWorthPrefetching = 1 << 14;

}  // namespace

MappedRecords::MappedRecords(const Tables& tables, std::shared_ptr<const void> keep_alive)
    : tables_(tables), keep_alive_(std::move(keep_alive)), mapped_file_(MappedFile::at(tables.file.data())) {
    const std::size_t num_records = tables.offsets.size();
    if (tables.sizes.size() != num_records || tables.raw.size() != num_records ||
        tables.heights.size() != num_records || tables.widths.size() != num_records)
        throw std::invalid_argument("the tables must have one entry for each record");
    const auto length = static_cast<std::int64_t>(tables.file.size());
    for (std::size_t i = 0; i < num_records; ++i) {
        const std::int64_t offset = tables.offsets[i], size = tables.sizes[i];
        const std::int64_t height = tables.heights[i], width = tables.widths[i];
        if (offset < 0 || size < 0 || offset > length || size > length - offset)
            throw std::invalid_argument("record " + std::to_string(i) + " lies outside the file");
        if (height < 0 || width < 0 || height > 65535 || width > 65535 ||
            (tables.raw[i] && (height == 0 || width == 0 || size != 3 * height * width)))
            throw std::invalid_argument("record " + std::to_string(i) + " has a size that it cannot have");
    }
}

Record MappedRecords::read(std::size_t index, std::vector<std::uint8_t>&) const {
    return {tables_.file.data() + tables_.offsets[index], static_cast<std::size_t>(tables_.sizes[index]),
            tables_.raw[index] != 0, static_cast<std::int32_t>(tables_.heights[index]),
            static_cast<std::int32_t>(tables_.widths[index]), mapped_file_};
}

void MappedRecords::prefetch(std::size_t index) const {
    if (tables_.sizes[index] < kWorthPrefetching) return;
    static const auto page = static_cast<std::uintptr_t>(sysconf(_SC_PAGESIZE));
    const auto begin = reinterpret_cast<std::uintptr_t>(tables_.file.data() + tables_.offsets[index]);
    const std::uintptr_t first = begin / page * page;
    madvise(reinterpret_cast<void*>(first), begin + static_cast<std::size_t>(tables_.sizes[index]) - first, MADV_WILLNEED);
}

JoinedRecords::JoinedRecords(std::vector<std::shared_ptr<const Records>> parts) : parts_(std::move(parts)) {
    for (const auto& part : parts_) ends_.push_back(size() + part->size());
}

std::pair<const Records&, std::size_t> JoinedRecords::place(std::size_t index) const {
    const auto end = std::upper_bound(ends_.begin(), ends_.end(), index);
    const Records& part = *parts_[static_cast<std::size_t>(end - ends_.begin())];
    return {part, index - (*end - part.size())};
}

Record JoinedRecords::read(std::size_t index, std::vector<std::uint8_t>& scratch) const {
    const auto [part, number] = place(index);
    return part.read(number, scratch);
}

void JoinedRecords::prefetch(std::size_t index) const {
    const auto [part, number] = place(index);
    part.prefetch(number);
}

Record FileRecords::read(std::size_t index, std::vector<std::uint8_t>& scratch) const {
    const File file(paths_[index]);
    const std::size_t size = file.size();
    if (scratch.size() < size) scratch.resize(size);
    return {scratch.data(), file.read(scratch.data(), size), false, 0, 0};
}

}  // namespace fastvit
