#include "agent/link/tail.h"

#include <stdlib.h>

#include "agent/link/output.h"
#include "common/base/err.h"
#include "common/base/lz4.h"

enum { COMPRESS_BYTES_MIN = 256 };

static uint64_t smaller(uint64_t a, uint64_t b) {
    return a < b ? a : b;
}

// How many of the last bytes of each stream.
static void divide(const struct nl_link_tail_source *s, uint64_t max, uint64_t ret[2]) {
    uint64_t out = s->end[0] - s->base[0], err = s->end[1] - s->base[1];
    uint64_t left = max - smaller(out, max);
    ret[1] = smaller(err, left > max / 2 ? left : max / 2);
    ret[0] = smaller(out, max - ret[1]);
}

// Replaces what gets smaller. NL_ENOMEM.
static int compress(uint8_t **data, size_t *len, uint32_t *ret_size) {
    if (*len < COMPRESS_BYTES_MIN) {
        return NL_OK;
    }
    uint8_t *packed = malloc(*len);
    if (packed == NULL) {
        return NL_ENOMEM;
    }
    size_t n = nl_lz4_pack(*data, *len, packed, *len - 1);
    if (n == 0) {
        free(packed);
        return NL_OK;
    }
    free(*data);
    *data = packed;
    *ret_size = (uint32_t)*len;
    *len = n;
    return NL_OK;
}

static int read_stream(const char *state_dir, const struct nl_link_tail_source *source, int stream,
                       uint64_t len, uint8_t **ret) {
    struct nl_link_output output = {.spool_dir = source->spool_dir,
                                    .stream = stream,
                                    .offset = source->end[stream] - len,
                                    .len = (uint32_t)len};
    *ret = malloc(len + 1);
    if (*ret == NULL) {
        return NL_ENOMEM;
    }
    return len == 0 ? NL_OK : nl_link_output_read(state_dir, &output, *ret);
}

int nl_link_tail_read(const char *state_dir, const struct nl_link_tail_source *source,
                      size_t max_bytes, struct nl_link_tail *ret) {
    struct nl_link_tail t = {.message = NODELINK__V1__OUTPUT_TAIL__INIT};
    Nodelink__V1__OutputTail *m = &t.message;
    uint64_t len[2];
    divide(source, max_bytes, len);
    m->stdout_offset = source->end[0] - len[0];
    m->stderr_offset = source->end[1] - len[1];
    m->stdout.len = len[0];
    m->stderr.len = len[1];
    int rv;
    if ((rv = read_stream(state_dir, source, 0, len[0], &t.data[0])) != NL_OK ||
        (rv = read_stream(state_dir, source, 1, len[1], &t.data[1])) != NL_OK ||
        (rv = compress(&t.data[0], &m->stdout.len, &m->stdout_size)) != NL_OK ||
        (rv = compress(&t.data[1], &m->stderr.len, &m->stderr_size)) != NL_OK) {
        nl_link_tail_close(&t);
        return rv;
    }
    m->stdout.data = t.data[0];
    m->stderr.data = t.data[1];
    *ret = t;
    return NL_OK;
}

void nl_link_tail_close(struct nl_link_tail *tail) {
    free(tail->data[0]);
    free(tail->data[1]);
    *tail = (struct nl_link_tail){.message = NODELINK__V1__OUTPUT_TAIL__INIT};
}
