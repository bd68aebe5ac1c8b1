#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/err.h"
#include "tests/unit/cluster/fixture.h"

static struct fixture f;

static int setup3(void **state) {
    (void)state;
    fixture_open(&f, 3);
    return 0;
}

static int setup1(void **state) {
    (void)state;
    fixture_open(&f, 1);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    fixture_close(&f);
    return 0;
}

static void start_all(void) {
    for (unsigned i = 0; i < f.n; i++) {
        fixture_start(&f, i);
    }
    assert_true(fixture_leader(&f) >= 0);
    for (unsigned i = 0; i < f.n; i++) {
        fixture_node_up(&f, i);
    }
}

static void assert_ok(const struct result *r) {
    assert_int_equal(r->result, NL_OK);
    assert_int_equal(r->outcome.code, NL_OUTCOME_OK);
    assert_true(r->index > 0);
    assert_true(r->term > 0);
}

static void make_agent(unsigned node) {
    struct result r;
    assert_int_equal(propose_token(&f, node, "a", &r), NL_OK);
    fixture_wait(&f, &r);
    assert_ok(&r);
}

static void single_node(void **state) {
    struct result r;
    (void)state;
    start_all();
    make_agent(0);
    assert_int_equal(propose_register(&f, 0, "a", 0, &r), NL_OK);
    fixture_wait(&f, &r);
    assert_ok(&r);
    memset(&r, 0, sizeof r);
    assert_int_equal(nl_cluster_read(f.nodes[0].cluster, 0, on_read, &r), NL_OK);
    fixture_wait(&f, &r);
    assert_int_equal(r.result, NL_OK);
}

// A read after an acknowledged write sees it, whichever nodes they went through.
static void write_and_read_through_every_node(void **state) {
    struct result r;
    uint64_t epoch = 0;
    (void)state;
    start_all();
    make_agent(1);
    for (unsigned writer = 0; writer < 3; writer++) {
        for (unsigned reader = 0; reader < 3; reader++) {
            assert_int_equal(propose_register(&f, writer, "a", 0, &r), NL_OK);
            fixture_wait(&f, &r);
            assert_ok(&r);
            assert_int_equal(r.outcome.value, ++epoch);
            assert_int_equal(epoch_at(&f, writer, "a"), epoch);
            uint64_t written_at = r.index;
            memset(&r, 0, sizeof r);
            assert_int_equal(nl_cluster_read(f.nodes[reader].cluster, 0, on_read, &r), NL_OK);
            fixture_wait(&f, &r);
            assert_int_equal(r.result, NL_OK);
            assert_true(r.index >= written_at);
            assert_int_equal(epoch_at(&f, reader, "a"), epoch);
        }
    }
    fixture_assert_equal(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(single_node, setup1, teardown),
        cmocka_unit_test_setup_teardown(write_and_read_through_every_node, setup3, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
