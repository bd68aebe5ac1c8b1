// De-duplication of a proposer's commands.

#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "tests/unit/state/fixture.h"

// A TokenCreate for `agent`: a second application would be seen as EXISTED.
static struct nl_outcome propose(struct fx *fx, uint64_t boot, uint64_t sequence,
                                 uint64_t ack_below, const char *agent) {
    Nodelink__V1__AgentTokenCreate m = NODELINK__V1__AGENT_TOKEN_CREATE__INIT;
    Nodelink__V1__Command command = NODELINK__V1__COMMAND__INIT;
    uint8_t sha256[32] = {1};
    m.agent_id = (char *)agent;
    m.token_sha256.data = sha256;
    m.token_sha256.len = sizeof sha256;
    command.body_case = NODELINK__V1__COMMAND__BODY_AGENT_TOKEN_CREATE;
    command.agent_token_create = &m;
    command.proposer = fx->proposer;
    command.boot = boot;
    command.sequence = sequence;
    command.ack_below = ack_below;
    command.time_ms = fx->time_ms += 10;
    return fx_apply_as_is(fx, &command);
}

static void test_a_duplicate_changes_nothing(void **unused) {
    (void)unused;
    static struct fx fx;
    uint8_t before[NL_STATE_HASH_LEN], after[NL_STATE_HASH_LEN];
    fx_open(&fx, NULL);
    fx_expect(propose(&fx, 1, 1, 0, "a"), NL_OUTCOME_OK);
    assert_false(fx.duplicate);
    nl_state_hash(fx.state, before);
    uint64_t clock = nl_state_clock_ms(fx.state);
    // Even with another body: the sequence decides.
    fx_expect(propose(&fx, 1, 1, 0, "b"), NL_OUTCOME_OK);
    assert_true(fx.duplicate);
    assert_int_equal(fx.n_effects, 1);
    assert_null(nl_state_agent(fx.state, "b"));
    nl_state_hash(fx.state, after);
    assert_memory_equal(before, after, sizeof before);
    assert_int_equal(nl_state_clock_ms(fx.state), clock);
    assert_int_equal(nl_state_index(fx.state), 2);
    fx_close(&fx);
}

static void test_a_refusal_is_remembered_too(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    fx_expect(propose(&fx, 1, 1, 0, "-bad"), NL_OUTCOME_INVALID);
    fx_expect(propose(&fx, 1, 1, 0, "good"), NL_OUTCOME_INVALID);
    assert_true(fx.duplicate);
    fx_close(&fx);
}

static void test_values_are_remembered(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    fx_register(&fx, (struct fx_hello){.agent = "a"});
    assert_int_equal(fx.outcome.value, 2);
    fx.sequence--;
    fx_register(&fx, (struct fx_hello){.agent = "a"});
    assert_true(fx.duplicate);
    assert_int_equal(fx.outcome.value, 2);
    assert_int_equal(nl_state_agent(fx.state, "a")->epoch, 2);
    fx_close(&fx);
}

static void test_acknowledged_outcomes_are_forgotten(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    for (uint64_t i = 1; i <= 5; i++) {
        fx_expect(propose(&fx, 1, i, 0, i == 1 ? "a" : "-bad"),
                  i == 1 ? NL_OUTCOME_OK : NL_OUTCOME_INVALID);
    }
    fx_expect(propose(&fx, 1, 6, 4, "b"), NL_OUTCOME_OK);
    fx_expect(propose(&fx, 1, 3, 0, "c"), NL_OUTCOME_STALE);
    assert_true(fx.duplicate);
    fx_expect(propose(&fx, 1, 4, 0, "c"), NL_OUTCOME_INVALID);
    assert_true(fx.duplicate);
    // A window never moves back, and one that acknowledges itself is not kept.
    fx_expect(propose(&fx, 1, 7, 2, "c"), NL_OUTCOME_OK);
    fx_expect(propose(&fx, 1, 3, 0, "d"), NL_OUTCOME_STALE);
    fx_expect(propose(&fx, 1, 8, 20, "d"), NL_OUTCOME_OK);
    fx_expect(propose(&fx, 1, 8, 20, "e"), NL_OUTCOME_STALE);
    fx_expect(propose(&fx, 1, 19, 0, "e"), NL_OUTCOME_STALE);
    fx_expect(propose(&fx, 1, 20, 0, "e"), NL_OUTCOME_OK);
    fx_close(&fx);
}

static void test_sequences_may_come_in_any_order(void **unused) {
    (void)unused;
    static struct fx fx;
    static const uint64_t order[] = {9, 3, 7, 1, 8, 2, 6, 4, 5};
    char id[2] = "a";
    fx_open(&fx, NULL);
    for (size_t i = 0; i < 9; i++) {
        id[0] = (char)('a' + order[i]);
        fx_expect(propose(&fx, 1, order[i], 0, id), NL_OUTCOME_OK);
    }
    for (uint64_t i = 1; i <= 9; i++) {
        fx_expect(propose(&fx, 1, i, 0, "-bad"), NL_OUTCOME_OK);
        assert_true(fx.duplicate);
    }
    fx_close(&fx);
}

static void test_boots(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    fx_expect(propose(&fx, 3, 1, 0, "a"), NL_OUTCOME_OK);
    fx_expect(propose(&fx, 3, 2, 2, "b"), NL_OUTCOME_OK);
    uint64_t clock = nl_state_clock_ms(fx.state);
    fx_expect(propose(&fx, 2, 9, 0, "c"), NL_OUTCOME_STALE_BOOT);
    assert_false(fx.duplicate);
    assert_int_equal(nl_state_clock_ms(fx.state), clock);
    fx_expect(propose(&fx, 3, 9, 0, "c"), NL_OUTCOME_OK);  // it wasn't stored
    // A new boot begins anew, and the old one is over.
    fx_expect(propose(&fx, 4, 1, 0, "d"), NL_OUTCOME_OK);
    assert_false(fx.duplicate);
    fx_expect(propose(&fx, 3, 10, 0, "e"), NL_OUTCOME_STALE_BOOT);
    fx_close(&fx);
}

static void test_proposers_are_apart_and_zero_is_nobody(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    fx_expect(propose(&fx, 1, 1, 0, "a"), NL_OUTCOME_OK);
    fx.proposer = 2;
    fx_expect(propose(&fx, 1, 1, 0, "b"), NL_OUTCOME_OK);
    fx.proposer = 0;
    fx_expect(propose(&fx, 1, 1, 0, "c"), NL_OUTCOME_OK);
    fx_expect(propose(&fx, 1, 1, 0, "c"), NL_OUTCOME_EXISTED);
    assert_false(fx.duplicate);
    fx_close(&fx);
}

static void test_a_full_window_refuses_until_acknowledged(void **unused) {
    (void)unused;
    static struct fx fx;
    const struct nl_state_limits limits = {.outcomes_per_proposer_max = 3};
    fx_open(&fx, &limits);
    for (uint64_t i = 1; i <= 3; i++) {
        propose(&fx, 1, i, 0, "a");
    }
    fx_expect(propose(&fx, 1, 4, 0, "b"), NL_OUTCOME_INVALID);
    assert_false(fx.duplicate);
    assert_null(nl_state_agent(fx.state, "b"));
    fx_expect(propose(&fx, 1, 2, 0, "b"), NL_OUTCOME_EXISTED);
    assert_true(fx.duplicate);
    // Not stored, so it applies once there is room, which its own acknowledgement makes.
    fx_expect(propose(&fx, 1, 4, 2, "b"), NL_OUTCOME_OK);
    fx_expect(propose(&fx, 1, 5, 2, "c"), NL_OUTCOME_INVALID);
    fx_expect(propose(&fx, 1, 5, 5, "c"), NL_OUTCOME_OK);
    fx_close(&fx);
}

static void test_survives_snapshot_and_restore(void **unused) {
    (void)unused;
    static struct fx fx;
    size_t len;
    fx_open(&fx, NULL);
    for (uint64_t i = 1; i <= 40; i++) {
        fx_expect(propose(&fx, 2, i, i > 10 ? i - 10 : 0, "a"),
                  i == 1 ? NL_OUTCOME_OK : NL_OUTCOME_EXISTED);
    }
    uint8_t *data = fx_snapshot(fx.state, &len);
    fx_close(&fx);
    fx_open(&fx, NULL);
    assert_int_equal(nl_state_restore(fx.state, data, len), NL_OK);
    free(data);
    assert_int_equal(nl_state_index(fx.state), 40);
    fx_expect(propose(&fx, 2, 35, 0, "b"), NL_OUTCOME_EXISTED);
    assert_true(fx.duplicate);
    fx_expect(propose(&fx, 2, 29, 0, "b"), NL_OUTCOME_STALE);
    fx_expect(propose(&fx, 1, 41, 0, "b"), NL_OUTCOME_STALE_BOOT);
    fx_expect(propose(&fx, 2, 41, 0, "b"), NL_OUTCOME_OK);
    fx_close(&fx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_duplicate_changes_nothing),
        cmocka_unit_test(test_a_refusal_is_remembered_too),
        cmocka_unit_test(test_values_are_remembered),
        cmocka_unit_test(test_acknowledged_outcomes_are_forgotten),
        cmocka_unit_test(test_sequences_may_come_in_any_order),
        cmocka_unit_test(test_boots),
        cmocka_unit_test(test_proposers_are_apart_and_zero_is_nobody),
        cmocka_unit_test(test_a_full_window_refuses_until_acknowledged),
        cmocka_unit_test(test_survives_snapshot_and_restore),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
