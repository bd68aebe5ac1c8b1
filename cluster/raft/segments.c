#include "cluster/raft/segments.h"

#include <dirent.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

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

struct range {
    uint64_t first, last;
};

struct listing {
    struct range *closed;  // owned; in order
    size_t n_closed, closed_cap;
    uint64_t open[OPEN_MAX];
    size_t n_open;
    uint64_t snapshot_term, snapshot_index;  // of the newest, as libraft orders them; 0: none
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

static bool is_whole_name(const char *name, int end) {
    return end > 0 && name[end] == '\0';
}

// FIRST-LAST
static bool parse_closed(const char *name, struct range *ret) {
    unsigned long long first = 0, last = 0;
    int end = 0;
    bool ok = sscanf(name, "%16llu-%16llu%n", &first, &last, &end) == 2 && is_whole_name(name, end);
    *ret = (struct range){first, last};
    return ok;
}

static bool parse_open(const char *name, uint64_t *ret) {
    unsigned long long number = 0;
    int end = 0;
    bool ok = sscanf(name, "open-%llu%n", &number, &end) == 1 && is_whole_name(name, end);
    *ret = number;
    return ok;
}

// snapshot-TERM-INDEX-TIME.meta; *ret_data: the length of the name of the file beside it.
static bool parse_meta(const char *name, uint64_t *ret_term, uint64_t *ret_index, int *ret_data) {
    unsigned long long term = 0, index = 0, time = 0;
    int end = 0;
    *ret_data = 0;
    bool ok = sscanf(name, "snapshot-%llu-%llu-%llu%n.meta%n", &term, &index, &time, ret_data,
                     &end) == 3 &&
              is_whole_name(name, end);
    *ret_term = term;
    *ret_index = index;
    return ok;
}

static int add_closed(struct listing *list, struct range range) {
    if (list->n_closed == list->closed_cap) {
        size_t cap = list->closed_cap > 0 ? 2 * list->closed_cap : 64;
        struct range *closed = realloc(list->closed, cap * sizeof *closed);
        if (closed == NULL) {
            return NL_ENOMEM;
        }
        list->closed = closed;
        list->closed_cap = cap;
    }
    list->closed[list->n_closed++] = range;
    return NL_OK;
}

static int list_one(struct listing *list, int dir_fd, const char *name) {
    struct range range;
    uint64_t number, term, index;
    int data_len;
    char data[NAME_MAX + 1];
    struct stat st;
    if (parse_closed(name, &range)) {
        return add_closed(list, range);
    }
    if (parse_open(name, &number) && list->n_open < OPEN_MAX) {
        list->open[list->n_open++] = number;
    }
    if (!parse_meta(name, &term, &index, &data_len)) {
        return NL_OK;
    }
    // Without its data a snapshot was not finished.
    snprintf(data, sizeof data, "%.*s", data_len, name);
    bool whole = fstatat(dir_fd, data, &st, 0) == 0 && st.st_size > 0;
    if (whole && (term > list->snapshot_term ||
                  (term == list->snapshot_term && index > list->snapshot_index))) {
        list->snapshot_term = term;
        list->snapshot_index = index;
    }
    return NL_OK;
}

static int by_number(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static int by_first(const void *a, const void *b) {
    uint64_t x = ((const struct range *)a)->first, y = ((const struct range *)b)->first;
    return (x > y) - (x < y);
}

static int list_all(const char *dir, struct listing *ret) {
    DIR *d = opendir(dir);
    int rv = d != NULL ? NL_OK : NL_EIO;
    for (struct dirent *e = NULL; rv == NL_OK && (e = readdir(d)) != NULL;) {
        rv = list_one(ret, dirfd(d), e->d_name);
    }
    if (d != NULL) {
        closedir(d);
    }
    if (ret->n_closed > 0) {
        qsort(ret->closed, ret->n_closed, sizeof *ret->closed, by_first);
    }
    qsort(ret->open, ret->n_open, sizeof *ret->open, by_number);
    return rv;
}

#define WHAT_TO_DO                                                                               \
    "Restore the files that are missing, or remove the directory and let the node join under a " \
    "new id"

// libraft uses the newest closed segment and those before it without a gap. They must begin no
// later than behind the snapshot. A log that ends before its snapshot is the rest of one that was
// replaced, and libraft may give what follows the numbers after that rest.
static int check_joins(const struct listing *list, char *error_text, size_t error_size) {
    size_t i = list->n_closed;
    if (i == 0) {
        return NL_OK;
    }
    uint64_t last = list->closed[i - 1].last;
    for (i--; i > 0 && list->closed[i - 1].last + 1 == list->closed[i].first; i--) {
    }
    unsigned long long first = list->closed[i].first, snapshot = list->snapshot_index;
    if (first > snapshot + 1) {
        snprintf(error_text, error_size,
                 "entries %llu to %llu are in no segment and no snapshot. " WHAT_TO_DO,
                 snapshot + 1, first - 1);
        return NL_ECORRUPT;
    }
    if (last < snapshot) {
        snprintf(error_text, error_size,
                 "the last segment ends at entry %llu, before the snapshot of %llu. " WHAT_TO_DO,
                 (unsigned long long)last, snapshot);
        return NL_ECORRUPT;
    }
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

// Adds what the open segments hold to *last.
static int count_open(const char *dir, const struct listing *list, uint64_t *last, char *error_text,
                      size_t error_size) {
    uint64_t bad = 0;
    bool seen_bad = false;
    for (size_t i = 0; i < list->n_open; i++) {
        struct content content = {0};
        unsigned long long number = list->open[i];
        int rv = read_open(dir, number, &content);
        if (rv != NL_OK) {
            snprintf(error_text, error_size, "segment open-%llu: %s", number, nl_strerror(rv));
            return rv;
        }
        // libraft writes one segment after the other, each write synced: a crash can only cut off
        // the last one that was begun.
        if (seen_bad && content.entries > 0) {
            snprintf(error_text, error_size,
                     "segment open-%llu is damaged: open-%llu, which was begun after it, holds "
                     "entries",
                     (unsigned long long)bad, number);
            return NL_ECORRUPT;
        }
        *last += content.entries;
        bad = content.bad_tail && !seen_bad ? number : bad;
        seen_bad = seen_bad || content.bad_tail;
    }
    return NL_OK;
}

int nl_segments_last(const char *dir, uint64_t *ret, char *error_text, size_t error_size) {
    struct listing list = {0};
    int rv = list_all(dir, &list);
    if (rv != NL_OK) {
        snprintf(error_text, error_size, "the directory can't be listed");
    } else {
        rv = check_joins(&list, error_text, error_size);
    }
    if (rv == NL_OK) {
        *ret = list.snapshot_index;
        if (list.n_closed > 0 && list.closed[list.n_closed - 1].last > *ret) {
            *ret = list.closed[list.n_closed - 1].last;
        }
        rv = count_open(dir, &list, ret, error_text, error_size);
    }
    free(list.closed);
    return rv;
}

// ---- a snapshot that takes the log's place ---------------------------------------

static int remove_segments(const char *path) {
    struct range range;
    uint64_t number;
    DIR *d = opendir(path);
    int rv = d != NULL ? NL_OK : NL_EIO;
    for (struct dirent *e = NULL; rv == NL_OK && (e = readdir(d)) != NULL;) {
        if (parse_closed(e->d_name, &range) || parse_open(e->d_name, &number)) {
            rv = unlinkat(dirfd(d), e->d_name, 0) == 0 ? NL_OK : NL_EIO;
        }
    }
    if (d != NULL) {
        closedir(d);
    }
    return rv == NL_OK ? nl_fs_sync_dir(path) : rv;
}

int nl_segments_finish_install(const char *dir, uint64_t index, uint64_t term, char *error_text,
                               size_t error_size) {
    struct listing list = {0};
    int rv = list_all(dir, &list);
    bool stored = list.snapshot_index == index && list.snapshot_term == term;
    free(list.closed);
    if (rv == NL_OK && stored) {
        rv = remove_segments(dir);
    }
    if (rv != NL_OK) {
        snprintf(error_text, error_size, "what a snapshot replaced can't be removed: %s",
                 nl_strerror(rv));
    }
    return rv;
}
