#include "cluster/raft/segments.h"

#include <dirent.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/fs.h"

enum {
    OPEN_MAX = 64,  // libraft prepares two ahead
    SEGMENT_BYTES_MAX = 64 << 20,
    VERSION_BYTES = 8,
    CRC_BYTES = 4,
    COUNT_BYTES = 8,
    ENTRY_BYTES = 16,
    ENTRY_LENGTH_AT = 12,
    BATCH_BYTES_MIN = 2 * CRC_BYTES + COUNT_BYTES,
};

#define SEGMENT_VERSION 1

struct listing {
    uint64_t last;  // of closed segments and snapshots
    uint64_t open[OPEN_MAX];
    size_t n_open;
};

// An open segment's good batches, and whether anything but zeros follows them.
struct content {
    uint64_t entries;
    bool bad_tail;
};

// ---- numbers ---------------------------------------------------------------

static uint64_t get(const uint8_t *at, unsigned bytes) {
    uint64_t v = 0;
    for (unsigned i = bytes; i > 0; i--) {
        v = v << 8 | at[i - 1];
    }
    return v;
}

// Polynomial 0x04c11db7, most significant bit first, neither initial nor final inversion.
static uint32_t crc32_step(uint32_t crc) {
    for (int bit = 0; bit < 8; bit++) {
        crc = crc & 0x80000000u ? crc << 1 ^ 0x04c11db7u : crc << 1;
    }
    return crc;
}

static uint32_t crc32_of(const uint8_t *data, size_t len) {
    uint32_t table[256];
    uint32_t crc = 0;
    for (uint32_t i = 0; i < 256; i++) {
        table[i] = crc32_step(i << 24);
    }
    for (size_t i = 0; i < len; i++) {
        crc = crc << 8 ^ table[crc >> 24 ^ data[i]];
    }
    return crc;
}

// ---- a segment ---------------------------------------------------------------

// Length of the batch at the front, 0: it is not whole.
static size_t batch_length(const uint8_t *at, size_t len, uint64_t *ret_entries) {
    if (len < BATCH_BYTES_MIN) {
        return 0;
    }
    const uint8_t *header = at + 2 * CRC_BYTES;
    uint64_t n = get(header, COUNT_BYTES);
    if (n == 0 || n > (len - BATCH_BYTES_MIN) / ENTRY_BYTES) {
        return 0;
    }
    size_t header_len = COUNT_BYTES + (size_t)n * ENTRY_BYTES;
    if (crc32_of(header, header_len) != get(at, CRC_BYTES)) {
        return 0;
    }
    size_t rest = len - 2 * CRC_BYTES - header_len;
    size_t data_len = 0;
    for (uint64_t i = 0; i < n; i++) {
        data_len += get(header + COUNT_BYTES + i * ENTRY_BYTES + ENTRY_LENGTH_AT, 4);
    }
    const uint8_t *data = header + header_len;
    if (data_len > rest || crc32_of(data, data_len) != get(at + CRC_BYTES, CRC_BYTES)) {
        return 0;
    }
    *ret_entries = n;
    return 2 * CRC_BYTES + header_len + data_len;
}

static bool all_zeros(const uint8_t *at, size_t len) {
    return len == 0 || (at[0] == 0 && memcmp(at, at + 1, len - 1) == 0);
}

static struct content count(const uint8_t *data, size_t len) {
    struct content c = {0};
    size_t at = 0;
    if (len >= VERSION_BYTES && get(data, VERSION_BYTES) == SEGMENT_VERSION) {
        at = VERSION_BYTES;
        uint64_t n = 0;
        for (size_t used = batch_length(data + at, len - at, &n); used > 0;
             used = batch_length(data + at, len - at, &n)) {
            c.entries += n;
            at += used;
        }
    }
    c.bad_tail = !all_zeros(data + at, len - at);
    return c;
}

// ---- the directory -------------------------------------------------------------

static void list_one(struct listing *list, const char *name) {
    unsigned long long a = 0, b = 0, c = 0;
    int end = 0;
    size_t len = strlen(name);
    if (sscanf(name, "%16llu-%16llu%n", &a, &b, &end) == 2 && (size_t)end == len) {
        list->last = b > list->last ? b : list->last;
        return;
    }
    end = 0;
    if (sscanf(name, "snapshot-%llu-%llu-%llu.meta%n", &a, &b, &c, &end) == 3 &&
        (size_t)end == len) {
        list->last = b > list->last ? b : list->last;
        return;
    }
    end = 0;
    if (sscanf(name, "open-%llu%n", &a, &end) == 1 && (size_t)end == len &&
        list->n_open < OPEN_MAX) {
        list->open[list->n_open++] = a;
    }
}

static int by_number(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static int list_all(const char *dir, struct listing *ret) {
    DIR *d = opendir(dir);
    if (d == NULL) {
        return NL_EIO;
    }
    for (struct dirent *e = readdir(d); e != NULL; e = readdir(d)) {
        list_one(ret, e->d_name);
    }
    closedir(d);
    qsort(ret->open, ret->n_open, sizeof *ret->open, by_number);
    return NL_OK;
}

static int read_open(const char *dir, uint64_t number, struct content *ret) {
    char path[4096];
    char *data = NULL;
    size_t len = 0;
    int n = snprintf(path, sizeof path, "%s/open-%llu", dir, (unsigned long long)number);
    if (n < 0 || (size_t)n >= sizeof path) {
        return NL_ETOOBIG;
    }
    int rv = nl_fs_read(path, SEGMENT_BYTES_MAX, &data, &len);
    if (rv == NL_OK) {
        *ret = count((const uint8_t *)data, len);
    }
    free(data);
    return rv;
}

int nl_segments_last(const char *dir, uint64_t *ret, char *error_text, size_t error_size) {
    struct listing list = {0};
    uint64_t bad = 0;
    bool seen_bad = false;
    int rv = list_all(dir, &list);
    if (rv != NL_OK) {
        snprintf(error_text, error_size, "the directory can't be listed");
        return rv;
    }
    *ret = list.last;
    for (size_t i = 0; i < list.n_open; i++) {
        struct content content = {0};
        rv = read_open(dir, list.open[i], &content);
        if (rv != NL_OK) {
            snprintf(error_text, error_size, "segment open-%llu: %s",
                     (unsigned long long)list.open[i], nl_strerror(rv));
            return rv;
        }
        // libraft writes one segment after the other, each write synced: a crash can only cut off
        // the last one that was begun.
        if (seen_bad && content.entries > 0) {
            snprintf(error_text, error_size,
                     "segment open-%llu is damaged: open-%llu, which was begun after it, holds "
                     "entries",
                     (unsigned long long)bad, (unsigned long long)list.open[i]);
            return NL_ECORRUPT;
        }
        *ret += content.entries;
        bad = content.bad_tail && !seen_bad ? list.open[i] : bad;
        seen_bad = seen_bad || content.bad_tail;
    }
    return NL_OK;
}
