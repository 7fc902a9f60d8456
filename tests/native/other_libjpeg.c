/* To be preloaded: libjpeg as a process might find it that is not the one it was built for. OTHER_LIBJPEG says how it differs:
   layout    its private struct of the entropy decoder begins with something else
   pixels    its second image has other pixels than its first one
   version   its structs are of another version */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

static int is(const char* difference) { return strcmp(getenv("OTHER_LIBJPEG"), difference) == 0; }

boolean jpeg_start_decompress(j_decompress_ptr info) {
    static int num_images = 0;
    boolean (*real)(j_decompress_ptr) = (boolean(*)(j_decompress_ptr))dlsym(RTLD_NEXT, "jpeg_start_decompress");
    /* An image's tables are read with its header. */
    if (is("pixels") && num_images++ == 1) info->quant_tbl_ptrs[0]->quantval[0] *= 2;
    boolean done = real(info);
    /* What was called before the first MCU and is not called again. */
    if (is("layout")) *(void**)info->entropy = info;
    return done;
}

void jpeg_CreateDecompress(j_decompress_ptr info, int version, size_t size) {
    void (*real)(j_decompress_ptr, int, size_t) = (void (*)(j_decompress_ptr, int, size_t))dlsym(RTLD_NEXT, "jpeg_CreateDecompress");
    real(info, is("version") ? version + 1 : version, size);
}
