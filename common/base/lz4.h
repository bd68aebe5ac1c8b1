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

#endif
