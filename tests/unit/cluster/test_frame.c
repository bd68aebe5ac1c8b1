#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
// cmocka needs the four above first
#include <cmocka.h>

#include "cluster/raft/frame.h"
#include "common/base/err.h"

static uint8_t *make(const size_t *lens, size_t n, size_t *ret_len) {
    struct nl_frame frame;
    uint8_t *data;
    uint8_t command[1000];
    nl_frame_init(&frame);
    for (size_t i = 0; i < n; i++) {
        memset(command, (int)(i + 1), sizeof command);
        assert_int_equal(nl_frame_add(&frame, command, lens[i]), NL_OK);
    }
    assert_int_equal(nl_frame_finish(&frame, &data, ret_len), NL_OK);
    assert_null(frame.data);
    return data;
}

static void round_trip_of_odd_sizes(void **state) {
    (void)state;
    for (size_t a = 1; a < 40; a++) {
        const size_t lens[] = {a, 41 - a, 1, 7 * a};
        struct nl_frame_reader reader;
        const uint8_t *command;
        size_t len, total;
        uint8_t *data = make(lens, 4, &total);
        assert_int_equal(total % 8, 0);
        assert_int_equal(nl_frame_open(&reader, data, total), NL_OK);
        for (size_t i = 0; i < 4; i++) {
            assert_true(nl_frame_next(&reader, &command, &len));
            assert_int_equal(len, lens[i]);
            assert_int_equal(command[0], i + 1);
            assert_int_equal(command[len - 1], i + 1);
        }
        assert_false(nl_frame_next(&reader, &command, &len));
        free(data);
    }
}

// Every single-byte change of the bytes that aren't a command's own is noticed.
static void changed_structure_is_refused(void **state) {
    const size_t lens[] = {5, 9};
    size_t total;
    struct nl_frame_reader reader;
    uint8_t *data = make(lens, 2, &total);
    (void)state;
    for (size_t i = 0; i < total; i++) {
        bool is_command = (i >= 12 && i < 17) || (i >= 21 && i < 30);
        for (unsigned bit = 0; bit < 8; bit++) {
            data[i] ^= (uint8_t)(1u << bit);
            int rv = nl_frame_open(&reader, data, total);
            assert_int_equal(rv == NL_OK, is_command);
            data[i] ^= (uint8_t)(1u << bit);
        }
    }
    for (size_t len = 0; len < total; len++) {
        assert_int_not_equal(nl_frame_open(&reader, data, len), NL_OK);
    }
    free(data);
}

static void newer_version_is_told(void **state) {
    const size_t lens[] = {5};
    size_t total;
    struct nl_frame_reader reader;
    uint8_t *data = make(lens, 1, &total);
    (void)state;
    data[4] = NL_FRAME_VERSION + 1;
    assert_int_equal(nl_frame_open(&reader, data, total), NL_EVERSION);
    free(data);
}

static void limits(void **state) {
    struct nl_frame frame;
    (void)state;
    nl_frame_init(&frame);
    assert_int_equal(nl_frame_add(&frame, "", 0), NL_EINVAL);
    assert_int_equal(nl_frame_add(&frame, "", NL_FRAME_BYTES_MAX), NL_ETOOBIG);
    for (unsigned i = 0; i < NL_FRAME_COMMANDS_MAX; i++) {
        assert_int_equal(nl_frame_add(&frame, "x", 1), NL_OK);
    }
    assert_int_equal(nl_frame_add(&frame, "x", 1), NL_ETOOBIG);
    assert_int_equal(frame.count, NL_FRAME_COMMANDS_MAX);
    nl_frame_close(&frame);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(round_trip_of_odd_sizes),
        cmocka_unit_test(changed_structure_is_refused),
        cmocka_unit_test(newer_version_is_told),
        cmocka_unit_test(limits),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
