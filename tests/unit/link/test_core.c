// Transcripts of the link's core: failover, epochs, drain, refusals, stock servers, tasks.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/link/fixture.h"

#define RUNNING NODELINK__V1__TASK_REF__PHASE__RUNNING
#define FINISHED NODELINK__V1__TASK_REF__PHASE__FINISHED

enum { UNAVAILABLE = 14, UNAUTHENTICATED = 16 };

// ---- connecting ------------------------------------------------------------

static void first_connection(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1");
    fx_advance(&f, 10000);
    fx_expect(&f, "");  // nothing before the supervisor is there
    fx_attach(&f, 0);
    fx_expect(&f, "sup attach\nconnect 1 a:1\n");
    fx_headers(&f, 1, true);
    fx_expect(&f, "1: hello last=0\n");
    f.hide_logs = false;
    fx_welcome(&f, 1, 7);
    fx_expect(&f, "save epoch 7\nsave servers\nlog connected\n");
    assert_int_equal(nl_link_core_state(f.core), NL_LINK_UP);
    assert_int_equal(nl_link_core_epoch(f.core), 7);
    fx_close(&f);
}

static void each_server_once_then_a_pause(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1 b:1 c:1");
    fx_attach(&f, 0);
    char tried[3] = {0};
    for (int i = 0; i < 3; i++) {
        assert_int_equal(f.connects, i + 1);
        tried[i] = f.connect_to[0];
        fx_closed(&f, f.call, UNAVAILABLE, "refused");
    }
    assert_true(tried[0] != tried[1] && tried[1] != tried[2] && tried[0] != tried[2]);
    assert_int_equal(f.connects, 3);
    fx_advance(&f, 1001);  // full jitter: at most the first ceiling
    assert_int_equal(f.connects, 4);
    assert_int_equal(f.connect_to[0], tried[0]);
    fx_closed(&f, f.call, UNAVAILABLE, "refused");
    assert_int_equal(f.connects, 5);  // a round goes through without a pause
    fx_close(&f);
}

static void lost_stream_moves_at_once(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1 b:1");
    fx_up(&f, 1);
    char was = f.connect_to[0];
    fx_advance_alive(&f, 1, 60000);
    fx_forget(&f);
    fx_closed(&f, f.call, UNAVAILABLE, "gone");
    fx_expect(&f, was == 'a' ? "connect 2 b:1\n" : "connect 2 a:1\n");
    fx_closed(&f, 2, UNAVAILABLE, "gone");
    assert_int_equal(f.connect_to[0], was);  // then the one that dropped us, once
    fx_closed(&f, f.call, UNAVAILABLE, "gone");
    assert_int_equal(f.connects, 3);
    fx_close(&f);
}

static void flapping_servers_are_paced(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1 b:1");
    f.quiet = true;
    fx_attach(&f, 0);
    uint64_t epoch = 0, begun = f.now_ms;
    for (int i = 0; i < 200; i++) {  // welcomed, and cut at once
        fx_headers(&f, f.call, true);
        fx_welcome(&f, f.call, ++epoch);
        int before = f.connects;
        fx_closed(&f, f.call, UNAVAILABLE, "cut");
        while (f.connects == before) {
            fx_advance(&f, 100);
        }
    }
    assert_true(f.now_ms - begun > 20 * 60 * 1000);  // 100 rounds, mean pause near 30 s
    fx_close(&f);
}

static void unreachable_server_times_out(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1 b:1");
    fx_attach(&f, 0);
    uint64_t call = f.call;
    fx_forget(&f);
    fx_advance(&f, 3000);
    fx_expect(&f, "probe 1\n");
    fx_closed(&f, call, 4, "no connection in time");
    assert_int_equal(f.connects, 2);
    fx_close(&f);
}

static void hung_node_times_out(void **state) {
    (void)state;
    struct fixture f;
    const struct nl_link_core_options options = {.agent_id = "agent-1",
                                                 .version = "1",
                                                 .hostname = "h",
                                                 .os = "o",
                                                 .epoch = 5,
                                                 .backoff_start_ms = 1000,
                                                 .backoff_factor_percent = 150,
                                                 .backoff_cap_ms = 60000,
                                                 .connect_ms = 3000};
    fx_init_with(&f, "a:1 b:1", &options);
    fx_attach(&f, 0);
    fx_advance(&f, 3000);
    fx_call_up(&f, 1);
    fx_forget(&f);
    fx_advance(&f, 5000);  // an agent that knows a cluster doesn't take this for a stock server
    fx_expect(&f, f.connect_to[0] == 'a' ? "drop 1\nconnect 2 a:1\n" : "drop 1\nconnect 2 b:1\n");
    fx_headers(&f, 2, true);
    fx_expect(&f, "2: hello last=5\n");
    fx_advance(&f, 10000);  // no Welcome
    assert_int_equal(nl_link_core_state(f.core), NL_LINK_NONE);
    fx_close(&f);
}

// ---- refusals --------------------------------------------------------------

static void wrong_token_tries_slowly(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1 b:1");
    fx_attach(&f, 0);
    fx_forget(&f);
    f.hide_logs = false;
    fx_closed(&f, f.call, UNAUTHENTICATED, "bad token");
    assert_non_null(strstr(f.transcript, "put a valid one into the token file"));
    fx_closed(&f, f.call, UNAUTHENTICATED, "bad token");
    assert_int_equal(f.connects, 2);
    fx_advance(&f, 29000);
    assert_int_equal(f.connects, 2);
    fx_advance(&f, 32000);
    assert_int_equal(f.connects, 3);
    fx_close(&f);
}

static void old_epoch_is_refused(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1 b:1");
    fx_up(&f, 9);
    fx_closed(&f, f.call, UNAVAILABLE, "gone");
    fx_headers(&f, 2, true);
    fx_forget(&f);
    fx_welcome(&f, 2, 9);
    assert_non_null(strstr(f.transcript, "drop 2\n"));
    assert_int_equal(nl_link_core_epoch(f.core), 9);
    fx_advance(&f, 1001);
    fx_headers(&f, f.call, true);
    fx_welcome(&f, f.call, 10);
    assert_int_equal(nl_link_core_state(f.core), NL_LINK_UP);
    fx_forget(&f);
    fx_shell(&f, f.call, "t", 9);  // of an older owner: no answer, no run
    fx_expect(&f, "");
    fx_shell(&f, f.call, "t", 10);
    fx_expect(&f, "sup run t/1\n");
    fx_close(&f);
}

static void epoch_that_is_not_saved_is_not_used(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1 b:1");
    fx_attach(&f, 0);
    fx_headers(&f, 1, true);
    Nodelink__V1__Welcome welcome = NODELINK__V1__WELCOME__INIT;
    welcome.epoch = 3;
    Nodelink__V1__TaskRequest request = NODELINK__V1__TASK_REQUEST__INIT;
    request.control_case = NODELINK__V1__TASK_REQUEST__CONTROL_WELCOME;
    request.welcome = &welcome;
    fx_request(&f, 1, &request);
    struct nl_link_event event = {.type = NL_LINK_EPOCH_SAVED, .ok = false};
    fx_forget(&f);
    fx_step(&f, &event);
    assert_non_null(strstr(f.transcript, "drop 1\n"));
    assert_int_equal(nl_link_core_epoch(f.core), 0);
    fx_close(&f);
}

// ---- drain -----------------------------------------------------------------

static void drain(struct fixture *f, uint64_t call, char **servers, size_t n) {
    Nodelink__V1__Drain message = NODELINK__V1__DRAIN__INIT;
    message.reason = "stopping";
    message.servers = servers;
    message.n_servers = n;
    Nodelink__V1__TaskRequest request = NODELINK__V1__TASK_REQUEST__INIT;
    request.control_case = NODELINK__V1__TASK_REQUEST__CONTROL_DRAIN;
    request.drain = &message;
    fx_request(f, call, &request);
}

static void drain_makes_before_it_breaks(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1 b:1 c:1");
    fx_up(&f, 1);
    uint64_t old = f.call;
    fx_advance_alive(&f, old, 11000);
    fx_forget(&f);
    char *to[] = {"x:1", "c:1"};
    drain(&f, old, to, 2);
    fx_expect(&f, "connect 2 x:1\n");
    fx_shell(&f, old, "t", 1);  // the old stream still serves
    fx_expect(&f, "sup run t/1\n");
    fx_closed(&f, 2, UNAVAILABLE, "full");
    if (f.connect_to[0] == 'c') {
        fx_expect(&f, "connect 3 c:1\n");
    }
    fx_headers(&f, 3, true);
    fx_expect(&f, "3: hello last=1\n");
    fx_sup_task(&f, "t", RUNNING, 0);
    fx_expect(&f, "1: started t epoch=1\n");
    fx_welcome(&f, 3, 2);
    fx_expect(&f, "save epoch 2\nsave servers\n1: goodbye\nleave 1\n3: started t epoch=2\n");
    fx_closed(&f, old, 0, "");  // no longer news
    fx_expect(&f, "");
    fx_close(&f);
}

static void nodes_that_all_drain_are_paced(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1 b:1");
    f.quiet = true;
    fx_up(&f, 1);
    uint64_t begun = f.now_ms;
    char *servers[] = {"a:1", "b:1"};
    for (uint64_t epoch = 2; epoch < 60; epoch++) {
        int before = f.connects;
        drain(&f, f.call, servers, 2);
        while (f.connects == before) {
            fx_advance(&f, 10);
        }
        fx_headers(&f, f.call, true);
        fx_welcome(&f, f.call, epoch);
        assert_int_equal(nl_link_core_state(f.core), NL_LINK_UP);
    }
    assert_true(f.now_ms - begun > 5 * 60 * 1000);
    fx_close(&f);
}

static void drained_stream_may_break_first(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1 b:1");
    fx_up(&f, 1);
    fx_advance_alive(&f, 1, 11000);
    drain(&f, f.call, NULL, 0);
    assert_int_equal(f.call, 2);
    fx_closed(&f, 1, UNAVAILABLE, "gone");
    assert_int_equal(f.connects, 2);  // the one under way goes on
    fx_headers(&f, 2, true);
    fx_welcome(&f, 2, 2);
    assert_int_equal(nl_link_core_state(f.core), NL_LINK_UP);
    fx_close(&f);
}

// ---- pings -----------------------------------------------------------------

static void silent_node_is_left_after_three_pings(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1 b:1");
    fx_up(&f, 1);
    fx_advance(&f, 5000);  // the Welcome came in this interval
    fx_expect(&f, "");
    fx_advance(&f, 10000);
    fx_expect(&f, "1: ping\n1: ping\n");
    fx_advance(&f, 5000);
    assert_non_null(strstr(f.transcript, "drop 1\nconnect 2"));
    fx_close(&f);
}

static void pause_of_the_process_is_one_interval(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1 b:1");
    fx_up(&f, 1);
    fx_advance(&f, 5000);
    f.now_ms += 3600 * 1000;  // stopped for an hour
    struct nl_link_event event = {.type = NL_LINK_TICK};
    fx_step(&f, &event);
    assert_int_equal(nl_link_core_state(f.core), NL_LINK_UP);
    fx_expect(&f, "1: ping\n");
    fx_close(&f);
}

static void pings_are_answered(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1");
    fx_up(&f, 1);
    Nodelink__V1__Ping ping = NODELINK__V1__PING__INIT;
    ping.nonce = 42;
    Nodelink__V1__TaskRequest request = NODELINK__V1__TASK_REQUEST__INIT;
    request.control_case = NODELINK__V1__TASK_REQUEST__CONTROL_PING;
    request.ping = &ping;
    fx_request(&f, 1, &request);
    fx_expect(&f, "1: pong 42\n");
    fx_close(&f);
}

// ---- tasks -----------------------------------------------------------------

static void result_is_repeated_until_acknowledged(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1 b:1");
    fx_up(&f, 1);
    fx_shell(&f, 1, "t", 1);
    fx_sup_task(&f, "t", RUNNING, 0);
    fx_sup_task(&f, "t", FINISHED, 0);
    fx_expect(&f, "sup run t/1\n1: started t epoch=1\n1: final t completed exit=0 exited\n");
    for (uint64_t call = 2; call < 5; call++) {
        fx_closed(&f, call - 1, UNAVAILABLE, "gone");
        fx_advance(&f, 60000);
        fx_headers(&f, call, true);
        assert_non_null(strstr(f.transcript, "t/1=finished"));
        fx_forget(&f);
        fx_welcome(&f, call, call);
        assert_non_null(strstr(f.transcript, "final t completed exit=0 exited\n"));
    }
    fx_forget(&f);
    fx_ack(&f, 4, "t");
    fx_expect(&f, "sup forget t\n");
    fx_closed(&f, 4, UNAVAILABLE, "gone");
    fx_advance(&f, 60000);
    fx_headers(&f, 5, true);
    fx_forget(&f);
    fx_welcome(&f, 5, 5);
    assert_null(strstr(f.transcript, "final"));
    fx_close(&f);
}

static void repeated_request_is_answered_not_run(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1");
    fx_up(&f, 1);
    fx_shell(&f, 1, "t", 1);
    fx_expect(&f, "sup run t/1\n");
    fx_shell(&f, 1, "t", 1);
    fx_expect(&f, "");
    fx_sup_task(&f, "t", RUNNING, 0);
    fx_expect(&f, "1: started t epoch=1\n");
    fx_shell(&f, 1, "t", 1);
    fx_expect(&f, "1: started t epoch=1\n");
    fx_sup_task(&f, "t", FINISHED, 0);
    fx_expect(&f, "1: final t completed exit=0 exited\n");
    fx_shell(&f, 1, "t", 1);
    fx_expect(&f, "1: final t completed exit=0 exited\n");
    fx_ack(&f, 1, "t");
    fx_forget(&f);
    fx_shell(&f, 1, "t", 1);
    fx_expect(&f, "1: final t completed exit=0 exited\n");
    fx_close(&f);
}

static void new_link_finds_its_tasks(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1");
    fx_attach(&f, 2);
    fx_sup_task(&f, "run", RUNNING, 10);
    assert_int_equal(f.connects, 1);
    fx_headers(&f, 1, true);  // the Hello waits until the journal is known
    assert_null(strstr(f.transcript, "hello"));
    fx_forget(&f);
    fx_sup_task(&f, "done", FINISHED, 10);
    fx_expect(&f, "1: hello last=0 run/1=running done/1=finished\n");
    fx_welcome(&f, 1, 1);
    fx_expect(&f, "save epoch 1\nsave servers\n1: final done completed exit=0 exited\n");
    fx_close(&f);
}

// A task that changes during an attach is said twice: that must not pass for another task.
static void attach_counts_tasks_not_messages(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1");
    fx_up(&f, 1);
    fx_shell(&f, 1, "t", 1);
    fx_sup_task(&f, "t", RUNNING, 0);
    fx_shell(&f, 1, "u", 1);
    fx_sup_task(&f, "u", RUNNING, 0);
    fx_sup_down(&f);
    fx_forget(&f);
    fx_attach(&f, 2);
    fx_sup_task(&f, "t", RUNNING, 0);
    fx_sup_task(&f, "t", FINISHED, 0);
    fx_expect(&f, "sup attach\n");
    fx_sup_task(&f, "u", RUNNING, 0);
    fx_expect(&f, "1: final t completed exit=0 exited\n");
    fx_close(&f);
}

static void supervisor_that_does_not_answer(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1");
    fx_attach(&f, 1);
    fx_forget(&f);
    fx_advance(&f, 10000);
    assert_non_null(strstr(f.transcript, "sup drop\n"));
    fx_sup_down(&f);
    fx_attach(&f, 0);
    fx_forget(&f);
    fx_advance(&f, 20000);
    assert_null(strstr(f.transcript, "sup drop\n"));
    fx_close(&f);
}

static void lost_supervisor_gets_the_run_again(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1");
    fx_up(&f, 1);
    fx_shell(&f, 1, "t", 1);
    fx_cancel(&f, 1, "t");
    fx_expect(&f, "sup run t/1\nsup cancel t 'why not'\n");
    fx_sup_down(&f);
    fx_shell(&f, 1, "u", 1);
    fx_expect(&f, "");
    fx_attach(&f, 0);
    fx_expect(&f, "sup attach\nsup run t/1\nsup cancel t 'why not'\nsup run u/1\n");
    fx_sup_refused(&f, "u", "disk full");
    fx_expect(&f, "1: final u failure exit=-1 not-started 'disk full'\n");
    fx_ack(&f, 1, "u");
    fx_expect(&f, "");
    fx_close(&f);
}

static void supervisor_without_its_journal(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1");
    fx_up(&f, 1);
    fx_shell(&f, 1, "t", 1);
    fx_sup_task(&f, "t", RUNNING, 0);
    fx_sup_down(&f);
    fx_forget(&f);
    fx_attach(&f, 0);
    fx_expect(&f,
              "sup attach\n1: final t failure exit=-1 lost 'the supervisor's journal is gone'\n");
    fx_close(&f);
}

// How it ended nobody knows; the cluster is told at once, not when the last process is gone.
static void lost_task_is_said_to_be_uncertain(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1");
    fx_up(&f, 1);
    fx_shell(&f, 1, "t", 1);
    fx_sup_task(&f, "t", RUNNING, 0);
    fx_sup_down(&f);
    fx_forget(&f);
    fx_attach(&f, 1);
    fx_sup_lost(&f, "t");
    fx_expect(&f, "sup attach\n1: uncertain t status=0 'supervisor lost'\n");
    fx_sup_lost(&f, "t");
    fx_expect(&f, "");
    fx_closed(&f, 1, UNAVAILABLE, "gone");
    fx_advance(&f, 1001);
    fx_headers(&f, 2, true);
    fx_forget(&f);
    fx_welcome(&f, 2, 2);  // its Hello said running
    assert_non_null(strstr(f.transcript, "2: uncertain t status=0 'supervisor lost'\n"));
    assert_null(strstr(f.transcript, "started"));
    fx_forget(&f);
    fx_sup_task(&f, "t", FINISHED, 0);
    fx_expect(&f, "2: final t completed exit=0 exited\n");
    fx_close(&f);
}

static void supervisor_that_does_not_come_back(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1");
    fx_up(&f, 1);
    f.hide_logs = true;
    fx_sup_down(&f);
    fx_advance_alive(&f, 1, 9999);
    assert_int_equal(nl_link_core_state(f.core), NL_LINK_UP);
    fx_forget(&f);
    fx_advance(&f, 1);
    fx_expect(&f, "1: ping\ndrop 1\n");
    fx_sup_down(&f);  // another one, that could not start either
    fx_advance(&f, 3600 * 1000);
    fx_expect(&f, "");
    fx_attach(&f, 0);
    fx_expect(&f, "sup attach\nconnect 2 a:1\n");
    fx_headers(&f, 2, true);
    fx_welcome(&f, 2, 2);
    assert_int_equal(nl_link_core_state(f.core), NL_LINK_UP);
    fx_close(&f);
}

static void cancel_of_what_never_came(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1");
    fx_up(&f, 1);
    fx_cancel(&f, 1, "t");
    fx_expect(&f,
              "1: final t failure exit=-1 cancelled cancelled 'cancelled before it was started'\n");
    fx_shell(&f, 1, "t", 1);  // late: it is not started after all
    assert_null(strstr(f.transcript, "sup run"));
    fx_close(&f);
}

static void bad_requests(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1");
    fx_up(&f, 1);
    Nodelink__V1__TaskRequest request = NODELINK__V1__TASK_REQUEST__INIT;
    fx_request(&f, 1, &request);
    fx_expect(&f, "");
    request.task_id = "t";
    fx_request(&f, 1, &request);
    fx_expect(&f, "1: final t failure exit=-1 not-started 'a request without a task'\n");
    Nodelink__V1__DockerOperation docker = NODELINK__V1__DOCKER_OPERATION__INIT;
    request.task_case = NODELINK__V1__TASK_REQUEST__TASK_DOCKER_OPERATION;
    request.docker_operation = &docker;
    fx_request(&f, 1, &request);
    fx_expect(&f,
              "1: final t failure exit=-1 not-started 'docker operations are not supported by "
              "this agent version'\n");
    fx_shell(&f, 1, "../t", 1);
    assert_non_null(strstr(f.transcript, "final ../t failure"));
    fx_forget(&f);
    Nodelink__V1__ShellExecute shell = NODELINK__V1__SHELL_EXECUTE__INIT;
    char *env[] = {"novalue"};
    shell.cmd = "true";
    shell.env = env;
    shell.n_env = 1;
    request.task_case = NODELINK__V1__TASK_REQUEST__TASK_SHELL_EXECUTE;
    request.shell_execute = &shell;
    fx_request(&f, 1, &request);
    fx_expect(&f,
              "1: final t failure exit=-1 not-started 'an environment variable is not "
              "KEY=VALUE'\n");
    shell.n_env = 0;
    request.agent_id = "somebody-else";
    fx_request(&f, 1, &request);
    fx_expect(&f, "1: final t failure exit=-1 not-started 'the request is for another agent'\n");
    fx_close(&f);
}

static void too_many_tasks_are_refused(void **state) {
    (void)state;
    struct fixture f;
    const struct nl_link_core_options options = {.agent_id = "agent-1",
                                                 .version = "1",
                                                 .hostname = "h",
                                                 .os = "o",
                                                 .tasks_max = 3,
                                                 .backoff_start_ms = 1000,
                                                 .backoff_factor_percent = 150,
                                                 .backoff_cap_ms = 60000,
                                                 .connect_ms = 3000};
    fx_init_with(&f, "a:1", &options);
    fx_up(&f, 1);
    fx_shell(&f, 1, "t1", 1);
    fx_shell(&f, 1, "t2", 1);
    fx_shell(&f, 1, "t3", 1);
    fx_forget(&f);
    fx_shell(&f, 1, "t4", 1);
    fx_expect(&f, "1: final t4 failure exit=-1 not-started 'the agent has too many tasks'\n");
    fx_close(&f);
}

// ---- stock servers ---------------------------------------------------------

static void stock_server(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1");
    fx_attach(&f, 0);
    fx_headers(&f, 1, false);
    fx_forget(&f);
    fx_shell(&f, 1, "t", 0);
    fx_expect(&f, "sup run t/1\n");
    fx_sup_task(&f, "t", RUNNING, 0);
    fx_expect(&f, "1: in-progress t\n");
    fx_sup_spool(&f, "t", 0, 100, 0);
    fx_expect(&f, "output\n");
    fx_sup_task(&f, "t", FINISHED, 100);  // its result waits for the output
    fx_output_sent(&f);
    fx_expect(&f, "output\n1: final t completed exit=0\n");
    fx_advance(&f, 10000);
    fx_expect(&f, "");
    fx_advance(&f, 10000);  // the stream lived on: it has it
    fx_expect(&f, "sup forget t\n");
    fx_close(&f);
}

static void stock_result_is_sent_again_after_a_break(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1");
    fx_attach(&f, 0);
    fx_headers(&f, 1, false);
    fx_shell(&f, 1, "t", 0);
    fx_sup_task(&f, "t", FINISHED, 0);
    fx_advance(&f, 5000);
    fx_closed(&f, 1, UNAVAILABLE, "gone");
    fx_advance(&f, 1001);
    fx_forget(&f);
    fx_headers(&f, 2, false);
    fx_expect(&f, "2: final t completed exit=0\n");
    fx_close(&f);
}

static void silent_server_is_taken_for_a_stock_one(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1");
    fx_attach(&f, 0);
    fx_advance(&f, 3000);
    fx_call_up(&f, 1);
    fx_advance(&f, 5000);
    assert_int_equal(nl_link_core_state(f.core), NL_LINK_STOCK);
    fx_advance(&f, 3600 * 1000);
    assert_int_equal(f.connects, 1);
    fx_forget(&f);
    fx_headers(&f, 1, false);  // they come with its first task
    fx_shell(&f, 1, "t", 0);
    fx_expect(&f, "sup run t/1\n");
    fx_close(&f);
}

static void stock_refusals_say_why(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1");
    fx_attach(&f, 0);
    fx_headers(&f, 1, false);
    fx_forget(&f);
    fx_shell(&f, 1, "bad id", 0);
    assert_non_null(strstr(f.transcript, "final bad id failure exit=-1 stderr='the task id"));
    fx_forget(&f);
    fx_cancel(&f, 1, "none");
    fx_expect(&f, "1: final none failure exit=0\n");
    fx_close(&f);
}

// ---- stop, settings --------------------------------------------------------

static void stop_says_goodbye(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1");
    fx_up(&f, 1);
    fx_stop(&f, false);
    fx_expect(&f, "sup stop\n1: goodbye\nleave 1\nexit\n");
    assert_int_equal(nl_link_core_deadline_ms(f.core), UINT64_MAX);
    fx_closed(&f, 1, 0, "");
    fx_expect(&f, "");
    fx_close(&f);
}

static void stop_in_every_state(void **state) {
    (void)state;
    for (int stage = 0; stage < 6; stage++) {
        struct fixture f;
        fx_init(&f, "a:1 b:1");
        if (stage >= 1) {
            fx_attach(&f, 0);
        }
        if (stage == 2) {
            fx_closed(&f, f.call, UNAVAILABLE, "gone");
        }
        if (stage >= 3) {
            fx_headers(&f, f.call, true);
        }
        if (stage >= 4) {
            fx_welcome(&f, f.call, 1);
        }
        if (stage == 5) {
            drain(&f, f.call, NULL, 0);
        }
        fx_forget(&f);
        fx_stop(&f, false);
        assert_non_null(strstr(f.transcript, "exit\n"));
        fx_close(&f);
    }
}

static void quit_waits_for_the_tasks(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1");
    fx_up(&f, 1);
    fx_shell(&f, 1, "t", 1);
    fx_sup_task(&f, "t", RUNNING, 0);
    fx_forget(&f);
    fx_stop(&f, true);
    fx_expect(&f, "sup stop kill\n");
    fx_sup_task(&f, "t", FINISHED, 0);
    fx_expect(&f, "1: final t completed exit=0 exited\n");
    fx_sup_down(&f);
    fx_expect(&f, "1: goodbye\nleave 1\nexit\n");
    fx_close(&f);
}

static void quit_does_not_wait_for_ever(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1");
    fx_up(&f, 1);
    fx_stop(&f, true);
    fx_advance(&f, 21000);
    assert_non_null(strstr(f.transcript, "exit\n"));
    fx_close(&f);
}

static void new_labels_are_said_by_a_new_stream(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1");
    fx_up(&f, 1);
    char *servers[] = {"a:1"}, *labels[] = {"role=db"};
    struct nl_link_event event = {.type = NL_LINK_CONFIG};
    event.config.servers = (struct nl_link_strings){servers, 1};
    event.config.labels = (struct nl_link_strings){labels, 1};
    fx_step(&f, &event);
    fx_expect(&f, "connect 2 a:1\n");
    fx_headers(&f, 2, true);
    fx_expect(&f, "2: hello last=1 role:db\n");
    fx_closed(&f, 1, 10, "replaced");  // the node may be faster than its Welcome
    fx_welcome(&f, 2, 2);
    fx_expect(&f, "save epoch 2\n");
    fx_step(&f, &event);
    fx_expect(&f, "");
    fx_close(&f);
}

static void settings_change_before_the_welcome(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1");
    fx_attach(&f, 0);
    fx_headers(&f, 1, true);
    fx_forget(&f);
    char *servers[] = {"b:1"};
    struct nl_link_event event = {.type = NL_LINK_CONFIG};
    event.config.servers = (struct nl_link_strings){servers, 1};
    fx_step(&f, &event);
    fx_expect(&f, "connect 2 b:1\n");
    fx_welcome(&f, 1, 1);
    fx_headers(&f, 2, true);
    fx_welcome(&f, 2, 2);
    assert_non_null(strstr(f.transcript, "1: goodbye\nleave 1\n"));
    fx_close(&f);
}

static void settings_change(void **state) {
    (void)state;
    struct fixture f;
    fx_init(&f, "a:1");
    fx_up(&f, 1);
    char *servers[] = {"b:1"}, *labels[] = {"role=db", "rack=7"};
    struct nl_link_event event = {.type = NL_LINK_CONFIG};
    event.config.servers = (struct nl_link_strings){servers, 1};
    event.config.labels = (struct nl_link_strings){labels, 2};
    fx_step(&f, &event);
    fx_expect(&f, "connect 2 b:1\n");  // its server is no longer wanted: make before break
    fx_headers(&f, 2, true);
    fx_expect(&f, "2: hello last=1 role:db rack:7\n");
    fx_welcome(&f, 2, 2);
    fx_expect(&f, "save epoch 2\nsave servers\n1: goodbye\nleave 1\n");
    fx_close(&f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(first_connection),
        cmocka_unit_test(each_server_once_then_a_pause),
        cmocka_unit_test(lost_stream_moves_at_once),
        cmocka_unit_test(flapping_servers_are_paced),
        cmocka_unit_test(unreachable_server_times_out),
        cmocka_unit_test(hung_node_times_out),
        cmocka_unit_test(wrong_token_tries_slowly),
        cmocka_unit_test(old_epoch_is_refused),
        cmocka_unit_test(epoch_that_is_not_saved_is_not_used),
        cmocka_unit_test(drain_makes_before_it_breaks),
        cmocka_unit_test(nodes_that_all_drain_are_paced),
        cmocka_unit_test(drained_stream_may_break_first),
        cmocka_unit_test(silent_node_is_left_after_three_pings),
        cmocka_unit_test(pause_of_the_process_is_one_interval),
        cmocka_unit_test(pings_are_answered),
        cmocka_unit_test(result_is_repeated_until_acknowledged),
        cmocka_unit_test(repeated_request_is_answered_not_run),
        cmocka_unit_test(new_link_finds_its_tasks),
        cmocka_unit_test(attach_counts_tasks_not_messages),
        cmocka_unit_test(supervisor_that_does_not_answer),
        cmocka_unit_test(lost_supervisor_gets_the_run_again),
        cmocka_unit_test(supervisor_without_its_journal),
        cmocka_unit_test(lost_task_is_said_to_be_uncertain),
        cmocka_unit_test(supervisor_that_does_not_come_back),
        cmocka_unit_test(cancel_of_what_never_came),
        cmocka_unit_test(bad_requests),
        cmocka_unit_test(too_many_tasks_are_refused),
        cmocka_unit_test(stock_server),
        cmocka_unit_test(stock_result_is_sent_again_after_a_break),
        cmocka_unit_test(silent_server_is_taken_for_a_stock_one),
        cmocka_unit_test(stock_refusals_say_why),
        cmocka_unit_test(stop_says_goodbye),
        cmocka_unit_test(stop_in_every_state),
        cmocka_unit_test(quit_waits_for_the_tasks),
        cmocka_unit_test(quit_does_not_wait_for_ever),
        cmocka_unit_test(settings_change),
        cmocka_unit_test(settings_change_before_the_welcome),
        cmocka_unit_test(new_labels_are_said_by_a_new_stream),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
