#include "records/tfrecord_index.hpp"

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <string_view>

#include "records/crc32c.hpp"
#include "records/header_pages.hpp"
#include "records/quoted.hpp"

namespace fastvit {

namespace {

using Bytes = std::span<const std::uint8_t>;

[[noreturn]] void fail(const std::string& problem, const std::string& remedy = "copy or write it again") {
    throw std::invalid_argument(problem + "; " + remedy);
}

// A record is the length of its Example, that number's checksum, the Example and its checksum. Numbers are little-endian.
constexpr std::size_t kLengthSize = 8, kChecksumSize = 4, kHeadSize = kLengthSize + kChecksumSize;

std::uint64_t number(Bytes bytes) {
    std::uint64_t value = 0;
    for (std::size_t i = bytes.size(); i > 0; --i) value = value << 8 | bytes[i - 1];
    return value;
}

// gzip's magic number, or a header of zlib: deflate with a window of 32 KiB, and a checksum of its two bytes.
bool is_compressed(Bytes head) {
    return (head[0] == 0x1F && head[1] == 0x8B) || (head[0] == 0x78 && (head[0] * 256 + head[1]) % 31 == 0);
}

// The Example of the record at `position`.
Bytes example_at(Bytes file, std::int64_t position) {
    const Bytes record = file.subspan(static_cast<std::size_t>(position));
    if (record.size() < kHeadSize)
        fail(std::to_string(record.size()) + " bytes are left of its head's " + std::to_string(kHeadSize) +
             ": it is cut short");
    const Bytes length_bytes = record.first(kLengthSize);
    if (number(record.subspan(kLengthSize, kChecksumSize)) != tfrecord_checksum({length_bytes})) {
        if (position == 0 && is_compressed(record))
            fail("the file is compressed, but images are read at random", "decompress it, or write it without compression");
        fail("the checksum of its length is wrong: it is damaged, or the file is no TFRecord");
    }
    const std::uint64_t length = number(length_bytes);
    const std::size_t left = record.size() - kHeadSize;
    if (left < kChecksumSize || length > left - kChecksumSize)
        fail(std::to_string(left - std::min(left, kChecksumSize)) + " bytes are left of its " + std::to_string(length) +
             ": it is cut short");
    return record.subspan(kHeadSize, static_cast<std::size_t>(length));
}

// Of protocol buffers this needs so little that it is read here by hand: a message is fields one behind the other, each
// with a tag, which has the field's number and the type of what follows.
// Source: https://protobuf.dev/programming-guides/encoding
enum WireType { kVarint = 0, kFixed64 = 1, kDelimited = 2, kFixed32 = 5 };

class Message {
  public:
    explicit Message(Bytes bytes) : left_(bytes) {}

    struct Field {
        std::uint64_t tag;
        std::uint64_t value;  // of a varint
        Bytes content;        // of the others

        bool is(std::uint64_t number, WireType type) const { return tag == (number << 3 | type); }
    };

    // Step to the next field; false at the end. Throws std::invalid_argument where none can be read.
    bool next(Field& field) {
        if (left_.empty()) return false;
        field = {varint(), 0, {}};
        switch (field.tag & 7) {
            case kVarint:
                field.value = varint();
                break;
            case kFixed64:
                field.content = take(8);
                break;
            case kDelimited:
                field.content = take(varint());
                break;
            case kFixed32:
                field.content = take(4);
                break;
            default:
                fail("its Example has a field of the unknown wire type " + std::to_string(field.tag & 7));
        }
        return true;
    }

    bool is_empty() const { return left_.empty(); }

    // Seven bits a byte, the lowest first; the top bit says that more follow.
    std::uint64_t varint() {
        std::uint64_t value = 0;
        for (unsigned shift = 0; shift < 64 && !left_.empty(); shift += 7) {
            const std::uint8_t byte = take(1)[0];
            if (shift == 63 && byte > 1) break;  // more than 64 bits
            value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
            if (byte < 0x80) return value;
        }
        fail("its Example has a number that does not end");
    }

  private:
    Bytes take(std::uint64_t size) {
        if (size > left_.size()) fail("its Example has a field that does not end in it");
        const Bytes taken = left_.first(static_cast<std::size_t>(size));
        left_ = left_.subspan(static_cast<std::size_t>(size));
        return taken;
    }

    Bytes left_;
};

// Calls `use` with the name and the Feature of each entry of an Example: field 1 is Features, whose field 1 is a map.
// Source: tensorflow/core/example/example.proto and feature.proto
template <typename Use>
void for_each_feature(Bytes example, const Use& use) {
    Message outer(example);
    for (Message::Field features; outer.next(features);) {
        if (!features.is(1, kDelimited)) continue;
        Message map(features.content);
        for (Message::Field item; map.next(item);) {
            if (!item.is(1, kDelimited)) continue;
            Message entry(item.content);
            Bytes name, feature;
            for (Message::Field part; entry.next(part);) {
                if (part.is(1, kDelimited)) name = part.content;
                if (part.is(2, kDelimited)) feature = part.content;
            }
            use(std::string_view(reinterpret_cast<const char*>(name.data()), name.size()), feature);
        }
    }
}

// A Feature's fields.
constexpr std::uint64_t kBytesList = 1, kInt64List = 3;

// The value of a list of bytes that has just one.
std::optional<Bytes> only_bytes(Bytes feature) {
    std::optional<Bytes> only;
    Message lists(feature);
    for (Message::Field list; lists.next(list);) {
        if (!list.is(kBytesList, kDelimited)) continue;
        Message values(list.content);
        for (Message::Field value; values.next(value);) {
            if (!value.is(1, kDelimited)) continue;
            if (only) return std::nullopt;
            only = value.content;
        }
    }
    return only;
}

// The value of a list of integers that has just one; packed, as they are written, or not.
std::optional<std::uint64_t> only_number(Bytes feature) {
    std::optional<std::uint64_t> only;
    Message lists(feature);
    for (Message::Field list; lists.next(list);) {
        if (!list.is(kInt64List, kDelimited)) continue;
        Message values(list.content);
        for (Message::Field value; values.next(value);) {
            if (value.is(1, kVarint)) {
                if (only) return std::nullopt;
                only = value.value;
            } else if (value.is(1, kDelimited)) {
                for (Message packed(value.content); !packed.is_empty();) {
                    if (only) return std::nullopt;
                    only = packed.varint();
                }
            }
        }
    }
    return only;
}

// Which of the names that a feature may have it has, and what it is. The first name counts; of two features of one name
// the last, as for all readers of protocol buffers.
class NamedFeature {
  public:
    explicit NamedFeature(const std::vector<std::string>& names) : names_(names), place_(names.size()) {}

    void offer(std::string_view name, Bytes feature) {
        const auto place = static_cast<std::size_t>(std::find(names_.begin(), names_.end(), name) - names_.begin());
        if (place < names_.size() && place <= place_) place_ = place, feature_ = feature;
    }

    // Throws std::invalid_argument, with what `example` has instead, where there was none.
    Bytes get(Bytes example) const {
        if (place_ < names_.size()) return feature_;
        std::string problem = "it has no feature ";
        for (const std::string& name : names_) problem += (&name == &names_.front() ? "" : " or ") + name;
        std::size_t num_others = 0;
        for_each_feature(example, [&](std::string_view name, Bytes) {
            if (num_others < 20) problem += (num_others ? ", " : ", only ") + quoted(name);
            ++num_others;
        });
        fail(problem);
    }

    const std::string& name() const { return names_[place_]; }

  private:
    const std::vector<std::string>& names_;
    std::size_t place_;
    Bytes feature_;
};

void append(TFRecordImages& images, Bytes file, Bytes example, const TFRecordFeatures& features) {
    NamedFeature image_feature(features.image), label_feature(features.label);
    for_each_feature(example, [&](std::string_view name, Bytes feature) {
        image_feature.offer(name, feature);
        label_feature.offer(name, feature);
    });
    const auto image = only_bytes(image_feature.get(example));
    if (!image) fail("its " + image_feature.name() + " is not one image file");
    const auto label = only_number(label_feature.get(example));
    if (!label || *label >> 63) fail("its " + label_feature.name() + " is not one number from 0");
    images.offsets.push_back(image->data() - file.data());
    images.sizes.push_back(static_cast<std::int64_t>(image->size()));
    images.labels.push_back(static_cast<std::int64_t>(*label));
}

}  // namespace

TFRecordImages find_tfrecord_images(std::span<const std::uint8_t> file, const TFRecordFeatures& features) {
    TFRecordImages images;
    HeaderPages pages(file);
    for (std::int64_t position = 0; position < static_cast<std::int64_t>(file.size());) {
        try {
            const Bytes example = example_at(file, position);
            append(images, file, example, features);
            images.records.push_back(position);
            position += static_cast<std::int64_t>(kHeadSize + example.size() + kChecksumSize);
        } catch (const std::invalid_argument& error) {
            throw std::invalid_argument("record " + std::to_string(images.records.size()) + " at byte " +
                                        std::to_string(position) + " of " + std::to_string(file.size()) + ": " +
                                        error.what());
        }
        pages.step_to(position);
    }
    return images;
}

bool tfrecord_is_sound(std::span<const std::uint8_t> file, std::int64_t position) {
    if (position < 0 || position > static_cast<std::int64_t>(file.size())) fail("a position outside the file");
    const Bytes example = example_at(file, position);
    const Bytes checksum = file.subspan(static_cast<std::size_t>(example.data() - file.data()) + example.size(), kChecksumSize);
    return number(checksum) == tfrecord_checksum({example});
}

std::uint32_t tfrecord_checksum(const std::vector<std::span<const std::uint8_t>>& pieces) {
    std::uint32_t crc = 0;
    for (const Bytes piece : pieces) crc = crc32c(crc, piece);
    return (crc >> 15 | crc << 17) + 0xA282EAD8;  // masked, as checksums of data that holds checksums should be
}

}  // namespace fastvit
