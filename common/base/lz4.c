#include "common/base/lz4.h"

#include <limits.h>
#include <lz4.h>

#include "common/base/err.h"

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
