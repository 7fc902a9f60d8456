// The ceiling of a loader that leaves decoding to libjpeg-turbo: threads that only decode each crop's rows and columns and
// throw the pixels away. It shares no code with the engine.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <atomic>
#include <cstdio>
#include <cstdint>
#include <thread>
#include <vector>

#include <jpeglib.h>

namespace nb = nanobind;

namespace {

using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Numbers = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Boxes = nb::ndarray<const std::int32_t, nb::shape<-1, 4>, nb::c_contig, nb::device::cpu>;

struct Decoder {
    Decoder() {
        info.err = jpeg_std_error(&errors);
        jpeg_create_decompress(&info);
    }
    ~Decoder() { jpeg_destroy_decompress(&info); }

    void decode(const std::uint8_t* data, std::int64_t size, const std::int32_t* box) {
        jpeg_mem_src(&info, data, static_cast<unsigned long>(size));
        jpeg_read_header(&info, TRUE);
        info.out_color_space = JCS_RGB;
        jpeg_start_decompress(&info);
        JDIMENSION left = static_cast<JDIMENSION>(box[1]), width = static_cast<JDIMENSION>(box[3]);
        jpeg_crop_scanline(&info, &left, &width);
        if (box[0] > 0) jpeg_skip_scanlines(&info, static_cast<JDIMENSION>(box[0]));
        const std::size_t stride = 3 * static_cast<std::size_t>(width);
        row.resize(4 * stride);
        JSAMPROW rows[4] = {row.data(), row.data() + stride, row.data() + 2 * stride, row.data() + 3 * stride};
        const auto end = static_cast<JDIMENSION>(box[0] + box[2]);
        while (info.output_scanline < end) jpeg_read_scanlines(&info, rows, 4);
        jpeg_abort_decompress(&info);
    }

    jpeg_decompress_struct info{};
    jpeg_error_mgr errors{};
    std::vector<std::uint8_t> row;
};

// Decode boxes (top, left, height, width) of the JPEGs at offsets[i], sizes[i] of `file`, which must be whole:
// at a damaged one libjpeg says what is wrong and ends the process.
void decode_regions(const Bytes& file, const Numbers& offsets, const Numbers& sizes, const Boxes& boxes,
                    int num_threads) {
    const nb::gil_scoped_release unlocked;
    std::atomic<std::size_t> next{0};
    const auto work = [&] {
        Decoder decoder;
        for (std::size_t i; (i = next.fetch_add(1)) < boxes.shape(0);)
            decoder.decode(file.data() + offsets.data()[i], sizes.data()[i], boxes.data() + 4 * i);
    };
    std::vector<std::thread> threads;
    for (int number = 0; number < num_threads; ++number) threads.emplace_back(work);
    for (std::thread& thread : threads) thread.join();
}

}  // namespace

NB_MODULE(_limit, module) {
    module.doc() = "Region decoding with libjpeg-turbo and nothing else: what a loader that relies on it cannot exceed.";
    module.def("decode_regions", &decode_regions, nb::arg("file"), nb::kw_only(), nb::arg("offsets"), nb::arg("sizes"),
               nb::arg("boxes"), nb::arg("num_threads"));
}
