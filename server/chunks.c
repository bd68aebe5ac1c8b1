#include "server/chunks.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "common/base/err.h"

static int add_piece(struct nl_chunks *chunks, enum nl_stream stream, uint64_t offset,
                     const uint8_t *data, size_t len) {
    struct nl_chunk *chunk = malloc(sizeof *chunk + len);
    if (chunk == NULL) {
        return NL_ENOMEM;
    }
    chunk->stream = stream;
    chunk->offset = offset;
    chunk->len = len;
    memcpy(chunk->data, data, len);
    DL_APPEND(chunks->head, chunk);
    return NL_OK;
}

int nl_chunks_add(struct nl_chunks *chunks, enum nl_stream stream, uint64_t offset,
                  const uint8_t *data, size_t len) {
    int rv = NL_OK;
    for (size_t at = 0; rv == NL_OK && at < len; at += NL_OUTPUT_CHUNK_MAX) {
        size_t piece = len - at < NL_OUTPUT_CHUNK_MAX ? len - at : NL_OUTPUT_CHUNK_MAX;
        rv = add_piece(chunks, stream, offset + at, data + at, piece);
    }
    return rv;
}

void nl_chunks_pop(struct nl_chunks *chunks) {
    struct nl_chunk *chunk = chunks->head;
    DL_DELETE(chunks->head, chunk);
    free(chunk);
}

void nl_chunks_clear(struct nl_chunks *chunks) {
    while (chunks->head != NULL) {
        nl_chunks_pop(chunks);
    }
}
