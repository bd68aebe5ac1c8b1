#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/err.h"
#include "common/base/lz4.h"

static uint8_t *bytes_of(size_t len, unsigned noise) {
    uint8_t *data = malloc(len + 1);
    uint32_t x = 1;
    assert_non_null(data);
    for (size_t i = 0; i < len; i++) {
        x = x * 1664525u + 1013904223u;
        data[i] = (uint8_t)(noise == 0 ? i % 7 : (x >> 16) % noise);
    }
    return data;
}

static void test_there_and_back(void **state) {
    (void)state;
    static const size_t sizes[] = {1, 255, 256, 1000, 65536, 262144};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        for (unsigned noise = 0; noise <= 256; noise += 256) {
            size_t len = sizes[i];
            uint8_t *want = bytes_of(len, noise), *out = malloc(len);
            struct nl_lz4_piece piece;
            assert_non_null(out);
            nl_lz4_piece_take(&piece, bytes_of(len, noise), len);
            if (piece.size == 0) {
                assert_int_equal(piece.len, len);
                assert_memory_equal(piece.data, want, len);
            } else {
                assert_int_equal(piece.size, len);
                assert_true(piece.len < len);
                assert_int_equal(nl_lz4_unpack(piece.data, piece.len, out, len), NL_OK);
                assert_memory_equal(out, want, len);
            }
            // What repeats gets smaller, what is random does not; little is not tried.
            assert_int_equal(piece.size != 0, len >= 256 && noise < 256);
            free(piece.data);
            free(out);
            free(want);
        }
    }
    struct nl_lz4_piece none;
    nl_lz4_piece_take(&none, NULL, 0);
    assert_int_equal(none.len + none.size, 0);
}

static void test_damaged_blocks_are_refused(void **state) {
    (void)state;
    enum { LEN = 5000 };
    uint8_t *want = bytes_of(LEN, 4), packed[LEN], out[LEN];
    size_t n = nl_lz4_pack(want, LEN, packed, sizeof packed);
    assert_true(n > 0);
    assert_int_equal(nl_lz4_unpack(packed, n, out, LEN - 1), NL_ECORRUPT);
    assert_int_equal(nl_lz4_unpack(packed, n - 1, out, LEN), NL_ECORRUPT);
    assert_int_equal(nl_lz4_unpack(packed, 0, out, LEN), NL_ECORRUPT);
    assert_int_equal(nl_lz4_pack(want, LEN, packed, n - 1), 0);
    for (size_t i = 0; i < n; i++) {  // never beyond `out`, whatever it is (for the sanitizers)
        packed[i] ^= 0xff;
        nl_lz4_unpack(packed, n, out, LEN);
        packed[i] ^= 0xff;
    }
    free(want);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_there_and_back),
        cmocka_unit_test(test_damaged_blocks_are_refused),
    };
    return cmocka_run_group_tests_name("lz4", tests, NULL, NULL);
}
