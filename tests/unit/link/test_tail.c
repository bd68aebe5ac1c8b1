// The end of a task's output, read from a spool on the disk.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "agent/link/tail.h"
#include "common/base/err.h"

enum { SIZE = 100000 };

static char dir[64];
static uint8_t bytes[2][SIZE];

static int make_spool(void **state) {
    (void)state;
    static const char *const names[] = {"stdout", "stderr"};
    char path[128];
    snprintf(dir, sizeof dir, "/tmp/nl-tail-XXXXXX");
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/t.1", dir);
    assert_int_equal(mkdir(path, 0700), 0);
    for (int i = 0; i < 2; i++) {
        for (size_t k = 0; k < SIZE; k++) {
            bytes[i][k] = (uint8_t)(k >> (8 - 3 * i));
        }
        snprintf(path, sizeof path, "%s/t.1/%s", dir, names[i]);
        FILE *file = fopen(path, "wb");
        assert_non_null(file);
        assert_int_equal(fwrite(bytes[i], 1, SIZE, file), SIZE);
        fclose(file);
    }
    return 0;
}

static int remove_spool(void **state) {
    (void)state;
    static const char *const names[] = {"t.1/stdout", "t.1/stderr"};
    char path[128];
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        unlink(path);
    }
    snprintf(path, sizeof path, "%s/t.1", dir);
    rmdir(path);
    return rmdir(dir);
}

static void expect_stream(const ProtobufCBinaryData *data, uint32_t size, int stream,
                          uint64_t offset, uint64_t end) {
    static uint8_t out[SIZE];
    size_t len = size != 0 ? size : data->len;
    assert_int_equal(offset + len, end);
    if (size != 0) {
        assert_int_equal(nl_lz4_unpack(data->data, data->len, out, len), NL_OK);
    } else {
        memcpy(out, data->data, len);
    }
    assert_memory_equal(out, bytes[stream] + offset, len);
}

static void the_bound_is_divided(void **state) {
    (void)state;
    static const struct {
        uint64_t base[2], end[2], max, out_from, err_from;
    } rows[] = {
        {{0, 0}, {0, 0}, 1000, 0, 0},
        {{0, 0}, {700, 300}, 1000, 0, 0},
        {{0, 0}, {SIZE, 0}, 1000, SIZE - 1000, 0},
        {{0, 0}, {0, SIZE}, 1000, 0, SIZE - 1000},
        {{0, 0}, {SIZE, 10}, 1000, SIZE - 990, 0},
        {{0, 0}, {10, SIZE}, 1000, 0, SIZE - 990},
        {{0, 0}, {SIZE, SIZE}, 1000, SIZE - 500, SIZE - 500},
        {{SIZE - 5, SIZE - 7}, {SIZE, SIZE}, 1000, SIZE - 5, SIZE - 7},  // the rest was dropped
        {{SIZE, SIZE}, {SIZE, SIZE}, 1000, SIZE, SIZE},
    };
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct nl_link_tail_source source = {.spool_dir = (char *)(uintptr_t) "t.1"};
        memcpy(source.base, rows[i].base, sizeof source.base);
        memcpy(source.end, rows[i].end, sizeof source.end);
        struct nl_link_tail tail;
        assert_int_equal(nl_link_tail_read(dir, &source, rows[i].max, &tail), NL_OK);
        const Nodelink__V1__OutputTail *m = &tail.message;
        assert_int_equal(m->stdout_offset, rows[i].out_from);
        assert_int_equal(m->stderr_offset, rows[i].err_from);
        expect_stream(&m->stdout, m->stdout_size, 0, m->stdout_offset, rows[i].end[0]);
        expect_stream(&m->stderr, m->stderr_size, 1, m->stderr_offset, rows[i].end[1]);
        nl_link_tail_close(&tail);
    }
}

static void a_spool_that_is_gone_or_short(void **state) {
    (void)state;
    struct nl_link_tail tail;
    struct nl_link_tail_source gone = {.spool_dir = (char *)(uintptr_t) "u.1", .end = {10, 0}};
    assert_int_equal(nl_link_tail_read(dir, &gone, 1000, &tail), NL_EGAP);
    struct nl_link_tail_source shorter = {.spool_dir = (char *)(uintptr_t) "t.1",
                                          .end = {10, SIZE + 1}};
    assert_int_equal(nl_link_tail_read(dir, &shorter, 1000, &tail), NL_EGAP);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_bound_is_divided),
        cmocka_unit_test(a_spool_that_is_gone_or_short),
    };
    return cmocka_run_group_tests_name("tail", tests, make_spool, remove_spool);
}
