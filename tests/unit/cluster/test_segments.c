// What the log's files are counted to hold before libraft opens them, against bytes put together
// here from the description of the format; and the mark beside them.

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "cluster/raft/mark.h"
#include "cluster/raft/segments.h"
#include "common/base/err.h"
#include "tests/unit/cluster/segment_file.h"

static char dir[32];
static const char *const names[] = {"open-1",
                                    "open-2",
                                    "open-10",
                                    "0000000000000001-0000000000000040",
                                    "0000000000000041-0000000000000050",
                                    "snapshot-2-48-1234.meta",
                                    "snapshot-2-48-1234",
                                    "0000000000000050-0000000000000090",
                                    "stored",
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

// ---- the directory ---------------------------------------------------------------

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
    write_file("snapshot-2-48-1234", "x", 1);
    write_file("snapshot-2-48-1234.meta", "x", 1);
    expect(50);
    unlink(path_of("0000000000000001-0000000000000040"));
    unlink(path_of("0000000000000041-0000000000000050"));
    expect(48);
}

static void test_open_segments_are_added_up(void **state) {
    (void)state;
    struct segment s;
    write_file("0000000000000001-0000000000000040", "", 0);
    segment_begin(&s);
    segment_add_batch(&s, 3, 3);
    segment_add_batch(&s, 1, 3);
    write_segment("open-2", &s);
    expect(44);
    segment_begin(&s);
    segment_add_batch(&s, 5, 3);
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
    segment_begin(&s);
    segment_add_batch(&s, 2, 3);
    size_t second = s.used;
    segment_add_batch(&s, 3, 3);
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
    segment_begin(&s);
    segment_add_batch(&s, 2, 3);
    size_t second = s.used;
    segment_add_batch(&s, 3, 3);
    for (size_t len = 0; len < s.used; len++) {
        write_file("open-1", s.bytes, len);
        expect(len < second ? 0 : 2);
    }
}

static void test_impossible_numbers(void **state) {
    (void)state;
    struct segment s;
    static const uint64_t counts[] = {UINT64_MAX, UINT64_MAX / 16, 1u << 30,
                                      SEGMENT_FILE_BYTES / 16};
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        segment_begin(&s);
        segment_put(s.bytes + 16, counts[i], 8);
        write_segment("open-1", &s);
        expect(0);
    }
    segment_begin(&s);
    segment_add_batch(&s, 1, 3);
    segment_put(s.bytes + 16 + 8 + 12, UINT32_MAX, 4);
    segment_put(s.bytes + 8, segment_crc(s.bytes + 16, 24), 4);
    write_segment("open-1", &s);
    expect(0);
}

// A crash can cut off the end of the last one only.
static void test_damage_before_a_later_segment(void **state) {
    (void)state;
    struct segment s;
    char text[256] = "";
    uint64_t last = 0;
    segment_begin(&s);
    segment_add_batch(&s, 2, 3);
    segment_add_batch(&s, 2, 3);
    s.bytes[s.used - 1] ^= 1;
    write_segment("open-1", &s);
    expect(2);
    segment_begin(&s);
    write_segment("open-2", &s);  // begun, but nothing was written
    expect(2);
    segment_add_batch(&s, 1, 3);
    write_segment("open-10", &s);
    assert_int_equal(nl_segments_last(dir, &last, text, sizeof text), NL_ECORRUPT);
    assert_non_null(strstr(text, "open-1 "));
    assert_non_null(strstr(text, "open-10"));
}

static void expect_corrupt(const char *word) {
    char text[256] = "";
    uint64_t last = 0;
    assert_int_equal(nl_segments_last(dir, &last, text, sizeof text), NL_ECORRUPT);
    if (strstr(text, word) == NULL || strstr(text, "under a new id") == NULL) {
        fail_msg("'%s' is not in it, or not what to do: %s", word, text);
    }
}

static void test_log_must_join_the_snapshot(void **state) {
    (void)state;
    write_file("0000000000000050-0000000000000090", "", 0);
    expect_corrupt("entries 1 to 49");
    write_file("snapshot-2-48-1234.meta", "x", 1);
    expect_corrupt("entries 1 to 49");  // its data is not there
    write_file("snapshot-2-48-1234", "", 0);
    expect_corrupt("entries 1 to 49");
    write_file("snapshot-2-48-1234", "x", 1);
    expect_corrupt("entries 49 to 49");
    write_file("0000000000000001-0000000000000040", "", 0);
    expect_corrupt("entries 49 to 49");
    write_file("0000000000000041-0000000000000050", "", 0);  // not followed by 50
    expect_corrupt("entries 49 to 49");
    unlink(path_of("0000000000000050-0000000000000090"));
    expect(50);
    unlink(path_of("0000000000000041-0000000000000050"));
    expect_corrupt("ends at entry 40, before the snapshot of 48");
}

static bool is_there(const char *name) {
    return access(path_of(name), F_OK) == 0;
}

static void finish(uint64_t index, uint64_t term) {
    char text[256] = "";
    assert_int_equal(nl_segments_finish_install(dir, index, term, text, sizeof text), NL_OK);
}

static void test_replaced_log_goes_with_its_snapshot_only(void **state) {
    (void)state;
    write_file("0000000000000001-0000000000000040", "x", 1);
    write_file("open-10", "x", 1);
    write_file("metadata1", "x", 1);
    finish(48, 2);
    write_file("snapshot-2-48-1234.meta", "x", 1);
    finish(48, 2);
    write_file("snapshot-2-48-1234", "", 0);
    finish(48, 2);
    write_file("snapshot-2-48-1234", "x", 1);
    finish(48, 3);
    finish(49, 2);
    assert_true(is_there("0000000000000001-0000000000000040") && is_there("open-10"));
    finish(48, 2);
    assert_false(is_there("0000000000000001-0000000000000040") || is_there("open-10"));
    assert_true(is_there("metadata1") && is_there("snapshot-2-48-1234"));
    expect(48);
}

// ---- the mark --------------------------------------------------------------------

static void expect_mark(uint64_t index, uint64_t install_index, uint64_t install_term) {
    struct nl_mark mark;
    assert_int_equal(nl_mark_open(&mark, dir), NL_OK);
    assert_int_equal(mark.index, index);
    assert_int_equal(mark.install_index, install_index);
    assert_int_equal(mark.install_term, install_term);
    nl_mark_close(&mark);
}

static void test_mark_is_kept(void **state) {
    struct nl_mark mark;
    (void)state;
    assert_int_equal(nl_mark_open(&mark, dir), NL_OK);
    nl_mark_raise(&mark, 7);
    nl_mark_raise(&mark, 5);
    expect_mark(7, 0, 0);
    assert_int_equal(nl_mark_lower(&mark, 6), NL_OK);
    assert_int_equal(nl_mark_install_begin(&mark, 30, 4), NL_OK);
    expect_mark(6, 30, 4);
    nl_mark_raise(&mark, 9);
    expect_mark(9, 30, 4);
    assert_int_equal(nl_mark_install_end(&mark), NL_OK);
    expect_mark(9, 0, 0);
    assert_int_equal(nl_mark_install_begin(&mark, 8, 5), NL_OK);
    expect_mark(8, 8, 5);
    nl_mark_close(&mark);
}

static void test_flipped_mark(void **state) {
    struct nl_mark mark;
    uint64_t content[6] = {7, ~(uint64_t)7, 30, ~(uint64_t)30, 4, ~(uint64_t)4};
    (void)state;
    write_file("stored", content, sizeof content);
    expect_mark(7, 30, 4);
    write_file("stored", content, 16);
    expect_mark(7, 0, 0);
    for (size_t i = 0; i < sizeof content; i++) {
        ((uint8_t *)content)[i] ^= 1;
        write_file("stored", content, sizeof content);
        assert_int_equal(nl_mark_open(&mark, dir), NL_ECORRUPT);
        ((uint8_t *)content)[i] ^= 1;
        write_file("stored", content, i);
        assert_int_equal(nl_mark_open(&mark, dir), i == 0 || i == 16 ? NL_OK : NL_ECORRUPT);
        nl_mark_close(&mark);
    }
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
        TEST(test_log_must_join_the_snapshot),
        TEST(test_replaced_log_goes_with_its_snapshot_only),
        TEST(test_mark_is_kept),
        TEST(test_flipped_mark),
        TEST(test_no_directory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
