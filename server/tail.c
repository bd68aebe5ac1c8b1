#include "server/tail.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"

enum { STREAM_BYTES_MAX = 1024 * 1024, STOCK_BYTES_MAX = 64 * 1024 };

// size: of what is compressed; 0: it is as it is.
static int open_stream(const ProtobufCBinaryData *data, uint32_t size, uint8_t **ret,
                       size_t *ret_len) {
    size_t len = size != 0 ? size : data->len;
    if (len > STREAM_BYTES_MAX) {
        return NL_ECORRUPT;
    }
    uint8_t *bytes = malloc(len + 1);
    if (bytes == NULL) {
        return NL_ENOMEM;
    }
    int rv = NL_OK;
    if (size != 0) {
        rv = nl_lz4_unpack(data->data, data->len, bytes, size);
    } else if (len > 0) {
        memcpy(bytes, data->data, len);
    }
    if (rv != NL_OK) {
        free(bytes);
        return rv;
    }
    *ret = bytes;
    *ret_len = len;
    return NL_OK;
}

int nl_tail_open(const Nodelink__V1__OutputTail *tail, struct nl_tail *ret) {
    struct nl_tail t = {.offset = {tail->stdout_offset, tail->stderr_offset}};
    int rv = open_stream(&tail->stdout, tail->stdout_size, &t.data[NL_STDOUT], &t.len[NL_STDOUT]);
    if (rv == NL_OK) {
        rv = open_stream(&tail->stderr, tail->stderr_size, &t.data[NL_STDERR], &t.len[NL_STDERR]);
    }
    if (rv != NL_OK) {
        nl_tail_close(&t);
        return rv;
    }
    *ret = t;
    return NL_OK;
}

void nl_tail_close(struct nl_tail *tail) {
    free(tail->data[NL_STDOUT]);
    free(tail->data[NL_STDERR]);
    *tail = (struct nl_tail){0};
}

static int take_stock(const struct nl_stock_task *task, int stream, size_t max,
                      struct nl_lz4_piece *ret, uint64_t *ret_offset) {
    uint64_t base = nl_stock_base(task, stream), total = nl_stock_total(task, stream);
    size_t len = total - base < max ? (size_t)(total - base) : max, there;
    uint8_t *data = malloc(len + 1);
    if (data == NULL) {
        return NL_ENOMEM;
    }
    if (len > 0) {
        memcpy(data, nl_stock_bytes(task, stream, total - len, &there), len);
    }
    nl_lz4_piece_take(ret, data, len);
    *ret_offset = total - len;
    return NL_OK;
}

int nl_tail_of_stock(const struct nl_stock_task *task, struct nl_tail_made *ret) {
    struct nl_tail_made made = {.message = NODELINK__V1__OUTPUT_TAIL__INIT};
    Nodelink__V1__OutputTail *m = &made.message;
    int rv = take_stock(task, NL_STDERR, STOCK_BYTES_MAX / 2, &made.pieces[1], &m->stderr_offset);
    size_t left = STOCK_BYTES_MAX - (size_t)(nl_stock_total(task, NL_STDERR) - m->stderr_offset);
    if (rv == NL_OK) {
        rv = take_stock(task, NL_STDOUT, left, &made.pieces[0], &m->stdout_offset);
    }
    if (rv != NL_OK) {
        nl_tail_made_close(&made);
        return rv;
    }
    m->stdout = (ProtobufCBinaryData){made.pieces[0].len, made.pieces[0].data};
    m->stderr = (ProtobufCBinaryData){made.pieces[1].len, made.pieces[1].data};
    m->stdout_size = made.pieces[0].size;
    m->stderr_size = made.pieces[1].size;
    *ret = made;
    return NL_OK;
}

void nl_tail_made_close(struct nl_tail_made *made) {
    free(made->pieces[0].data);
    free(made->pieces[1].data);
    *made = (struct nl_tail_made){.message = NODELINK__V1__OUTPUT_TAIL__INIT};
}
