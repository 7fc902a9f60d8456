// Records that lie in mapped files, and records that are files of their own.
#pragma once

#include <memory>
#include <span>
#include <string>
#include <utility>

#include "records/records.hpp"

namespace fastvit {

// Records of a mapped file, whose tables say where each one lies; `keep_alive` owns the memory of all spans.
class MappedRecords final : public Records {
  public:
    struct Tables {
        std::span<const std::uint8_t> file;
        std::span<const std::int64_t> offsets, sizes;
        std::span<const std::uint8_t> raw;            // not 0 for RGB pixels instead of an image file
        std::span<const std::int64_t> heights, widths;
    };

    // Throws std::invalid_argument where a record lies outside the file, or a raw one has not the size that it must have.
    MappedRecords(const Tables& tables, std::shared_ptr<const void> keep_alive);

    std::size_t size() const override { return tables_.offsets.size(); }
    Record read(std::size_t index, std::vector<std::uint8_t>& scratch) const override;
    void prefetch(std::size_t index) const override;

  private:
    const Tables tables_;
    const std::shared_ptr<const void> keep_alive_;
    const MappedFile* const mapped_file_;
};

// Data sets one behind the other, such as the shards of one.
class JoinedRecords final : public Records {
  public:
    explicit JoinedRecords(std::vector<std::shared_ptr<const Records>> parts);

    std::size_t size() const override { return ends_.empty() ? 0 : ends_.back(); }
    Record read(std::size_t index, std::vector<std::uint8_t>& scratch) const override;
    void prefetch(std::size_t index) const override;

  private:
    // The part that holds record `index`, and its number there.
    std::pair<const Records&, std::size_t> place(std::size_t index) const;

    const std::vector<std::shared_ptr<const Records>> parts_;
    std::vector<std::size_t> ends_;  // one past each part's last record
};

// Image files, read by whichever thread needs them.
class FileRecords final : public Records {
  public:
    explicit FileRecords(std::vector<std::string> paths) : paths_(std::move(paths)) {}

    std::size_t size() const override { return paths_.size(); }
    Record read(std::size_t index, std::vector<std::uint8_t>& scratch) const override;
    void prefetch(std::size_t) const override {}  // it would have to open the file

  private:
    const std::vector<std::string> paths_;
};

}  // namespace fastvit
