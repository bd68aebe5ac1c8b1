#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
// cmocka needs the four above first
#include <cmocka.h>

#include "common/base/buf.h"
#include "common/base/err.h"

static void append_consume(void **state) {
    (void)state;
    struct nl_buf b;
    nl_buf_init(&b, 0);
    char model[4096];
    size_t model_len = 0;
    unsigned seed = 7;
    for (int i = 0; i < 5000; i++) {
        seed = seed * 1103515245u + 12345u;
        size_t n = (seed >> 16) % 40;
        if ((seed >> 8) % 2 == 0 && model_len + n <= sizeof model) {
            char bytes[40];
            memset(bytes, (int)(seed & 0xFF), sizeof bytes);
            assert_int_equal(nl_buf_append(&b, bytes, n), NL_OK);
            memcpy(model + model_len, bytes, n);
            model_len += n;
        } else {
            n = n > model_len ? model_len : n;
            nl_buf_consume(&b, n);
            memmove(model, model + n, model_len - n);
            model_len -= n;
        }
        assert_int_equal(b.len, model_len);
        if (model_len > 0) {
            assert_memory_equal(b.data, model, model_len);
        }
    }
    nl_buf_close(&b);
    assert_null(b.data);
}

static void limit_leaves_unchanged(void **state) {
    (void)state;
    struct nl_buf b;
    nl_buf_init(&b, 8);
    assert_int_equal(nl_buf_append(&b, "12345678", 8), NL_OK);
    assert_int_equal(nl_buf_append(&b, "9", 1), NL_ETOOBIG);
    assert_int_equal(nl_buf_printf(&b, "%d", 9), NL_ETOOBIG);
    assert_int_equal(b.len, 8);
    nl_buf_consume(&b, 8);
    // The NUL of printf is no content: eight characters fit into a limit of eight.
    assert_int_equal(nl_buf_printf(&b, "%s", "abcdefgh"), NL_OK);
    assert_memory_equal(b.data, "abcdefgh", 8);
    nl_buf_clear(&b);
    assert_int_equal(nl_buf_reserve(&b, 9), NL_ETOOBIG);
    nl_buf_close(&b);
}

static void sizes_that_overflow(void **state) {
    (void)state;
    struct nl_buf b = {0};
    assert_int_equal(nl_buf_append(&b, "x", 1), NL_OK);
    assert_int_equal(nl_buf_reserve(&b, SIZE_MAX), NL_ENOMEM);
    assert_int_equal(b.len, 1);
    nl_buf_close(&b);
    nl_buf_close(&b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(append_consume),
        cmocka_unit_test(limit_leaves_unchanged),
        cmocka_unit_test(sizes_that_overflow),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
