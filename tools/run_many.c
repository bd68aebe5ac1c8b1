// `run --label` and `run --all`: the same command on many agents, so many at once.
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/buf.h"
#include "common/base/clock.h"
#include "common/base/err.h"
#include "tools/agents.h"
#include "tools/follow.h"
#include "tools/interrupt.h"
#include "tools/run.h"
#include "tools/verdict.h"

enum { LINE_BYTES_MAX = 64 << 10, PROGRESS_MS = 200 };

struct many;

// waiting -> submitting -> following -> done
struct job {
    struct many *many;
    char *agent;  // owned
    char made_id[NL_TASK_ID_SIZE];
    const char *task_id;
    Nodelink__V1__SubmitTaskRequest submit;
    Nodelink__V1__TaskSpec spec;
    Nodelink__V1__CancelTaskRequest cancel;
    struct nl_follow *follow;
    struct nl_buf line[NL_N_STREAMS];  // the beginning of a line whose end has not come
    bool accepted, cancel_sent, done, gaps;
    struct nl_verdict verdict;
    char state[16];
    char *why;     // owned; NULL: nothing to say
    json_t *json;  // the task; NULL: none
    uint64_t started_ms, took_ms;
};

struct many {
    struct nl_cli *cli;
    const struct nl_run_plan *plan;
    struct nl_client *client;
    struct job *jobs;
    size_t n, next, active, done, failed;
    uv_timer_t progress;
    bool terminal;   // a progress line is shown on stderr
    bool shown;      // and stands there now
    bool cancelled;  // Ctrl-C
    bool left;       // twice
};

// ---- progress --------------------------------------------------------------

static void clear_progress(struct many *m) {
    if (m->shown) {
        fputs("\r\033[K", stderr);
        m->shown = false;
    }
}

static void on_progress(uv_timer_t *timer) {
    struct many *m = timer->data;
    fprintf(stderr, "\r\033[K%zu of %zu done, %zu failed, %zu running%s", m->done, m->n, m->failed,
            m->active, m->cancelled ? ", cancelling" : "");
    fflush(stderr);
    m->shown = true;
}

// ---- output ----------------------------------------------------------------

static void write_line(struct job *job, enum nl_stream stream, const uint8_t *data, size_t len) {
    struct many *m = job->many;
    struct nl_buf out;
    nl_buf_init(&out, 0);
    clear_progress(m);
    if (nl_buf_printf(&out, "%s | ", job->agent) == NL_OK &&
        nl_buf_append(&out, data, len) == NL_OK && nl_buf_append(&out, "\n", 1) == NL_OK) {
        nl_run_write(stream == NL_STDOUT ? STDOUT_FILENO : STDERR_FILENO, out.data, out.len);
    }
    nl_buf_close(&out);
}

static void flush_line(struct job *job, enum nl_stream stream) {
    struct nl_buf *line = &job->line[stream];
    if (line->len > 0) {
        write_line(job, stream, line->data, line->len);
        nl_buf_clear(line);
    }
}

// Whole lines only, so that the agents' lines don't mix; a very long one is cut into several.
static void add_output(struct job *job, enum nl_stream stream, const uint8_t *data, size_t len) {
    struct nl_buf *line = &job->line[stream];
    while (len > 0) {
        const uint8_t *newline = memchr(data, '\n', len);
        size_t part = newline != NULL ? (size_t)(newline - data) : len;
        size_t room = LINE_BYTES_MAX - line->len;
        bool full = part > room;
        part = full ? room : part;
        nl_buf_append(line, data, part);
        if (full || newline != NULL) {
            write_line(job, stream, line->data, line->len);
            nl_buf_clear(line);
            part += !full;
        }
        data += part;
        len -= part;
    }
}

static void on_output(void *user, enum nl_stream stream, const uint8_t *data, size_t len) {
    struct job *job = user;
    if (job->many->cli->json || job->many->left) {
        return;
    }
    if (!job->many->plan->options->no_prefix) {
        add_output(job, stream, data, len);
        return;
    }
    clear_progress(job->many);
    nl_run_write(stream == NL_STDOUT ? STDOUT_FILENO : STDERR_FILENO, data, len);
}

static void on_gap(void *user, enum nl_stream stream, uint64_t from, uint64_t to,
                   const char *reason) {
    struct job *job = user;
    job->gaps = true;
    clear_progress(job->many);
    fprintf(stderr, "nodelink: %s: %s bytes %llu to %llu are gone (%s)\n", job->agent,
            stream == NL_STDOUT ? "stdout" : "stderr", (unsigned long long)from,
            (unsigned long long)to, reason);
}

static void on_task(void *user, const Nodelink__V1__Task *task) {
    struct job *job = user;
    snprintf(job->state, sizeof job->state, "%s", nl_format_task_state(task->state));
}

// ---- jobs ------------------------------------------------------------------

static void launch(struct many *m);

static void finish_job(struct job *job, struct nl_verdict verdict, const char *why) {
    struct many *m = job->many;
    job->verdict = verdict;
    job->done = true;
    job->why = why != NULL && *why != '\0' ? strdup(why) : NULL;
    job->took_ms = nl_clock_mono_ms() - job->started_ms;
    flush_line(job, NL_STDOUT);
    flush_line(job, NL_STDERR);
    m->active--;
    m->done++;
    m->failed += verdict.exit_code != 0;
    launch(m);
}

static void on_end(void *user, const struct nl_client_error *error,
                   const Nodelink__V1__Task *task) {
    struct job *job = user;
    job->follow = NULL;
    if (task != NULL) {
        job->json = nl_json_task(task, NULL);
    }
    const char *why = error != NULL ? error->text : task != NULL ? task->reason : NULL;
    finish_job(job, nl_verdict_of_task(error == NULL ? task : NULL, job->cancel_sent), why);
}

static const struct nl_follow_events EVENTS = {
    .on_task = on_task,
    .on_output = on_output,
    .on_gap = on_gap,
    .on_end = on_end,
};

static void on_cancel_reply(void *user, const struct nl_client_error *error,
                            ProtobufCMessage *reply) {
    (void)user;
    (void)error;  // the task's own end tells what came of it
    nl_rpc_message_free(reply);
}

static void cancel_job(struct job *job) {
    if (!job->accepted || job->done || job->cancel_sent) {
        return;
    }
    job->cancel_sent = true;
    nodelink__v1__cancel_task_request__init(&job->cancel);
    job->cancel.task_id = (char *)job->task_id;
    job->cancel.reason = (char *)"interrupted by the user";
    struct nl_client_call call = {
        .method = "CancelTask", .request = &job->cancel.base, .repeat = NL_CLIENT_IDEMPOTENT};
    nl_client_start(job->many->client, &call, on_cancel_reply, job);
}

static void follow_job(struct job *job) {
    struct many *m = job->many;
    struct nl_follow_options options = {
        .task_id = job->task_id,
        .submitted = true,
        .output = !m->cli->json,
        .patience_ms = m->plan->options->patience_ms,
    };
    if (nl_follow_start(m->client, &options, &EVENTS, job, &job->follow) != NL_OK) {
        finish_job(job, nl_verdict_of_task(NULL, false), "out of memory");
        return;
    }
    if (m->left) {
        nl_follow_stop(job->follow);
    } else if (m->cancelled) {
        cancel_job(job);
    }
}

static void on_submitted(void *user, const struct nl_client_error *error,
                         ProtobufCMessage *message) {
    struct job *job = user;
    const Nodelink__V1__SubmitTaskReply *reply = (const Nodelink__V1__SubmitTaskReply *)message;
    if (error != NULL) {
        snprintf(job->state, sizeof job->state, "-");
        finish_job(job, nl_verdict_of_submit(error), error->text);
        return;
    }
    job->accepted = true;
    snprintf(job->state, sizeof job->state, "%s", nl_format_task_state(reply->state));
    nl_rpc_message_free(message);
    if (job->many->plan->options->detach) {
        if (!job->many->cli->json) {
            clear_progress(job->many);
            printf("%s %s\n", job->agent, job->task_id);
        }
        finish_job(job, (struct nl_verdict){"submitted", NL_EXIT_OK}, NULL);
    } else {
        follow_job(job);
    }
}

static void start_job(struct job *job) {
    struct many *m = job->many;
    job->started_ms = nl_clock_mono_ms();
    job->task_id = nl_run_task_id(m->plan->options, job->agent, job->made_id);
    job->spec = m->plan->spec;
    job->spec.agent_id = job->agent;
    nodelink__v1__submit_task_request__init(&job->submit);
    job->submit.task_id = (char *)job->task_id;
    job->submit.spec = &job->spec;
    struct nl_client_call call = {
        .method = "SubmitTask",
        .request = &job->submit.base,
        .repeat = NL_CLIENT_IDEMPOTENT,
        .timeout_ms = nl_run_submit_ms(m->plan->options),
    };
    m->active++;
    if (nl_client_start(m->client, &call, on_submitted, job) != NL_OK) {
        finish_job(job, (struct nl_verdict){"not_started", NL_EXIT_CLUSTER}, "out of memory");
    }
}

static void launch(struct many *m) {
    while (!m->cancelled && m->next < m->n && m->active < m->plan->options->parallel) {
        start_job(&m->jobs[m->next++]);
    }
}

static void on_interrupt(void *user, unsigned count) {
    struct many *m = user;
    m->cancelled = true;
    m->left = count > 1;
    clear_progress(m);
    if (count == 1) {
        fputs("nodelink: cancelling what runs, starting nothing more; Ctrl-C again leaves\n",
              stderr);
    }
    for (size_t i = 0; i < m->next; i++) {
        if (m->left && m->jobs[i].follow != NULL) {
            nl_follow_stop(m->jobs[i].follow);
        } else if (!m->left) {
            cancel_job(&m->jobs[i]);
        }
    }
}

// ---- summary ---------------------------------------------------------------

static const char *outcome_of(const struct job *job) {
    return job->done ? job->verdict.outcome : "not_started";
}

static void print_table(const struct many *m) {
    static const char *const TITLES[] = {"AGENT", "STATE", "EXIT", "TIME", "TASK", "NOTE", NULL};
    struct nl_table table;
    char text[32];
    nl_table_init(&table, TITLES);
    for (size_t i = 0; i < m->n; i++) {
        const struct job *job = &m->jobs[i];
        nl_table_add(&table, "%s", job->agent);
        nl_table_add(&table, "%s", job->accepted ? job->state : outcome_of(job));
        snprintf(text, sizeof text, "%d", job->verdict.exit_code);
        nl_table_add(&table, "%s", job->done ? text : "-");
        nl_table_add(&table, "%s", nl_format_age(text, job->done ? job->took_ms : UINT64_MAX));
        nl_table_add(&table, "%s", job->accepted ? job->task_id : "-");
        nl_table_add(&table, "%s",
                     job->why != NULL ? job->why
                     : job->gaps      ? "output has gaps"
                                      : "");
    }
    fflush(stdout);
    nl_table_print(&table, stderr);
    fprintf(stderr, "%zu of %zu succeeded\n", m->done - m->failed, m->n);
    nl_table_close(&table);
}

static json_t *job_json(const struct job *job) {
    json_t *object = job->json != NULL ? json_incref(job->json) : json_object();
    json_object_set_new(object, "id", job->accepted ? json_string(job->task_id) : json_null());
    json_object_set_new(object, "agent", json_string(job->agent));
    json_object_set_new(object, "outcome", json_string(outcome_of(job)));
    json_object_set_new(object, "exit", json_integer(job->verdict.exit_code));
    json_object_set_new(object, "took_ms", json_integer((json_int_t)job->took_ms));
    if (job->json == NULL) {
        json_object_set_new(object, "state", json_null());
        json_object_set_new(object, "exit_code", json_null());
        json_object_set_new(object, "reason", json_string(job->why != NULL ? job->why : ""));
    }
    return object;
}

static void print_json(const struct many *m, bool ok) {
    json_t *tasks = json_array();
    for (size_t i = 0; i < m->n; i++) {
        json_array_append_new(tasks, job_json(&m->jobs[i]));
    }
    nl_cli_print_json(json_pack("{s:s, s:I, s:I, s:o}", "outcome", ok ? "completed" : "failed",
                                "succeeded", (json_int_t)(m->done - m->failed), "failed",
                                (json_int_t)(m->n - (m->done - m->failed)), "tasks", tasks));
}

// ---- all of it -------------------------------------------------------------

static void close_jobs(struct many *m) {
    for (size_t i = 0; i < m->n; i++) {
        nl_buf_close(&m->jobs[i].line[NL_STDOUT]);
        nl_buf_close(&m->jobs[i].line[NL_STDERR]);
        json_decref(m->jobs[i].json);
        free(m->jobs[i].agent);
        free(m->jobs[i].why);
    }
    free(m->jobs);
}

static int add_job(void *user, const Nodelink__V1__Agent *agent) {
    struct many *m = user;
    struct job *jobs = realloc(m->jobs, (m->n + 1) * sizeof *jobs);
    if (jobs == NULL) {
        return NL_ENOMEM;
    }
    m->jobs = jobs;
    jobs[m->n] = (struct job){.many = m, .agent = strdup(agent->id), .state = "-"};
    jobs[m->n].verdict = (struct nl_verdict){"not_started", NL_EXIT_CLUSTER};
    nl_buf_init(&jobs[m->n].line[NL_STDOUT], LINE_BYTES_MAX);
    nl_buf_init(&jobs[m->n].line[NL_STDERR], LINE_BYTES_MAX);
    return jobs[m->n++].agent != NULL ? NL_OK : NL_ENOMEM;
}

static int find_agents(struct many *m) {
    struct nl_client_error error;
    if (!nl_agents_each(m->client, &m->plan->labels, 0, m->cli->timeout_ms, add_job, m, &error)) {
        nl_cli_fail_call(m->cli, &error, "list the agents");
        return NL_EXIT_CLUSTER;
    }
    if (m->n == 0) {
        nl_cli_fail(
            m->cli,
            &(struct nl_failure){
                .code = "NOT_FOUND", .outcome = "failed", .next = "nodelink agent list shows them"},
            "no agent matches");
        return NL_EXIT_AGENT;
    }
    return NL_EXIT_OK;
}

static int run_jobs(struct many *m) {
    uv_loop_t *loop = nl_client_loop(m->client);
    bool watching = nl_interrupt_watch(loop, on_interrupt, m) == NL_OK;
    m->terminal = !m->cli->json && isatty(STDERR_FILENO) == 1;
    uv_timer_init(loop, &m->progress);
    m->progress.data = m;
    if (m->terminal) {
        uv_timer_start(&m->progress, on_progress, PROGRESS_MS, PROGRESS_MS);
    }
    launch(m);
    while (m->active > 0) {
        uv_run(loop, UV_RUN_ONCE);
    }
    uv_close((uv_handle_t *)&m->progress, NULL);
    clear_progress(m);
    if (watching) {
        nl_interrupt_close();
    }
    bool ok = m->done == m->n && m->failed == 0;
    if (m->cli->json) {
        print_json(m, ok);
    } else {
        print_table(m);
    }
    return ok ? NL_EXIT_OK : NL_EXIT_FAILED;
}

int nl_run_many(struct nl_cli *cli, const struct nl_run_plan *plan) {
    struct many m = {.cli = cli, .plan = plan, .client = nl_cli_client(cli)};
    if (m.client == NULL) {
        return NL_EXIT_CLUSTER;
    }
    int rc = find_agents(&m);
    if (rc == NL_EXIT_OK) {
        rc = run_jobs(&m);
    }
    nl_client_free(m.client);
    close_jobs(&m);
    return rc;
}
