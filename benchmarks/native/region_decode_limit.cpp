// The ceiling of a loader that leaves decoding to libjpeg-turbo: threads that only decode each crop's rows and columns
// and throw the pixels away. With the engine it shares how libjpeg's errors are reported and what is refused, and nothing else.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <atomic>
#include <cstdint>
#include <mutex>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "jpeg/errors.hpp"
#include "jpeg/input_checks.hpp"

#define TEXT_OF(macro) #macro
#define TEXT(macro) TEXT_OF(macro)

namespace nb = nanobind;

namespace {

using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Numbers = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Boxes = nb::ndarray<const std::int32_t, nb::shape<-1, 4>, nb::c_contig, nb::device::cpu>;

class Decoder {
  public:
    Decoder() {
        info_.err = errors_.get();
        jpeg_create_decompress(&info_);
        fastvit::limit_resources(info_, progress_);
    }
    ~Decoder() { jpeg_destroy_decompress(&info_); }
    Decoder(const Decoder&) = delete;
    Decoder& operator=(const Decoder&) = delete;

    // Decode a box (top, left, height, width). Throws fastvit::ImageError.
    void decode(std::span<const std::uint8_t> jpeg, const std::int32_t* box) {
        const auto common = reinterpret_cast<j_common_ptr>(&info_);
        try {
            errors_.run(common, [&] {
                jpeg_mem_src(&info_, jpeg.data(), static_cast<unsigned long>(jpeg.size()));
                jpeg_read_header(&info_, TRUE);
                info_.out_color_space = JCS_RGB;
                jpeg_start_decompress(&info_);
            });
            if (static_cast<JDIMENSION>(box[0] + box[2]) > info_.output_height ||
                static_cast<JDIMENSION>(box[1] + box[3]) > info_.output_width)
                throw fastvit::ImageError("it is smaller than the file's table says");
            errors_.run(common, [&] { read_rows(box); });
        } catch (const fastvit::ImageError&) {
            jpeg_abort_decompress(&info_);
            throw;
        }
        jpeg_abort_decompress(&info_);
    }

  private:
    void read_rows(const std::int32_t* box) {
        JDIMENSION left = static_cast<JDIMENSION>(box[1]), width = static_cast<JDIMENSION>(box[3]);
        jpeg_crop_scanline(&info_, &left, &width);
        if (box[0] > 0) jpeg_skip_scanlines(&info_, static_cast<JDIMENSION>(box[0]));
        const std::size_t stride = 3 * static_cast<std::size_t>(width);
        pixels_.resize(4 * stride);
        std::uint8_t* const pixels = pixels_.data();
        JSAMPROW rows[4] = {pixels, pixels + stride, pixels + 2 * stride, pixels + 3 * stride};
        const auto end = static_cast<JDIMENSION>(box[0] + box[2]);
        while (info_.output_scanline < end) jpeg_read_scanlines(&info_, rows, 4);
    }

    fastvit::JpegErrorManager errors_;
    jpeg_progress_mgr progress_{};
    jpeg_decompress_struct info_{};
    std::vector<std::uint8_t> pixels_;
};

// Decode boxes (top, left, height, width) of the JPEGs at offsets[i], sizes[i] of `file`. Throws ValueError where one
// cannot be decoded.
void decode_regions(const Bytes& file, const Numbers& offsets, const Numbers& sizes, const Boxes& boxes,
                    int num_threads) {
    const nb::gil_scoped_release unlocked;
    const std::size_t num_images = boxes.shape(0);
    std::atomic<std::size_t> next{0};
    std::mutex mutex;
    std::string problem;
    const auto work = [&] {
        Decoder decoder;
        for (std::size_t i; (i = next.fetch_add(1)) < num_images;) {
            const auto offset = offsets.data()[i];
            try {
                decoder.decode({file.data() + offset, static_cast<std::size_t>(sizes.data()[i])}, boxes.data() + 4 * i);
            } catch (const fastvit::ImageError& error) {
                const std::scoped_lock lock{mutex};
                problem = "the JPEG at byte " + std::to_string(offset) + " cannot be decoded: " + error.what();
                next = num_images;
            }
        }
    };
    std::vector<std::thread> threads;
    for (int number = 0; number < num_threads; ++number) threads.emplace_back(work);
    for (std::thread& thread : threads) thread.join();
    if (!problem.empty()) throw nb::value_error(problem.c_str());
}

}  // namespace

NB_MODULE(_limit, module) {
    module.doc() = "Region decoding with libjpeg-turbo and nothing else: what a loader that relies on it cannot exceed.";
    module.def("decode_regions", &decode_regions, nb::arg("file"), nb::kw_only(), nb::arg("offsets"), nb::arg("sizes"),
               nb::arg("boxes"), nb::arg("num_threads"));
    module.attr("libjpeg_turbo_version") = TEXT(LIBJPEG_TURBO_VERSION);
}
