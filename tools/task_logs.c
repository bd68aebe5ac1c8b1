#include <stdio.h>
#include <unistd.h>

#include "common/base/err.h"
#include "tools/commands.h"
#include "tools/follow.h"
#include "tools/run.h"
#include "tools/verdict.h"

enum { NOW_MS = 5000 };  // how long output that can't be reached now is waited for, without -f

struct options {
    bool follow;
    uint64_t from, stdout_from, stderr_from;
    uint64_t attempt;
    uint64_t patience_ms;
};

static const struct nl_arg ARGS[] = {
    {"follow", 'f', NL_ARG_BOOL, offsetof(struct options, follow), NULL, NULL,
     "go on to the task's end, then exit with its exit code"},
    {"from", 0, NL_ARG_U64, offsetof(struct options, from), "OFFSET", NULL,
     "leave out this many bytes of both streams"},
    {"stdout-from", 0, NL_ARG_U64, offsetof(struct options, stdout_from), "OFFSET", NULL,
     "of stdout"},
    {"stderr-from", 0, NL_ARG_U64, offsetof(struct options, stderr_from), "OFFSET", NULL,
     "of stderr"},
    {"attempt", 0, NL_ARG_U64, offsetof(struct options, attempt), "N", NULL,
     "of this attempt only (default: the current or last one, and those after it)"},
    {"patience", 0, NL_ARG_DURATION, offsetof(struct options, patience_ms), "DURATION", "30s",
     "give up after this long without an answer of any node"},
    {0},
};

struct session {
    const struct nl_cli *cli;
    const char *id;
    bool follow;
    struct nl_follow *stream;
    uint64_t offset[NL_N_STREAMS];
    uint32_t attempt;  // the one asked for; 0: none
    bool reader_gone, gaps, over;
    int exit_code;
};

static const char *name_of(enum nl_stream stream) {
    return stream == NL_STDOUT ? "stdout" : "stderr";
}

static void print_line(json_t *object) {
    json_dumpf(object, stdout, JSON_PRESERVE_ORDER | JSON_ENSURE_ASCII);
    putchar('\n');
    fflush(stdout);
    json_decref(object);
}

static void on_task(void *user, const Nodelink__V1__Task *task) {
    (void)user;
    (void)task;
}

static void on_output(void *user, enum nl_stream stream, const uint8_t *data, size_t len) {
    struct session *s = user;
    if (s->cli->json) {
        json_t *piece = json_pack("{s:s, s:I}", "stream", name_of(stream), "offset",
                                  (json_int_t)s->offset[stream]);
        nl_json_set_bytes(piece, "data", data, len);
        print_line(piece);
    } else if (!s->reader_gone) {
        int fd = stream == NL_STDOUT ? STDOUT_FILENO : STDERR_FILENO;
        s->reader_gone = nl_run_write(fd, data, len) != NL_OK;
    }
    s->offset[stream] += len;
    if (s->reader_gone) {
        nl_follow_stop(s->stream);
    }
}

static void on_gap(void *user, enum nl_stream stream, uint64_t from, uint64_t to,
                   const char *reason) {
    struct session *s = user;
    s->gaps = true;
    s->offset[stream] = to;
    if (s->cli->json) {
        print_line(json_pack("{s:s, s:I, s:I, s:s}", "gap", name_of(stream), "from",
                             (json_int_t)from, "to", (json_int_t)to, "reason", reason));
    } else {
        fprintf(stderr, "nodelink: %s of task %s: bytes %llu to %llu are gone (%s)\n",
                name_of(stream), s->id, (unsigned long long)from, (unsigned long long)to, reason);
    }
}

static void on_attempt(void *user, uint32_t attempt) {
    struct session *s = user;
    s->offset[NL_STDOUT] = s->offset[NL_STDERR] = 0;
    if (s->cli->json) {
        print_line(json_pack("{s:i}", "attempt", (int)attempt));
    }
}

static void on_end(void *user, const struct nl_client_error *error,
                   const Nodelink__V1__Task *task) {
    struct session *s = user;
    s->over = true;
    s->exit_code = NL_EXIT_OK;
    if (s->reader_gone) {
        return;
    }
    if (error != NULL) {
        nl_cli_fail_call(s->cli, error, "read the output");
        s->exit_code = s->follow ? NL_EXIT_UNKNOWN : NL_EXIT_FAILED;
        if (s->follow && error->code == NL_RPC_NOT_FOUND) {
            s->exit_code = NL_EXIT_CLUSTER;
        }
        return;
    }
    struct nl_verdict verdict = nl_verdict_of_task(task, false);
    // An attempt that was not the last has no say in how the task ends.
    bool earlier = s->attempt != 0 && task != NULL && task->attempt != s->attempt;
    if (s->follow && !earlier) {
        s->exit_code = verdict.exit_code;
    }
    if (s->cli->json && task != NULL) {
        json_t *last = nl_json_task(task, NULL);
        json_object_set_new(last, "outcome", json_string(verdict.outcome));
        print_line(last);
    }
}

static const struct nl_follow_events EVENTS = {
    .on_task = on_task,
    .on_output = on_output,
    .on_gap = on_gap,
    .on_attempt = on_attempt,
    .on_end = on_end,
};

static int run(struct nl_cli *cli, const struct nl_operands *operands, const void *options) {
    const struct options *o = options;
    struct session s = {
        .cli = cli, .id = operands->items[0], .follow = o->follow, .attempt = (uint32_t)o->attempt};
    s.offset[NL_STDOUT] = o->stdout_from > 0 ? o->stdout_from : o->from;
    s.offset[NL_STDERR] = o->stderr_from > 0 ? o->stderr_from : o->from;
    struct nl_follow_options follow = {
        .task_id = s.id,
        .output = true,
        .no_follow = !o->follow,
        .attempt = (uint32_t)o->attempt,
        .only_attempt = o->attempt > 0,
        .offset = {s.offset[NL_STDOUT], s.offset[NL_STDERR]},
        .patience_ms = o->follow || o->patience_ms < NOW_MS ? o->patience_ms : NOW_MS,
    };
    if (o->attempt > UINT32_MAX) {
        return nl_cli_usage(cli, "--attempt %llu: there are at most 100",
                            (unsigned long long)o->attempt);
    }
    struct nl_client *client = nl_cli_client(cli);
    if (client == NULL) {
        return NL_EXIT_FAILED;
    }
    s.exit_code = NL_EXIT_FAILED;
    s.over = nl_follow_start(client, &follow, &EVENTS, &s, &s.stream) != NL_OK;
    while (!s.over) {
        uv_run(nl_client_loop(client), UV_RUN_ONCE);
    }
    nl_client_free(client);
    return s.exit_code;
}

const struct nl_command NL_CMD_TASK_LOGS = {
    .name = "task logs",
    .alias = "logs",
    .operands = "ID",
    .summary = "a task's output, byte-exact",
    .details =
        "An offset means the same on every node. Bytes that nobody has any more are said on\n"
        "stderr. With -f the exit code is the task's, as with run; without, 0.\n"
        "-o json prints one object per piece ({stream, offset, data}), then the task.\n"
        "The whole output is read from the agent while it keeps it; the last 64 KiB are kept by\n"
        "the cluster, with the task.\n",
    .args = ARGS,
    .options_size = sizeof(struct options),
    .min = 1,
    .max = 1,
    .run = run,
};
