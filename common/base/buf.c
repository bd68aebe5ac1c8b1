#include "common/base/buf.h"

#include <assert.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"

enum { CAP_MIN = 256 };

void nl_buf_init(struct nl_buf *b, size_t limit) {
    *b = (struct nl_buf){.limit = limit};
}

void nl_buf_close(struct nl_buf *b) {
    free(b->data);
    *b = (struct nl_buf){.limit = b->limit};
}

// Doubles, so that n appends of one byte cost O(n). `spare` bytes beyond the limit are
// for a terminating NUL that is not content.
static int grow(struct nl_buf *b, size_t extra, size_t spare) {
    if (extra > SIZE_MAX - b->len - spare) {
        return NL_ENOMEM;
    }
    size_t len = b->len + extra;
    if (b->limit != 0 && len > b->limit) {
        return NL_ETOOBIG;
    }
    size_t need = len + spare;
    if (need <= b->cap) {
        return NL_OK;
    }
    size_t cap = b->cap > SIZE_MAX / 2 ? need : b->cap * 2;
    cap = cap < CAP_MIN ? CAP_MIN : cap;
    cap = cap < need ? need : cap;
    uint8_t *data = realloc(b->data, cap);
    if (data == NULL) {
        return NL_ENOMEM;
    }
    b->data = data;
    b->cap = cap;
    return NL_OK;
}

int nl_buf_reserve(struct nl_buf *b, size_t extra) {
    return grow(b, extra, 0);
}

int nl_buf_append(struct nl_buf *b, const void *data, size_t len) {
    if (len == 0) {
        return NL_OK;
    }
    int rv = grow(b, len, 0);
    if (rv != NL_OK) {
        return rv;
    }
    memcpy(b->data + b->len, data, len);
    b->len += len;
    return NL_OK;
}

int nl_buf_printf(struct nl_buf *b, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    int n = vsnprintf(NULL, 0, fmt, args);
    va_end(args);
    if (n < 0) {
        return NL_EINVAL;
    }
    int rv = grow(b, (size_t)n, 1);
    if (rv != NL_OK) {
        return rv;
    }
    va_start(args, fmt);
    int written = vsnprintf((char *)b->data + b->len, (size_t)n + 1, fmt, args);
    va_end(args);
    assert(written == n);
    b->len += (size_t)written;
    return NL_OK;
}

void nl_buf_consume(struct nl_buf *b, size_t len) {
    assert(len <= b->len);
    b->len -= len;
    if (len > 0 && b->len > 0) {
        memmove(b->data, b->data + len, b->len);
    }
}

void nl_buf_clear(struct nl_buf *b) {
    b->len = 0;
}
