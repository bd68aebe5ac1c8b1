#include "agent/link/output.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/failpoint.h"

enum { PATH_LEN = 4096 };

static int read_at(int fd, uint8_t *data, size_t len, uint64_t offset) {
    size_t done = 0;
    while (done < len) {
        ssize_t n = pread(fd, data + done, len - done, (off_t)(offset + done));
        if (n == 0) {
            return NL_EGAP;
        }
        if (n < 0 && errno != EINTR) {
            return nl_err_from_errno(errno);
        }
        done += n > 0 ? (size_t)n : 0;
    }
    return NL_OK;
}

int nl_link_output_read(const char *state_dir, const struct nl_link_output *output, uint8_t *data) {
    char path[PATH_LEN];
    int n = snprintf(path, sizeof path, "%s/%s/%s", state_dir, output->spool_dir,
                     output->stream == 0 ? "stdout" : "stderr");
    if (n < 0 || n >= PATH_LEN) {
        return NL_ETOOBIG;
    }
    if (NL_FAILPOINT("link.spool_read")) {
        return NL_EIO;
    }
    // Opened for each chunk: the supervisor removes spools, and descriptors held for a thousand
    // readers cost more than an open of a file in the cache.
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0) {
        return errno == ENOENT ? NL_EGAP : nl_err_from_errno(errno);
    }
    int rv = read_at(fd, data, output->len, output->offset);
    close(fd);
    return rv;
}
