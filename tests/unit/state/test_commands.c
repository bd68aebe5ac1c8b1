// Every command in every state of its task and of its agent, as tables.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "tests/unit/state/fixture.h"

#define EXITED NODELINK__V1__TASK_RESULT__KIND__EXITED
#define CANCELLED NODELINK__V1__TASK_RESULT__KIND__CANCELLED
#define TIMED_OUT NODELINK__V1__TASK_RESULT__KIND__TIMED_OUT
#define RUNNING NODELINK__V1__TASK_REF__PHASE__RUNNING
#define FINISHED NODELINK__V1__TASK_REF__PHASE__FINISHED

// ---- tasks ------------------------------------------------------------------

enum { UNKNOWN_UNSTARTED = 9, STARTS };  // besides 0 (no task) and enum nl_task_state

static void submit_dispatched(struct fx *fx) {
    fx_expect(fx_submit(fx, "t", "a", "true", 0), NL_OUTCOME_OK);
    assert_int_equal(fx->outcome.value, NL_TASK_DISPATCHED);
}

static void lose_contact(struct fx *fx) {
    fx_expect(fx_disconnect(fx, "a", 1), NL_OUTCOME_OK);
    fx_expect(fx_unreachable(fx, "a", 1), NL_OUTCOME_OK);
}

// Agent a of epoch 1, and task t in the state asked for.
static void prepare(struct fx *fx, int start) {
    fx_open(fx, NULL);
    fx_agent(fx, "a");
    if (start == NL_TASK_PENDING) {
        fx_disconnect(fx, "a", 1);
        fx_expect(fx_submit(fx, "t", "a", "true", 0), NL_OUTCOME_OK);
    } else if (start != 0) {
        submit_dispatched(fx);
    }
    if (start == NL_TASK_RUNNING || start == NL_TASK_UNKNOWN) {
        fx_expect(fx_start(fx, "t", "a", 1), NL_OUTCOME_OK);
    }
    if (start == NL_TASK_UNKNOWN || start == UNKNOWN_UNSTARTED) {
        lose_contact(fx);
    } else if (start == NL_TASK_COMPLETED) {
        fx_finish(fx, "t", "a", 1, EXITED, 0);
    } else if (start == NL_TASK_FAILED) {
        fx_finish(fx, "t", "a", 1, EXITED, 7);
    } else if (start == NL_TASK_TIMED_OUT) {
        fx_finish(fx, "t", "a", 1, TIMED_OUT, 0);
    } else if (start == NL_TASK_CANCELLED) {
        fx_cancel(fx, "t", "not needed");
        fx_finish(fx, "t", "a", 1, CANCELLED, 0);
    }
    int state = start == UNKNOWN_UNSTARTED ? NL_TASK_UNKNOWN : start;
    assert_int_equal(fx_task_state(fx, "t"), state);
}

static struct nl_outcome do_start(struct fx *fx) {
    return fx_start(fx, "t", "a", 1);
}
static struct nl_outcome do_unknown(struct fx *fx) {
    return fx_unknown(fx, "t", "a", 1);
}
static struct nl_outcome do_finish(struct fx *fx) {
    return fx_finish(fx, "t", "a", 1, EXITED, 0);
}
static struct nl_outcome do_cancel(struct fx *fx) {
    return fx_cancel(fx, "t", "changed my mind");
}
static struct nl_outcome do_expire(struct fx *fx) {
    const struct nl_task *task = nl_state_task(fx->state, "t");
    return fx_expire(fx, "t", task == NULL ? 1 : task->version);
}
static struct nl_outcome do_submit_same(struct fx *fx) {
    return fx_submit(fx, "t", "a", "true", 0);
}
static struct nl_outcome do_submit_other(struct fx *fx) {
    return fx_submit(fx, "t", "a", "false", 0);
}
static struct nl_outcome do_prune(struct fx *fx) {
    return fx_prune(fx, UINT64_MAX, 0, 0);
}
static struct nl_outcome do_disconnect(struct fx *fx) {
    return fx_disconnect(fx, "a", 1);
}
static struct nl_outcome do_unreachable(struct fx *fx) {
    return fx_unreachable(fx, "a", 1);
}
static struct nl_outcome do_lost(struct fx *fx) {
    return fx_lost(fx, "a", 1);
}
static struct nl_outcome do_register_unlisted(struct fx *fx) {
    return fx_register(fx, (struct fx_hello){.agent = "a"});
}
static struct nl_outcome do_register_running(struct fx *fx) {
    return fx_register(fx, (struct fx_hello){.agent = "a", .listed = "t", .phase = RUNNING});
}
static struct nl_outcome do_register_finished(struct fx *fx) {
    return fx_register(fx, (struct fx_hello){.agent = "a", .listed = "t", .phase = FINISHED});
}
static struct nl_outcome do_register_new_journal(struct fx *fx) {
    return fx_register(fx, (struct fx_hello){.agent = "a", .journal = "another"});
}
static struct nl_outcome do_register_stock(struct fx *fx) {
    return fx_register(fx, (struct fx_hello){.agent = "a", .stock = true, .journal = ""});
}

struct cell {
    enum nl_outcome_code code;
    int state;
};

struct task_row {
    const char *name;
    struct nl_outcome (*command)(struct fx *fx);
    struct cell cells[STARTS];
};

#define OK NL_OUTCOME_OK
#define EXISTED NL_OUTCOME_EXISTED
#define CONFLICT NL_OUTCOME_CONFLICT
#define INVALID NL_OUTCOME_INVALID
#define LATE NL_OUTCOME_LATE
#define NOTHING NL_OUTCOME_NOTHING
#define NO_TASK NL_OUTCOME_NO_TASK
#define REQUESTED NL_OUTCOME_CANCEL_REQUESTED
#define TOO_LATE NL_OUTCOME_TOO_LATE

// Columns: no task, pending, dispatched, running, unknown, completed, failed, timed out,
// cancelled, unknown but never started. A cell: outcome, state afterwards.
static const struct task_row task_rows[] = {
    {"start",
     do_start,
     {{NO_TASK, 0},
      {INVALID, 1},
      {OK, 3},
      {NOTHING, 3},
      {OK, 3},
      {TOO_LATE, 5},
      {TOO_LATE, 6},
      {TOO_LATE, 7},
      {TOO_LATE, 8},
      {OK, 3}}},
    {"unknown",
     do_unknown,
     {{NO_TASK, 0},
      {INVALID, 1},
      {OK, 4},
      {OK, 4},
      {NOTHING, 4},
      {TOO_LATE, 5},
      {TOO_LATE, 6},
      {TOO_LATE, 7},
      {TOO_LATE, 8},
      {NOTHING, 4}}},
    {"finish",
     do_finish,
     {{NO_TASK, 0},
      {INVALID, 1},
      {OK, 5},
      {OK, 5},
      {OK, 5},
      {EXISTED, 5},
      {LATE, 6},
      {LATE, 7},
      {LATE, 8},
      {OK, 5}}},
    {"cancel",
     do_cancel,
     {{NO_TASK, 0},
      {OK, 8},
      {REQUESTED, 2},
      {REQUESTED, 3},
      {REQUESTED, 4},
      {TOO_LATE, 5},
      {TOO_LATE, 6},
      {TOO_LATE, 7},
      {TOO_LATE, 8},
      {REQUESTED, 4}}},
    {"expire",
     do_expire,
     {{NOTHING, 0},
      {OK, 6},
      {OK, 6},
      {OK, 6},
      {OK, 6},
      {NOTHING, 5},
      {NOTHING, 6},
      {NOTHING, 7},
      {NOTHING, 8},
      {OK, 6}}},
    {"submit the same",
     do_submit_same,
     {{OK, 2},
      {EXISTED, 1},
      {EXISTED, 2},
      {EXISTED, 3},
      {EXISTED, 4},
      {EXISTED, 5},
      {EXISTED, 6},
      {EXISTED, 7},
      {EXISTED, 8},
      {EXISTED, 4}}},
    {"submit another",
     do_submit_other,
     {{OK, 2},
      {CONFLICT, 1},
      {CONFLICT, 2},
      {CONFLICT, 3},
      {CONFLICT, 4},
      {CONFLICT, 5},
      {CONFLICT, 6},
      {CONFLICT, 7},
      {CONFLICT, 8},
      {CONFLICT, 4}}},
    {"prune",
     do_prune,
     {{OK, 0}, {OK, 1}, {OK, 2}, {OK, 3}, {OK, 4}, {OK, 0}, {OK, 0}, {OK, 0}, {OK, 0}, {OK, 4}}},
    {"disconnect",
     do_disconnect,
     {{OK, 0},
      {NOTHING, 1},
      {OK, 2},
      {OK, 3},
      {NOTHING, 4},
      {OK, 5},
      {OK, 6},
      {OK, 7},
      {OK, 8},
      {NOTHING, 4}}},
    {"unreachable",
     do_unreachable,
     {{NOTHING, 0},
      {OK, 1},
      {NOTHING, 2},
      {NOTHING, 3},
      {NOTHING, 4},
      {NOTHING, 5},
      {NOTHING, 6},
      {NOTHING, 7},
      {NOTHING, 8},
      {NOTHING, 4}}},
    {"lost",
     do_lost,
     {{NOTHING, 0},
      {OK, 6},
      {NOTHING, 2},
      {NOTHING, 3},
      {OK, 6},
      {NOTHING, 5},
      {NOTHING, 6},
      {NOTHING, 7},
      {NOTHING, 8},
      {OK, 6}}},
    {"register, not listed",
     do_register_unlisted,
     {{OK, 0}, {OK, 2}, {OK, 2}, {OK, 6}, {OK, 6}, {OK, 5}, {OK, 6}, {OK, 7}, {OK, 8}, {OK, 2}}},
    {"register, listed as running",
     do_register_running,
     {{OK, 0}, {OK, 2}, {OK, 3}, {OK, 3}, {OK, 3}, {OK, 5}, {OK, 6}, {OK, 7}, {OK, 8}, {OK, 3}}},
    {"register, listed as finished",
     do_register_finished,
     {{OK, 0}, {OK, 2}, {OK, 2}, {OK, 3}, {OK, 3}, {OK, 5}, {OK, 6}, {OK, 7}, {OK, 8}, {OK, 3}}},
    {"register, another journal",
     do_register_new_journal,
     {{OK, 0}, {OK, 2}, {OK, 6}, {OK, 6}, {OK, 6}, {OK, 5}, {OK, 6}, {OK, 7}, {OK, 8}, {OK, 6}}},
    {"register, stock agent",
     do_register_stock,
     {{OK, 0}, {OK, 2}, {OK, 4}, {OK, 4}, {OK, 4}, {OK, 5}, {OK, 6}, {OK, 7}, {OK, 8}, {OK, 4}}},
};

static void check_task_cell(const struct task_row *row, int start) {
    static struct fx fx;
    const struct cell *cell = &row->cells[start];
    prepare(&fx, start);
    struct nl_outcome outcome = row->command(&fx);
    if (outcome.code != cell->code || (int)fx_task_state(&fx, "t") != cell->state) {
        fail_msg("%s from %d: %s, state %d", row->name, start, nl_outcome_name(outcome.code),
                 (int)fx_task_state(&fx, "t"));
    }
    fx_close(&fx);
}

static void test_every_command_in_every_task_state(void **unused) {
    (void)unused;
    for (size_t i = 0; i < sizeof task_rows / sizeof task_rows[0]; i++) {
        for (int start = 0; start < STARTS; start++) {
            check_task_cell(&task_rows[i], start);
        }
    }
}

// ---- agents -----------------------------------------------------------------

static void prepare_agent(struct fx *fx, int start) {
    fx_open(fx, NULL);
    fx_node_up(fx, 1, 1);
    if (start == 0) {
        return;
    }
    fx_token(fx, "a", 1);
    if (start > NL_AGENT_NEVER_CONNECTED) {
        fx_register(fx, (struct fx_hello){.agent = "a"});
    }
    if (start > NL_AGENT_CONNECTED) {
        fx_disconnect(fx, "a", 1);
    }
    if (start == NL_AGENT_UNREACHABLE) {
        fx_unreachable(fx, "a", 1);
    } else if (start == NL_AGENT_LOST) {
        fx_lost(fx, "a", 1);
    }
    assert_int_equal(nl_state_agent(fx->state, "a")->connection, start);
}

static struct nl_outcome do_token(struct fx *fx) {
    return fx_token(fx, "a", 2);
}
static struct nl_outcome do_token_again(struct fx *fx) {
    return fx_token(fx, "a", 1);
}
static struct nl_outcome do_revoke(struct fx *fx) {
    return fx_revoke(fx, "a");
}
static struct nl_outcome do_bad_token(struct fx *fx) {
    return fx_register(fx, (struct fx_hello){.agent = "a", .token = 9});
}
static struct nl_outcome do_old_boot(struct fx *fx) {
    return fx_register(fx, (struct fx_hello){.agent = "a", .boot = 9});
}
static struct nl_outcome do_submit_wait(struct fx *fx) {
    return fx_submit(fx, "w", "a", "true", 60000);
}
static struct nl_outcome do_old_epoch_disconnect(struct fx *fx) {
    return fx_disconnect(fx, "a", 7);
}
static struct nl_outcome do_old_epoch_lost(struct fx *fx) {
    return fx_lost(fx, "a", 7);
}
static struct nl_outcome do_node_down(struct fx *fx) {
    return fx_node_down(fx, 1, 1);
}
static struct nl_outcome do_node_up_again(struct fx *fx) {
    return fx_node_up(fx, 1, 1);
}
static struct nl_outcome do_node_restart(struct fx *fx) {
    return fx_node_up(fx, 1, 2);
}

#define OFFLINE NL_OUTCOME_AGENT_OFFLINE
#define NO_AGENT NL_OUTCOME_NO_AGENT
#define BAD_TOKEN NL_OUTCOME_BAD_TOKEN
#define STALE NL_OUTCOME_STALE

// Columns: no agent, never connected, connected, disconnected, unreachable, lost. A cell: outcome,
// connection afterwards.
static const struct agent_row {
    const char *name;
    struct nl_outcome (*command)(struct fx *fx);
    struct cell cells[6];
} agent_rows[] = {
    {"token", do_token, {{OK, 1}, {OK, 1}, {OK, 2}, {OK, 3}, {OK, 4}, {OK, 5}}},
    {"token again",
     do_token_again,
     {{OK, 1}, {EXISTED, 1}, {EXISTED, 2}, {EXISTED, 3}, {EXISTED, 4}, {EXISTED, 5}}},
    {"revoke", do_revoke, {{NO_AGENT, 0}, {OK, 1}, {OK, 2}, {OK, 3}, {OK, 4}, {OK, 5}}},
    {"register",
     do_register_unlisted,
     {{NO_AGENT, 0}, {OK, 2}, {OK, 2}, {OK, 2}, {OK, 2}, {OK, 2}}},
    {"register, bad token",
     do_bad_token,
     {{NO_AGENT, 0},
      {BAD_TOKEN, 1},
      {BAD_TOKEN, 2},
      {BAD_TOKEN, 3},
      {BAD_TOKEN, 4},
      {BAD_TOKEN, 5}}},
    {"register, another boot",
     do_old_boot,
     {{NO_AGENT, 0}, {STALE, 1}, {STALE, 2}, {STALE, 3}, {STALE, 4}, {STALE, 5}}},
    {"disconnect",
     do_disconnect,
     {{NOTHING, 0}, {NOTHING, 1}, {OK, 3}, {NOTHING, 3}, {NOTHING, 4}, {NOTHING, 5}}},
    {"disconnect, another epoch",
     do_old_epoch_disconnect,
     {{NOTHING, 0}, {NOTHING, 1}, {NOTHING, 2}, {NOTHING, 3}, {NOTHING, 4}, {NOTHING, 5}}},
    {"unreachable",
     do_unreachable,
     {{NOTHING, 0}, {NOTHING, 1}, {NOTHING, 2}, {OK, 4}, {NOTHING, 4}, {NOTHING, 5}}},
    {"lost", do_lost, {{NOTHING, 0}, {NOTHING, 1}, {NOTHING, 2}, {OK, 5}, {OK, 5}, {NOTHING, 5}}},
    {"lost, another epoch",
     do_old_epoch_lost,
     {{NOTHING, 0}, {NOTHING, 1}, {NOTHING, 2}, {NOTHING, 3}, {NOTHING, 4}, {NOTHING, 5}}},
    {"submit",
     do_submit_same,
     {{NO_AGENT, 0}, {OFFLINE, 1}, {OK, 2}, {OK, 3}, {OK, 4}, {OFFLINE, 5}}},
    {"submit with a wait",
     do_submit_wait,
     {{NO_AGENT, 0}, {OK, 1}, {OK, 2}, {OK, 3}, {OK, 4}, {OK, 5}}},
    {"node down", do_node_down, {{OK, 0}, {OK, 1}, {OK, 3}, {OK, 3}, {OK, 4}, {OK, 5}}},
    {"node up again", do_node_up_again, {{OK, 0}, {OK, 1}, {OK, 2}, {OK, 3}, {OK, 4}, {OK, 5}}},
    {"node restarted", do_node_restart, {{OK, 0}, {OK, 1}, {OK, 3}, {OK, 3}, {OK, 4}, {OK, 5}}},
};

static void check_agent_cell(const struct agent_row *row, int start) {
    static struct fx fx;
    const struct cell *cell = &row->cells[start];
    prepare_agent(&fx, start);
    struct nl_outcome outcome = row->command(&fx);
    const struct nl_agent *agent = nl_state_agent(fx.state, "a");
    int connection = agent == NULL ? 0 : (int)agent->connection;
    if (outcome.code != cell->code || connection != cell->state) {
        fail_msg("%s from %d: %s, connection %d", row->name, start, nl_outcome_name(outcome.code),
                 connection);
    }
    fx_close(&fx);
}

static void test_every_command_in_every_agent_state(void **unused) {
    (void)unused;
    for (size_t i = 0; i < sizeof agent_rows / sizeof agent_rows[0]; i++) {
        for (int start = 0; start < 6; start++) {
            check_agent_cell(&agent_rows[i], start);
        }
    }
}

// ---- details ----------------------------------------------------------------

static void test_nodes(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    fx_expect(fx_node_up(&fx, 0, 1), NL_OUTCOME_INVALID);
    fx_expect(fx_node_down(&fx, 3, 1), NL_OUTCOME_NOTHING);
    fx_expect(fx_node_up(&fx, 3, 5), NL_OUTCOME_OK);
    fx_expect(fx_node_up(&fx, 2, 1), NL_OUTCOME_OK);
    fx_expect(fx_node_up(&fx, 3, 4), NL_OUTCOME_STALE);
    fx_expect(fx_node_down(&fx, 3, 4), NL_OUTCOME_NOTHING);
    fx_expect(fx_node_down(&fx, 3, 5), NL_OUTCOME_OK);
    assert_false(nl_state_node(fx.state, 3)->up);
    fx_expect(fx_node_down(&fx, 3, 5), NL_OUTCOME_NOTHING);
    fx_expect(fx_node_up(&fx, 3, 5), NL_OUTCOME_OK);
    assert_true(nl_state_node(fx.state, 3)->up);
    assert_int_equal(nl_state_node_next(fx.state, 0)->id, 2);
    assert_int_equal(nl_state_node_next(fx.state, 2)->id, 3);
    assert_null(nl_state_node_next(fx.state, 3));
    fx_close(&fx);
}

static void test_tokens(void **unused) {
    (void)unused;
    static struct fx fx;
    const struct nl_state_limits limits = {.agents_max = 2};
    fx_open(&fx, &limits);
    fx_node_up(&fx, 1, 1);
    fx_expect(fx_token(&fx, "", 1), NL_OUTCOME_INVALID);
    fx_expect(fx_token(&fx, "-a", 1), NL_OUTCOME_INVALID);
    fx_expect(fx_token(&fx, "a", 1), NL_OUTCOME_OK);
    fx_expect(fx_token(&fx, "a", 2), NL_OUTCOME_OK);
    fx_expect(fx_token(&fx, "a", 3), NL_OUTCOME_OK);  // the first one goes
    fx_expect(fx_register(&fx, (struct fx_hello){.agent = "a", .token = 1}), NL_OUTCOME_BAD_TOKEN);
    fx_expect(fx_register(&fx, (struct fx_hello){.agent = "a", .token = 2}), NL_OUTCOME_OK);
    fx_expect(fx_register(&fx, (struct fx_hello){.agent = "a", .token = 3}), NL_OUTCOME_OK);
    fx_expect(fx_revoke(&fx, "a"), NL_OUTCOME_OK);
    fx_expect(fx_revoke(&fx, "a"), NL_OUTCOME_NOTHING);
    fx_expect(fx_register(&fx, (struct fx_hello){.agent = "a", .token = 3}), NL_OUTCOME_BAD_TOKEN);
    // Without tokens it counts as offline, though its stream may stand.
    fx_expect(fx_submit(&fx, "t", "a", "true", 0), NL_OUTCOME_AGENT_OFFLINE);
    fx_expect(fx_submit(&fx, "t", "a", "true", 1), NL_OUTCOME_OK);
    assert_int_equal(fx_task_state(&fx, "t"), NL_TASK_PENDING);
    fx_expect(fx_token(&fx, "b", 1), NL_OUTCOME_OK);
    fx_expect(fx_token(&fx, "c", 1), NL_OUTCOME_LIMIT);
    assert_null(nl_state_agent(fx.state, "c"));
    fx_close(&fx);
}

static void expect_spec(struct fx *fx, Nodelink__V1__TaskSpec spec, enum nl_outcome_code code) {
    fx_expect(fx_submit_spec(fx, "s", &spec), code);
}

static void test_submit_validates(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    Nodelink__V1__TaskSpec spec = NODELINK__V1__TASK_SPEC__INIT, bad;
    char *argv[] = {(char *)"true"}, *env[] = {(char *)"A=1", (char *)"B="};
    spec.agent_id = (char *)"a";
    spec.cmd = (char *)"true";
    bad = spec, bad.cmd = (char *)"";
    expect_spec(&fx, bad, NL_OUTCOME_INVALID);
    bad = spec, bad.agent_id = (char *)"a/b";
    expect_spec(&fx, bad, NL_OUTCOME_INVALID);
    bad = spec, bad.cmd = (char *)"\xff";
    expect_spec(&fx, bad, NL_OUTCOME_INVALID);
    static const char *const bad_env[] = {"", "A", "=1", "A=\xc3"};
    for (size_t i = 0; i < 4; i++) {
        char *list[] = {(char *)"A=1", (char *)bad_env[i]};
        bad = spec, bad.env = list, bad.n_env = 2;
        expect_spec(&fx, bad, NL_OUTCOME_INVALID);
    }
    fx_expect(fx_submit(&fx, "", "a", "true", 0), NL_OUTCOME_INVALID);
    fx_expect(fx_submit(&fx, ".t", "a", "true", 0), NL_OUTCOME_INVALID);
    fx_expect(fx_submit_spec(&fx, "s", NULL), NL_OUTCOME_INVALID);
    fx_expect(fx_submit(&fx, "s", "nobody", "true", 0), NL_OUTCOME_NO_AGENT);
    assert_null(nl_state_task(fx.state, "s"));
    bad = spec, bad.cmd = (char *)"", bad.argv = argv, bad.n_argv = 1, bad.env = env, bad.n_env = 2;
    expect_spec(&fx, bad, NL_OUTCOME_OK);
    fx_close(&fx);
}

static void test_submit_limits(void **unused) {
    (void)unused;
    static struct fx fx;
    const struct nl_state_limits limits = {.tasks_per_agent_active_max = 2};
    fx_open(&fx, &limits);
    fx_agent(&fx, "a");
    size_t size = (256u << 10) - 7;  // with the agent's id and the field's head exactly the limit
    char *cmd = malloc(size + 2);
    assert_non_null(cmd);
    memset(cmd, 'x', size + 1);
    cmd[size + 1] = '\0';
    fx_expect(fx_submit(&fx, "big", "a", cmd, 0), NL_OUTCOME_INVALID);
    cmd[size] = '\0';
    fx_expect(fx_submit(&fx, "big", "a", cmd, 0), NL_OUTCOME_OK);
    free(cmd);
    fx_expect(fx_submit(&fx, "t1", "a", "true", 0), NL_OUTCOME_OK);
    fx_expect(fx_submit(&fx, "t2", "a", "true", 0), NL_OUTCOME_LIMIT);
    fx_expect(fx_finish(&fx, "t1", "a", 1, EXITED, 0), NL_OUTCOME_OK);
    fx_expect(fx_submit(&fx, "t2", "a", "true", 0), NL_OUTCOME_OK);
    assert_int_equal(nl_state_task(fx.state, "t2")->order, 2);
    fx_close(&fx);
}

static void expect_end(struct fx *fx, Nodelink__V1__TaskResult result, enum nl_task_state state,
                       const char *reason) {
    static int n;
    char id[16];
    snprintf(id, sizeof id, "end%d", n++);
    fx_expect(fx_submit(fx, id, "a", "true", 0), NL_OUTCOME_OK);
    fx_expect(fx_finish_result(fx, id, "a", 1, &result), NL_OUTCOME_OK);
    const struct nl_task *task = nl_state_task(fx->state, id);
    assert_int_equal(task->state, state);
    assert_int_equal(task->finished_ms, nl_state_clock_ms(fx->state));
    assert_int_equal(task->result->kind, result.kind);
    if (reason == NULL) {
        assert_null(task->reason);
    } else {
        assert_string_equal(task->reason, reason);
    }
}

static void test_results(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    Nodelink__V1__TaskResult r = NODELINK__V1__TASK_RESULT__INIT;
    r.kind = EXITED;
    expect_end(&fx, r, NL_TASK_COMPLETED, NULL);
    r.exit_code = -3;
    expect_end(&fx, r, NL_TASK_FAILED, "exit code -3");
    r.kind = NODELINK__V1__TASK_RESULT__KIND__SIGNALLED;
    r.signal = 15;
    expect_end(&fx, r, NL_TASK_FAILED, "killed by signal 15 (SIGTERM)");
    r.signal = 64;
    expect_end(&fx, r, NL_TASK_FAILED, "killed by signal 64");
    r.kind = TIMED_OUT;
    expect_end(&fx, r, NL_TASK_TIMED_OUT, "exceeded its timeout");
    r.kind = NODELINK__V1__TASK_RESULT__KIND__NOT_STARTED;
    r.reason = (char *)"no such directory";
    expect_end(&fx, r, NL_TASK_FAILED, "no such directory");
    r.kind = NODELINK__V1__TASK_RESULT__KIND__LOST;
    expect_end(&fx, r, NL_TASK_FAILED, "no such directory");
    r.kind = CANCELLED;
    expect_end(&fx, r, NL_TASK_CANCELLED, "no such directory");
    fx_submit(&fx, "t", "a", "true", 0);
    r.kind = NODELINK__V1__TASK_RESULT__KIND__KIND_UNSPECIFIED;
    fx_expect(fx_finish_result(&fx, "t", "a", 1, &r), NL_OUTCOME_INVALID);
    fx_expect(fx_finish_result(&fx, "t", "a", 1, NULL), NL_OUTCOME_INVALID);
    fx_agent(&fx, "b");
    fx_expect(fx_finish(&fx, "t", "b", 1, EXITED, 0), NL_OUTCOME_INVALID);
    fx_expect(fx_start(&fx, "t", "b", 1), NL_OUTCOME_INVALID);
    fx_cancel(&fx, "t", "first reason");
    fx_cancel(&fx, "t", "second reason");
    fx_expect(fx_finish(&fx, "t", "a", 1, CANCELLED, 0), NL_OUTCOME_OK);
    assert_string_equal(nl_state_task(fx.state, "t")->reason, "first reason");
    fx_close(&fx);
}

static void test_lost_agent_keeps_what_may_wait(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    fx_submit(&fx, "sent", "a", "true", 0);
    fx_disconnect(&fx, "a", 1);
    fx_submit(&fx, "now", "a", "true", 0);
    fx_submit(&fx, "waits", "a", "true", 60000);
    fx_expect(fx_lost(&fx, "a", 1), NL_OUTCOME_OK);
    assert_string_equal(nl_state_task(fx.state, "sent")->reason, "agent disconnected");
    assert_string_equal(nl_state_task(fx.state, "now")->reason,
                        "agent disconnected before the command was sent");
    assert_int_equal(fx_task_state(&fx, "waits"), NL_TASK_PENDING);
    fx_expect(fx_register(&fx, (struct fx_hello){.agent = "a"}), NL_OUTCOME_OK);
    assert_int_equal(fx_task_state(&fx, "waits"), NL_TASK_DISPATCHED);
    fx_close(&fx);
}

static void test_prune_oldest_first(void **unused) {
    (void)unused;
    static struct fx fx;
    char id[24];
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    for (int i = 0; i < 10; i++) {
        snprintf(id, sizeof id, "t%d", i);
        fx_submit(&fx, id, "a", "true", 0);
    }
    assert_int_equal(nl_state_oldest_finished_ms(fx.state), 0);
    for (int i = 9; i >= 0; i--) {
        snprintf(id, sizeof id, "t%d", i);
        fx_finish(&fx, id, "a", 1, EXITED, 0);
    }
    uint64_t t7 = nl_state_task(fx.state, "t7")->finished_ms;
    assert_int_equal(fx_prune(&fx, t7, 0, 0).value, 2);  // t9, t8
    assert_null(nl_state_task(fx.state, "t8"));
    assert_int_equal(nl_state_oldest_finished_ms(fx.state), t7);
    assert_int_equal(fx_prune(&fx, 0, 5, 2).value, 2);  // of three: the limit
    assert_int_equal(fx_prune(&fx, 0, 5, 0).value, 1);
    assert_int_equal(fx_prune(&fx, 0, 0, 0).value, 0);
    assert_non_null(nl_state_task(fx.state, "t4"));
    assert_null(nl_state_task(fx.state, "t5"));
    assert_int_equal(fx_prune(&fx, UINT64_MAX, 0, 0).value, 5);
    assert_int_equal(fx.effects[0].kind, NL_EFFECT_TASK_PRUNED);
    assert_string_equal(fx.effects[0].id, "t4");
    fx_close(&fx);
}

static void test_orders(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    fx_agent(&fx, "b");
    fx_agent(&fx, "a");
    fx_submit(&fx, "t2", "a", "true", 0);
    fx.time_ms -= 10;  // the same stamp: the id decides
    fx_submit(&fx, "t1", "a", "true", 0);
    fx_submit(&fx, "t0", "b", "true", 0);
    const struct nl_task *task = nl_state_task_next_older(fx.state, NULL);
    assert_string_equal(task->id, "t0");
    task = nl_state_task_next_older(fx.state, task);
    assert_string_equal(task->id, "t2");
    task = nl_state_task_older(fx.state, task->created_ms, "t2");
    assert_string_equal(task->id, "t1");
    assert_null(nl_state_task_next_older(fx.state, task));
    assert_string_equal(nl_state_task_older(fx.state, UINT64_MAX, "")->id, "t0");
    const struct nl_agent *a = nl_state_agent(fx.state, "a");
    task = nl_state_agent_task_next(fx.state, a, NULL);
    assert_string_equal(task->id, "t2");
    task = nl_state_agent_task_next(fx.state, a, task);
    assert_string_equal(task->id, "t1");
    assert_null(nl_state_agent_task_next(fx.state, a, task));
    assert_ptr_equal(nl_state_agent_next(fx.state, NULL), a);
    assert_string_equal(nl_state_agent_next(fx.state, "a")->id, "b");
    assert_string_equal(nl_state_agent_next(fx.state, "aa")->id, "b");
    assert_null(nl_state_agent_next(fx.state, "b"));
    fx_close(&fx);
}

static void test_invalid_commands(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    Nodelink__V1__Command command = NODELINK__V1__COMMAND__INIT;
    fx_expect(fx_apply(&fx, &command), NL_OUTCOME_INVALID);
    uint64_t index = nl_state_index(fx.state);
    static const uint8_t garbage[] = {0x82, 0x01, 0x05, 0x00};
    assert_int_equal(nl_state_command_check(garbage, sizeof garbage), NL_ECORRUPT);
    assert_int_equal(nl_state_apply(fx.state, 99, garbage, sizeof garbage, NULL, NULL),
                     NL_ECORRUPT);
    assert_int_equal(nl_state_index(fx.state), index);
    nl_state_set_index(fx.state, 5000);
    nl_state_set_index(fx.state, 4000);
    assert_int_equal(nl_state_index(fx.state), 5000);
    fx_close(&fx);
}

static void test_state_time_never_runs_backwards(void **unused) {
    (void)unused;
    static struct fx fx;
    fx_open(&fx, NULL);
    fx_agent(&fx, "a");
    uint64_t clock = nl_state_clock_ms(fx.state);
    fx.time_ms = 5;
    fx_submit(&fx, "t", "a", "true", 0);
    assert_int_equal(nl_state_clock_ms(fx.state), clock);
    assert_int_equal(nl_state_task(fx.state, "t")->created_ms, clock);
    fx.time_ms = clock + 990;
    fx_noop(&fx);
    assert_int_equal(nl_state_clock_ms(fx.state), clock + 1000);
    fx_close(&fx);
}

static void test_names(void **unused) {
    (void)unused;
    for (int i = NL_OUTCOME_OK; i <= NL_OUTCOME_STALE_BOOT; i++) {
        assert_string_not_equal(nl_outcome_name((enum nl_outcome_code)i), "?");
    }
    for (int i = NL_TASK_PENDING; i <= NL_TASK_CANCELLED; i++) {
        assert_string_not_equal(nl_task_state_name((enum nl_task_state)i), "?");
        assert_int_equal(nl_task_is_terminal((enum nl_task_state)i), i >= NL_TASK_COMPLETED);
    }
    for (int i = NL_AGENT_NEVER_CONNECTED; i <= NL_AGENT_LOST; i++) {
        assert_string_not_equal(nl_agent_connection_name((enum nl_agent_connection)i), "?");
    }
    assert_string_equal(nl_outcome_name((enum nl_outcome_code)99), "?");
    assert_string_equal(nl_task_state_name((enum nl_task_state)0), "?");
    assert_string_equal(nl_agent_connection_name((enum nl_agent_connection)0), "?");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_command_in_every_task_state),
        cmocka_unit_test(test_every_command_in_every_agent_state),
        cmocka_unit_test(test_nodes),
        cmocka_unit_test(test_tokens),
        cmocka_unit_test(test_submit_validates),
        cmocka_unit_test(test_submit_limits),
        cmocka_unit_test(test_results),
        cmocka_unit_test(test_lost_agent_keeps_what_may_wait),
        cmocka_unit_test(test_prune_oldest_first),
        cmocka_unit_test(test_orders),
        cmocka_unit_test(test_invalid_commands),
        cmocka_unit_test(test_state_time_never_runs_backwards),
        cmocka_unit_test(test_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
