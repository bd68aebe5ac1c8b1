// Allocation N and those after it fail, for every N: each call says NL_ENOMEM, nothing leaks
// (LeakSanitizer), the state can be freed; and a restore that fails leaves the state as it was.
//
// Linked with --wrap=malloc,calloc,realloc: calls from cluster/state and this file come here.

#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "tests/unit/state/fixture.h"
#include "tests/unit/state/generate.h"

void *__real_malloc(size_t size);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *block, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *block, size_t size);

static long fail_after = -1;  // allocations that succeed before all fail; -1: none fails

static bool fails(void) {
    if (fail_after < 0) {
        return false;
    }
    return fail_after == 0 || fail_after-- == 0;
}

void *__wrap_malloc(size_t size) {
    return fails() ? NULL : __real_malloc(size);
}
void *__wrap_calloc(size_t n, size_t size) {
    return fails() ? NULL : __real_calloc(n, size);
}
void *__wrap_realloc(void *block, size_t size) {
    return fails() ? NULL : __real_realloc(block, size);
}

static const struct nl_state_limits limits = {
    .tasks_per_agent_active_max = 8, .agents_max = 5, .outcomes_per_proposer_max = 10};

#define COMMANDS 400

struct log {
    uint8_t *data[COMMANDS];
    size_t len[COMMANDS];
    uint8_t *snapshot[COMMANDS];  // of the state before each command
    size_t snapshot_len[COMMANDS];
};
static struct log history;

static int make_history(void **unused) {
    (void)unused;
    struct generator g;
    struct nl_state *state;
    generator_init(&g, 21);
    assert_int_equal(nl_state_new(&limits, &state), NL_OK);
    for (size_t i = 0; i < COMMANDS; i++) {
        history.snapshot[i] = fx_snapshot(state, &history.snapshot_len[i]);
        history.data[i] = generate(&g, state, &history.len[i]);
        assert_int_equal(nl_state_apply(state, i, history.data[i], history.len[i], NULL, NULL),
                         NL_OK);
    }
    nl_state_free(state);
    return 0;
}

static int free_history(void **unused) {
    (void)unused;
    for (size_t i = 0; i < COMMANDS; i++) {
        free(history.data[i]);
        free(history.snapshot[i]);
    }
    return 0;
}

static struct nl_state *state_before(size_t i) {
    struct nl_state *state;
    assert_int_equal(nl_state_new(&limits, &state), NL_OK);
    assert_int_equal(nl_state_restore(state, history.snapshot[i], history.snapshot_len[i]), NL_OK);
    return state;
}

// Applies command i with every allocation failing in turn, until none is left to fail.
static void fail_each(size_t i, bool frozen) {
    int rv = NL_ENOMEM;
    for (long n = 0; rv != NL_OK; n++) {
        struct nl_state *state = state_before(i);
        struct nl_state_snapshot *snapshot = NULL;
        uint8_t *data = NULL;
        size_t len;
        if (frozen) {
            assert_int_equal(nl_state_snapshot_begin(state, &snapshot), NL_OK);
        }
        fail_after = n;
        rv = nl_state_apply(state, i, history.data[i], history.len[i], NULL, NULL);
        fail_after = -1;
        assert_true(rv == NL_OK || rv == NL_ENOMEM);
        if (frozen) {
            // What was frozen stays readable, however the command failed.
            assert_int_equal(nl_state_snapshot_write(snapshot, &data, &len), NL_OK);
            assert_int_equal(len, history.snapshot_len[i]);
            assert_memory_equal(data, history.snapshot[i], len);
            nl_state_snapshot_end(state, snapshot);
            free(data);
        }
        if (rv == NL_OK) {
            fx_check(state);
        }
        nl_state_free(state);
    }
}

static void test_apply(void **unused) {
    (void)unused;
    for (size_t i = 0; i < COMMANDS; i++) {
        fail_each(i, false);
    }
}

static void test_apply_while_frozen(void **unused) {
    (void)unused;
    for (size_t i = 0; i < COMMANDS; i++) {
        fail_each(i, true);
    }
}

static void test_new(void **unused) {
    (void)unused;
    struct nl_state *state;
    fail_after = 0;
    int rv = nl_state_new(&limits, &state);
    fail_after = -1;
    assert_int_equal(rv, NL_ENOMEM);
    nl_state_free(NULL);
}

static void test_restore(void **unused) {
    (void)unused;
    size_t last = COMMANDS - 1;
    struct nl_state *state = state_before(COMMANDS / 2);
    uint8_t before[NL_STATE_HASH_LEN], after[NL_STATE_HASH_LEN];
    nl_state_hash(state, before);
    int rv = NL_ENOMEM;
    for (long n = 0; rv != NL_OK; n++) {
        fail_after = n;
        rv = nl_state_restore(state, history.snapshot[last], history.snapshot_len[last]);
        fail_after = -1;
        assert_true(rv == NL_OK || rv == NL_ENOMEM);
        nl_state_hash(state, after);
        assert_true((rv == NL_OK) == (memcmp(before, after, sizeof before) != 0));
    }
    fx_check(state);
    nl_state_free(state);
}

static void test_snapshot(void **unused) {
    (void)unused;
    size_t last = COMMANDS - 1;
    struct nl_state *state = state_before(last);
    int rv = NL_ENOMEM;
    for (long n = 0; rv != NL_OK; n++) {
        struct nl_state_snapshot *snapshot;
        uint8_t *data;
        size_t len;
        fail_after = n;
        rv = nl_state_snapshot_begin(state, &snapshot);
        if (rv != NL_OK) {
            fail_after = -1;
            assert_int_equal(rv, NL_ENOMEM);
            continue;
        }
        rv = nl_state_snapshot_write(snapshot, &data, &len);
        fail_after = -1;
        nl_state_snapshot_end(state, snapshot);
        assert_true(rv == NL_OK || rv == NL_ENOMEM);
        if (rv == NL_OK) {
            assert_memory_equal(data, history.snapshot[last], len);
            free(data);
        }
    }
    fx_check(state);
    nl_state_free(state);
}

static void test_command_check(void **unused) {
    (void)unused;
    fail_after = 0;
    int rv = nl_state_command_check(history.data[0], history.len[0]);
    fail_after = -1;
    assert_int_equal(rv, NL_ENOMEM);
    assert_int_equal(nl_state_command_check(history.data[0], history.len[0]), NL_OK);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_apply),    cmocka_unit_test(test_apply_while_frozen),
        cmocka_unit_test(test_new),      cmocka_unit_test(test_restore),
        cmocka_unit_test(test_snapshot), cmocka_unit_test(test_command_check),
    };
    return cmocka_run_group_tests(tests, make_history, free_history);
}
