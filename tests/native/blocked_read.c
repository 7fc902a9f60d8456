// A disk that does not answer, for LD_PRELOAD: a `read` of a file whose name contains BLOCKED_READ never comes back, whatever
// signal comes, as one of a dead network file system.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

ssize_t read(int descriptor, void* to, size_t size) {
    static ssize_t (*real_read)(int, void*, size_t);
    if (!real_read) real_read = (ssize_t (*)(int, void*, size_t))dlsym(RTLD_NEXT, "read");
    const char* const blocked = getenv("BLOCKED_READ");
    char link[64], path[4096];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    const ssize_t length = blocked ? readlink(link, path, sizeof path - 1) : -1;
    if (length > 0) {
        path[length] = 0;
        while (strstr(path, blocked)) sleep(1000);
    }
    return real_read(descriptor, to, size);
}
