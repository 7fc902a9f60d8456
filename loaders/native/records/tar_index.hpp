// Tar archives that hold samples as WebDataset writes them: found by their headers alone, without reading an image.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace fastvit {

// A regular file in an archive.
struct TarMember {
    std::string name;
    std::int64_t header;        // where its first header begins: one that holds a long name, where there is one
    std::int64_t offset, size;  // its bytes
};

// Steps through the regular files of an archive in ustar, GNU, pax or the old V7 format. Other kinds of member are
// passed over. Each header's checksum is checked, and that what it tells of lies in the archive.
class TarReader {
  public:
    explicit TarReader(std::span<const std::uint8_t> archive, std::int64_t begin = 0)
        : archive_(archive), position_(begin) {}

    // Step to the next regular file; false at the archive's end. Throws std::invalid_argument where the archive is
    // damaged or cut short, or holds a sparse file.
    bool next(TarMember& member);

    // Where the next header lies.
    std::int64_t position() const { return position_; }

  private:
    struct Extension;  // what headers before a member's own say of it

    const std::uint8_t* header() const;
    void extend(Extension& extension, char kind, std::int64_t offset, std::int64_t size) const;
    void read_pax(Extension& extension, bool is_global, std::int64_t offset, std::int64_t size) const;
    void check_is_end() const;
    [[noreturn]] void fail(const std::string& problem, std::int64_t offset) const;

    const std::span<const std::uint8_t> archive_;
    std::int64_t position_;
};

// The archive's samples in order, one entry each.
struct TarSamples {
    std::vector<std::int64_t> headers, offsets, sizes;  // the images'
    std::vector<std::uint8_t> label_is_json;
    std::vector<std::uint8_t> label_text;  // all label files one behind the other
    std::vector<std::int64_t> label_ends;  // where in it each ends
};

// Neighbouring files whose paths are the same up to the first dot of their base names form a sample: an image, whose
// extension is one of `image_extensions` (lower case, without a dot), and a label, `.cls` before `.json`. Other files
// are passed over. Of a mapped archive only the pages of headers and labels are read, where images are large.
// Throws std::invalid_argument where a sample lacks image or label, or has one twice.
TarSamples find_tar_samples(std::span<const std::uint8_t> archive, const std::vector<std::string>& image_extensions);

}  // namespace fastvit
