#include "tests/unit/cluster/segment_file.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

// ---- the format ----------------------------------------------------------------

void segment_put(uint8_t *at, uint64_t v, unsigned bytes) {
    for (unsigned i = 0; i < bytes; i++) {
        at[i] = (uint8_t)(v >> (8 * i));
    }
}

// As a division of polynomials, bit by bit.
uint32_t segment_crc(const uint8_t *data, size_t len) {
    uint32_t crc = 0;
    for (size_t i = 0; i < len * 8; i++) {
        uint32_t bit = (uint32_t)data[i / 8] >> (7 - i % 8) & 1u;
        uint32_t top = crc >> 31;
        crc <<= 1;
        crc ^= (top ^ bit) ? 0x04c11db7u : 0;
    }
    return crc;
}

void segment_begin(struct segment *s) {
    memset(s, 0, sizeof *s);
    segment_put(s->bytes, 1, 8);
    s->used = 8;
}

void segment_add_batch(struct segment *s, unsigned entries, uint64_t term) {
    uint8_t *start = s->bytes + s->used;
    uint8_t *header = start + 8;
    uint8_t *data = header + 8 + 16 * entries;
    size_t data_len = (size_t)entries * SEGMENT_DATA_BYTES;
    assert_true(data + data_len <= s->bytes + sizeof s->bytes);
    segment_put(header, entries, 8);
    for (unsigned i = 0; i < entries; i++) {
        segment_put(header + 8 + 16 * i, term, 8);
        header[8 + 16 * i + 8] = 1;
        segment_put(header + 8 + 16 * i + 12, SEGMENT_DATA_BYTES, 4);
        memset(data + i * SEGMENT_DATA_BYTES, (int)(0x40 + i), SEGMENT_DATA_BYTES);
    }
    segment_put(start, segment_crc(header, (size_t)(data - header)), 4);
    segment_put(start + 4, segment_crc(data, data_len), 4);
    s->used = (size_t)(data - s->bytes) + data_len;
}

void segment_write_closed(const char *dir, uint64_t first, uint64_t last, uint64_t term) {
    struct segment s;
    char path[512];
    segment_begin(&s);
    segment_add_batch(&s, (unsigned)(last - first + 1), term);
    snprintf(path, sizeof path, "%s/%016llu-%016llu", dir, (unsigned long long)first,
             (unsigned long long)last);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, s.bytes, s.used), s.used);
    close(fd);
}

// ---- copies --------------------------------------------------------------------

// false: the file isn't there any more.
static bool copy_file(const char *from, const char *to) {
    static const uint8_t zeros[4096];
    uint8_t block[sizeof zeros];
    off_t at = 0;
    int in = open(from, O_RDONLY);
    if (in < 0 && errno == ENOENT) {
        return false;
    }
    int out = open(to, O_WRONLY | O_CREAT | O_EXCL, 0600);
    assert_true(in >= 0 && out >= 0);
    for (ssize_t n; (n = read(in, block, sizeof block)) > 0; at += n) {
        if (memcmp(block, zeros, (size_t)n) != 0) {
            assert_int_equal(pwrite(out, block, (size_t)n, at), n);
        }
    }
    assert_int_equal(ftruncate(out, at), 0);
    close(in);
    close(out);
    return true;
}

static bool copy_all(const char *from, const char *to) {
    char a[512], b[512];
    bool all = true;
    DIR *dir = opendir(from);
    assert_non_null(dir);
    assert_int_equal(mkdir(to, 0700), 0);
    for (struct dirent *e = readdir(dir); all && e != NULL; e = readdir(dir)) {
        if (e->d_name[0] != '.') {
            snprintf(a, sizeof a, "%s/%s", from, e->d_name);
            snprintf(b, sizeof b, "%s/%s", to, e->d_name);
            all = copy_file(a, b);
        }
    }
    closedir(dir);
    return all;
}

static void remove_all(const char *path) {
    DIR *dir = opendir(path);
    assert_non_null(dir);
    for (struct dirent *e = readdir(dir); e != NULL; e = readdir(dir)) {
        if (e->d_name[0] != '.') {
            assert_int_equal(unlinkat(dirfd(dir), e->d_name, 0), 0);
        }
    }
    closedir(dir);
    assert_int_equal(rmdir(path), 0);
}

// A backend that runs renames its files: what was listed may have another name when its turn comes.
void segment_copy_dir(const char *from, const char *to) {
    for (unsigned tries = 1; !copy_all(from, to); tries++) {
        assert_true(tries < 1000);
        remove_all(to);
    }
}
