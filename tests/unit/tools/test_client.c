#include "tools/client.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/err.h"

static void test_addresses(void **state) {
    (void)state;
    struct nl_client_target target = {0};
    char error[128];
    assert_int_equal(nl_client_parse_addresses("h1:7001, h2 ,[::1]:7003", &target, error, 128),
                     NL_OK);
    assert_int_equal(target.n_addresses, 3);
    assert_string_equal(target.addresses[0], "h1:7001");
    assert_string_equal(target.addresses[1], "h2:7000");
    assert_string_equal(target.addresses[2], "[::1]:7003");
    nl_client_target_close(&target);
}

static void test_bad_addresses(void **state) {
    (void)state;
    static const char *const BAD[] = {"", ",", "a:1,", "a:b", "a:0", "a:99999", ":7000", "   "};
    for (size_t i = 0; i < sizeof BAD / sizeof BAD[0]; i++) {
        struct nl_client_target target = {0};
        char error[128] = "";
        assert_int_equal(nl_client_parse_addresses(BAD[i], &target, error, sizeof error),
                         NL_EINVAL);
        assert_non_null(strstr(error, "not HOST:PORT"));
        nl_client_target_close(&target);
    }
}

static struct nl_client_error read_status(enum nl_rpc_code code, const char *text, bool write) {
    struct nl_rpc_status status = {code, text};
    struct nl_client_error error;
    nl_client_read_status(&status, "h:1", write, &error);
    return error;
}

static void test_outcome_of_a_write(void **state) {
    (void)state;
    struct nl_client_error e = read_status(NL_RPC_UNAVAILABLE, "failed: no quorum", true);
    assert_int_equal(e.outcome, NL_CLIENT_FAILED);
    assert_string_equal(e.text, "no quorum");
    assert_false(e.unreachable);

    e = read_status(NL_RPC_UNAVAILABLE, "unknown: leader changed", true);
    assert_int_equal(e.outcome, NL_CLIENT_UNKNOWN);
    assert_string_equal(e.text, "leader changed");

    e = read_status(NL_RPC_UNAVAILABLE, "Socket closed", true);
    assert_int_equal(e.outcome, NL_CLIENT_UNKNOWN);

    e = read_status(NL_RPC_UNAVAILABLE, "failed to connect to all addresses; last error: x", true);
    assert_int_equal(e.outcome, NL_CLIENT_FAILED);
    assert_true(e.unreachable);
    assert_string_equal(e.text, "can't connect to h:1");

    e = read_status(NL_RPC_DEADLINE_EXCEEDED, "Deadline Exceeded", true);
    assert_int_equal(e.outcome, NL_CLIENT_UNKNOWN);
    assert_string_equal(e.text, "no answer from h:1 in time");

    e = read_status(NL_RPC_NOT_FOUND, "no agent a9", true);
    assert_int_equal(e.outcome, NL_CLIENT_FAILED);
    assert_string_equal(e.text, "no agent a9");
}

static void test_a_read_changes_nothing(void **state) {
    (void)state;
    assert_int_equal(read_status(NL_RPC_UNAVAILABLE, "Socket closed", false).outcome,
                     NL_CLIENT_FAILED);
    assert_int_equal(read_status(NL_RPC_UNAVAILABLE, "unknown: x", false).outcome,
                     NL_CLIENT_FAILED);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_bad_addresses),
        cmocka_unit_test(test_outcome_of_a_write),
        cmocka_unit_test(test_a_read_changes_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
