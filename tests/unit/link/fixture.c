#include "tests/unit/link/fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/err.h"

enum { TRANSCRIPT_LEN = 65536, SERVERS_MAX = 64 };

static uint64_t next_random(struct fixture *f) {
    uint64_t z = f->seed += 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

// ---- transcript ------------------------------------------------------------

__attribute__((format(printf, 2, 3))) static void say(struct fixture *f, const char *fmt, ...) {
    if (f->quiet) {
        return;
    }
    va_list args;
    va_start(args, fmt);
    int n =
        vsnprintf(f->transcript + f->transcript_len, TRANSCRIPT_LEN - f->transcript_len, fmt, args);
    va_end(args);
    assert_true(n >= 0 && f->transcript_len + (size_t)n < TRANSCRIPT_LEN);
    f->transcript_len += (size_t)n;
}

static void say_hello(struct fixture *f, const Nodelink__V1__Hello *hello) {
    say(f, "hello last=%llu", (unsigned long long)hello->last_epoch);
    for (size_t i = 0; i < hello->n_tasks; i++) {
        const Nodelink__V1__TaskRef *ref = hello->tasks[i];
        bool running = ref->phase == NODELINK__V1__TASK_REF__PHASE__RUNNING;
        say(f, " %s/%u=%s", ref->task_id, ref->attempt, running ? "running" : "finished");
    }
    for (size_t i = 0; i < hello->n_labels; i++) {
        say(f, " %s:%s", hello->labels[i]->key, hello->labels[i]->value);
    }
}

static void say_end(struct fixture *f, const Nodelink__V1__OutputEnd *end) {
    static const char *const whys[] = {"?", "complete", "gone", "gap", "error"};
    say(f, "end sub=%llu %s base=%llu total=%llu", (unsigned long long)end->sub, whys[end->why],
        (unsigned long long)end->stdout_base, (unsigned long long)end->stdout_bytes);
}

static void say_final(struct fixture *f, const Nodelink__V1__TaskResponse *r) {
    static const char *const kinds[] = {"?",         "exited",      "signalled", "timed-out",
                                        "cancelled", "not-started", "lost"};
    say(f, "final %s %s exit=%d", r->task_id,
        r->status == NODELINK__V1__TASK_RESPONSE__STATUS__COMPLETED ? "completed" : "failure",
        r->response_case == NODELINK__V1__TASK_RESPONSE__RESPONSE_SHELL_EXECUTE
            ? r->shell_execute->exit_code
            : 0);
    if (r->cancelled) {
        say(f, " cancelled");
    }
    if (r->control_case == NODELINK__V1__TASK_RESPONSE__CONTROL_RESULT) {
        say(f, " %s", kinds[r->result->kind]);
        if (r->result->reason[0] != '\0') {
            say(f, " '%s'", r->result->reason);
        }
    }
    if (r->response_case == NODELINK__V1__TASK_RESPONSE__RESPONSE_SHELL_EXECUTE &&
        r->shell_execute->stderr.len > 0) {
        say(f, " stderr='%.*s'", (int)r->shell_execute->stderr.len,
            (const char *)r->shell_execute->stderr.data);
    }
}

static void say_response(struct fixture *f, const Nodelink__V1__TaskResponse *r) {
    if (r->is_final) {
        say_final(f, r);
        return;
    }
    switch (r->control_case) {
        case NODELINK__V1__TASK_RESPONSE__CONTROL_HELLO:
            say_hello(f, r->hello);
            break;
        case NODELINK__V1__TASK_RESPONSE__CONTROL_PING:
            say(f, "ping");
            break;
        case NODELINK__V1__TASK_RESPONSE__CONTROL_PONG:
            say(f, "pong %llu", (unsigned long long)r->pong->nonce);
            break;
        case NODELINK__V1__TASK_RESPONSE__CONTROL_STARTED:
            say(f, "started %s epoch=%llu", r->task_id, (unsigned long long)r->epoch);
            break;
        case NODELINK__V1__TASK_RESPONSE__CONTROL_OUTPUT_END:
            say_end(f, r->output_end);
            break;
        case NODELINK__V1__TASK_RESPONSE__CONTROL_UNCERTAIN:
            say(f, "uncertain %s status=%d '%s'", r->task_id, (int)r->status, r->uncertain->reason);
            break;
        case NODELINK__V1__TASK_RESPONSE__CONTROL_GOODBYE:
            say(f, "goodbye");
            break;
        default:
            say(f, "in-progress %s", r->task_id);
            break;
    }
}

static void say_sup(struct fixture *f, const Nodelink__V1__ToSupervisor *m) {
    switch (m->body_case) {
        case NODELINK__V1__TO_SUPERVISOR__BODY_ATTACH:
            say(f, "sup attach\n");
            break;
        case NODELINK__V1__TO_SUPERVISOR__BODY_RUN:
            say(f, "sup run %s/%u", m->run->task_id, m->run->attempt);
            if (m->run->options != NULL) {
                assert_int_equal(m->run->options->start_within_ms, 0);
                assert_int_equal(m->run->options->finish_within_ms, 0);
                say(f, " timeout=%llu", (unsigned long long)m->run->options->timeout_ms);
            }
            say(f, "\n");
            break;
        case NODELINK__V1__TO_SUPERVISOR__BODY_CANCEL:
            say(f, "sup cancel %s '%s'\n", m->cancel->task_id, m->cancel->reason);
            break;
        case NODELINK__V1__TO_SUPERVISOR__BODY_FORGET:
            say(f, "sup forget %s\n", m->forget->task_id);
            break;
        case NODELINK__V1__TO_SUPERVISOR__BODY_RELEASE:
            say(f, "sup release %s %llu%s\n", m->release->task_id,
                (unsigned long long)m->release->stdout_offset,
                m->release->no_reader ? " no-reader" : "");
            break;
        case NODELINK__V1__TO_SUPERVISOR__BODY_STOP:
            say(f, "sup stop%s\n", m->stop->kill_tasks ? " kill" : "");
            break;
        default:
            say(f, "sup ?\n");
            break;
    }
}

static void take_connect(struct fixture *f, const struct nl_link_action *action) {
    f->connects++;
    f->call = action->call;
    snprintf(f->connect_to, sizeof f->connect_to, "%s", action->address);
    say(f, "connect %llu %s\n", (unsigned long long)action->call, action->address);
}

static void take(struct fixture *f, const struct nl_link_action *action) {
    switch (action->type) {
        case NL_LINK_CONNECT:
            take_connect(f, action);
            break;
        case NL_LINK_PROBE:
            say(f, "probe %llu\n", (unsigned long long)action->call);
            break;
        case NL_LINK_SEND:
            say(f, "%llu: ", (unsigned long long)action->call);
            say_response(f, action->response);
            f->tail_base = action->tail.spool_dir != NULL ? action->tail.base[0] : 0;
            f->tail_end = action->tail.spool_dir != NULL ? action->tail.end[0] : 0;
            say(f, "\n");
            break;
        case NL_LINK_LEAVE:
            say(f, "leave %llu\n", (unsigned long long)action->call);
            break;
        case NL_LINK_CANCEL:
            say(f, "drop %llu\n", (unsigned long long)action->call);
            break;
        case NL_LINK_SUP_SEND:
            say_sup(f, action->to_sup);
            break;
        case NL_LINK_SUP_DROP:
            say(f, "sup drop\n");
            break;
        case NL_LINK_SAVE_EPOCH:
            f->epoch_to_save = action->epoch;
            say(f, "save epoch %llu\n", (unsigned long long)action->epoch);
            break;
        case NL_LINK_SAVE_SERVERS:
            say(f, "save servers\n");
            break;
        case NL_LINK_OUTPUT:
            say(f, "output\n");
            break;
        case NL_LINK_LOG:
            if (!f->hide_logs) {
                say(f, "log %s%s%s\n", action->log.event, action->log.reason == NULL ? "" : ": ",
                    action->log.reason == NULL ? "" : action->log.reason);
            }
            break;
        case NL_LINK_EXIT:
            say(f, "exit\n");
            break;
    }
}

void fx_expect(struct fixture *f, const char *transcript) {
    assert_string_equal(f->transcript, transcript);
    fx_forget(f);
}

void fx_forget(struct fixture *f) {
    f->transcript[0] = '\0';
    f->transcript_len = 0;
}

// ---- life ------------------------------------------------------------------

void fx_init_with(struct fixture *f, const char *servers,
                  const struct nl_link_core_options *given) {
    *f = (struct fixture){.now_ms = 1000000, .seed = 1, .hide_logs = true};
    f->transcript = calloc(1, TRANSCRIPT_LEN);
    assert_non_null(f->transcript);
    char *copy = strdup(servers), *rest = copy, *items[SERVERS_MAX];
    struct nl_link_core_options options = *given;
    options.servers.items = items;
    while ((items[options.servers.count] = strsep(&rest, " ")) != NULL) {
        options.servers.count++;
    }
    assert_int_equal(nl_link_core_new(&options, &f->core), NL_OK);
    free(copy);
}

void fx_init(struct fixture *f, const char *servers) {
    const struct nl_link_core_options options = {
        .agent_id = "agent-1",
        .version = "1",
        .hostname = "h",
        .os = "o",
        .backoff_start_ms = 1000,
        .backoff_factor_percent = 150,
        .backoff_cap_ms = 60000,
        .connect_ms = 3000,
    };
    fx_init_with(f, servers, &options);
}

void fx_close(struct fixture *f) {
    nl_link_core_free(f->core);
    free(f->transcript);
}

// ---- steps -----------------------------------------------------------------

void fx_step(struct fixture *f, struct nl_link_event *event) {
    struct nl_link_actions actions;
    event->random = next_random(f);
    assert_int_equal(nl_link_core_step(f->core, f->now_ms, event, &actions), NL_OK);
    for (size_t i = 0; i < actions.count; i++) {
        take(f, &actions.items[i]);
    }
}

void fx_advance(struct fixture *f, uint64_t ms) {
    uint64_t until = f->now_ms + ms;
    uint64_t at;
    int ticks = 0;
    while ((at = nl_link_core_deadline_ms(f->core)) <= until) {
        f->now_ms = at > f->now_ms ? at : f->now_ms;
        struct nl_link_event event = {.type = NL_LINK_TICK};
        fx_step(f, &event);
        assert_true(++ticks < 1000000);
    }
    f->now_ms = until;
}

// ---- the supervisor --------------------------------------------------------

static void from_sup(struct fixture *f, Nodelink__V1__FromSupervisor *message) {
    struct nl_link_event event = {.type = NL_LINK_SUP_MESSAGE, .from_sup = message};
    fx_step(f, &event);
}

void fx_attach(struct fixture *f, uint32_t tasks) {
    struct nl_link_event event = {.type = NL_LINK_SUP_UP};
    fx_step(f, &event);
    Nodelink__V1__SupAttached attached = NODELINK__V1__SUP_ATTACHED__INIT;
    attached.boot_id = "boot";
    attached.journal_id = "journal";
    attached.tasks = tasks;
    Nodelink__V1__FromSupervisor message = NODELINK__V1__FROM_SUPERVISOR__INIT;
    message.body_case = NODELINK__V1__FROM_SUPERVISOR__BODY_ATTACHED;
    message.attached = &attached;
    from_sup(f, &message);
}

void fx_sup_task(struct fixture *f, const char *id, Nodelink__V1__TaskRef__Phase phase,
                 uint64_t stdout_end) {
    Nodelink__V1__SupSpool spool = NODELINK__V1__SUP_SPOOL__INIT;
    spool.stdout_end = stdout_end;
    Nodelink__V1__TaskResult result = NODELINK__V1__TASK_RESULT__INIT;
    result.kind = NODELINK__V1__TASK_RESULT__KIND__EXITED;
    Nodelink__V1__SupTask task = NODELINK__V1__SUP_TASK__INIT;
    task.task_id = (char *)id;
    task.attempt = 1;
    task.phase = phase;
    task.spool = &spool;
    task.spool_dir = "spool/x";
    task.result = phase == NODELINK__V1__TASK_REF__PHASE__FINISHED ? &result : NULL;
    Nodelink__V1__FromSupervisor message = NODELINK__V1__FROM_SUPERVISOR__INIT;
    message.body_case = NODELINK__V1__FROM_SUPERVISOR__BODY_TASK;
    message.task = &task;
    from_sup(f, &message);
}

void fx_sup_lost(struct fixture *f, const char *id) {
    Nodelink__V1__SupTask task = NODELINK__V1__SUP_TASK__INIT;
    task.task_id = (char *)id;
    task.attempt = 1;
    task.phase = NODELINK__V1__TASK_REF__PHASE__RUNNING;
    task.lost = true;
    Nodelink__V1__FromSupervisor message = NODELINK__V1__FROM_SUPERVISOR__INIT;
    message.body_case = NODELINK__V1__FROM_SUPERVISOR__BODY_TASK;
    message.task = &task;
    from_sup(f, &message);
}

void fx_sup_spool(struct fixture *f, const char *id, uint64_t stdout_base, uint64_t stdout_end,
                  uint32_t releases) {
    Nodelink__V1__SupSpool spool = NODELINK__V1__SUP_SPOOL__INIT;
    spool.task_id = (char *)id;
    spool.attempt = 1;
    spool.stdout_base = stdout_base;
    spool.stdout_end = stdout_end;
    spool.releases = releases;
    Nodelink__V1__FromSupervisor message = NODELINK__V1__FROM_SUPERVISOR__INIT;
    message.body_case = NODELINK__V1__FROM_SUPERVISOR__BODY_SPOOL;
    message.spool = &spool;
    from_sup(f, &message);
}

void fx_sup_refused(struct fixture *f, const char *id, const char *reason) {
    Nodelink__V1__SupRefused refused = NODELINK__V1__SUP_REFUSED__INIT;
    refused.task_id = (char *)id;
    refused.attempt = 1;
    refused.reason = (char *)reason;
    Nodelink__V1__FromSupervisor message = NODELINK__V1__FROM_SUPERVISOR__INIT;
    message.body_case = NODELINK__V1__FROM_SUPERVISOR__BODY_REFUSED;
    message.refused = &refused;
    from_sup(f, &message);
}

void fx_sup_down(struct fixture *f) {
    struct nl_link_event event = {.type = NL_LINK_SUP_DOWN};
    fx_step(f, &event);
}

// ---- the server ------------------------------------------------------------

void fx_call_up(struct fixture *f, uint64_t call) {
    struct nl_link_event event = {.type = NL_LINK_CALL_UP, .call = call};
    fx_step(f, &event);
}

void fx_headers(struct fixture *f, uint64_t call, bool extended) {
    struct nl_link_event event = {.type = NL_LINK_CALL_HEADERS, .call = call};
    event.headers.extended = extended;
    fx_step(f, &event);
}

void fx_closed(struct fixture *f, uint64_t call, int code, const char *message) {
    struct nl_link_event event = {.type = NL_LINK_CALL_CLOSED, .call = call};
    event.closed.code = code;
    event.closed.message = message;
    fx_step(f, &event);
}

void fx_request(struct fixture *f, uint64_t call, Nodelink__V1__TaskRequest *request) {
    struct nl_link_event event = {.type = NL_LINK_CALL_MESSAGE, .call = call, .request = request};
    fx_step(f, &event);
}

void fx_welcome(struct fixture *f, uint64_t call, uint64_t epoch) {
    Nodelink__V1__Welcome welcome = NODELINK__V1__WELCOME__INIT;
    welcome.epoch = epoch;
    welcome.node = "n";
    welcome.ping_interval_ms = 5000;
    Nodelink__V1__TaskRequest request = NODELINK__V1__TASK_REQUEST__INIT;
    request.control_case = NODELINK__V1__TASK_REQUEST__CONTROL_WELCOME;
    request.welcome = &welcome;
    f->epoch_to_save = 0;
    fx_request(f, call, &request);
    if (f->epoch_to_save != 0) {
        struct nl_link_event event = {.type = NL_LINK_EPOCH_SAVED, .ok = true};
        fx_step(f, &event);
    }
}

static void shell_with(struct fixture *f, uint64_t call, const char *id, uint64_t epoch,
                       Nodelink__V1__ShellOptions *options) {
    Nodelink__V1__ShellExecute shell = NODELINK__V1__SHELL_EXECUTE__INIT;
    shell.cmd = "true";
    Nodelink__V1__TaskRequest request = NODELINK__V1__TASK_REQUEST__INIT;
    request.agent_id = "agent-1";
    request.task_id = (char *)id;
    request.attempt = epoch == 0 ? 0 : 1;
    request.epoch = epoch;
    request.task_case = NODELINK__V1__TASK_REQUEST__TASK_SHELL_EXECUTE;
    request.shell_execute = &shell;
    request.shell_options = options;
    fx_request(f, call, &request);
}

void fx_shell(struct fixture *f, uint64_t call, const char *id, uint64_t epoch) {
    shell_with(f, call, id, epoch, NULL);
}

void fx_shell_within(struct fixture *f, uint64_t call, const char *id, uint64_t epoch,
                     uint64_t timeout_ms, uint64_t start_ms, uint64_t finish_ms) {
    Nodelink__V1__ShellOptions options = NODELINK__V1__SHELL_OPTIONS__INIT;
    options.timeout_ms = timeout_ms;
    options.start_within_ms = start_ms;
    options.finish_within_ms = finish_ms;
    shell_with(f, call, id, epoch, &options);
}

void fx_cancel(struct fixture *f, uint64_t call, const char *id) {
    Nodelink__V1__TaskCancel cancel = NODELINK__V1__TASK_CANCEL__INIT;
    cancel.reason = "why not";
    Nodelink__V1__TaskRequest request = NODELINK__V1__TASK_REQUEST__INIT;
    request.task_id = (char *)id;
    request.task_case = NODELINK__V1__TASK_REQUEST__TASK_TASK_CANCEL;
    request.task_cancel = &cancel;
    fx_request(f, call, &request);
}

void fx_ack(struct fixture *f, uint64_t call, const char *id) {
    Nodelink__V1__ResultAck ack = NODELINK__V1__RESULT_ACK__INIT;
    ack.task_id = (char *)id;
    ack.attempt = 1;
    Nodelink__V1__TaskRequest request = NODELINK__V1__TASK_REQUEST__INIT;
    request.control_case = NODELINK__V1__TASK_REQUEST__CONTROL_RESULT_ACK;
    request.result_ack = &ack;
    fx_request(f, call, &request);
}

void fx_open(struct fixture *f, uint64_t call, uint64_t sub, const char *id, uint64_t offset,
             uint64_t credit) {
    Nodelink__V1__OutputOpen open = NODELINK__V1__OUTPUT_OPEN__INIT;
    open.sub = sub;
    open.task_id = (char *)id;
    open.attempt = 1;
    open.stdout_offset = offset;
    open.credit = credit;
    Nodelink__V1__TaskRequest request = NODELINK__V1__TASK_REQUEST__INIT;
    request.control_case = NODELINK__V1__TASK_REQUEST__CONTROL_OUTPUT_OPEN;
    request.output_open = &open;
    fx_request(f, call, &request);
}

void fx_credit(struct fixture *f, uint64_t call, uint64_t sub, uint64_t bytes) {
    Nodelink__V1__OutputCredit credit = NODELINK__V1__OUTPUT_CREDIT__INIT;
    credit.sub = sub;
    credit.bytes = bytes;
    Nodelink__V1__TaskRequest request = NODELINK__V1__TASK_REQUEST__INIT;
    request.control_case = NODELINK__V1__TASK_REQUEST__CONTROL_OUTPUT_CREDIT;
    request.output_credit = &credit;
    fx_request(f, call, &request);
}

void fx_advance_alive(struct fixture *f, uint64_t call, uint64_t ms) {
    Nodelink__V1__Pong pong = NODELINK__V1__PONG__INIT;
    Nodelink__V1__TaskRequest request = NODELINK__V1__TASK_REQUEST__INIT;
    request.control_case = NODELINK__V1__TASK_REQUEST__CONTROL_PONG;
    request.pong = &pong;
    for (uint64_t done = 0; done < ms; done += 1000) {
        fx_request(f, call, &request);
        fx_advance(f, ms - done < 1000 ? ms - done : 1000);
    }
}

void fx_output_sent(struct fixture *f) {
    struct nl_link_event event = {.type = NL_LINK_OUTPUT_SENT};
    fx_step(f, &event);
}

void fx_stop(struct fixture *f, bool kill) {
    struct nl_link_event event = {.type = NL_LINK_STOP, .kill_tasks = kill};
    fx_step(f, &event);
}

void fx_up(struct fixture *f, uint64_t epoch) {
    fx_attach(f, 0);
    fx_headers(f, f->call, true);
    fx_welcome(f, f->call, epoch);
    assert_int_equal(nl_link_core_state(f->core), NL_LINK_UP);
    fx_forget(f);
}
