// The leader's judgements, on a real state and a clock that the test turns.
#include <stdio.h>
#include <string.h>

#include "common/base/err.h"
#include "server/housekeeping_core.h"
#include "tests/unit/state/fixture.h"

static struct fx fx;
static struct nl_housekeeper *hk;
static const struct nl_housekeeping_times times = {.unreachable_after_ms = 5000,
                                                   .disconnect_grace_ms = 60000};

static int setup(void **state) {
    (void)state;
    fx_open(&fx, NULL);
    fx_node_up(&fx, 1, 1);
    fx_token(&fx, "a1", 1);
    hk = nl_housekeeper_new();
    return hk == NULL;
}

static int teardown(void **state) {
    (void)state;
    nl_housekeeper_free(hk);
    fx_close(&fx);
    return 0;
}

// The next judgement's name, or "".
static const char *due(uint64_t now) {
    static struct nl_judgement j;
    return nl_housekeeper_next(hk, now, fx.state, &j) ? j.what : "";
}

static void apply_due(uint64_t now, const char *what) {
    struct nl_judgement j;
    assert_true(nl_housekeeper_next(hk, now, fx.state, &j));
    assert_string_equal(j.what, what);
    assert_int_equal(fx_apply(&fx, &j.command).code, NL_OUTCOME_OK);
}

static void agent_changed(uint64_t now, enum nl_agent_connection old) {
    assert_int_equal(nl_housekeeper_on_agent(hk, now, &times, nl_state_agent(fx.state, "a1"), old),
                     NL_OK);
}

static void an_agent_away_becomes_unreachable_then_lost(void **state) {
    (void)state;
    nl_housekeeper_lead(hk, 1000, &times, fx.state);
    fx_register(&fx, (struct fx_hello){.agent = "a1"});
    fx_submit(&fx, "t1", "a1", "true", 0);
    fx_disconnect(&fx, "a1", 1);
    agent_changed(2000, NL_AGENT_CONNECTED);
    assert_string_equal(due(6999), "");
    assert_string_equal(due(7000), "agent unreachable");
    assert_string_equal(due(7000), "");
    apply_due(8000, "agent unreachable");  // said again until the state shows it
    assert_int_equal(nl_state_task(fx.state, "t1")->state, NL_TASK_UNKNOWN);
    assert_string_equal(due(61999), "");
    apply_due(62000, "agent lost");
    assert_int_equal(nl_state_task(fx.state, "t1")->state, NL_TASK_FAILED);
    assert_string_equal(due(1000000), "");
    assert_int_equal(nl_housekeeper_count(hk), 0);
}

static void an_agent_that_came_back_is_not_judged(void **state) {
    (void)state;
    nl_housekeeper_lead(hk, 0, &times, fx.state);
    fx_register(&fx, (struct fx_hello){.agent = "a1"});
    fx_disconnect(&fx, "a1", 1);
    agent_changed(0, NL_AGENT_CONNECTED);
    fx_register(&fx, (struct fx_hello){.agent = "a1"});
    fx_disconnect(&fx, "a1", 2);
    agent_changed(30000, NL_AGENT_CONNECTED);
    assert_string_equal(due(34999), "");
    assert_string_equal(due(35000), "agent unreachable");
    assert_string_equal(due(62000), "agent unreachable");  // of this absence; the first is void
    assert_string_equal(due(90000), "agent unreachable");
    assert_string_equal(due(90000), "agent lost");
}

static void a_new_leader_starts_the_clocks_anew(void **state) {
    (void)state;
    fx_register(&fx, (struct fx_hello){.agent = "a1"});
    fx_disconnect(&fx, "a1", 1);
    nl_housekeeper_lead(hk, 0, &times, fx.state);
    nl_housekeeper_follow(hk);
    assert_string_equal(due(100000), "");
    agent_changed(1, NL_AGENT_CONNECTED);  // a follower notes nothing
    assert_int_equal(nl_housekeeper_count(hk), 0);
    nl_housekeeper_lead(hk, 500000, &times, fx.state);
    assert_string_equal(due(504999), "");
    assert_string_equal(due(505000), "agent unreachable");
}

static void without_grace_it_is_lost_at_once(void **state) {
    (void)state;
    const struct nl_housekeeping_times none = {.unreachable_after_ms = 5000};
    fx_register(&fx, (struct fx_hello){.agent = "a1"});
    fx_disconnect(&fx, "a1", 1);
    nl_housekeeper_lead(hk, 100, &none, fx.state);
    apply_due(100, "agent lost");
    assert_string_equal(due(1000000), "");
}

static void a_task_waits_as_long_as_it_may(void **state) {
    (void)state;
    nl_housekeeper_lead(hk, 0, &times, fx.state);
    fx_submit(&fx, "t1", "a1", "true", 3000);
    nl_housekeeper_on_task(hk, 1000, &times, nl_state_task(fx.state, "t1"), 0);
    fx_submit(&fx, "t2", "a1", "true", 3000);
    nl_housekeeper_on_task(hk, 1000, &times, nl_state_task(fx.state, "t2"), 0);
    fx_cancel(&fx, "t2", "no");
    assert_string_equal(due(3999), "");
    apply_due(4000, "task waited too long");
    assert_string_equal(due(4000), "");
    assert_int_equal(nl_state_task(fx.state, "t1")->state, NL_TASK_FAILED);
    assert_non_null(strstr(nl_state_task(fx.state, "t1")->reason, "did not connect"));
}

static void a_task_that_waits_has_a_deadline(void **state) {
    (void)state;
    for (int what = 0; what < 4; what++) {
        Nodelink__V1__TaskSpec spec = NODELINK__V1__TASK_SPEC__INIT;
        char id[16];
        snprintf(id, sizeof id, "t%d", what);
        spec.agent_id = (char *)"a1";
        spec.cmd = (char *)"true";
        spec.wait_for_agent_ms = 60000;
        uint64_t *fields[] = {&spec.start_within_ms, &spec.finish_within_ms, &spec.start_by_ms,
                              &spec.finish_by_ms};
        uint64_t created = fx.time_ms + 10;
        *fields[what] = what < 2 ? 5000 : created + 5000;
        fx_expect(fx_submit_spec(&fx, id, &spec), NL_OUTCOME_OK);
        struct nl_housekeeping_times now = times;
        now.wall_ms = created + 1000;
        nl_housekeeper_lead(hk, 100000, &now, fx.state);
        assert_string_equal(due(103999), "");
        apply_due(104000, "task waited too long");
        assert_string_equal(due(104000), "");
        assert_int_equal(nl_state_task(fx.state, id)->state, NL_TASK_FAILED);
        assert_string_equal(nl_state_task(fx.state, id)->reason, "not started by its deadline");
    }
}

static void a_stock_agents_task_without_word_fails(void **state) {
    (void)state;
    nl_housekeeper_lead(hk, 0, &times, fx.state);
    fx_register(&fx, (struct fx_hello){.agent = "a1", .stock = true});
    fx_submit(&fx, "t1", "a1", "true", 0);
    fx_disconnect(&fx, "a1", 1);
    fx_register(&fx, (struct fx_hello){.agent = "a1", .stock = true});
    const struct nl_task *task = nl_state_task(fx.state, "t1");
    assert_int_equal(task->state, NL_TASK_UNKNOWN);
    nl_housekeeper_on_task(hk, 1000, &times, task, NL_TASK_DISPATCHED);
    assert_string_equal(due(60999), "");
    apply_due(61000, "no word about a task");
    assert_string_equal(nl_state_task(fx.state, "t1")->reason,
                        "no word from the agent about the outcome");
}

static void a_journals_task_is_left_to_its_agent(void **state) {
    (void)state;
    nl_housekeeper_lead(hk, 0, &times, fx.state);
    fx_register(&fx, (struct fx_hello){.agent = "a1"});
    fx_submit(&fx, "t1", "a1", "true", 0);
    fx_disconnect(&fx, "a1", 1);
    fx_unreachable(&fx, "a1", 1);
    nl_housekeeper_on_task(hk, 0, &times, nl_state_task(fx.state, "t1"), NL_TASK_DISPATCHED);
    assert_string_equal(due(10000000), "");
}

static void old_tasks_and_too_many_of_them_go(void **state) {
    (void)state;
    Nodelink__V1__TaskPrune prune;
    fx_register(&fx, (struct fx_hello){.agent = "a1"});
    assert_false(nl_housekeeper_prune(fx.state, 1000000, 1000, 1, &prune));
    for (int i = 0; i < 3; i++) {
        const char *ids[] = {"t1", "t2", "t3"};
        fx_submit(&fx, ids[i], "a1", "true", 0);
        fx_finish(&fx, ids[i], "a1", 1, NODELINK__V1__TASK_RESULT__KIND__EXITED, 0);
    }
    uint64_t oldest = nl_state_oldest_finished_ms(fx.state);
    assert_false(nl_housekeeper_prune(fx.state, oldest + 1000, 1000, 3, &prune));
    assert_true(nl_housekeeper_prune(fx.state, oldest + 1001, 1000, 3, &prune));
    assert_int_equal(prune.finished_before_ms, oldest + 1);
    assert_true(nl_housekeeper_prune(fx.state, oldest, 1000, 2, &prune));
    assert_int_equal(prune.keep_max, 2);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(an_agent_away_becomes_unreachable_then_lost),
        TEST(an_agent_that_came_back_is_not_judged),
        TEST(a_new_leader_starts_the_clocks_anew),
        TEST(without_grace_it_is_lost_at_once),
        TEST(a_task_waits_as_long_as_it_may),
        TEST(a_task_that_waits_has_a_deadline),
        TEST(a_stock_agents_task_without_word_fails),
        TEST(a_journals_task_is_left_to_its_agent),
        TEST(old_tasks_and_too_many_of_them_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
