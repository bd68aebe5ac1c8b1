#include "cluster/raft/mark.h"

#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "common/base/err.h"

// Each number twice, the second time inverted: a torn or flipped mark is noticed.
struct content {
    uint64_t index, index_inverted;
    uint64_t install_index, install_index_inverted;
    uint64_t install_term, install_term_inverted;
};

static bool is_whole(const struct content *c) {
    return c->index == ~c->index_inverted && c->install_index == ~c->install_index_inverted &&
           c->install_term == ~c->install_term_inverted;
}

static int store(struct nl_mark *mark, uint64_t index) {
    struct content content = {index,
                              ~index,
                              mark->install_index,
                              ~mark->install_index,
                              mark->install_term,
                              ~mark->install_term};
    if (pwrite(mark->fd, &content, sizeof content, 0) != (ssize_t)sizeof content) {
        return NL_EIO;
    }
    mark->index = index;
    return NL_OK;
}

static int store_durably(struct nl_mark *mark, uint64_t index) {
    return store(mark, index) == NL_OK && fdatasync(mark->fd) == 0 ? NL_OK : NL_EIO;
}

static int load(struct nl_mark *mark) {
    struct content content = {.install_index_inverted = UINT64_MAX,
                              .install_term_inverted = UINT64_MAX};
    ssize_t n = pread(mark->fd, &content, sizeof content, 0);
    if (n == 0) {
        return store(mark, 0);
    }
    if (n < 0) {
        return NL_EIO;
    }
    // Once it held the index only.
    bool short_one = n == (ssize_t)offsetof(struct content, install_index);
    if ((n != (ssize_t)sizeof content && !short_one) || !is_whole(&content)) {
        return NL_ECORRUPT;
    }
    mark->index = content.index;
    mark->install_index = content.install_index;
    mark->install_term = content.install_term;
    return NL_OK;
}

int nl_mark_open(struct nl_mark *mark, const char *dir) {
    char path[4096];
    int n = snprintf(path, sizeof path, "%s/stored", dir);
    mark->index = mark->install_index = mark->install_term = 0;
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
    return store_durably(mark, index);
}

int nl_mark_install_begin(struct nl_mark *mark, uint64_t index, uint64_t term) {
    if (mark->fd < 0) {
        return NL_OK;
    }
    mark->install_index = index;
    mark->install_term = term;
    return store_durably(mark, index < mark->index ? index : mark->index);
}

int nl_mark_install_end(struct nl_mark *mark) {
    if (mark->fd < 0 || mark->install_index == 0) {
        return NL_OK;
    }
    mark->install_index = mark->install_term = 0;
    return store_durably(mark, mark->index);
}
