// Growable byte buffer with a limit. Not thread-safe. Embedded: nl_buf_init/close.
#ifndef NODELINK_COMMON_BASE_BUF_H
#define NODELINK_COMMON_BASE_BUF_H

#include <stddef.h>
#include <stdint.h>

struct nl_buf {
    uint8_t *data;  // owned; NULL while empty
    size_t len;
    size_t cap;
    size_t limit;  // len never exceeds it; 0: no limit
};

void nl_buf_init(struct nl_buf *b, size_t limit);
void nl_buf_close(struct nl_buf *b);  // also of a zeroed one
// NL_OK, NL_ENOMEM, NL_ETOOBIG; on failure the buffer is unchanged.
int nl_buf_append(struct nl_buf *b, const void *data, size_t len);
int nl_buf_reserve(struct nl_buf *b, size_t extra);
int nl_buf_printf(struct nl_buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void nl_buf_consume(struct nl_buf *b, size_t len);  // drops from the front
void nl_buf_clear(struct nl_buf *b);                // keeps the memory

#endif
