// Damaged JPEGs through the engine and the converters, built with sanitizers. Each is decoded twice, as one of two that
// take turns, which is how the loading threads do it, and alone: both must give the same pixels or fail for the same reason.
// Where libjpeg alone decodes the whole image without a complaint, these must be the pixels of that, but for codes that there
// are none of: libjpeg-turbo mostly takes them for zeros and says nothing.
// What the converters write of it must be whole, and have the same pixels where its scan was written anew. What is spliced
// of an image that is whole must have the same pixels.
//   fuzz NUM_IMAGES    prints how many decoded and how many failed
#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <numeric>
#include <optional>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "convert/image_converter.hpp"
#include "convert/restart_transcoder.hpp"
#include "convert/scan_transcoder.hpp"
#include "engine/encoded_crops.hpp"
#include "engine/sampler.hpp"
#include "jpeg_files.hpp"

using namespace fastvit;

namespace {

constexpr JpegKind kKinds[] = {
    {3, 1, 1, 90, 0, false, false, false}, {3, 2, 1, 90, 0, false, false, true},   {3, 1, 2, 80, 0, false, false, false},
    {3, 2, 2, 90, 0, false, false, false}, {3, 2, 2, 90, 2, false, false, true},   {3, 2, 2, 90, 24, false, false, false},
    {3, 4, 1, 50, 3, false, false, false}, {3, 2, 2, 100, 0, false, false, false}, {3, 2, 2, 99, 7, false, false, true},
    {3, 2, 2, 75, 0, true, false, false},  {3, 2, 1, 75, 0, false, true, false},   {1, 1, 1, 90, 5, false, false, false},
    {3, 1, 1, 85, 0, true, false, false},  {1, 1, 1, 85, 0, true, false, false},   {4, 1, 1, 85, 0, true, false, false},
    {1, 2, 2, 90, 0, false, false, true},  {4, 1, 1, 85, 0, false, false, false},  {4, 2, 2, 85, 4, false, false, false},
    {3, 2, 2, 75, 0, true, true, false},   {3, 2, 2, 90, 1, false, false, true},   {3, 2, 2, 75, 3, false, false, false},
    {3, 1, 2, 80, 1, false, false, true},  {3, 2, 1, 90, 9, false, false, false},  {1, 1, 1, 85, 1, false, false, false},
};

// Cut out the segments with the marker FF `code`, such as all tables of one sort.
void cut_segments(Bytes& bytes, std::uint8_t code) {
    for (std::size_t at = 2; at + 4 <= bytes.size() && bytes[at] == 0xFF && bytes[at + 1] != 0xDA;) {
        const std::size_t length = 2 + 256u * bytes[at + 2] + bytes[at + 3];
        if (at + length > bytes.size()) return;
        if (bytes[at + 1] == code) {
            const auto begin = bytes.begin() + static_cast<std::ptrdiff_t>(at);
            bytes.erase(begin, begin + static_cast<std::ptrdiff_t>(length));
        } else {
            at += length;
        }
    }
}

// Cut off what comes behind one of the scans of an image that has several, and put an end marker there.
void cut_scans(Bytes& bytes, std::mt19937& random) {
    std::vector<std::ptrdiff_t> scans;
    for (std::size_t at = 2; at + 1 < bytes.size(); ++at)
        if (bytes[at] == 0xFF && bytes[at + 1] == 0xDA) scans.push_back(static_cast<std::ptrdiff_t>(at));
    if (scans.size() < 2) return;
    bytes.erase(bytes.begin() + scans[1 + random() % (scans.size() - 1)], bytes.end());
    bytes.insert(bytes.end(), {0xFF, 0xD9});
}

void mutate(Bytes& bytes, std::mt19937& random) {
    const auto anywhere = [&] { return random() % bytes.size(); };
    switch (random() % 7) {
        case 0:
            bytes.resize(anywhere() + 1);
            break;
        case 1:  // in the headers, mostly
            for (unsigned n = 1 + random() % 4; n; --n)
                bytes[random() % std::min<std::size_t>(bytes.size(), 700)] = static_cast<std::uint8_t>(random());
            break;
        case 2:
            for (unsigned n = 1 + random() % 8; n; --n) bytes[anywhere()] = static_cast<std::uint8_t>(random());
            break;
        case 3: {  // a marker out of nowhere
            const std::size_t at = anywhere();
            bytes[at] = 0xFF;
            if (at + 1 < bytes.size()) bytes[at + 1] = static_cast<std::uint8_t>(0xC0 + random() % 0x40);
            break;
        }
        case 4:  // the quantisation or the Huffman tables
            cut_segments(bytes, random() % 2 ? 0xDB : 0xC4);
            break;
        case 5:
            cut_scans(bytes, random);
            break;
        default: {
            const std::size_t from = anywhere(), count = std::min<std::size_t>(bytes.size() - from, 1 + random() % 64);
            bytes.erase(bytes.begin() + static_cast<std::ptrdiff_t>(from),
                        bytes.begin() + static_cast<std::ptrdiff_t>(from + count));
            if (bytes.empty()) bytes.push_back(0);
        }
    }
}

struct Outcome {
    Bytes pixels;
    std::string failure;  // empty where the image was decoded

    bool operator==(const Outcome&) const = default;
};

struct Image {
    // Of exactly the needed size, so that a byte read or written beyond it is found.
    Image(const Bytes& mutated, std::size_t index, const CropRule& rule)
        : bytes(mutated.begin(), mutated.end()), index(index), rule(rule), pixels(num_pixel_bytes()) {}

    std::size_t num_pixel_bytes() const {
        return 3 * static_cast<std::size_t>(rule.resolution) * static_cast<std::size_t>(rule.resolution);
    }
    Record record() const { return {bytes.data(), bytes.size(), false, 0, 0}; }

    Bytes bytes;
    std::size_t index;
    CropRule rule;
    Bytes pixels;
};

Outcome decode_alone(const Image& image, Sampler& sampler) {
    Outcome outcome{Bytes(image.num_pixel_bytes()), ""};
    try {
        sampler.load(image.record(), image.index, image.rule, outcome.pixels.data());
    } catch (const ImageError& error) {
        outcome = {{}, error.what()};
    }
    return outcome;
}

// Rows one below the other.
class PixelSink final : public RowSink {
  public:
    PixelSink(std::int32_t height, std::int32_t width)
        : row_bytes_(3 * static_cast<std::size_t>(width)),
          pixels_(row_bytes_ * static_cast<std::size_t>(height + JpegDecoder::kMaxRowsAtOnce)) {}

    std::uint8_t* row_memory(int ahead) override {
        return pixels_.data() + (num_rows_ + static_cast<std::size_t>(ahead)) * row_bytes_;
    }
    void push() override { ++num_rows_; }

    std::span<const std::uint8_t> pixels() const { return {pixels_.data(), num_rows_ * row_bytes_}; }

  private:
    const std::size_t row_bytes_;
    std::size_t num_rows_ = 0;
    Bytes pixels_;
};

// What libjpeg's own entropy decoder makes of all pixels, of which the crop is taken afterwards.
class WholeDecoder {
  public:
    // None where the image is damaged in any place.
    std::optional<Outcome> decode(const Image& image) {
        try {
            decoder_.open(image.bytes);
            decoder_.start(1);
            const std::int32_t height = decoder_.output_height(), width = decoder_.output_width();
            PixelSink sink(height, width);
            decoder_.begin({0, 0, width, height});
            while (decoder_.advance(sink)) continue;
            Outcome outcome{Bytes(image.num_pixel_bytes()), ""};
            const Record record{sink.pixels().data(), sink.pixels().size(), true, height, width};
            cropper_.load(record, image.index, image.rule, outcome.pixels.data());
            return outcome;
        } catch (const ImageError&) {
            return std::nullopt;
        }
    }

  private:
    JpegDecoder decoder_{false};
    Sampler cropper_{false};
};

// One of the two samplers of a thread, and its image.
class Slot {
  public:
    explicit Slot(bool scaled_decode) : sampler_(scaled_decode) {}

    void pair_with(Slot& other) { sampler_.pair_with(other.sampler_); }
    bool is_idle() const { return !image_; }

    void take(Image image) {
        image_ = std::move(image);
        is_begun_ = false;
    }

    // Some more rows; the outcome where these were the last ones.
    std::optional<Outcome> advance() {
        Outcome outcome;
        try {
            is_begun_ = is_begun_ ? sampler_.advance()
                                  : sampler_.begin(image_->record(), image_->index, image_->rule, image_->pixels.data());
            if (is_begun_) return std::nullopt;
            outcome.pixels = image_->pixels;
        } catch (const ImageError& error) {
            outcome.failure = error.what();
        }
        finished_ = std::move(image_);
        image_.reset();
        return outcome;
    }

    const Image& finished() const { return *finished_; }

  private:
    Sampler sampler_;
    std::optional<Image> image_, finished_;
    bool is_begun_ = false;
};

constexpr char kBadCode[] = "Corrupt JPEG data: bad Huffman code";

class Fuzzer {
  public:
    explicit Fuzzer(bool scaled_decode)
        : scaled_decode_(scaled_decode), one_(scaled_decode), other_(scaled_decode), alone_(scaled_decode) {
        one_.pair_with(other_);
    }

    // Decode it in one of the two slots, as soon as it is free.
    void take(const Image& image) {
        while (!one_.is_idle() && !other_.is_idle()) advance();
        (one_.is_idle() ? one_ : other_).take(image);
    }

    void finish() {
        while (!one_.is_idle() || !other_.is_idle()) advance();
    }

    int num_decoded = 0, num_failed = 0, num_whole = 0, num_different = 0;

  private:
    void advance() {
        for (Slot* slot : {&one_, &other_}) {
            if (slot->is_idle()) continue;
            const std::optional<Outcome> outcome = slot->advance();
            if (!outcome) continue;
            const Image& image = slot->finished();
            compare("in turn", *outcome, "alone", decode_alone(image, alone_), image);
            const auto whole = scaled_decode_ ? std::nullopt : whole_.decode(image);
            if (whole && outcome->failure != kBadCode) {
                ++num_whole;
                compare("as a region", *outcome, "as a whole", *whole, image);
            }
            ++(outcome->failure.empty() ? num_decoded : num_failed);
        }
    }

    void compare(const char* how, const Outcome& outcome, const char* other, const Outcome& expected, const Image& image) {
        if (outcome == expected) return;
        std::printf("image %zu: \"%s\" %s, \"%s\" %s\n", image.index, outcome.failure.c_str(), how,
                    expected.failure.c_str(), other);
        ++num_different;
    }

    const bool scaled_decode_;
    WholeDecoder whole_;
    Slot one_, other_;
    Sampler alone_;
};

std::optional<Bytes> transcode_one(const Bytes& bytes, int interval) {
    const std::span<const std::uint8_t> one(bytes);
    return transcode_scans({&one, 1}, interval).front();
}

class ConverterCheck {
  public:
    void rewrite(const Bytes& bytes, int interval) {
        const std::optional<Bytes> transcoded = transcode_one(bytes, interval);
        if (transcoded) {
            ++num_transcoded;
            compare("written anew", decode(bytes), decode(*transcoded));
        }
        // In turn with another image each comes out as alone.
        const std::array<std::span<const std::uint8_t>, 3> three{bytes, other_, bytes};
        const auto together = transcode_scans(three, interval);
        if (together[0] != transcoded || together[2] != transcoded || together[1] != transcode_one(other_, interval)) {
            std::fprintf(stderr, "written anew: together differs from alone\n");
            std::abort();
        }
        if (transcoded) other_ = bytes;
        try {
            add_restart_markers(bytes, interval);
        } catch (const ImageError&) {
        }
    }

    void reencode(const Bytes& bytes, std::mt19937& random) {
        const auto below = [&](unsigned limit) { return static_cast<int>(random() % limit); };
        const SizeLimits limits{below(200), below(2) ? below(100) : 0};
        const JpegOptions options{1 + below(100), 1 + below(2), 1 + below(2), below(9)};
        try {
            const PixelView view = converter_.decode(bytes, limits, below(2));
            const Bytes encoded = converter_.encode(view, options);
            ++num_encoded;
            const Outcome outcome = decode(encoded);
            if (outcome.pixels.size() != 3 * static_cast<std::size_t>(view.height) * static_cast<std::size_t>(view.width))
                compare("encoded", outcome, {});
        } catch (const ImageError&) {
        }
    }

    int num_transcoded = 0, num_encoded = 0, num_different = 0;

  private:
    Bytes other_;  // the last one that was written anew
    Outcome decode(const Bytes& bytes) {
        try {
            const PixelView view = whole_.decode(bytes, {0, 0}, false);
            return {Bytes(view.data, view.data + std::ptrdiff_t{3} * view.height * view.width), ""};
        } catch (const ImageError& error) {
            return {{}, error.what()};
        }
    }

    void compare(const char* what, const Outcome& before, const Outcome& after) {
        if (before == after) return;
        std::printf("%s: \"%s\" before, \"%s\" after\n", what, before.failure.c_str(), after.failure.c_str());
        ++num_different;
    }

    ImageConverter converter_, whole_;
};

// A single image, without a table that says how large it is.
class OneRecord final : public Records {
  public:
    explicit OneRecord(const Bytes& bytes) : bytes_(bytes) {}

    std::size_t size() const override { return 1; }
    Record read(std::size_t, std::vector<std::uint8_t>&) const override {
        return {bytes_.data(), bytes_.size(), false, 0, 0};
    }
    void prefetch(std::size_t) const override {}

  private:
    const Bytes& bytes_;
};

class SpliceCheck {
  public:
    void splice(const Image& image) {
        const OneRecord records(image.bytes);
        const auto first = 8 * static_cast<std::int64_t>(image.index);
        std::array<std::int64_t, 8> samples;
        std::iota(samples.begin(), samples.end(), first);
        CropRule rule = image.rule;
        rule.kind = CropKind::random_resized;
        const EncodedCrops whole = encoded_crops(records, samples, rule, false);
        const EncodedCrops spliced = encoded_crops(records, samples, rule, true);
        for (std::size_t number = 0; number < samples.size(); ++number) {
            const EncodedCrop &before = whole.rows[number], &after = spliced.rows[number];
            if (after.memory.empty()) continue;
            ++num_spliced;
            const std::optional<Bytes> expected = pixels_of(before), made = pixels_of(after);
            num_compared += expected.has_value();
            if (!expected || made == expected) continue;
            std::printf("image %zu: spliced it has other pixels\n", image.index);
            ++num_different;
        }
    }

    int num_spliced = 0, num_compared = 0, num_different = 0;

  private:
    // Of the box; none where the image is damaged in any place.
    std::optional<Bytes> pixels_of(const EncodedCrop& crop) {
        const Bytes jpeg(crop.image.begin(), crop.image.end());  // of exactly the needed size, as above
        try {
            const PixelView view = decoder_.decode(jpeg, {0, 0}, false);
            Bytes pixels;
            for (std::int32_t y = crop.source.box.top; y < crop.source.box.top + crop.source.box.height; ++y) {
                const std::uint8_t* const row = view.data + std::ptrdiff_t{3} * (y * view.width + crop.source.box.left);
                pixels.insert(pixels.end(), row, row + std::ptrdiff_t{3} * crop.source.box.width);
            }
            return pixels;
        } catch (const ImageError&) {
            return std::nullopt;
        }
    }

    ImageConverter decoder_;
};

}  // namespace

int main(int argc, char** argv) {
    const int num_images = argc > 1 ? std::atoi(argv[1]) : 20000;
    std::mt19937 random(1);
    std::vector<Bytes> originals;
    for (const JpegKind& kind : kKinds)
        for (const auto& [height, width] : {std::pair{97, 131}, {16, 16}, {1, 1}, {40, 7}, {150, 230}})
            originals.push_back(encode(kind, height, width, random));
    Fuzzer exact(false), scaled(true);
    ConverterCheck converters;
    SpliceCheck splices;
    for (int number = 0; number < num_images; ++number) {
        const auto index = static_cast<std::size_t>(number);
        Bytes bytes = originals[index % originals.size()];
        if (index >= originals.size()) mutate(bytes, random);
        const int resolution = 1 + static_cast<int>(random() % 60);
        const CropRule rule{static_cast<CropKind>(random() % 4), resolution, 1, 0, {0.08, 1, 0.75, 4.0 / 3}, 0.875,
                            (resolution - 1) / 2, static_cast<Interpolation>(random() % 2)};
        const Image image(bytes, index, rule);
        (number % 4 ? exact : scaled).take(image);
        if (index + 1 == originals.size()) {
            exact.finish();
            scaled.finish();
            if (exact.num_failed + scaled.num_failed > 0) return std::puts("a whole image failed"), 1;
        }
        if (number == 0) exact.take(Image(encode_rising(), index, rule));
        if (number % 4 == 0) converters.rewrite(image.bytes, 1 + number % 5);
        if (number % 4 == 2) converters.reencode(image.bytes, random);
        splices.splice(image);
    }
    exact.finish();
    scaled.finish();
    std::printf("%d mutated JPEGs: %d decoded (%d compared with all of the image), %d failed by name\n", num_images,
                exact.num_decoded + scaled.num_decoded, exact.num_whole, exact.num_failed + scaled.num_failed);
    std::printf("%d rewritten symbol by symbol, %d re-encoded\n", converters.num_transcoded, converters.num_encoded);
    std::printf("%d spliced (%d compared with all of the image)\n", splices.num_spliced, splices.num_compared);
    return exact.num_different + scaled.num_different + converters.num_different + splices.num_different > 0;
}
