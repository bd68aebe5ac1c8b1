// Wrong credentials: how many are looked at, how many are logged.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "server/auth_limit.h"

static void the_door_shuts_for_the_rest_of_the_window(void **state) {
    (void)state;
    struct nl_auth_limit *limit = nl_auth_limit_new();
    bool shut = false;
    for (unsigned i = 1; i <= NL_AUTH_FAILURES_MAX; i++) {
        assert_true(nl_auth_limit_allows(limit, "h", 1000 + i));
        assert_true(nl_auth_limit_failed(limit, "h", 1000 + i, &shut));
        assert_int_equal(shut, i == NL_AUTH_FAILURES_MAX);
    }
    assert_false(nl_auth_limit_allows(limit, "h", 2000));
    assert_true(nl_auth_limit_allows(limit, "other", 2000));
    assert_false(nl_auth_limit_failed(limit, "h", 2000, &shut));  // not logged again
    assert_false(shut);
    assert_false(nl_auth_limit_allows(limit, "h", 1001 + NL_AUTH_WINDOW_MS - 1));
    assert_true(nl_auth_limit_allows(limit, "h", 1001 + NL_AUTH_WINDOW_MS));
    nl_auth_limit_free(limit);
}

static void the_table_is_bounded(void **state) {
    (void)state;
    struct nl_auth_limit *limit = nl_auth_limit_new();
    bool shut;
    for (unsigned i = 0; i < NL_AUTH_FAILURES_MAX; i++) {
        nl_auth_limit_failed(limit, "first", 0, &shut);
    }
    for (unsigned i = 0; i < NL_AUTH_KEYS_MAX; i++) {
        char key[32];
        snprintf(key, sizeof key, "h%u", i);
        nl_auth_limit_failed(limit, key, 0, &shut);
    }
    assert_true(nl_auth_limit_allows(limit, "first", 0));  // the oldest went
    nl_auth_limit_free(limit);
}

static void a_peer_is_its_address_without_the_port(void **state) {
    (void)state;
    const char *const cases[][2] = {
        {"ipv4:10.0.0.1:4711", "10.0.0.1"},
        {"10.0.0.1:4711", "10.0.0.1"},
        {"ipv6:[::1]:4711", "[::1]"},
        {"ipv6:%5B::1%5D:4711", "%5B::1%5D"},
        {"unix:/tmp/x", "unix"},
        {"", ""},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char host[64];
        nl_auth_peer_host(cases[i][0], host, sizeof host);
        assert_string_equal(host, cases[i][1]);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_door_shuts_for_the_rest_of_the_window),
        cmocka_unit_test(the_table_is_bounded),
        cmocka_unit_test(a_peer_is_its_address_without_the_port),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
