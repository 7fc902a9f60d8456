#include "convert/restart_transcoder.hpp"

#include <algorithm>

#include "convert/image_converter.hpp"
#include "convert/restart_interval.hpp"
#include "convert/scan_transcoder.hpp"
#include "jpeg/errors.hpp"
#include "jpeg/huffman_decoder.hpp"
#include "jpeg/input_checks.hpp"
#include "jpeg/output.hpp"

namespace fastvit {

namespace {

int round_up_division(int number, int divisor) { return (number + divisor - 1) / divisor; }

// Both of libjpeg's objects.
struct Transcoder {
    Transcoder() {
        source.err = target.err = errors.get();
        errors.run(common(source), [&] { jpeg_create_decompress(&source); });
        errors.run(common(target), [&] { jpeg_create_compress(&target); });
        limit_resources(source, progress);
    }
    ~Transcoder() {
        jpeg_destroy_compress(&target);
        jpeg_destroy_decompress(&source);
    }
    Transcoder(const Transcoder&) = delete;
    Transcoder& operator=(const Transcoder&) = delete;

    template <typename Info>
    static j_common_ptr common(Info& info) {
        return reinterpret_cast<j_common_ptr>(&info);
    }

    JpegErrorManager errors;
    jpeg_progress_mgr progress{};
    jpeg_decompress_struct source{};
    jpeg_compress_struct target{};
};

int mcus_per_row(const jpeg_decompress_struct& info) {
    const int mcu_width = info.num_components == 1 ? DCTSIZE : DCTSIZE * info.max_h_samp_factor;
    return round_up_division(static_cast<int>(info.image_width), mcu_width);
}

// Whether libjpeg can bring all components to the size of the image.
bool has_whole_ratios(const jpeg_decompress_struct& info) {
    const std::span components(info.comp_info, static_cast<std::size_t>(info.num_components));
    return std::ranges::all_of(components, [&info](const jpeg_component_info& component) {
        return info.max_h_samp_factor % component.h_samp_factor == 0 && info.max_v_samp_factor % component.v_samp_factor == 0;
    });
}

// Whether decoders show the coefficients as they are. Where scans of a progressive image are missing they smooth it, which
// nothing would tell them to do in a sequential file of the same coefficients.
bool has_all_scans(const jpeg_decompress_struct& info) {
    if (!info.progressive_mode) return true;
    const std::span missing_bits(info.coef_bits[0], static_cast<std::size_t>(info.num_components) * DCTSIZE2);
    return std::ranges::all_of(missing_bits, [](int bits) { return bits == 0; });
}

// Throws what the loaders would: some damage libjpeg repairs in silence.
void check_by_our_decoder(std::span<const std::uint8_t> jpeg) {
    static thread_local ImageConverter converter;
    converter.decode(jpeg, {1, 0}, false);
}

// Any JPEG that libjpeg decodes, by way of its coefficients; throws ImageError or ForeignImageError.
std::vector<std::uint8_t> transcode_coefficients(std::span<const std::uint8_t> jpeg, int wanted_interval) {
    check_is_jpeg(jpeg);
    Transcoder transcoder;
    jvirt_barray_ptr* coefficients = nullptr;
    transcoder.errors.run(Transcoder::common(transcoder.source), [&transcoder, &coefficients, jpeg] {
        jpeg_decompress_struct& source = transcoder.source;
        read_from_memory(source, jpeg);
        jpeg_read_header(&source, TRUE);
        if (!has_whole_ratios(source)) ERREXIT(&source, JERR_FRACT_SAMPLE_NOTIMPL);
        coefficients = jpeg_read_coefficients(&source);
        check_is_whole(source);
    });
    if (HuffmanDecoder::can_decode(transcoder.source)) check_by_our_decoder(jpeg);
    if (!has_all_scans(transcoder.source)) throw ImageError("it lacks scans: a new file would have other pixels");
    const int interval = nearest_divisor(mcus_per_row(transcoder.source), wanted_interval);
    JpegOutput output(transcoder.target);
    transcoder.errors.run(Transcoder::common(transcoder.target), [&transcoder, coefficients, interval] {
        jpeg_copy_critical_parameters(&transcoder.source, &transcoder.target);
        transcoder.target.optimize_coding = TRUE;
        transcoder.target.restart_interval = static_cast<unsigned>(interval);
        jpeg_write_coefficients(&transcoder.target, coefficients);
        jpeg_finish_compress(&transcoder.target);
    });
    return output.take();
}

}  // namespace

std::vector<Rewritten> add_restart_markers_to_all(std::span<const std::span<const std::uint8_t>> jpegs, int wanted_interval) {
    auto transcoded = transcode_scans(jpegs, wanted_interval);
    std::vector<Rewritten> results(jpegs.size());
    for (std::size_t number = 0; number < jpegs.size(); ++number) {
        if (transcoded[number]) {
            results[number].jpeg = *std::move(transcoded[number]);
            continue;
        }
        try {
            results[number].jpeg = transcode_coefficients(jpegs[number], wanted_interval);
        } catch (const ImageError& error) {
            results[number].fault = error.what();
        }
    }
    return results;
}

}  // namespace fastvit
