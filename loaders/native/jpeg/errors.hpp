// libjpeg's errors as C++ exceptions. libjpeg is C and reports an error by a call that must not return: it longjmps back
// to `run`, which throws. Nothing with a destructor may live between the two.
#pragma once

#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>  // jpeglib.h needs FILE

#include <jpeglib.h>
// After jpeglib.h, whose configuration decides which codes there are.
#include <jerror.h>

#include <span>
#include <stdexcept>
#include <string>

namespace fastvit {

// An image that cannot be decoded; the message is the reason.
class ImageError : public std::runtime_error {
    using std::runtime_error::runtime_error;
};

// An image of a format that is decoded elsewhere.
class ForeignImageError : public ImageError {
    using ImageError::ImageError;
};

class JpegErrorManager {
  public:
    JpegErrorManager() {
        jpeg_std_error(&base_);
        base_.error_exit = [](j_common_ptr info) { fail(info); };
        base_.emit_message = [](j_common_ptr info, int level) {
            if (level < 0 && ruins_pixels(info->err->msg_code)) fail(info);
        };
        base_.output_message = [](j_common_ptr) {};
    }
    JpegErrorManager(const JpegErrorManager&) = delete;
    JpegErrorManager& operator=(const JpegErrorManager&) = delete;

    jpeg_error_mgr* get() { return &base_; }

    // Call `work`; an error of libjpeg in it becomes an ImageError. `work` may own nothing that has a destructor.
    template <typename Work>
    void run(j_common_ptr info, const Work& work) {
        if (setjmp(jump_)) {
            char message[JMSG_LENGTH_MAX];
            base_.format_message(info, message);
            throw ImageError(message);
        }
        work();
    }

  private:
    // Of libjpeg's warnings those after which it goes on with made-up pixels; the others do no harm.
    static bool ruins_pixels(int code) {
        return code == JWRN_HIT_MARKER || code == JWRN_HUFF_BAD_CODE || code == JWRN_MUST_RESYNC ||
               code == JWRN_JPEG_EOF || code == JWRN_ARITH_BAD_CODE;
    }

    [[noreturn]] static void fail(j_common_ptr info) {
        // base_ is the first member of a standard-layout class, so their addresses are the same.
        std::longjmp(reinterpret_cast<JpegErrorManager*>(info->err)->jump_, 1);
    }

    jpeg_error_mgr base_;
    std::jmp_buf jump_;
};

inline void check_is_jpeg(std::span<const std::uint8_t> data) {
    if (data.size() < 2 || data[0] != 0xFF || data[1] != 0xD8) throw ForeignImageError("it is no JPEG");
}

// A progressive image needs all of its coefficients in memory: 3 GB for 20,000 x 20,000 pixels without subsampling.
constexpr long kMaxJpegMemory = 4L << 30;

// No encoder makes more than a dozen; thousands of scans over a large image are an attack.
constexpr int kMaxScans = 200;

// Have libjpeg refuse an image that wants more memory or has more scans than any real one.
inline void limit_resources(jpeg_decompress_struct& info, jpeg_progress_mgr& progress) {
    info.mem->max_memory_to_use = kMaxJpegMemory;
    progress.progress_monitor = [](j_common_ptr common) {
        const auto decompress = reinterpret_cast<j_decompress_ptr>(common);
        if (decompress->input_scan_number > kMaxScans) ERREXIT(decompress, JERR_BAD_PROGRESSION);
    };
    info.progress = &progress;
}

}  // namespace fastvit
