// libjpeg's errors as C++ exceptions. libjpeg is C and reports an error by a call that must not return: it longjmps back
// to `run`, which throws. Nothing with a destructor may live between the two.
#pragma once

#include <csetjmp>
#include <cstdio>  // jpeglib.h needs FILE

#include <jpeglib.h>
// After jpeglib.h, whose configuration decides which codes there are.
#include <jerror.h>

#include "jpeg/image_error.hpp"

namespace fastvit {

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

}  // namespace fastvit
