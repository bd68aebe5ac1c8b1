// One agent's stream, event by event, on a real state.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "server/messages.h"
#include "tests/unit/server/session_rig.h"

static struct rig rig;

static int setup(void **state) {
    (void)state;
    rig_open(&rig, true);
    return 0;
}

static int setup_stock(void **state) {
    (void)state;
    rig_open(&rig, false);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    rig_close(&rig);
    return 0;
}

// ---- transcripts -----------------------------------------------------------

static void a_task_from_submit_to_acknowledgement(void **state) {
    (void)state;
    rig_kind(&rig, NL_SESSION_EV_AUTHORIZED);
    rig_expect(&rig, "");
    rig_hello(&rig, 0, NULL, NULL);
    rig_expect(&rig, "register");
    rig_commit(&rig);
    rig_expect(&rig, "welcome");
    rig_submit(&rig, "t1");
    rig_expect(&rig, "run t1");
    rig_started(&rig, "t1");
    rig_expect(&rig, "");
    rig_wait(&rig, 20);
    rig_expect(&rig, "start t1");
    rig_commit(&rig);
    assert_int_equal(nl_state_task(rig.fx.state, "t1")->state, NL_TASK_RUNNING);
    rig_result(&rig, "t1", 0);
    rig_expect(&rig, "finish t1");
    rig_commit(&rig);
    rig_expect(&rig, "ack t1");
    assert_int_equal(nl_state_task(rig.fx.state, "t1")->state, NL_TASK_COMPLETED);
    rig_result(&rig, "t1", 0);  // repeated: the acknowledgement was lost
    rig_commit(&rig);
    rig_expect(&rig, "finish t1; ack t1");
    assert_int_equal(nl_state_task(rig.fx.state, "t1")->late_results, 0);
}

static void a_result_at_once_saves_the_start(void **state) {
    (void)state;
    rig_active(&rig, 0);
    rig_submit(&rig, "t1");
    rig_started(&rig, "t1");
    rig_wait(&rig, 19);
    rig_result(&rig, "t1", 3);
    rig_wait(&rig, 100);
    rig_commit(&rig);
    rig_expect(&rig, "run t1; finish t1; ack t1");
    assert_int_equal(nl_state_task(rig.fx.state, "t1")->state, NL_TASK_FAILED);
}

static void a_result_while_the_start_is_under_way_follows_it(void **state) {
    (void)state;
    rig_active(&rig, 0);
    rig_submit(&rig, "t1");
    rig_started(&rig, "t1");
    rig_wait(&rig, 30);
    rig_result(&rig, "t1", 0);
    rig_expect(&rig, "run t1; start t1");
    rig_commit(&rig);
    rig_expect(&rig, "finish t1");
    rig_commit(&rig);
    rig_expect(&rig, "ack t1");
}

static void a_stock_agent_gets_no_extensions(void **state) {
    (void)state;
    rig_kind(&rig, NL_SESSION_EV_AUTHORIZED);
    rig_expect(&rig, "register");
    rig_commit(&rig);
    rig_expect(&rig, "");
    rig_submit(&rig, "t1");
    rig_expect(&rig, "run t1");
    Nodelink__V1__TaskResult result = NODELINK__V1__TASK_RESULT__INIT;
    result.kind = NODELINK__V1__TASK_RESULT__KIND__EXITED;
    Nodelink__V1__TaskResponse frame = NODELINK__V1__TASK_RESPONSE__INIT;
    frame.agent_id = nl_message_text("a1");
    frame.task_id = nl_message_text("t1");
    frame.is_final = true;
    rig_event(&rig, &(struct nl_session_event){
                        .kind = NL_SESSION_EV_FRAME, .frame = &frame, .synthesised = &result});
    rig_expect(&rig, "finish t1");
    rig_commit(&rig);
    rig_expect(&rig, "");
    frame.task_id = nl_message_text("unknown");
    rig_event(&rig, &(struct nl_session_event){
                        .kind = NL_SESSION_EV_FRAME, .frame = &frame, .synthesised = &result});
    rig_expect(&rig, "");
    rig_wait(&rig, 3600000);  // it is never pinged
    rig_expect(&rig, "");
    assert_int_equal(nl_session_core_state(rig.core), NL_SESSION_ACTIVE);
}

static void the_hello_is_compared_with_the_state(void **state) {
    (void)state;
    fx_register(&rig.fx, (struct fx_hello){.agent = "a1"});
    fx_submit(&rig.fx, "done", "a1", "true", 0);
    fx_finish(&rig.fx, "done", "a1", 1, NODELINK__V1__TASK_RESULT__KIND__EXITED, 0);
    fx_submit(&rig.fx, "queued", "a1", "true", 0);
    rig_kind(&rig, NL_SESSION_EV_AUTHORIZED);
    rig_hello(&rig, 0, "not-wanted", "done");
    rig_commit(&rig);
    rig_expect(&rig, "register; welcome; cancel not-wanted; ack done; run queued");
    rig_result(&rig, "not-wanted", 9);
    rig_commit(&rig);
    rig_expect(&rig, "finish not-wanted; ack not-wanted late");
}

static void a_finished_task_of_the_hello_is_not_sent_again(void **state) {
    (void)state;
    fx_register(&rig.fx, (struct fx_hello){.agent = "a1"});
    fx_submit(&rig.fx, "t1", "a1", "true", 0);  // dispatched, ended, nobody told
    rig_kind(&rig, NL_SESSION_EV_AUTHORIZED);
    rig_hello(&rig, 0, NULL, "t1");
    rig_commit(&rig);
    rig_expect(&rig, "register; welcome");
    rig_result(&rig, "t1", 0);
    rig_commit(&rig);
    rig_expect(&rig, "finish t1; ack t1");
}

// ---- sending ---------------------------------------------------------------

static void a_full_queue_loses_and_repeats_nothing(void **state) {
    (void)state;
    rig_active(&rig, 0);
    rig.sends_before_full = 2;
    rig_submit(&rig, "t1");
    rig_submit(&rig, "t2");
    rig_submit(&rig, "t3");
    rig_submit(&rig, "t4");
    rig_expect(&rig, "run t1; run t2");
    rig.sends_before_full = 1;
    rig_kind(&rig, NL_SESSION_EV_WRITABLE);
    rig_expect(&rig, "run t3");
    rig.sends_before_full = SIZE_MAX;
    rig_kind(&rig, NL_SESSION_EV_WRITABLE);
    rig_kind(&rig, NL_SESSION_EV_WRITABLE);
    rig_expect(&rig, "run t4");
}

static void a_full_queue_keeps_the_welcome_first(void **state) {
    (void)state;
    rig_kind(&rig, NL_SESSION_EV_AUTHORIZED);
    rig_hello(&rig, 0, NULL, NULL);
    rig.sends_before_full = 0;
    rig_commit(&rig);
    rig_submit(&rig, "t1");
    rig_expect(&rig, "register");
    rig.sends_before_full = SIZE_MAX;
    rig_kind(&rig, NL_SESSION_EV_WRITABLE);
    rig_expect(&rig, "welcome; run t1");
}

static void the_capacity_is_kept(void **state) {
    (void)state;
    rig_active(&rig, 2);
    rig_submit(&rig, "t1");
    rig_submit(&rig, "t2");
    rig_submit(&rig, "t3");
    rig_expect(&rig, "run t1; run t2");
    rig_result(&rig, "t2", 0);
    rig_commit(&rig);
    rig_expect(&rig, "finish t2; run t3; ack t2");
}

static void a_queued_task_is_withdrawn_not_sent(void **state) {
    (void)state;
    rig_active(&rig, 1);
    rig_submit(&rig, "t1");
    rig_submit(&rig, "t2");
    rig_submit(&rig, "t3");
    rig_cancel(&rig, "t2");
    rig_expect(&rig, "run t1; finish t2");
    rig_result(&rig, "t1", 0);  // room now, but t2 is never sent
    rig_expect(&rig, "finish t1; run t3");
    rig_commit(&rig);
    rig_expect(&rig, "ack t1");
    assert_int_equal(nl_state_task(rig.fx.state, "t2")->state, NL_TASK_CANCELLED);
}

static void a_cancel_goes_to_the_agent_once(void **state) {
    (void)state;
    rig_active(&rig, 0);
    rig_submit(&rig, "t1");
    rig_cancel(&rig, "t1");
    rig_tell_task(&rig, "t1");
    rig_expect(&rig, "run t1; cancel t1");
    rig_result(&rig, "t1", 0);  // the agent saw the end first
    rig_commit(&rig);
    rig_expect(&rig, "finish t1; ack t1");
    assert_int_equal(nl_state_task(rig.fx.state, "t1")->state, NL_TASK_COMPLETED);
}

// ---- attempts --------------------------------------------------------------

static void submit_spec(const char *task, Nodelink__V1__TaskSpec *spec) {
    spec->agent_id = nl_message_text("a1");
    spec->cmd = nl_message_text("true");
    assert_int_equal(fx_submit_spec(&rig.fx, task, spec).code, NL_OUTCOME_OK);
    rig_tell_task(&rig, task);
}

static void submit_retried(const char *task, uint32_t attempts, uint64_t wait_ms) {
    Nodelink__V1__TaskSpec spec = NODELINK__V1__TASK_SPEC__INIT;
    spec.attempts = attempts;
    spec.wait_for_agent_ms = wait_ms;
    submit_spec(task, &spec);
}

static void the_next_attempt_follows_the_result(void **state) {
    (void)state;
    rig_active(&rig, 1);
    submit_retried("t1", 3, 0);
    rig_submit(&rig, "t2");
    rig_result(&rig, "t1", 1);
    rig_commit(&rig);
    // Behind what waited, like any new task.
    rig_expect(&rig, "run t1; finish t1; run t2; ack t1");
    rig_result(&rig, "t2", 0);
    rig_expect(&rig, "finish t2; run t1#2");
    rig_commit(&rig);
    rig_expect(&rig, "ack t2");
    rig_result(&rig, "t1", 1);  // the first one's once more: acknowledged, and that is all
    rig_expect(&rig, "finish t1");
    rig_commit(&rig);
    rig_expect(&rig, "ack t1");
    rig_cancel(&rig, "t1");  // is that of the second one
    rig_expect(&rig, "cancel t1#2");
    rig.attempt = 2;
    rig_result(&rig, "t1", 1);
    rig_commit(&rig);
    rig_expect(&rig, "finish t1#2; ack t1#2");
    assert_int_equal(nl_state_task(rig.fx.state, "t1")->state, NL_TASK_FAILED);
}

// The agent was given up, the task went on to its second attempt, and the agent comes back with the
// first one still running: that must have ended before the second is sent.
static void attempts_do_not_overlap(void **state) {
    (void)state;
    for (int leave = 0; leave < 2; leave++) {
        rig_close(&rig);
        rig_open(&rig, true);
        rig.leave_orphans = leave != 0;
        rig_active(&rig, 0);
        submit_retried("t1", 2, 60000);
        rig_started(&rig, "t1");
        rig_wait(&rig, 30);
        rig_commit(&rig);
        fx_disconnect(&rig.fx, "a1", 1);
        fx_lost(&rig.fx, "a1", 1);
        rig_expect(&rig, "run t1; start t1");
        rig_again(&rig);
        rig_kind(&rig, NL_SESSION_EV_AUTHORIZED);
        rig_hello(&rig, 0, "t1", NULL);
        rig_commit(&rig);
        rig_submit(&rig, "t2");  // others are not held up
        rig_expect(&rig,
                   leave ? "register; welcome; run t2" : "register; welcome; cancel t1; run t2");
        rig_result(&rig, "t1", 1);
        rig_expect(&rig, "finish t1; run t1#2");
        rig_commit(&rig);
        rig_expect(&rig, "ack t1 late");
        rig_submit(&rig, "t3");
        rig_expect(&rig, "run t3");  // each once
        assert_int_equal(nl_state_task(rig.fx.state, "t1")->late_results, 1);
    }
}

static void orphans_are_left_if_so_set(void **state) {
    (void)state;
    for (int leave = 0; leave < 2; leave++) {
        rig_close(&rig);
        rig_open(&rig, true);
        rig.leave_orphans = leave != 0;
        rig_active(&rig, 0);
        rig_submit(&rig, "t1");
        fx_disconnect(&rig.fx, "a1", 1);
        fx_lost(&rig.fx, "a1", 1);
        rig_expect(&rig, "run t1");
        rig_again(&rig);
        rig_kind(&rig, NL_SESSION_EV_AUTHORIZED);
        rig_hello(&rig, 0, "t1", NULL);
        rig_commit(&rig);
        rig_expect(&rig, leave ? "register; welcome" : "register; welcome; cancel t1");
        rig_result(&rig, "t1", 0);
        rig_commit(&rig);
        rig_expect(&rig, "finish t1; ack t1 late");
    }
}

// Its commit took so long that the agent got the task from another node since.
static void a_late_hello_ends_no_task(void **state) {
    (void)state;
    rig_active(&rig, 0);
    rig_submit(&rig, "t1");
    rig_started(&rig, "t1");
    rig_wait(&rig, 30);
    rig_commit(&rig);
    for (uint64_t seen = 0; seen < 3; seen += 2) {
        rig_again(&rig);
        rig.last_epoch = seen;
        rig_kind(&rig, NL_SESSION_EV_AUTHORIZED);
        rig_hello(&rig, 0, NULL, NULL);
        rig_commit(&rig);
        assert_int_equal(nl_state_task(rig.fx.state, "t1")->state,
                         seen == 0 ? NL_TASK_RUNNING : NL_TASK_FAILED);
    }
}

// ---- deadlines -------------------------------------------------------------

static uint64_t wall_now(void) {
    return nl_state_clock_ms(rig.fx.state);
}

static void a_deadline_goes_with_the_task(void **state) {
    (void)state;
    rig_active(&rig, 0);
    Nodelink__V1__TaskSpec spec = NODELINK__V1__TASK_SPEC__INIT;
    spec.start_within_ms = 500;
    spec.finish_within_ms = 900;
    nl_session_core_set_wall(rig.core, rig.now, wall_now() + 110);  // 100 ms after the submit
    submit_spec("t1", &spec);
    rig_expect(&rig, "run t1");
    assert_int_equal(rig.start_within_ms, 400);
    assert_int_equal(rig.finish_within_ms, 800);
}

static void a_task_that_waits_beyond_its_deadline_is_withdrawn(void **state) {
    (void)state;
    for (int what = 0; what < 2; what++) {
        rig_close(&rig);
        rig_open(&rig, true);
        rig_active(&rig, 1);
        nl_session_core_set_wall(rig.core, rig.now, wall_now());
        rig_submit(&rig, "t1");
        Nodelink__V1__TaskSpec spec = NODELINK__V1__TASK_SPEC__INIT;
        *(what == 0 ? &spec.start_within_ms : &spec.finish_within_ms) = 500;
        spec.attempts = 3;
        submit_spec("t2", &spec);
        rig_expect(&rig, "run t1");
        rig_wait(&rig, 400);
        rig_expect(&rig, "");
        rig_wait(&rig, 200);
        rig_expect(&rig, "finish t2");
        rig.fx.time_ms += 600;  // its proposer's clock
        rig_commit(&rig);
        const struct nl_task *task = nl_state_task(rig.fx.state, "t2");
        assert_int_equal(task->state, NL_TASK_FAILED);
        assert_string_equal(task->reason, what == 0 ? "not started by its deadline"
                                                    : "not started before its deadline to finish");
        rig_result(&rig, "t1", 0);
        rig_commit(&rig);
        rig_expect(&rig, "finish t1; ack t1");
    }
}

static void a_request_too_large_is_refused_in_its_name(void **state) {
    (void)state;
    rig_active(&rig, 0);
    rig.send_result = NL_ETOOBIG;
    rig_submit(&rig, "t1");
    rig.send_result = NL_OK;
    rig_expect(&rig, "finish t1");
    rig_commit(&rig);
    rig_expect(&rig, "");
    assert_int_equal(nl_state_task(rig.fx.state, "t1")->state, NL_TASK_FAILED);
}

// ---- the log ---------------------------------------------------------------

static void a_lost_proposal_is_repeated(void **state) {
    (void)state;
    rig_active(&rig, 0);
    rig_submit(&rig, "t1");
    rig_result(&rig, "t1", 0);
    rig_expect(&rig, "run t1; finish t1");
    rig_lose(&rig, NL_EUNKNOWN);
    rig_wait(&rig, 499);
    rig_expect(&rig, "");
    rig_wait(&rig, 1);
    rig_expect(&rig, "finish t1");
    rig.propose_result = NL_EFULL;
    rig_lose(&rig, NL_ENOQUORUM);
    rig_wait(&rig, 600);
    rig_expect(&rig, "");
    rig.propose_result = NL_OK;
    rig_wait(&rig, 500);
    rig_expect(&rig, "finish t1");
    rig_commit(&rig);
    rig_expect(&rig, "ack t1");
}

// The agent's supervisor died under it: UNKNOWN until its result comes.
static void an_uncertain_task_is_unknown(void **state) {
    (void)state;
    rig_active(&rig, 0);
    rig_submit(&rig, "t1");
    rig_started(&rig, "t1");
    rig_wait(&rig, 20);
    rig_commit(&rig);
    rig_expect(&rig, "run t1; start t1");
    rig_uncertain(&rig, "t1");
    rig_expect(&rig, "uncertain t1");
    rig_lose(&rig, NL_ENOQUORUM);
    rig_wait(&rig, 500);
    rig_expect(&rig, "uncertain t1");
    rig_commit(&rig);
    assert_int_equal(fx_task_state(&rig.fx, "t1"), NL_TASK_UNKNOWN);
    rig_uncertain(&rig, "t1");
    rig_started(&rig, "t1");
    rig_wait(&rig, 1000);
    rig_expect(&rig, "");
    rig_result(&rig, "t1", 1);
    rig_commit(&rig);
    rig_expect(&rig, "finish t1; ack t1");
    assert_int_equal(fx_task_state(&rig.fx, "t1"), NL_TASK_FAILED);
}

// What is under way first: a start that comes after it would make it running again.
static void an_uncertain_task_waits_for_its_start(void **state) {
    (void)state;
    rig_active(&rig, 0);
    rig_submit(&rig, "t1");
    rig_started(&rig, "t1");
    rig_wait(&rig, 20);
    rig_expect(&rig, "run t1; start t1");
    rig_uncertain(&rig, "t1");
    rig_expect(&rig, "");
    rig_commit(&rig);
    rig_expect(&rig, "uncertain t1");
    rig_commit(&rig);
    assert_int_equal(fx_task_state(&rig.fx, "t1"), NL_TASK_UNKNOWN);
    rig_submit(&rig, "t2");
    rig_started(&rig, "t2");
    rig_uncertain(&rig, "t2");  // its start was not proposed yet
    rig_wait(&rig, 20);
    rig_expect(&rig, "run t2; uncertain t2");
}

static void a_stale_result_is_not_acknowledged(void **state) {
    (void)state;
    rig_active(&rig, 0);
    rig_submit(&rig, "t1");
    rig_result(&rig, "t1", 0);
    // The agent is at another node already; its result counts there.
    fx_register(&rig.fx, (struct fx_hello){.agent = "a1",
                                           .listed = "t1",
                                           .phase = NODELINK__V1__TASK_REF__PHASE__FINISHED});
    rig_commit(&rig);
    rig_expect(&rig, "run t1; finish t1; end ABORTED");
}

static void pruned_tasks_are_acknowledged_as_late(void **state) {
    (void)state;
    rig_active(&rig, 0);
    rig_result(&rig, "long-gone", 0);
    rig_commit(&rig);
    rig_expect(&rig, "finish long-gone; ack long-gone late");
}

// ---- the end ---------------------------------------------------------------

static void the_state_closes_it(void **state) {
    (void)state;
    rig_active(&rig, 0);
    rig_kind(&rig, NL_SESSION_EV_AGENT);
    rig_expect(&rig, "");
    fx_revoke(&rig.fx, "a1");
    rig_kind(&rig, NL_SESSION_EV_AGENT);
    rig_expect(&rig, "end UNAUTHENTICATED");
}

static void another_registration_closes_it(void **state) {
    (void)state;
    rig_active(&rig, 0);
    fx_register(&rig.fx, (struct fx_hello){.agent = "a1"});
    rig_kind(&rig, NL_SESSION_EV_RESTORED);
    rig_expect(&rig, "end ABORTED");
    rig_submit(&rig, "t1");
    rig_expect(&rig, "");
}

static void a_node_judged_down_loses_its_streams(void **state) {
    (void)state;
    rig_active(&rig, 0);
    fx_node_down(&rig.fx, 1, 1);
    rig_kind(&rig, NL_SESSION_EV_AGENT);
    rig_expect(&rig, "end ABORTED");
}

static void silence_ends_it(void **state) {
    (void)state;
    rig_active(&rig, 0);
    rig_wait(&rig, 1999);
    rig_expect(&rig, "");
    rig_wait(&rig, 1);
    rig_expect(&rig, "ping");
    rig_wait(&rig, 999);
    rig_expect(&rig, "");
    rig_wait(&rig, 1);
    rig_expect(&rig, "end DEADLINE_EXCEEDED");
}

static void a_closing_stream_has_no_deadline(void **state) {
    (void)state;
    rig_active(&rig, 0);
    rig_submit(&rig, "t1");
    rig_started(&rig, "t1");
    rig_kind(&rig, NL_SESSION_EV_CLOSE);
    assert_true(nl_session_core_deadline(rig.core) == UINT64_MAX);
}

static void no_hello_ends_it(void **state) {
    (void)state;
    rig_kind(&rig, NL_SESSION_EV_AUTHORIZED);
    rig_wait(&rig, 10000);
    rig_expect(&rig, "end DEADLINE_EXCEEDED");
}

static void a_drain_gives_time_and_takes_no_tasks(void **state) {
    (void)state;
    rig_active(&rig, 0);
    rig_event(&rig, &(struct nl_session_event){
                        .kind = NL_SESSION_EV_DRAIN, .text = "stopping", .grace_ms = 700});
    rig_submit(&rig, "t1");
    rig_expect(&rig, "drain");
    rig_wait(&rig, 700);
    rig_expect(&rig, "end UNAVAILABLE");
}

static void a_drained_stock_agent_may_end_what_it_runs(void **state) {
    (void)state;
    rig_active(&rig, 0);
    rig_submit(&rig, "t1");
    rig_event(&rig, &(struct nl_session_event){
                        .kind = NL_SESSION_EV_DRAIN, .text = "stopping", .grace_ms = 700});
    rig_submit(&rig, "t2");
    rig_expect(&rig, "run t1");
    Nodelink__V1__TaskResult result = NODELINK__V1__TASK_RESULT__INIT;
    result.kind = NODELINK__V1__TASK_RESULT__KIND__EXITED;
    Nodelink__V1__TaskResponse frame = NODELINK__V1__TASK_RESPONSE__INIT;
    frame.agent_id = nl_message_text("a1");
    frame.task_id = nl_message_text("t1");
    frame.is_final = true;
    rig_event(&rig, &(struct nl_session_event){
                        .kind = NL_SESSION_EV_FRAME, .frame = &frame, .synthesised = &result});
    rig_expect(&rig, "finish t1");
    rig_commit(&rig);
    rig_expect(&rig, "end UNAVAILABLE");
}

static void results_outlive_the_stream(void **state) {
    (void)state;
    rig_active(&rig, 0);
    rig_submit(&rig, "t1");
    rig_result(&rig, "t1", 0);
    rig_kind(&rig, NL_SESSION_EV_GONE);
    assert_true(nl_session_core_settled(rig.core));  // it has a journal
    assert_false(nl_session_core_finished(rig.core));
    rig_lose(&rig, NL_EUNKNOWN);
    rig_wait(&rig, 500);
    rig_commit(&rig);
    rig_expect(&rig, "run t1; finish t1; finish t1");
    assert_true(nl_session_core_finished(rig.core));
    assert_int_equal(nl_state_task(rig.fx.state, "t1")->state, NL_TASK_COMPLETED);
}

static void results_of_the_dead_are_given_up_in_the_end(void **state) {
    (void)state;
    rig_active(&rig, 0);
    rig_submit(&rig, "t1");
    rig_result(&rig, "t1", 0);
    rig_kind(&rig, NL_SESSION_EV_GONE);
    rig_lose(&rig, NL_ENOQUORUM);
    rig.propose_result = NL_EFULL;
    rig_wait(&rig, 10000);
    assert_true(nl_session_core_finished(rig.core));
}

static void a_stock_agents_result_comes_before_its_disconnect(void **state) {
    (void)state;
    rig_active(&rig, 0);
    rig_submit(&rig, "t1");
    Nodelink__V1__TaskResult result = NODELINK__V1__TASK_RESULT__INIT;
    result.kind = NODELINK__V1__TASK_RESULT__KIND__EXITED;
    Nodelink__V1__TaskResponse frame = NODELINK__V1__TASK_RESPONSE__INIT;
    frame.agent_id = nl_message_text("a1");
    frame.task_id = nl_message_text("t1");
    frame.is_final = true;
    rig_event(&rig, &(struct nl_session_event){
                        .kind = NL_SESSION_EV_FRAME, .frame = &frame, .synthesised = &result});
    rig_kind(&rig, NL_SESSION_EV_GONE);
    assert_false(nl_session_core_settled(rig.core));
    rig_commit(&rig);
    assert_true(nl_session_core_settled(rig.core));
}

// ---- bad input -------------------------------------------------------------

static void with_foreign_agent(Nodelink__V1__TaskResponse *f) {
    f->agent_id = nl_message_text("a2");
}
static void without_agent(Nodelink__V1__TaskResponse *f) {
    f->agent_id = nl_message_text("");
}
static void without_task(Nodelink__V1__TaskResponse *f) {
    f->task_id = nl_message_text("");
}
static void with_bad_task(Nodelink__V1__TaskResponse *f) {
    f->task_id = nl_message_text("../x");
}
static void with_bad_status(Nodelink__V1__TaskResponse *f) {
    f->status = 99;
}
static void of_another_epoch(Nodelink__V1__TaskResponse *f) {
    f->epoch++;
}
static void without_epoch(Nodelink__V1__TaskResponse *f) {
    f->epoch = 0;
}
static void without_attempt(Nodelink__V1__TaskResponse *f) {
    f->attempt = 0;
}
static void without_kind(Nodelink__V1__TaskResponse *f) {
    f->result->kind = NODELINK__V1__TASK_RESULT__KIND__KIND_UNSPECIFIED;
}
static void with_unknown_kind(Nodelink__V1__TaskResponse *f) {
    f->result->kind = 77;
}
static void with_short_digest(Nodelink__V1__TaskResponse *f) {
    static uint8_t digest[31];
    f->result->stdout_sha256 = (ProtobufCBinaryData){sizeof digest, digest};
}
static void without_result(Nodelink__V1__TaskResponse *f) {
    f->control_case = NODELINK__V1__TASK_RESPONSE__CONTROL__NOT_SET;
}

static void malformed_frames_end_the_stream(void **state) {
    (void)state;
    void (*const spoil[])(Nodelink__V1__TaskResponse *) = {
        with_foreign_agent, without_agent,     without_task,      with_bad_task,
        with_bad_status,    of_another_epoch,  without_epoch,     without_attempt,
        without_kind,       with_unknown_kind, with_short_digest, without_result,
    };
    for (size_t i = 0; i < sizeof spoil / sizeof *spoil; i++) {
        rig_close(&rig);
        rig_open(&rig, true);
        rig_active(&rig, 0);
        rig_submit(&rig, "t1");
        rig.text[0] = '\0';
        Nodelink__V1__TaskResponse frame = NODELINK__V1__TASK_RESPONSE__INIT;
        Nodelink__V1__TaskResult result = NODELINK__V1__TASK_RESULT__INIT;
        result.kind = NODELINK__V1__TASK_RESULT__KIND__EXITED;
        frame.agent_id = nl_message_text("a1");
        frame.task_id = nl_message_text("t1");
        frame.attempt = 1;
        frame.epoch = nl_session_core_epoch(rig.core);
        frame.is_final = true;
        frame.control_case = NODELINK__V1__TASK_RESPONSE__CONTROL_RESULT;
        frame.result = &result;
        spoil[i](&frame);
        rig_frame(&rig, &frame);
        if (strcmp(rig.text, "end INVALID_ARGUMENT") != 0) {
            fail_msg("case %zu: %s", i, rig.text);
        }
        assert_int_equal(nl_state_task(rig.fx.state, "t1")->state, NL_TASK_DISPATCHED);
    }
}

static void the_first_message_must_be_hello(void **state) {
    (void)state;
    rig_kind(&rig, NL_SESSION_EV_AUTHORIZED);
    rig_result(&rig, "t1", 0);
    rig_expect(&rig, "end INVALID_ARGUMENT");
}

static void refused_registrations_end_it(void **state) {
    (void)state;
    const struct {
        int result;
        enum nl_outcome_code code;
        const char *text;
    } cases[] = {
        {NL_OK, NL_OUTCOME_BAD_TOKEN, "end UNAUTHENTICATED"},
        {NL_OK, NL_OUTCOME_NO_AGENT, "end UNAUTHENTICATED"},
        {NL_OK, NL_OUTCOME_LIMIT, "end RESOURCE_EXHAUSTED"},
        {NL_OK, NL_OUTCOME_INVALID, "end INVALID_ARGUMENT"},
        {NL_OK, NL_OUTCOME_STALE, "end UNAVAILABLE"},
        {NL_ENOQUORUM, 0, "end UNAVAILABLE"},
        {NL_EUNKNOWN, 0, "end UNAVAILABLE"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        rig_close(&rig);
        rig_open(&rig, true);
        rig_kind(&rig, NL_SESSION_EV_AUTHORIZED);
        rig_hello(&rig, 0, NULL, NULL);
        rig.text[0] = '\0';
        rig_event(&rig, &(struct nl_session_event){.kind = NL_SESSION_EV_REGISTERED,
                                                   .result = cases[i].result,
                                                   .outcome = {cases[i].code, 0}});
        rig_expect(&rig, cases[i].text);
    }
}

// ---- every event in every state --------------------------------------------

static void bring_to(enum nl_session_state to) {
    if (to == NL_SESSION_AUTH) {
        return;
    }
    rig_kind(&rig, NL_SESSION_EV_AUTHORIZED);
    if (to == NL_SESSION_HELLO) {
        return;
    }
    rig_hello(&rig, 0, NULL, NULL);
    if (to == NL_SESSION_REGISTERING) {
        return;
    }
    rig_commit(&rig);
    if (to == NL_SESSION_CLOSING) {
        rig_kind(&rig, NL_SESSION_EV_CLOSE);
    }
}

static void throw_event(enum nl_session_event_kind kind, const struct nl_task *task) {
    Nodelink__V1__TaskResponse ping_frame = NODELINK__V1__TASK_RESPONSE__INIT;
    Nodelink__V1__Ping ping = NODELINK__V1__PING__INIT;
    ping_frame.agent_id = nl_message_text("a1");
    ping_frame.control_case = NODELINK__V1__TASK_RESPONSE__CONTROL_PING;
    ping_frame.ping = &ping;
    bool proposed = kind == NL_SESSION_EV_PROPOSED || kind == NL_SESSION_EV_REGISTERED;
    if (proposed && rig.n_pending == 0) {
        return;  // the driver reports only what it was asked to propose
    }
    if (proposed) {
        rig_commit(&rig);
        return;
    }
    rig_event(&rig, &(struct nl_session_event){.kind = kind,
                                               .frame = &ping_frame,
                                               .text = "x",
                                               .task_id = "t1",
                                               .task = task,
                                               .grace_ms = 10,
                                               .code = NL_RPC_UNAVAILABLE});
}

static void every_event_in_every_state(void **state) {
    (void)state;
    for (int from = NL_SESSION_AUTH; from <= NL_SESSION_CLOSING; from++) {
        for (int kind = NL_SESSION_EV_AUTHORIZED; kind <= NL_SESSION_EV_GONE; kind++) {
            rig_close(&rig);
            rig_open(&rig, true);
            bring_to((enum nl_session_state)from);
            bool registered = nl_session_core_epoch(rig.core) != 0;
            if (registered) {
                fx_submit(&rig.fx, "t1", "a1", "true", 0);
            }
            const struct nl_task *task = nl_state_task(rig.fx.state, "t1");
            bool about_task = kind == NL_SESSION_EV_TASK || kind == NL_SESSION_EV_PRUNED;
            if (task == NULL && about_task) {
                continue;
            }
            throw_event((enum nl_session_event_kind)kind, task);
            rig_wait(&rig, 60000);
            rig_lose(&rig, NL_ECANCELED);
            rig_kind(&rig, NL_SESSION_EV_GONE);
            rig_lose(&rig, NL_ECANCELED);
            rig_wait(&rig, 60000);
            assert_int_equal(nl_session_core_state(rig.core), NL_SESSION_CLOSING);
            assert_true(nl_session_core_finished(rig.core));
        }
    }
}

#define EXTENDED(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
#define STOCK(test) cmocka_unit_test_setup_teardown(test, setup_stock, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        EXTENDED(a_task_from_submit_to_acknowledgement),
        EXTENDED(a_result_at_once_saves_the_start),
        EXTENDED(a_result_while_the_start_is_under_way_follows_it),
        STOCK(a_stock_agent_gets_no_extensions),
        EXTENDED(the_hello_is_compared_with_the_state),
        EXTENDED(a_finished_task_of_the_hello_is_not_sent_again),
        EXTENDED(a_full_queue_loses_and_repeats_nothing),
        EXTENDED(a_full_queue_keeps_the_welcome_first),
        EXTENDED(the_capacity_is_kept),
        EXTENDED(a_queued_task_is_withdrawn_not_sent),
        EXTENDED(a_cancel_goes_to_the_agent_once),
        EXTENDED(a_request_too_large_is_refused_in_its_name),
        EXTENDED(the_next_attempt_follows_the_result),
        EXTENDED(attempts_do_not_overlap),
        EXTENDED(orphans_are_left_if_so_set),
        EXTENDED(a_late_hello_ends_no_task),
        EXTENDED(a_deadline_goes_with_the_task),
        EXTENDED(a_task_that_waits_beyond_its_deadline_is_withdrawn),
        EXTENDED(a_lost_proposal_is_repeated),
        EXTENDED(an_uncertain_task_is_unknown),
        EXTENDED(an_uncertain_task_waits_for_its_start),
        EXTENDED(a_stale_result_is_not_acknowledged),
        EXTENDED(pruned_tasks_are_acknowledged_as_late),
        EXTENDED(the_state_closes_it),
        EXTENDED(another_registration_closes_it),
        EXTENDED(a_node_judged_down_loses_its_streams),
        EXTENDED(silence_ends_it),
        EXTENDED(a_closing_stream_has_no_deadline),
        EXTENDED(no_hello_ends_it),
        EXTENDED(a_drain_gives_time_and_takes_no_tasks),
        STOCK(a_drained_stock_agent_may_end_what_it_runs),
        EXTENDED(results_outlive_the_stream),
        EXTENDED(results_of_the_dead_are_given_up_in_the_end),
        STOCK(a_stock_agents_result_comes_before_its_disconnect),
        EXTENDED(malformed_frames_end_the_stream),
        EXTENDED(the_first_message_must_be_hello),
        EXTENDED(refused_registrations_end_it),
        EXTENDED(every_event_in_every_state),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
