// What the log's files are counted to hold before libraft opens them; against bytes put together
// here from the description of the format.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cluster/raft/segments.h"
#include "common/base/err.h"

enum { FILE_BYTES = 8192, DATA_BYTES = 24 };

static char dir[32];
static const char *const names[] = {"open-1",
                                    "open-2",
                                    "open-10",
                                    "0000000000000001-0000000000000040",
                                    "0000000000000041-0000000000000050",
                                    "snapshot-2-70-1234.meta",
                                    "snapshot-2-70-1234",
                                    "snapshot-2-999-1234.tmp",
                                    "metadata1",
                                    "0000000000000051-0000000000000090.tmp"};

static char *path_of(const char *name) {
    static char path[96];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static int setup(void **state) {
    (void)state;
    strncpy(dir, "/tmp/nodelink-segments-XXXXXX", sizeof dir - 1);
    return mkdtemp(dir) == NULL ? -1 : 0;
}

static int teardown(void **state) {
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        unlink(path_of(names[i]));
    }
    return rmdir(dir);
}

static void write_file(const char *name, const void *data, size_t len) {
    FILE *f = fopen(path_of(name), "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, len, f), len);
    assert_int_equal(fclose(f), 0);
}

// ---- the format ----------------------------------------------------------------

struct segment {
    uint8_t bytes[FILE_BYTES];
    size_t used;
};

static void put(uint8_t *at, uint64_t v, unsigned bytes) {
    for (unsigned i = 0; i < bytes; i++) {
        at[i] = (uint8_t)(v >> (8 * i));
    }
}

// As a division of polynomials, bit by bit.
static uint32_t crc_of(const uint8_t *data, size_t len) {
    uint32_t crc = 0;
    for (size_t i = 0; i < len * 8; i++) {
        uint32_t bit = (uint32_t)data[i / 8] >> (7 - i % 8) & 1u;
        uint32_t top = crc >> 31;
        crc <<= 1;
        crc ^= (top ^ bit) ? 0x04c11db7u : 0;
    }
    return crc;
}

static void begin(struct segment *s) {
    memset(s, 0, sizeof *s);
    put(s->bytes, 1, 8);
    s->used = 8;
}

static void add_batch(struct segment *s, unsigned entries) {
    uint8_t *start = s->bytes + s->used;
    uint8_t *header = start + 8;
    uint8_t *data = header + 8 + 16 * entries;
    put(header, entries, 8);
    for (unsigned i = 0; i < entries; i++) {
        put(header + 8 + 16 * i, 3, 8);
        header[8 + 16 * i + 8] = 1;
        put(header + 8 + 16 * i + 12, DATA_BYTES, 4);
        memset(data + i * DATA_BYTES, (int)(0x40 + i), DATA_BYTES);
    }
    put(start, crc_of(header, (size_t)(data - header)), 4);
    put(start + 4, crc_of(data, (size_t)entries * DATA_BYTES), 4);
    s->used = (size_t)(data - s->bytes) + (size_t)entries * DATA_BYTES;
}

static void write_segment(const char *name, const struct segment *s) {
    write_file(name, s->bytes, sizeof s->bytes);
}

static void expect(uint64_t want) {
    char text[256] = "";
    uint64_t last = UINT64_MAX;
    int rv = nl_segments_last(dir, &last, text, sizeof text);
    if (rv != NL_OK || last != want) {
        fail_msg("%d, %llu entries: %s", rv, (unsigned long long)last, text);
    }
}

// ---- tests -----------------------------------------------------------------------

static void test_names(void **state) {
    (void)state;
    expect(0);
    write_file("0000000000000001-0000000000000040", "", 0);
    write_file("0000000000000041-0000000000000050", "", 0);
    expect(50);
    write_file("metadata1", "x", 1);
    write_file("snapshot-2-999-1234.tmp", "x", 1);
    write_file("0000000000000051-0000000000000090.tmp", "x", 1);
    expect(50);
    write_file("snapshot-2-70-1234", "x", 1);
    write_file("snapshot-2-70-1234.meta", "x", 1);
    expect(70);
}

static void test_open_segments_are_added_up(void **state) {
    (void)state;
    struct segment s;
    write_file("0000000000000001-0000000000000040", "", 0);
    begin(&s);
    add_batch(&s, 3);
    add_batch(&s, 1);
    write_segment("open-2", &s);
    expect(44);
    begin(&s);
    add_batch(&s, 5);
    write_segment("open-10", &s);  // after open-2: by number, not by name
    expect(49);
}

static void test_prepared_ones_are_empty(void **state) {
    (void)state;
    struct segment s = {0};
    write_segment("open-1", &s);
    write_file("open-2", "", 0);
    write_file("open-10", "abc", 3);
    expect(0);
}

static void test_every_flipped_byte_is_seen(void **state) {
    (void)state;
    struct segment s;
    begin(&s);
    add_batch(&s, 2);
    size_t second = s.used;
    add_batch(&s, 3);
    for (size_t at = 0; at < s.used; at++) {
        s.bytes[at] ^= 0x10;
        write_segment("open-1", &s);
        expect(at < second ? 0 : 2);
        s.bytes[at] ^= 0x10;
    }
    write_segment("open-1", &s);
    expect(5);
}

static void test_cut_at_every_byte(void **state) {
    (void)state;
    struct segment s;
    begin(&s);
    add_batch(&s, 2);
    size_t second = s.used;
    add_batch(&s, 3);
    for (size_t len = 0; len < s.used; len++) {
        write_file("open-1", s.bytes, len);
        expect(len < second ? 0 : 2);
    }
}

static void test_impossible_numbers(void **state) {
    (void)state;
    struct segment s;
    static const uint64_t counts[] = {UINT64_MAX, UINT64_MAX / 16, 1u << 30, FILE_BYTES / 16};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        begin(&s);
        put(s.bytes + 16, counts[i], 8);
        write_segment("open-1", &s);
        expect(0);
    }
    begin(&s);
    add_batch(&s, 1);
    put(s.bytes + 16 + 8 + 12, UINT32_MAX, 4);
    put(s.bytes + 8, crc_of(s.bytes + 16, 24), 4);
    write_segment("open-1", &s);
    expect(0);
}

// A crash can cut off the end of the last one only.
static void test_damage_before_a_later_segment(void **state) {
    (void)state;
    struct segment s;
    char text[256] = "";
    uint64_t last = 0;
    begin(&s);
    add_batch(&s, 2);
    add_batch(&s, 2);
    s.bytes[s.used - 1] ^= 1;
    write_segment("open-1", &s);
    expect(2);
    begin(&s);
    write_segment("open-2", &s);  // begun, but nothing was written
    expect(2);
    add_batch(&s, 1);
    write_segment("open-10", &s);
    assert_int_equal(nl_segments_last(dir, &last, text, sizeof text), NL_ECORRUPT);
    assert_non_null(strstr(text, "open-1 "));
    assert_non_null(strstr(text, "open-10"));
}

static void test_no_directory(void **state) {
    (void)state;
    char text[256] = "";
    uint64_t last = 0;
    assert_int_equal(nl_segments_last("/nonexistent", &last, text, sizeof text), NL_EIO);
    assert_true(text[0] != '\0');
}

#define TEST(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(test_names),
        TEST(test_open_segments_are_added_up),
        TEST(test_prepared_ones_are_empty),
        TEST(test_every_flipped_byte_is_seen),
        TEST(test_cut_at_every_byte),
        TEST(test_impossible_numbers),
        TEST(test_damage_before_a_later_segment),
        TEST(test_no_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
