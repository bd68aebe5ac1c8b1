// The parts of the link's core that stand alone: backoff, server list, validation.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "agent/link/backoff.h"
#include "agent/link/servers.h"
#include "agent/link/validate.h"
#include "common/base/err.h"

static uint64_t random_of(uint64_t *seed) {
    uint64_t z = *seed += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

// ---- backoff ---------------------------------------------------------------

static void backoff_is_within_its_ceilings(void **state) {
    (void)state;
    const uint64_t ceilings[] = {1000, 1500, 2250, 3375, 5062, 7593};
    uint64_t sums[6] = {0};
    for (uint64_t seed = 1; seed <= 2000; seed++) {
        struct nl_link_backoff b = {.start_ms = 1000, .cap_ms = 60000, .factor_percent = 150};
        uint64_t s = seed;
        for (size_t i = 0; i < 6; i++) {
            uint64_t wait = nl_link_backoff_next_ms(&b, random_of(&s));
            assert_in_range(wait, 1, ceilings[i]);
            sums[i] += wait;
        }
        for (size_t i = 0; i < 30; i++) {
            assert_in_range(nl_link_backoff_next_ms(&b, random_of(&s)), 1, 60000);
        }
        assert_int_equal(b.ceiling_ms, 60000);
        nl_link_backoff_reset(&b);
        assert_in_range(nl_link_backoff_next_ms(&b, random_of(&s)), 1, 1000);
    }
    for (size_t i = 0; i < 6; i++) {  // full jitter: the mean is half of the ceiling
        assert_in_range(sums[i] / 2000, ceilings[i] * 45 / 100, ceilings[i] * 55 / 100);
    }
}

static void slow_backoff_is_in_the_upper_half(void **state) {
    (void)state;
    struct nl_link_backoff b = {.start_ms = 1000, .cap_ms = 60000, .factor_percent = 150};
    uint64_t seed = 7;
    for (int i = 0; i < 1000; i++) {
        assert_in_range(nl_link_backoff_slow_ms(&b, random_of(&seed)), 30001, 60001);
    }
    assert_int_equal(b.ceiling_ms, 0);
}

// ---- servers ---------------------------------------------------------------

static struct nl_link_strings list_of(char **items, size_t n) {
    return (struct nl_link_strings){items, n};
}

static void servers_merge_and_replace(void **state) {
    (void)state;
    struct nl_link_servers s;
    assert_int_equal(nl_link_servers_init(&s, "agent"), NL_OK);
    char *configured[] = {"a:1", "b:1", "a:1", "nonsense", "c:0"};
    char *learned[] = {"b:1", "d:1"};
    char *other[] = {"e:1"};
    bool changed = false;
    nl_link_servers_set_configured(&s, list_of(configured, 5), &changed);
    assert_true(changed);
    assert_int_equal(s.count, 2);
    nl_link_servers_set_learned(&s, list_of(learned, 2), &changed);
    assert_true(changed);
    assert_int_equal(s.count, 3);
    nl_link_servers_set_learned(&s, list_of(learned, 2), &changed);
    assert_false(changed);
    nl_link_servers_set_learned(&s, list_of(other, 1), &changed);
    assert_true(changed);
    assert_int_equal(s.count, 3);  // a and b are configured, d is gone
    assert_false(nl_link_servers_has(&s, "d:1"));
    nl_link_servers_set_configured(&s, list_of(other, 1), &changed);
    assert_int_equal(s.count, 1);
    nl_link_servers_close(&s);
}

static void servers_are_limited(void **state) {
    (void)state;
    struct nl_link_servers s;
    assert_int_equal(nl_link_servers_init(&s, "agent"), NL_OK);
    char *items[200], texts[200][16];
    for (int i = 0; i < 200; i++) {
        snprintf(texts[i], sizeof texts[i], "h%d:1", i);
        items[i] = texts[i];
    }
    assert_int_equal(nl_link_servers_set_learned(&s, list_of(items, 200), NULL), NL_OK);
    assert_int_equal(s.count, NL_LINK_SERVERS_MAX);
    nl_link_servers_close(&s);
}

static void servers_order(void **state) {
    (void)state;
    struct nl_link_servers s;
    assert_int_equal(nl_link_servers_init(&s, "agent"), NL_OK);
    char *items[] = {"a:1", "b:1", "c:1"};
    nl_link_servers_set_configured(&s, list_of(items, 3), NULL);
    bool changed;
    nl_link_servers_good(&s, "b:1", &changed);
    assert_string_equal(nl_link_servers_pick(&s, NULL), "b:1");  // affinity
    nl_link_servers_dropped(&s, "b:1");
    assert_string_not_equal(nl_link_servers_pick(&s, NULL), "b:1");  // it comes last
    char *preferred[] = {"z:1", "b:1"};
    nl_link_servers_prefer(&s, list_of(preferred, 2));
    assert_string_equal(nl_link_servers_pick(&s, NULL), "z:1");
    nl_link_servers_tried(&s, "z:1");
    assert_string_equal(nl_link_servers_pick(&s, NULL), "b:1");
    assert_string_not_equal(nl_link_servers_pick(&s, "b:1"), "b:1");
    nl_link_servers_tried(&s, "a:1");
    nl_link_servers_tried(&s, "b:1");
    nl_link_servers_tried(&s, "c:1");
    assert_null(nl_link_servers_pick(&s, NULL));
    nl_link_servers_reset(&s);
    assert_string_equal(nl_link_servers_pick(&s, NULL), "b:1");
    nl_link_servers_close(&s);
}

// Rendezvous: equal shares, and losing one server moves only its agents, evenly.
static void servers_spread_a_fleet(void **state) {
    (void)state;
    char *items[] = {"n1:7000", "n2:7000", "n3:7000", "n4:7000", "n5:7000"};
    size_t first[5] = {0}, second[5] = {0};
    for (int agent = 0; agent < 5000; agent++) {
        char id[32];
        snprintf(id, sizeof id, "agent-%d", agent);
        struct nl_link_servers s;
        assert_int_equal(nl_link_servers_init(&s, id), NL_OK);
        nl_link_servers_set_configured(&s, list_of(items, 5), NULL);
        size_t a = (size_t)(nl_link_servers_pick(&s, NULL)[1] - '1');
        first[a]++;
        nl_link_servers_tried(&s, items[a]);
        if (a == 2) {
            second[nl_link_servers_pick(&s, NULL)[1] - '1']++;
        }
        nl_link_servers_close(&s);
    }
    for (size_t i = 0; i < 5; i++) {
        assert_in_range(first[i], 900, 1100);
        if (i != 2) {
            assert_in_range(second[i], 190, 310);
        }
    }
}

// ---- validation ------------------------------------------------------------

static void validation(void **state) {
    (void)state;
    Nodelink__V1__ShellExecute shell = NODELINK__V1__SHELL_EXECUTE__INIT;
    Nodelink__V1__ShellOptions options = NODELINK__V1__SHELL_OPTIONS__INIT;
    assert_string_equal(nl_link_validate_shell(&shell, NULL), "no command");
    assert_string_equal(nl_link_validate_shell(&shell, &options), "no command");
    shell.cmd = "ls";
    assert_null(nl_link_validate_shell(&shell, &options));
    char *env[] = {"A=1", "B"};
    shell.env = env;
    shell.n_env = 1;
    assert_null(nl_link_validate_shell(&shell, NULL));
    shell.n_env = 2;
    assert_non_null(nl_link_validate_shell(&shell, NULL));
    env[1] = "=x";
    assert_non_null(nl_link_validate_shell(&shell, NULL));
    shell.n_env = 0;
    char *argv[] = {""};
    options.argv = argv;
    options.n_argv = 1;
    assert_non_null(nl_link_validate_shell(&shell, &options));
    char *big = malloc(200 * 1024);
    memset(big, 'x', 200 * 1024 - 1);
    big[200 * 1024 - 1] = '\0';
    shell.cmd = big;
    assert_non_null(nl_link_validate_shell(&shell, NULL));
    shell.cmd = "ls";
    argv[0] = big;
    assert_non_null(nl_link_validate_shell(&shell, &options));
    shell.working_dir = big;
    assert_non_null(nl_link_validate_shell(&shell, NULL));
    free(big);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(backoff_is_within_its_ceilings),
        cmocka_unit_test(slow_backoff_is_in_the_upper_half),
        cmocka_unit_test(servers_merge_and_replace),
        cmocka_unit_test(servers_are_limited),
        cmocka_unit_test(servers_order),
        cmocka_unit_test(servers_spread_a_fleet),
        cmocka_unit_test(validation),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
