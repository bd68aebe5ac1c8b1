// `run AGENT`: submit, follow, pass everything through.
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/buf.h"
#include "common/base/err.h"
#include "tools/follow.h"
#include "tools/interrupt.h"
#include "tools/run.h"
#include "tools/verdict.h"

enum { CAPTURE_BYTES_MAX = 1 << 20, CANCEL_MS = 10000, WHAT_MAX = 320 };

// submitting -> (detached: over) -> following -> over
struct session {
    struct nl_cli *cli;
    const struct nl_run_plan *plan;
    const char *agent;
    const char *task_id;
    char made_id[NL_TASK_ID_SIZE];
    struct nl_client *client;
    struct nl_follow *follow;  // NULL before and after
    Nodelink__V1__SubmitTaskRequest submit;
    Nodelink__V1__TaskSpec spec;
    Nodelink__V1__CancelTaskRequest cancel;
    struct nl_buf captured[NL_N_STREAMS];  // with -o json
    uint64_t bytes[NL_N_STREAMS];
    Nodelink__V1__TaskState state;  // as last told
    bool accepted, existed;
    bool cancel_wanted, cancel_sent;
    bool reader_gone;  // nobody reads our stdout any more
    bool gaps;
    bool left;  // Ctrl-C twice
    bool over;
    int exit_code;
};

// Remarks belong to a person; a script's stderr carries the command's bytes only.
static bool remarks(const struct session *s) {
    return !s->cli->json && isatty(STDERR_FILENO) == 1;
}

// ---- cancel ----------------------------------------------------------------

static void on_cancel_reply(void *user, const struct nl_client_error *error,
                            ProtobufCMessage *reply) {
    struct session *s = user;
    if (error != NULL && !s->over && !s->left) {
        nl_cli_fail_call(s->cli, error, "cancel the task");
    }
    nl_rpc_message_free(reply);
}

static void send_cancel(struct session *s) {
    if (!s->accepted || s->cancel_sent) {
        return;
    }
    s->cancel_sent = true;
    nodelink__v1__cancel_task_request__init(&s->cancel);
    s->cancel.task_id = (char *)s->task_id;
    s->cancel.reason =
        (char *)(s->reader_gone ? "nobody reads its output any more" : "interrupted by the user");
    struct nl_client_call call = {
        .method = "CancelTask",
        .request = &s->cancel.base,
        .repeat = NL_CLIENT_IDEMPOTENT,
        .timeout_ms = CANCEL_MS,
    };
    nl_client_start(s->client, &call, on_cancel_reply, s);
}

static void want_cancel(struct session *s) {
    s->cancel_wanted = true;
    send_cancel(s);
}

static void on_interrupt(void *user, unsigned count) {
    struct session *s = user;
    if (count == 1) {
        if (!s->cli->json) {
            fprintf(stderr, "nodelink: cancelling task %s; Ctrl-C again leaves it\n", s->task_id);
        }
        want_cancel(s);
        return;
    }
    s->left = true;
    if (s->follow != NULL) {
        nl_follow_stop(s->follow);
    } else {
        s->over = true;
    }
}

// ---- output ----------------------------------------------------------------

static void write_failed(struct session *s, int rc) {
    if (rc == NL_ECANCELED) {
        s->left = true;
        nl_follow_stop(s->follow);
    } else if (!s->reader_gone) {
        s->reader_gone = true;
        want_cancel(s);
    }
}

static void on_output(void *user, enum nl_stream stream, const uint8_t *data, size_t len) {
    struct session *s = user;
    s->bytes[stream] += len;
    if (s->cli->json) {
        struct nl_buf *to = &s->captured[stream];
        size_t room = CAPTURE_BYTES_MAX - to->len;
        nl_buf_append(to, data, len < room ? len : room);
        return;
    }
    if (s->reader_gone || s->left) {
        return;
    }
    int rc = nl_run_write(stream == NL_STDOUT ? STDOUT_FILENO : STDERR_FILENO, data, len);
    if (rc != NL_OK) {
        write_failed(s, rc);
    }
}

static void on_gap(void *user, enum nl_stream stream, uint64_t from, uint64_t to,
                   const char *reason) {
    struct session *s = user;
    s->gaps = true;
    if (!s->cli->json) {
        fprintf(stderr, "nodelink: %s of task %s: bytes %llu to %llu are gone (%s)\n",
                stream == NL_STDOUT ? "stdout" : "stderr", s->task_id, (unsigned long long)from,
                (unsigned long long)to, reason != NULL && *reason != '\0' ? reason : "no reason");
    }
}

static void on_attempt(void *user, uint32_t attempt) {
    struct session *s = user;
    for (int i = 0; i < NL_N_STREAMS; i++) {
        s->captured[i].len = 0;  // what is printed in the end is of the last one
        s->bytes[i] = 0;
    }
    s->gaps = false;
    if (remarks(s)) {
        fprintf(stderr, "nodelink: attempt %u of task %s\n", attempt, s->task_id);
    }
}

static void on_moved(void *user, const char *from, const char *to, const char *why) {
    struct session *s = user;
    if (remarks(s)) {
        fprintf(stderr, "nodelink: %s: %s; going on at %s\n", from, why, to);
    }
}

static void on_task(void *user, const Nodelink__V1__Task *task) {
    struct session *s = user;
    bool news = task->state != s->state;
    s->state = task->state;
    if (news && task->state == NODELINK__V1__TASK_STATE__TASK_UNKNOWN && remarks(s)) {
        fprintf(stderr, "nodelink: agent %s is unreachable; waiting for word of task %s\n",
                s->agent, s->task_id);
    }
}

// ---- the end ---------------------------------------------------------------

static bool complete(const struct session *s, const Nodelink__V1__Task *task) {
    const Nodelink__V1__TaskResult *result = task != NULL && task->has_result ? task->result : NULL;
    return result != NULL && !s->gaps && !s->reader_gone &&
           result->stdout_bytes == s->bytes[NL_STDOUT] &&
           result->stderr_bytes == s->bytes[NL_STDERR];
}

static void set_stream(json_t *object, const struct session *s, enum nl_stream stream,
                       const char *name) {
    char key[32];
    const struct nl_buf *b = &s->captured[stream];
    nl_json_set_bytes(object, name, b->data, b->len);
    snprintf(key, sizeof key, "%s_truncated", name);
    json_object_set_new(object, key, json_boolean(s->bytes[stream] > b->len));
}

static void print_json(const struct session *s, const struct nl_verdict *verdict,
                       const Nodelink__V1__Task *task, const struct nl_client_error *error) {
    json_t *object = task != NULL ? nl_json_task(task, NULL) : json_object();
    json_object_set_new(object, "id", json_string(s->task_id));
    json_object_set_new(object, "agent", json_string(s->agent));
    json_object_set_new(object, "outcome", json_string(verdict->outcome));
    json_object_set_new(object, "exit", json_integer(verdict->exit_code));
    if (task == NULL) {
        json_object_set_new(object, "state", json_null());
        json_object_set_new(object, "exit_code", json_null());
    }
    if (error != NULL) {
        json_object_set_new(object, "error", json_string(error->text));
        json_object_set_new(object, "code", json_string(nl_rpc_code_name(error->code)));
    }
    set_stream(object, s, NL_STDOUT, "stdout");
    set_stream(object, s, NL_STDERR, "stderr");
    json_object_set_new(object, "output_complete", json_boolean(complete(s, task)));
    nl_cli_print_json(object);
}

// Only what the command itself did not say: a plain exit code needs no words.
static void print_remark(const struct session *s, const Nodelink__V1__Task *task) {
    char took[32];
    const Nodelink__V1__TaskResult *result = task->has_result ? task->result : NULL;
    bool plain = result != NULL && result->kind == NODELINK__V1__TASK_RESULT__KIND__EXITED;
    if (task->state == NODELINK__V1__TASK_STATE__TASK_COMPLETED ||
        (task->state == NODELINK__V1__TASK_STATE__TASK_FAILED && plain)) {
        return;
    }
    fprintf(stderr, "nodelink: task %s on %s: %s", s->task_id, s->agent,
            nl_format_task_state(task->state));
    if (task->state == NODELINK__V1__TASK_STATE__TASK_TIMED_OUT) {
        fprintf(stderr, " after %s", nl_format_age(took, s->plan->options->timeout_ms));
    }
    if (result != NULL && result->signal != 0) {
        fprintf(stderr, " (signal %d, %s)", result->signal, strsignal(result->signal));
    }
    fprintf(stderr, "%s%s\n", *task->reason != '\0' ? ": " : "", task->reason);
}

static void print_unknown(const struct session *s, const struct nl_client_error *error) {
    char what[WHAT_MAX];
    snprintf(what, sizeof what, "nodelink task show %s; nodelink logs -f %s", s->task_id,
             s->task_id);
    struct nl_failure failure = {
        .code = nl_rpc_code_name(error->code), .outcome = "unknown", .next = what};
    nl_cli_fail(s->cli, &failure, "unknown: lost sight of task %s on %s: %s", s->task_id, s->agent,
                error->text);
}

static void on_end(void *user, const struct nl_client_error *error,
                   const Nodelink__V1__Task *task) {
    struct session *s = user;
    static const struct nl_client_error LEFT = {
        .code = NL_RPC_CANCELLED, .outcome = NL_CLIENT_UNKNOWN, .text = "left by Ctrl-C"};
    struct nl_verdict verdict =
        nl_verdict_of_task(error == NULL ? task : NULL, s->cancel_sent && !s->reader_gone);
    s->follow = NULL;
    s->over = true;
    s->exit_code = s->reader_gone ? 128 + SIGPIPE : verdict.exit_code;
    error = s->left ? &LEFT : error;
    if (s->cli->json) {
        print_json(s, &verdict, task, error);
    } else if (error != NULL) {
        print_unknown(s, error);
    } else if (!s->reader_gone && task != NULL) {
        print_remark(s, task);
    }
}

static const struct nl_follow_events EVENTS = {
    .on_task = on_task,
    .on_output = on_output,
    .on_gap = on_gap,
    .on_attempt = on_attempt,
    .on_moved = on_moved,
    .on_end = on_end,
};

// ---- submit ----------------------------------------------------------------

static void submit_failed(struct session *s, const struct nl_client_error *error) {
    struct nl_verdict verdict = nl_verdict_of_submit(error);
    char what[WHAT_MAX];
    s->over = true;
    s->exit_code = verdict.exit_code;
    if (s->cli->json) {
        print_json(s, &verdict, NULL, error);
    }
    snprintf(what, sizeof what, "submit task %s to agent %s", s->task_id, s->agent);
    nl_cli_fail_call(s->cli, error, what);
    if (error->outcome == NL_CLIENT_UNKNOWN && !s->cli->json) {
        fprintf(stderr, "next: nodelink task show %s; the same command with --task-id %s is safe\n",
                s->task_id, s->task_id);
    }
}

static void print_detached(struct session *s, Nodelink__V1__TaskState state) {
    s->over = true;
    s->exit_code = NL_EXIT_OK;
    if (!s->cli->json) {
        puts(s->task_id);
        return;
    }
    nl_cli_print_json(json_pack("{s:s, s:s, s:s, s:s, s:b}", "id", s->task_id, "agent", s->agent,
                                "outcome", "submitted", "state", nl_format_task_state(state),
                                "existed", (int)s->existed));
}

static void on_submitted(void *user, const struct nl_client_error *error,
                         ProtobufCMessage *message) {
    struct session *s = user;
    Nodelink__V1__SubmitTaskReply *reply = (Nodelink__V1__SubmitTaskReply *)message;
    if (s->over) {  // left meanwhile
        nl_rpc_message_free(message);
        return;
    }
    if (error != NULL) {
        submit_failed(s, error);
        return;
    }
    s->accepted = true;
    s->existed = reply->existed;
    if (s->plan->options->detach) {
        print_detached(s, reply->state);
    } else {
        struct nl_follow_options options = {
            .task_id = s->task_id,
            .output = true,
            .submitted = true,
            .attempt = 1,
            .patience_ms = s->plan->options->patience_ms,
        };
        if (nl_follow_start(s->client, &options, &EVENTS, s, &s->follow) != NL_OK) {
            on_end(s, &(struct nl_client_error){.text = "out of memory"}, NULL);
        }
    }
    if (s->cancel_wanted) {
        send_cancel(s);
    }
    nl_rpc_message_free(message);
}

static int start_submit(struct session *s) {
    s->spec = s->plan->spec;
    s->spec.agent_id = (char *)s->agent;
    nodelink__v1__submit_task_request__init(&s->submit);
    s->submit.task_id = (char *)s->task_id;
    s->submit.spec = &s->spec;
    struct nl_client_call call = {
        .method = "SubmitTask",
        .request = &s->submit.base,
        .repeat = NL_CLIENT_IDEMPOTENT,
        .timeout_ms = nl_run_submit_ms(s->plan->options),
    };
    return nl_client_start(s->client, &call, on_submitted, s);
}

int nl_run_one(struct nl_cli *cli, const struct nl_run_plan *plan, const char *agent) {
    struct session s = {.cli = cli, .plan = plan, .agent = agent, .exit_code = NL_EXIT_CLUSTER};
    s.task_id = nl_run_task_id(plan->options, agent, s.made_id);
    s.client = nl_cli_client(cli);
    if (s.client == NULL) {
        return NL_EXIT_CLUSTER;
    }
    nl_buf_init(&s.captured[NL_STDOUT], CAPTURE_BYTES_MAX);
    nl_buf_init(&s.captured[NL_STDERR], CAPTURE_BYTES_MAX);
    bool watching = nl_interrupt_watch(nl_client_loop(s.client), on_interrupt, &s) == NL_OK;
    s.over = start_submit(&s) != NL_OK;
    while (!s.over) {
        uv_run(nl_client_loop(s.client), UV_RUN_ONCE);
    }
    if (s.left && !s.accepted) {
        s.exit_code = NL_EXIT_UNKNOWN;
        print_unknown(
            &s, &(struct nl_client_error){.code = NL_RPC_CANCELLED, .text = "left by Ctrl-C"});
    }
    if (watching) {
        nl_interrupt_close();
    }
    nl_client_free(s.client);
    nl_buf_close(&s.captured[NL_STDOUT]);
    nl_buf_close(&s.captured[NL_STDERR]);
    return s.exit_code;
}
