#include "tests/unit/server/session_rig.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "server/messages.h"

static const char *const servers[] = {"10.0.0.1:7000", "10.0.0.2:7000"};

static void open_core(struct rig *rig, bool extended) {
    struct nl_session_config config = {.agent_id = "a1",
                                       .address = "10.1.1.1:5000",
                                       .extended = extended,
                                       .leave_orphans = rig->leave_orphans,
                                       .node = 1,
                                       .node_boot = 1,
                                       .node_name = "n1",
                                       .cluster_name = "c",
                                       .servers = servers,
                                       .n_servers = 2,
                                       .ping_interval_ms = 1000};
    memset(config.token_sha256, 1, sizeof config.token_sha256);
    assert_int_equal(nl_session_core_new(&config, rig->now, &rig->core), NL_OK);
}

void rig_open(struct rig *rig, bool extended) {
    memset(rig, 0, sizeof *rig);
    rig->now = 1000000;
    rig->sends_before_full = SIZE_MAX;
    rig->attempt = 1;
    fx_open(&rig->fx, NULL);
    fx_node_up(&rig->fx, 1, 1);
    fx_token(&rig->fx, "a1", 1);
    open_core(rig, extended);
}

static void forget_pending(struct rig *rig) {
    for (size_t i = 0; i < rig->n_pending; i++) {
        protobuf_c_message_free_unpacked(&rig->pending[i].command->base, NULL);
    }
    rig->n_pending = 0;
}

void rig_close(struct rig *rig) {
    forget_pending(rig);
    nl_session_core_free(rig->core);
    fx_close(&rig->fx);
}

void rig_again(struct rig *rig) {
    forget_pending(rig);
    nl_session_core_free(rig->core);
    open_core(rig, true);
}

// ---- doing -----------------------------------------------------------------

static void note(struct rig *rig, const struct nl_session_action *a) {
    size_t at = strlen(rig->text);
    int n = snprintf(rig->text + at, sizeof rig->text - at, "%s%s", at > 0 ? "; " : "",
                     nl_session_purpose_name(a->purpose));
    at += (size_t)n;
    if (a->kind == NL_SESSION_FINISH_STREAM) {
        snprintf(rig->text + at, sizeof rig->text - at, " %s", nl_rpc_code_name(a->code));
    } else if (a->task_id[0] != '\0') {
        char number[16] = "";
        if (a->attempt > 1) {
            snprintf(number, sizeof number, "#%u", a->attempt);
        }
        snprintf(rig->text + at, sizeof rig->text - at, " %s%s%s", a->task_id, number,
                 a->purpose == NL_SESSION_ACK && a->body.ack.late ? " late" : "");
    }
}

static int do_send(struct rig *rig, const struct nl_session_action *a) {
    assert_true(protobuf_c_message_check(&a->frame.base));
    if (rig->sends_before_full == 0) {
        return NL_EFULL;
    }
    if (rig->send_result == NL_OK) {
        rig->sends_before_full--;
        note(rig, a);
        if (a->purpose == NL_SESSION_RUN && a->frame.shell_options != NULL) {
            rig->start_within_ms = a->frame.shell_options->start_within_ms;
            rig->finish_within_ms = a->frame.shell_options->finish_within_ms;
        }
    }
    return rig->send_result;
}

static int do_propose(struct rig *rig, const struct nl_session_action *a) {
    if (rig->propose_result != NL_OK) {
        return rig->propose_result;
    }
    assert_true(rig->n_pending < RIG_PENDING_MAX);
    struct rig_pending *p = &rig->pending[rig->n_pending++];
    p->purpose = a->purpose;
    p->attempt = a->attempt;
    snprintf(p->task_id, sizeof p->task_id, "%s", a->task_id);
    p->command = (void *)nl_message_clone(&a->command.base);
    note(rig, a);
    return NL_OK;
}

static int perform(struct rig *rig, const struct nl_session_action *a) {
    switch (a->kind) {
        case NL_SESSION_SEND:
            return do_send(rig, a);
        case NL_SESSION_PROPOSE:
            return do_propose(rig, a);
        case NL_SESSION_FINISH_STREAM:
            note(rig, a);
            return NL_OK;
    }
    return NL_OK;
}

static void run(struct rig *rig) {
    struct nl_session_action action;
    int rounds = 0;
    while (nl_session_core_next(rig->core, rig->now, rig->fx.state, &action)) {
        // P7: tasks go out in ACTIVE only, under the epoch that the state gave.
        if (action.purpose == NL_SESSION_RUN) {
            assert_int_equal(nl_session_core_state(rig->core), NL_SESSION_ACTIVE);
            assert_int_equal(nl_state_task(rig->fx.state, action.task_id)->epoch,
                             nl_session_core_epoch(rig->core));
        }
        nl_session_core_done(rig->core, rig->now, &action, perform(rig, &action));
        assert_true(++rounds < 1000);
    }
}

void rig_event(struct rig *rig, const struct nl_session_event *event) {
    nl_session_core_step(rig->core, rig->now, event);
    run(rig);
}

void rig_kind(struct rig *rig, enum nl_session_event_kind kind) {
    rig_event(rig, &(struct nl_session_event){.kind = kind, .text = "because", .task_id = ""});
}

void rig_wait(struct rig *rig, uint64_t ms) {
    uint64_t until = rig->now + ms;
    uint64_t at;
    int late = 0;
    while ((at = nl_session_core_deadline(rig->core)) <= until) {
        late = at > rig->now ? 0 : late + 1;
        assert_true(late < 10);  // a deadline that stays in the past would spin the loop
        rig->now = at > rig->now ? at : rig->now + 1;
        rig_kind(rig, NL_SESSION_EV_TICK);
    }
    rig->now = until > rig->now ? until : rig->now;
}

// ---- the log ---------------------------------------------------------------

void rig_tell_task(struct rig *rig, const char *task) {
    const struct nl_task *t = nl_state_task(rig->fx.state, task);
    rig_event(rig, &(struct nl_session_event){.kind = NL_SESSION_EV_TASK, .task = t});
}

static void report(struct rig *rig, const struct rig_pending *p, int result,
                   struct nl_outcome outcome) {
    bool registered = p->purpose == NL_SESSION_REGISTER;
    rig_event(rig, &(struct nl_session_event){
                       .kind = registered ? NL_SESSION_EV_REGISTERED : NL_SESSION_EV_PROPOSED,
                       .purpose = p->purpose,
                       .task_id = p->task_id,
                       .attempt = p->attempt,
                       .result = result,
                       .outcome = outcome});
    protobuf_c_message_free_unpacked(&p->command->base, NULL);
}

static size_t take_pending(struct rig *rig, struct rig_pending *ret) {
    size_t n = rig->n_pending;
    memcpy(ret, rig->pending, n * sizeof *ret);
    rig->n_pending = 0;
    return n;
}

void rig_commit(struct rig *rig) {
    struct rig_pending taken[RIG_PENDING_MAX];
    size_t n = take_pending(rig, taken);
    for (size_t i = 0; i < n; i++) {
        struct nl_outcome outcome = fx_apply(&rig->fx, taken[i].command);
        if (taken[i].task_id[0] != '\0' && nl_state_task(rig->fx.state, taken[i].task_id)) {
            rig_tell_task(rig, taken[i].task_id);
        }
        report(rig, &taken[i], NL_OK, outcome);
    }
}

void rig_lose(struct rig *rig, int result) {
    struct rig_pending taken[RIG_PENDING_MAX];
    size_t n = take_pending(rig, taken);
    for (size_t i = 0; i < n; i++) {
        report(rig, &taken[i], result, (struct nl_outcome){0});
    }
}

void rig_submit(struct rig *rig, const char *task) {
    assert_int_equal(fx_submit(&rig->fx, task, "a1", "true", 0).code, NL_OUTCOME_OK);
    rig_tell_task(rig, task);
}

void rig_cancel(struct rig *rig, const char *task) {
    fx_cancel(&rig->fx, task, "enough");
    rig_tell_task(rig, task);
}

// ---- the agent -------------------------------------------------------------

void rig_frame(struct rig *rig, Nodelink__V1__TaskResponse *frame) {
    rig_event(rig, &(struct nl_session_event){.kind = NL_SESSION_EV_FRAME, .frame = frame});
}

void rig_hello(struct rig *rig, uint32_t capacity, const char *running, const char *finished) {
    Nodelink__V1__Hello hello = NODELINK__V1__HELLO__INIT;
    Nodelink__V1__TaskRef refs[2], *pointers[2];
    const char *ids[2] = {running, finished};
    hello.journal_id = nl_message_text("journal");
    hello.capacity = capacity;
    hello.last_epoch = rig->last_epoch;
    hello.tasks = pointers;
    for (int i = 0; i < 2; i++) {
        if (ids[i] != NULL) {
            Nodelink__V1__TaskRef *ref = &refs[i];
            nodelink__v1__task_ref__init(ref);
            ref->task_id = nl_message_text(ids[i]);
            ref->attempt = rig->attempt;
            ref->phase = i == 0 ? NODELINK__V1__TASK_REF__PHASE__RUNNING
                                : NODELINK__V1__TASK_REF__PHASE__FINISHED;
            pointers[hello.n_tasks++] = ref;
        }
    }
    Nodelink__V1__TaskResponse frame = NODELINK__V1__TASK_RESPONSE__INIT;
    frame.agent_id = nl_message_text("a1");
    frame.control_case = NODELINK__V1__TASK_RESPONSE__CONTROL_HELLO;
    frame.hello = &hello;
    rig_frame(rig, &frame);
}

static void begin(struct rig *rig, Nodelink__V1__TaskResponse *frame, const char *task) {
    nodelink__v1__task_response__init(frame);
    frame->agent_id = nl_message_text("a1");
    frame->task_id = nl_message_text(task);
    frame->attempt = rig->attempt;
    frame->epoch = nl_session_core_epoch(rig->core);
}

void rig_started(struct rig *rig, const char *task) {
    Nodelink__V1__TaskResponse frame;
    Nodelink__V1__TaskStarted started = NODELINK__V1__TASK_STARTED__INIT;
    begin(rig, &frame, task);
    frame.status = NODELINK__V1__TASK_RESPONSE__STATUS__IN_PROGRESS;
    frame.control_case = NODELINK__V1__TASK_RESPONSE__CONTROL_STARTED;
    frame.started = &started;
    rig_frame(rig, &frame);
}

void rig_uncertain(struct rig *rig, const char *task) {
    Nodelink__V1__TaskResponse frame;
    Nodelink__V1__TaskUncertain uncertain = NODELINK__V1__TASK_UNCERTAIN__INIT;
    begin(rig, &frame, task);
    frame.control_case = NODELINK__V1__TASK_RESPONSE__CONTROL_UNCERTAIN;
    frame.uncertain = &uncertain;
    rig_frame(rig, &frame);
}

void rig_result(struct rig *rig, const char *task, int exit_code) {
    Nodelink__V1__TaskResponse frame;
    Nodelink__V1__TaskResult result = NODELINK__V1__TASK_RESULT__INIT;
    begin(rig, &frame, task);
    result.kind = NODELINK__V1__TASK_RESULT__KIND__EXITED;
    result.exit_code = exit_code;
    frame.is_final = true;
    frame.status = NODELINK__V1__TASK_RESPONSE__STATUS__COMPLETED;
    frame.control_case = NODELINK__V1__TASK_RESPONSE__CONTROL_RESULT;
    frame.result = &result;
    rig_frame(rig, &frame);
}

void rig_active(struct rig *rig, uint32_t capacity) {
    rig_kind(rig, NL_SESSION_EV_AUTHORIZED);
    if (nl_session_core_state(rig->core) == NL_SESSION_HELLO) {
        rig_hello(rig, capacity, NULL, NULL);
    }
    rig_commit(rig);
    assert_int_equal(nl_session_core_state(rig->core), NL_SESSION_ACTIVE);
    rig->text[0] = '\0';
}
