#include "agent/link/tail.h"

#include <stdlib.h>

#include "agent/link/output.h"
#include "common/base/err.h"

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

static int take_stream(const char *state_dir, const struct nl_link_tail_source *source, int stream,
                       uint64_t len, struct nl_lz4_piece *ret) {
    uint8_t *data = NULL;
    int rv = read_stream(state_dir, source, stream, len, &data);
    if (rv != NL_OK) {
        free(data);
        return rv;
    }
    nl_lz4_piece_take(ret, data, len);
    return NL_OK;
}

int nl_link_tail_read(const char *state_dir, const struct nl_link_tail_source *source,
                      size_t max_bytes, struct nl_link_tail *ret) {
    struct nl_link_tail t = {.message = NODELINK__V1__OUTPUT_TAIL__INIT};
    uint64_t len[2];
    divide(source, max_bytes, len);
    int rv = take_stream(state_dir, source, 0, len[0], &t.pieces[0]);
    if (rv == NL_OK) {
        rv = take_stream(state_dir, source, 1, len[1], &t.pieces[1]);
    }
    if (rv != NL_OK) {
        nl_link_tail_close(&t);
        return rv;
    }
    t.message.stdout_offset = source->end[0] - len[0];
    t.message.stderr_offset = source->end[1] - len[1];
    t.message.stdout = (ProtobufCBinaryData){t.pieces[0].len, t.pieces[0].data};
    t.message.stderr = (ProtobufCBinaryData){t.pieces[1].len, t.pieces[1].data};
    t.message.stdout_size = t.pieces[0].size;
    t.message.stderr_size = t.pieces[1].size;
    *ret = t;
    return NL_OK;
}

void nl_link_tail_close(struct nl_link_tail *tail) {
    free(tail->pieces[0].data);
    free(tail->pieces[1].data);
    *tail = (struct nl_link_tail){.message = NODELINK__V1__OUTPUT_TAIL__INIT};
}
