#include "cluster/raft/mark.h"

#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/base/err.h"

// The index twice, the second time inverted: a torn or flipped mark is noticed.
struct content {
    uint64_t index;
    uint64_t inverted;
};

static int store(struct nl_mark *mark, uint64_t index) {
    struct content content = {index, ~index};
    if (pwrite(mark->fd, &content, sizeof content, 0) != (ssize_t)sizeof content) {
        return NL_EIO;
    }
    mark->index = index;
    return NL_OK;
}

static int load(struct nl_mark *mark) {
    struct content content;
    ssize_t n = pread(mark->fd, &content, sizeof content, 0);
    if (n == 0) {
        return store(mark, 0);
    }
    if (n < 0) {
        return NL_EIO;
    }
    if (n != (ssize_t)sizeof content || content.index != ~content.inverted) {
        return NL_ECORRUPT;
    }
    mark->index = content.index;
    return NL_OK;
}

int nl_mark_open(struct nl_mark *mark, const char *dir) {
    char path[4096];
    int n = snprintf(path, sizeof path, "%s/stored", dir);
    mark->index = 0;
    mark->fd =
        n > 0 && (size_t)n < sizeof path ? open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (mark->fd < 0) {
        return NL_EIO;
    }
    int rv = load(mark);
    if (rv != NL_OK) {
        nl_mark_close(mark);
    }
    return rv;
}

void nl_mark_close(struct nl_mark *mark) {
    if (mark->fd >= 0) {
        close(mark->fd);
    }
    mark->fd = -1;
}

void nl_mark_raise(struct nl_mark *mark, uint64_t index) {
    if (mark->fd >= 0 && index > mark->index) {
        store(mark, index);
    }
}

int nl_mark_lower(struct nl_mark *mark, uint64_t index) {
    if (mark->fd < 0 || index >= mark->index) {
        return NL_OK;
    }
    return store(mark, index) == NL_OK && fdatasync(mark->fd) == 0 ? NL_OK : NL_EIO;
}
