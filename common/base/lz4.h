// LZ4 blocks for bytes that are kept or sent: what doesn't become smaller stays as it is.
#ifndef NODELINK_COMMON_BASE_LZ4_H
#define NODELINK_COMMON_BASE_LZ4_H

#include <stddef.h>
#include <stdint.h>

// Compresses into out (cap bytes). 0: it does not fit, so with cap < len it would not get smaller.
size_t nl_lz4_pack(const void *data, size_t len, uint8_t *out, size_t cap);
// The inverse, of exactly `size` bytes. NL_OK; NL_ECORRUPT: not a block of that size. Safe with any
// bytes.
int nl_lz4_unpack(const uint8_t *data, size_t len, uint8_t *out, size_t size);

// Bytes that are sent with what they are when unpacked.
struct nl_lz4_piece {
    uint8_t *data;  // owned
    size_t len;
    uint32_t size;  // before packing; 0: as it is
};
// Takes data (malloc), and packs it if that makes it smaller. Without memory it stays as it is.
void nl_lz4_piece_take(struct nl_lz4_piece *piece, uint8_t *data, size_t len);

#endif
