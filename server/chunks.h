// Output on its way to a slow reader: pieces that its call's send queue had no room for. Bounded
// by the reader's window, because credit is given back only for what was sent.
#ifndef NODELINK_SERVER_CHUNKS_H
#define NODELINK_SERVER_CHUNKS_H

#include <stddef.h>
#include <stdint.h>

#include "server/output.h"

struct nl_chunk {
    enum nl_stream stream;
    uint64_t offset;
    struct nl_chunk *prev, *next;
    size_t len;
    uint8_t data[];
};

struct nl_chunks {
    struct nl_chunk *head;
};

// Cuts into pieces of at most NL_OUTPUT_CHUNK_MAX. NL_ENOMEM: what was added before stays.
int nl_chunks_add(struct nl_chunks *chunks, enum nl_stream stream, uint64_t offset,
                  const uint8_t *data, size_t len);
void nl_chunks_pop(struct nl_chunks *chunks);
void nl_chunks_clear(struct nl_chunks *chunks);

#endif
