#include "common/base/lz4.h"

#include <limits.h>
#include <lz4.h>
#include <stdlib.h>

#include "common/base/err.h"

// Not worth a call.
enum { PACK_BYTES_MIN = 256 };

size_t nl_lz4_pack(const void *data, size_t len, uint8_t *out, size_t cap) {
    if (len == 0 || len > LZ4_MAX_INPUT_SIZE || cap > INT_MAX) {
        return 0;
    }
    int n = LZ4_compress_default(data, (char *)out, (int)len, (int)cap);
    return n > 0 ? (size_t)n : 0;
}

int nl_lz4_unpack(const uint8_t *data, size_t len, uint8_t *out, size_t size) {
    if (len > INT_MAX || size > INT_MAX) {
        return NL_ECORRUPT;
    }
    int n = LZ4_decompress_safe((const char *)data, (char *)out, (int)len, (int)size);
    return n >= 0 && (size_t)n == size ? NL_OK : NL_ECORRUPT;
}

void nl_lz4_piece_take(struct nl_lz4_piece *piece, uint8_t *data, size_t len) {
    *piece = (struct nl_lz4_piece){.data = data, .len = len};
    uint8_t *packed = len >= PACK_BYTES_MIN && len <= UINT32_MAX ? malloc(len) : NULL;
    size_t n = packed != NULL ? nl_lz4_pack(data, len, packed, len - 1) : 0;
    if (n == 0) {
        free(packed);
        return;
    }
    free(data);
    *piece = (struct nl_lz4_piece){.data = packed, .len = n, .size = (uint32_t)len};
}
