#include "server/tail.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/lz4.h"

enum { STREAM_BYTES_MAX = 1024 * 1024 };

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
