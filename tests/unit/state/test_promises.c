// The rules of the promises P2, P3, P7 and P8 (DESIGN) that the state machine keeps.

#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "tests/unit/state/fixture.h"

#define EXITED NODELINK__V1__TASK_RESULT__KIND__EXITED
#define RUNNING NODELINK__V1__TASK_REF__PHASE__RUNNING
#define FINISHED NODELINK__V1__TASK_REF__PHASE__FINISHED

static const struct nl_task *task_of(const struct fx *fx, const char *id) {
    const struct nl_task *task = nl_state_task(fx->state, id);
    assert_non_null(task);
    return task;
}

// ---- P2: at most one start; uncertainty is said --------------------------------

static void test_p2_started_task_is_never_sent_again(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    fx_submit(&fx, "t", "a", "true", 0);
    fx_start(&fx, "t", "a", 1);
    fx_register(&fx, (struct fx_hello){.agent = "a"});
    assert_int_equal(task_of(&fx, "t")->state, NL_TASK_FAILED);
    assert_string_equal(task_of(&fx, "t")->reason, "the agent has no record of this task any more");
    fx_close(&fx);
}

// The agent said it before it got the task from another node, and that node was faster.
static void test_p2_a_registration_that_comes_late_loses_no_task(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    fx_submit(&fx, "t", "a", "true", 0);
    fx_start(&fx, "t", "a", 1);
    fx_register(&fx, (struct fx_hello){.agent = "a", .unseen = 1});
    assert_int_equal(task_of(&fx, "t")->state, NL_TASK_RUNNING);
    assert_int_equal(task_of(&fx, "t")->epoch, 2);
    // The agent, which never heard of that epoch, registers again: now it knows.
    fx_register(&fx,
                (struct fx_hello){.agent = "a", .unseen = 1, .listed = "t", .phase = FINISHED});
    assert_int_equal(task_of(&fx, "t")->state, NL_TASK_RUNNING);
    fx_register(&fx, (struct fx_hello){.agent = "a"});
    assert_int_equal(task_of(&fx, "t")->state, NL_TASK_FAILED);
    fx_close(&fx);
}

static void test_p2_a_late_registration_leaves_unknown_alone(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    fx_submit(&fx, "t", "a", "true", 0);
    fx_start(&fx, "t", "a", 1);
    fx_disconnect(&fx, "a", 1);
    fx_unreachable(&fx, "a", 1);
    fx_register(&fx, (struct fx_hello){.agent = "a", .unseen = 1});
    assert_int_equal(task_of(&fx, "t")->state, NL_TASK_UNKNOWN);
    assert_int_equal(task_of(&fx, "t")->epoch, 1);
    // Another journal remembers nothing, whatever epoch it knows.
    fx_register(&fx, (struct fx_hello){.agent = "a", .unseen = 2, .journal = "another"});
    assert_int_equal(task_of(&fx, "t")->state, NL_TASK_FAILED);
    fx_close(&fx);
}

// TaskStart may never have come: what the journal says counts as much.
static void test_p2_a_start_known_from_the_journal_is_a_start(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    fx_submit(&fx, "t", "a", "true", 0);
    fx_register(&fx, (struct fx_hello){.agent = "a", .listed = "t", .phase = RUNNING});
    assert_int_equal(task_of(&fx, "t")->state, NL_TASK_RUNNING);
    assert_int_equal(task_of(&fx, "t")->started_ms, nl_state_clock_ms(fx.state));
    fx_register(&fx, (struct fx_hello){.agent = "a"});
    assert_int_equal(task_of(&fx, "t")->state, NL_TASK_FAILED);
    fx_close(&fx);
}

static void test_p2_unstarted_task_is_sent_again_only_with_the_same_journal(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    fx_submit(&fx, "t", "a", "true", 0);
    uint64_t version = task_of(&fx, "t")->version;
    fx_register(&fx, (struct fx_hello){.agent = "a"});
    assert_int_equal(task_of(&fx, "t")->state, NL_TASK_DISPATCHED);
    assert_int_equal(task_of(&fx, "t")->epoch, 2);
    assert_int_equal(task_of(&fx, "t")->version, version + 1);
    fx_register(&fx, (struct fx_hello){.agent = "a", .journal = "another"});
    assert_int_equal(task_of(&fx, "t")->state, NL_TASK_FAILED);
    assert_string_equal(task_of(&fx, "t")->reason,
                        "the agent's journal was replaced: whether the command ran is not known");
    fx_close(&fx);
}

static void test_p2_two_agents_without_a_journal_id_have_not_the_same_journal(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    fx_node_up(&fx, 1, 1);
    fx_token(&fx, "a", 1);
    fx_register(&fx, (struct fx_hello){.agent = "a", .journal = ""});
    fx_submit(&fx, "t", "a", "true", 0);
    fx_register(&fx, (struct fx_hello){.agent = "a", .journal = ""});
    assert_int_equal(task_of(&fx, "t")->state, NL_TASK_FAILED);
    fx_close(&fx);
}

static void test_p2_another_attempt_in_the_journal_is_not_this_one(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    fx_submit(&fx, "t", "a", "true", 0);
    fx_start(&fx, "t", "a", 1);
    fx_register(&fx,
                (struct fx_hello){.agent = "a", .listed = "t", .attempt = 2, .phase = RUNNING});
    assert_int_equal(task_of(&fx, "t")->state, NL_TASK_FAILED);
    fx_close(&fx);
}

static void test_p2_cancelled_before_it_was_sent_again(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    fx_submit(&fx, "t", "a", "true", 0);
    fx_cancel(&fx, "t", "wrong host");
    fx_register(&fx, (struct fx_hello){.agent = "a"});
    assert_int_equal(task_of(&fx, "t")->state, NL_TASK_CANCELLED);
    assert_string_equal(task_of(&fx, "t")->reason, "wrong host");
    fx_close(&fx);
}

static void test_p2_stock_agent_is_never_sent_a_task_twice(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    fx_node_up(&fx, 1, 1);
    fx_token(&fx, "a", 1);
    fx_register(&fx, (struct fx_hello){.agent = "a", .stock = true, .journal = ""});
    fx_submit(&fx, "t", "a", "true", 0);
    for (int i = 0; i < 3; i++) {
        fx_register(&fx, (struct fx_hello){.agent = "a", .stock = true, .journal = ""});
        assert_int_equal(task_of(&fx, "t")->state, NL_TASK_UNKNOWN);
        assert_int_equal(task_of(&fx, "t")->epoch, 1);
    }
    // The word of the new epoch resolves it.
    fx_expect(fx_finish(&fx, "t", "a", 4, EXITED, 0), NL_OUTCOME_OK);
    assert_int_equal(task_of(&fx, "t")->state, NL_TASK_COMPLETED);
    fx_close(&fx);
}

static void test_p2_a_running_task_survives_a_failover(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    fx_node_up(&fx, 2, 1);
    fx_submit(&fx, "t", "a", "true", 0);
    fx_start(&fx, "t", "a", 1);
    uint64_t started_ms = task_of(&fx, "t")->started_ms;
    fx_node_down(&fx, 1, 1);
    fx_unreachable(&fx, "a", 1);
    assert_int_equal(task_of(&fx, "t")->state, NL_TASK_UNKNOWN);
    assert_string_equal(task_of(&fx, "t")->reason, "agent unreachable");
    fx_register(&fx, (struct fx_hello){.agent = "a", .node = 2, .listed = "t", .phase = RUNNING});
    assert_int_equal(task_of(&fx, "t")->state, NL_TASK_RUNNING);
    assert_int_equal(task_of(&fx, "t")->epoch, 2);
    assert_int_equal(task_of(&fx, "t")->started_ms, started_ms);
    assert_null(task_of(&fx, "t")->reason);
    fx_close(&fx);
}

// ---- P3: terminal states are immutable -------------------------------------------

struct image {
    enum nl_task_state state;
    uint64_t finished_ms, started_ms, epoch;
    char reason[128];
    Nodelink__V1__TaskResult__Kind kind;
    int32_t exit_code;
};

static struct image image_of(const struct fx *fx) {
    const struct nl_task *task = task_of(fx, "t");
    struct image image;
    memset(&image, 0, sizeof image);
    image.state = task->state;
    image.finished_ms = task->finished_ms;
    image.started_ms = task->started_ms;
    image.epoch = task->epoch;
    if (task->reason != NULL) {
        memcpy(image.reason, task->reason, strlen(task->reason));
    }
    if (task->result != NULL) {
        image.kind = task->result->kind;
        image.exit_code = task->result->exit_code;
    }
    return image;
}

static void hit_with_everything(struct fx *fx) {
    fx_expect(fx_start(fx, "t", "a", 1), NL_OUTCOME_TOO_LATE);
    fx_expect(fx_cancel(fx, "t", "too late"), NL_OUTCOME_TOO_LATE);
    fx_expect(fx_expire(fx, "t", task_of(fx, "t")->version), NL_OUTCOME_NOTHING);
    fx_expect(fx_submit(fx, "t", "a", "true", 0), NL_OUTCOME_EXISTED);
    fx_expect(fx_disconnect(fx, "a", 1), NL_OUTCOME_OK);
    fx_expect(fx_unreachable(fx, "a", 1), NL_OUTCOME_OK);
    fx_expect(fx_lost(fx, "a", 1), NL_OUTCOME_OK);
    fx_expect(fx_register(fx, (struct fx_hello){.agent = "a", .listed = "t", .phase = RUNNING}),
              NL_OUTCOME_OK);
    fx_expect(fx_register(fx, (struct fx_hello){.agent = "a", .journal = "another"}),
              NL_OUTCOME_OK);
}

static void test_p3_a_late_result_changes_nothing(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    fx_submit(&fx, "t", "a", "true", 0);
    fx_start(&fx, "t", "a", 1);
    fx_finish(&fx, "t", "a", 1, EXITED, 3);
    struct image before = image_of(&fx);
    uint64_t version = task_of(&fx, "t")->version;
    fx_expect(fx_finish(&fx, "t", "a", 1, EXITED, 3), NL_OUTCOME_EXISTED);
    assert_int_equal(task_of(&fx, "t")->late_results, 0);
    fx_expect(fx_finish(&fx, "t", "a", 1, EXITED, 0), NL_OUTCOME_LATE);
    fx_expect(fx_finish(&fx, "t", "a", 1, NODELINK__V1__TASK_RESULT__KIND__CANCELLED, 0),
              NL_OUTCOME_LATE);
    assert_int_equal(task_of(&fx, "t")->late_results, 2);
    assert_int_equal(task_of(&fx, "t")->version, version + 2);
    hit_with_everything(&fx);
    struct image after = image_of(&fx);
    assert_memory_equal(&before, &after, sizeof before);
    fx_close(&fx);
}

static void test_p3_a_result_after_the_cluster_gave_up_is_late(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    fx_submit(&fx, "t", "a", "true", 0);
    fx_start(&fx, "t", "a", 1);
    fx_disconnect(&fx, "a", 1);
    fx_lost(&fx, "a", 1);
    struct image before = image_of(&fx);
    fx_register(&fx, (struct fx_hello){.agent = "a", .listed = "t", .phase = FINISHED});
    fx_expect(fx_finish(&fx, "t", "a", 2, EXITED, 0), NL_OUTCOME_LATE);
    struct image after = image_of(&fx);
    assert_memory_equal(&before, &after, sizeof before);
    assert_null(task_of(&fx, "t")->result);
    fx_close(&fx);
}

// ---- P7: one owner per agent and epoch --------------------------------------------

static void test_p7_each_registration_raises_the_epoch(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    fx_node_up(&fx, 2, 7);
    for (uint64_t epoch = 2; epoch < 6; epoch++) {
        struct fx_hello hello = {.agent = "a", .node = 2, .boot = 7};
        fx_expect(fx_register(&fx, hello), NL_OUTCOME_OK);
        assert_int_equal(fx.outcome.value, epoch);
        assert_int_equal(nl_state_agent(fx.state, "a")->owner, 2);
        assert_int_equal(nl_state_agent(fx.state, "a")->owner_boot, 7);
    }
    fx_close(&fx);
}

static void test_p7_an_older_epoch_is_refused(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    fx_submit(&fx, "t", "a", "true", 0);
    fx_register(&fx, (struct fx_hello){.agent = "a"});
    uint64_t version = task_of(&fx, "t")->version;
    fx_expect(fx_start(&fx, "t", "a", 1), NL_OUTCOME_STALE);
    fx_expect(fx_finish(&fx, "t", "a", 1, EXITED, 0), NL_OUTCOME_STALE);
    fx_expect(fx_start(&fx, "t", "a", 3), NL_OUTCOME_STALE);
    fx_expect(fx_disconnect(&fx, "a", 1), NL_OUTCOME_NOTHING);
    assert_int_equal(task_of(&fx, "t")->version, version);
    fx_expect(fx_start(&fx, "t", "a", 2), NL_OUTCOME_OK);
    fx_expect(fx_disconnect(&fx, "a", 2), NL_OUTCOME_OK);
    fx_expect(fx_unreachable(&fx, "a", 1), NL_OUTCOME_NOTHING);
    fx_expect(fx_lost(&fx, "a", 1), NL_OUTCOME_NOTHING);
    fx_close(&fx);
}

static void test_p7_another_attempt_is_refused(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    fx_submit(&fx, "t", "a", "true", 0);
    fx.attempt = 2;
    fx_expect(fx_start(&fx, "t", "a", 1), NL_OUTCOME_STALE);
    fx_expect(fx_finish(&fx, "t", "a", 1, EXITED, 0), NL_OUTCOME_STALE);
    assert_int_equal(task_of(&fx, "t")->state, NL_TASK_DISPATCHED);
    fx_close(&fx);
}

static void test_p7_only_a_node_of_the_current_boot_may_own(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    fx_expect(fx_register(&fx, (struct fx_hello){.agent = "a", .node = 9}), NL_OUTCOME_STALE);
    fx_node_up(&fx, 1, 2);
    const struct nl_agent *agent = nl_state_agent(fx.state, "a");
    assert_int_equal(agent->connection, NL_AGENT_DISCONNECTED);
    assert_int_equal(agent->owner, 0);
    fx_expect(fx_register(&fx, (struct fx_hello){.agent = "a", .boot = 1}), NL_OUTCOME_STALE);
    fx_expect(fx_register(&fx, (struct fx_hello){.agent = "a", .boot = 3}), NL_OUTCOME_STALE);
    fx_expect(fx_register(&fx, (struct fx_hello){.agent = "a", .boot = 2}), NL_OUTCOME_OK);
    fx_close(&fx);
}

static void test_p7_dispatched_means_the_current_epoch(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    fx_submit(&fx, "t", "a", "true", 0);
    fx_register(&fx, (struct fx_hello){.agent = "a"});
    // The agent's effect comes first, so that the owner knows its epoch before its tasks.
    assert_int_equal(fx.effects[0].kind, NL_EFFECT_AGENT);
    assert_int_equal(fx.effects[1].kind, NL_EFFECT_TASK);
    assert_int_equal(fx.effects[1].state, NL_TASK_DISPATCHED);
    assert_int_equal(fx.effects[1].epoch, 2);
    fx_close(&fx);
}

// ---- P8: submit is idempotent by task id ---------------------------------------------

static void test_p8_the_same_request_gives_the_same_task(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    fx_submit(&fx, "t", "a", "true", 0);
    fx_start(&fx, "t", "a", 1);
    uint64_t version = task_of(&fx, "t")->version;
    fx_revoke(&fx, "a");  // the task is found before the agent is judged
    fx_expect(fx_submit(&fx, "t", "a", "true", 0), NL_OUTCOME_EXISTED);
    assert_int_equal(fx.outcome.value, NL_TASK_RUNNING);
    assert_int_equal(task_of(&fx, "t")->version, version);
    assert_int_equal(nl_state_agent(fx.state, "a")->tasks_submitted, 1);
    size_t len;
    uint8_t *data = fx_snapshot(fx.state, &len);
    assert_int_equal(nl_state_restore(fx.state, data, len), NL_OK);
    free(data);
    fx_expect(fx_submit(&fx, "t", "a", "true", 0), NL_OUTCOME_EXISTED);
    fx_expect(fx_submit(&fx, "t", "a", "false", 0), NL_OUTCOME_CONFLICT);
    fx_close(&fx);
}

static void test_p8_any_difference_is_a_conflict(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    fx_agent(&fx, "b");
    Nodelink__V1__Label label = NODELINK__V1__LABEL__INIT;
    Nodelink__V1__Label *labels[] = {&label};
    char *words[] = {(char *)"x=1"};
    Nodelink__V1__TaskSpec spec = NODELINK__V1__TASK_SPEC__INIT;
    spec.agent_id = (char *)"a";
    spec.cmd = (char *)"true";
    fx_expect(fx_submit_spec(&fx, "t", &spec), NL_OUTCOME_OK);
    Nodelink__V1__TaskSpec others[9];
    for (size_t i = 0; i < 9; i++) {
        others[i] = spec;
    }
    others[0].agent_id = (char *)"b";
    others[1].cmd = (char *)"true ";
    others[2].argv = words, others[2].n_argv = 1;
    others[3].env = words, others[3].n_env = 1;
    others[4].working_dir = (char *)"/";
    others[5].timeout_ms = 1;
    others[6].kill_grace_ms = 1;
    others[7].labels = labels, others[7].n_labels = 1;
    others[8].wait_for_agent_ms = 1;
    for (size_t i = 0; i < 9; i++) {
        fx_expect(fx_submit_spec(&fx, "t", &others[i]), NL_OUTCOME_CONFLICT);
    }
    fx_expect(fx_submit_spec(&fx, "t", &spec), NL_OUTCOME_EXISTED);
    fx_close(&fx);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_p2_started_task_is_never_sent_again),
        cmocka_unit_test(test_p2_a_registration_that_comes_late_loses_no_task),
        cmocka_unit_test(test_p2_a_late_registration_leaves_unknown_alone),
        cmocka_unit_test(test_p2_a_start_known_from_the_journal_is_a_start),
        cmocka_unit_test(test_p2_unstarted_task_is_sent_again_only_with_the_same_journal),
        cmocka_unit_test(test_p2_two_agents_without_a_journal_id_have_not_the_same_journal),
        cmocka_unit_test(test_p2_another_attempt_in_the_journal_is_not_this_one),
        cmocka_unit_test(test_p2_cancelled_before_it_was_sent_again),
        cmocka_unit_test(test_p2_stock_agent_is_never_sent_a_task_twice),
        cmocka_unit_test(test_p2_a_running_task_survives_a_failover),
        cmocka_unit_test(test_p3_a_late_result_changes_nothing),
        cmocka_unit_test(test_p3_a_result_after_the_cluster_gave_up_is_late),
        cmocka_unit_test(test_p7_each_registration_raises_the_epoch),
        cmocka_unit_test(test_p7_an_older_epoch_is_refused),
        cmocka_unit_test(test_p7_another_attempt_is_refused),
        cmocka_unit_test(test_p7_only_a_node_of_the_current_boot_may_own),
        cmocka_unit_test(test_p7_dispatched_means_the_current_epoch),
        cmocka_unit_test(test_p8_the_same_request_gives_the_same_task),
        cmocka_unit_test(test_p8_any_difference_is_a_conflict),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
