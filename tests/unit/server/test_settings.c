// Configuration: what is refused, with which words; what a reload takes over.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "common/base/err.h"
#include "common/base/fs.h"
#include "server/settings.h"

#define HASH "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
#define GOOD                                                              \
    "node-id = 2\nmembers = n1/1/h1:7001/h1:7000, n2/2/h2:7001/h2:7000\n" \
    "data-dir = /d\ncluster-secret-file = /s\nadmin-token-sha256 = " HASH "\n"

static char path[] = "/tmp/nl-settings-XXXXXX";
static struct nl_config_error error;

static int setup(void **state) {
    (void)state;
    int fd = mkstemp(path);
    close(fd);
    return fd < 0;
}

static int teardown(void **state) {
    (void)state;
    return unlink(path);
}

static int load(struct nl_settings *settings, const char *text) {
    char *argv[] = {"nodelinkd", NULL};
    memset(settings, 0, sizeof *settings);
    assert_int_equal(nl_fs_write_atomic(path, text, strlen(text), 0600), NL_OK);
    int rv = nl_settings_load(settings, path, 1, argv, NULL, &error);
    return rv == NL_OK ? nl_settings_check(settings, path, &error) : rv;
}

static void a_good_file_is_completed_from_the_members(void **state) {
    (void)state;
    struct nl_settings s;
    assert_int_equal(load(&s, GOOD "insecure = true\n"), NL_OK);
    assert_string_equal(s.node_name, "n2");
    assert_string_equal(s.grpc_address, "h2:7000");
    assert_string_equal(s.advertised_grpc, "h2:7000");
    assert_int_equal(s.n_members, 2);
    assert_int_equal(s.members[0].id, 1);
    assert_int_equal(s.n_admin_hashes, 1);
    assert_int_equal(s.admin_hashes[0][31], 0xaa);
    nl_settings_close(&s);
}

static void one_node_needs_no_members(void **state) {
    (void)state;
    struct nl_settings s;
    assert_int_equal(load(&s,
                          "node-id = 7\nnode-name = x\ngrpc-address = h:1\nraft-address = h:2\n"
                          "data-dir = /d\ncluster-secret-file = /s\ninsecure = true\n"
                          "admin-token-sha256 = " HASH "\n"),
                     NL_OK);
    assert_int_equal(s.n_members, 1);
    assert_string_equal(s.members[0].grpc_address, "h:1");
    nl_settings_close(&s);
}

static void what_is_wrong_is_named_with_file_line_and_key(void **state) {
    (void)state;
    const struct {
        const char *text, *key;
        unsigned line;  // 0: the key is not in the file
    } cases[] = {
        {GOOD, "tls-cert-file", 0},
        {"insecure = true\n", "node-id", 0},
        {"node-id = 0\n", "node-id", 1},
        {"grpc-address = nohost\n", "grpc-address", 1},
        {"\nraft-address = h\n", "raft-address", 2},
        {"node-id = 1\nmembers = n1\n", "members", 2},
        {"node-id = 1\nmembers = n1/1/a:1/b:2, n2/1/c:1/d:2\n", "members", 2},
        {"node-id = 1\nmembers = n1/1/a:1/b:2, n2/2/a:1/d:2\n", "members", 2},
        {"node-id = 1\nmembers = n1/1/a:1/b:2, n2/2/c:1/b:2\n", "members", 2},
        {"node-id = 1\nmembers = n1/1/a:1/a:1\n", "members", 2},
        {"node-id = 3\nmembers = n1/1/a:1/b:2\n", "members", 2},
        {"node-id = 1\nmembers = n1/1/a:1/b:2\nnode-name = other\n", "node-name", 3},
        {GOOD "heartbeat = 200ms\ninsecure=true\nelection-timeout = 300ms\n", "election-timeout",
         8},
        {GOOD "insecure = true\nlog-level = loud\n", "log-level", 7},
        {GOOD "insecure = true\nlog-format = xml\n", "log-format", 7},
        {GOOD "insecure = true\ndisconnect-grace = 1s\n", "disconnect-grace", 7},
        {GOOD "tls-cert-file = /c\n", "tls-ca-file", 0},
        {"node-id = 1\nmembers = n1/1/a:1/b:2\ninsecure = true\ndata-dir = /d\n",
         "cluster-secret-file", 0},
        {"node-id = 1\nmembers = n1/1/a:1/b:2\ninsecure = true\ndata-dir = /d\n"
         "cluster-secret-file = /s\nadmin-token-sha256 = abc\n",
         "admin-token-sha256", 6},
        {"node-id = 1\nmembers = n1/1/a:1/b:2\ninsecure = true\ndata-dir = /d\n"
         "cluster-secret-file = /s\n",
         "admin-token-sha256", 0},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct nl_settings s;
        char place[64];
        assert_int_equal(load(&s, cases[i].text), NL_EINVAL);
        nl_settings_close(&s);
        if (cases[i].line > 0) {
            snprintf(place, sizeof place, "%s:%u: %s: ", path, cases[i].line, cases[i].key);
        } else {
            snprintf(place, sizeof place, "%s: %s: ", path, cases[i].key);
        }
        if (strncmp(error.text, place, strlen(place)) != 0) {
            fail_msg("case %zu: '%s' does not begin with '%s'", i, error.text, place);
        }
    }
}

static char restart_keys[256];

static void note_key(void *user, const char *key) {
    (void)user;
    size_t at = strlen(restart_keys);
    snprintf(restart_keys + at, sizeof restart_keys - at, "%s ", key);
}

static void a_reload_takes_what_can_change(void **state) {
    (void)state;
    struct nl_settings s, fresh;
    assert_int_equal(load(&s, GOOD "insecure = true\n"), NL_OK);
    assert_int_equal(load(&fresh,
                          "node-id = 2\nmembers = n1/1/h1:7001/h1:7000, "
                          "n2/2/h2:7001/h2:7000\ndata-dir = /other\n"
                          "cluster-secret-file = /s\ninsecure = true\nheartbeat = 60ms\n"
                          "admin-token-sha256 = " HASH ", "
                          "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\n"
                          "leaderless-grace = 9s\n"),
                     NL_OK);
    restart_keys[0] = '\0';
    nl_settings_reload(&s, &fresh, note_key, NULL);
    nl_settings_close(&fresh);
    assert_string_equal(restart_keys, "data-dir heartbeat ");
    assert_int_equal(s.leaderless_grace_ms, 9000);
    assert_int_equal(s.heartbeat_ms, 50);
    assert_string_equal(s.data_dir, "/d");
    assert_int_equal(s.n_admin_hashes, 2);
    assert_int_equal(s.admin_hashes[1][0], 0xbb);
    nl_settings_close(&s);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_good_file_is_completed_from_the_members),
        cmocka_unit_test(one_node_needs_no_members),
        cmocka_unit_test(what_is_wrong_is_named_with_file_line_and_key),
        cmocka_unit_test(a_reload_takes_what_can_change),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
