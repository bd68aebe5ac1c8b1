#include "tools/view.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/crypto.h"
#include "common/base/err.h"
#include "common/base/text.h"

// ---- JSON ------------------------------------------------------------------

static void set_u64(json_t *object, const char *key, uint64_t value) {
    json_object_set_new(object, key, json_integer((json_int_t)value));
}

static void set_text(json_t *object, const char *key, const char *value) {
    json_object_set_new(object, key, json_string(value != NULL ? value : ""));
}

static void set_sha256(json_t *object, const char *key, const ProtobufCBinaryData *hash) {
    char hex[2 * NL_SHA256_LEN + 1];
    if (hash == NULL || hash->len != NL_SHA256_LEN) {
        json_object_set_new(object, key, json_null());
        return;
    }
    nl_hex_encode(hash->data, hash->len, hex);
    json_object_set_new(object, key, json_string(hex));
}

static bool has_exit_code(const Nodelink__V1__TaskResult *result) {
    if (result == NULL || result->signal != 0) {
        return false;
    }
    return result->kind == NODELINK__V1__TASK_RESULT__KIND__EXITED ||
           result->kind == NODELINK__V1__TASK_RESULT__KIND__TIMED_OUT ||
           result->kind == NODELINK__V1__TASK_RESULT__KIND__CANCELLED;
}

static void set_result(json_t *object, const Nodelink__V1__TaskResult *result) {
    json_object_set_new(object, "exit_code",
                        has_exit_code(result) ? json_integer(result->exit_code) : json_null());
    json_object_set_new(
        object, "signal",
        result != NULL && result->signal != 0 ? json_integer(result->signal) : json_null());
}

static const char *end_name(const Nodelink__V1__AttemptRecord *attempt) {
    return nl_format_task_state((Nodelink__V1__TaskState)attempt->state);
}

static void set_attempts(json_t *object, const Nodelink__V1__AttemptRecords *earlier) {
    json_t *list = json_array();
    for (size_t i = 0; earlier != NULL && i < earlier->n_attempts; i++) {
        const Nodelink__V1__AttemptRecord *attempt = earlier->attempts[i];
        json_t *item = json_object();
        set_u64(item, "attempt", attempt->attempt);
        set_text(item, "state", end_name(attempt));
        set_result(item, attempt->result);
        set_text(item, "reason", attempt->reason);
        set_u64(item, "stdout_bytes", attempt->result != NULL ? attempt->result->stdout_bytes : 0);
        set_u64(item, "stderr_bytes", attempt->result != NULL ? attempt->result->stderr_bytes : 0);
        set_u64(item, "dispatched_ms", attempt->dispatched_ms);
        set_u64(item, "started_ms", attempt->started_ms);
        set_u64(item, "finished_ms", attempt->finished_ms);
        json_array_append_new(list, item);
    }
    json_object_set_new(object, "earlier_attempts", list);
}

static void set_late(json_t *object, const Nodelink__V1__Task *task) {
    set_u64(object, "late_results", task->late_results);
    if (task->late_result == NULL) {
        json_object_set_new(object, "late_result", json_null());
        return;
    }
    json_t *late = json_object();
    set_u64(late, "attempt", task->late_attempt);
    set_result(late, task->late_result);
    set_text(late, "reason", task->late_result->reason);
    set_u64(late, "stdout_bytes", task->late_result->stdout_bytes);
    set_u64(late, "stderr_bytes", task->late_result->stderr_bytes);
    set_u64(late, "started_ms", task->late_result->started_ms);
    set_u64(late, "finished_ms", task->late_result->finished_ms);
    json_object_set_new(object, "late_result", late);
}

static void set_spec(json_t *object, const Nodelink__V1__TaskSpec *spec) {
    if (spec == NULL) {
        return;
    }
    set_text(object, "cmd", spec->cmd);
    json_t *argv = json_array();
    for (size_t i = 0; i < spec->n_argv; i++) {
        json_array_append_new(argv, json_string(spec->argv[i]));
    }
    json_object_set_new(object, "argv", argv);
    set_text(object, "working_dir", spec->working_dir);
    set_u64(object, "timeout_ms", spec->timeout_ms);
    set_u64(object, "attempts", spec->attempts > 1 ? spec->attempts : 1);
}

// A task that ended at once has its start in the result only.
static uint64_t started_ms(const Nodelink__V1__Task *task) {
    bool from_result = task->started_ms == 0 && task->has_result && task->result != NULL;
    return from_result ? task->result->started_ms : task->started_ms;
}

json_t *nl_json_task(const Nodelink__V1__Task *task, const Nodelink__V1__ReplyHeader *header) {
    json_t *object = json_object();
    const Nodelink__V1__TaskResult *result = task->has_result ? task->result : NULL;
    set_text(object, "id", task->id);
    set_text(object, "agent", task->spec != NULL ? task->spec->agent_id : NULL);
    set_text(object, "state", nl_format_task_state(task->state));
    set_result(object, result);
    set_u64(object, "attempt", task->attempt);
    set_u64(object, "stdout_bytes", result != NULL ? result->stdout_bytes : 0);
    set_u64(object, "stderr_bytes", result != NULL ? result->stderr_bytes : 0);
    set_sha256(object, "stdout_sha256", result != NULL ? &result->stdout_sha256 : NULL);
    set_sha256(object, "stderr_sha256", result != NULL ? &result->stderr_sha256 : NULL);
    set_u64(object, "created_ms", task->created_ms);
    set_u64(object, "dispatched_ms", task->dispatched_ms);
    set_u64(object, "started_ms", started_ms(task));
    set_u64(object, "finished_ms", task->finished_ms);
    set_text(object, "reason", task->reason);
    set_spec(object, task->spec);
    json_object_set_new(object, "cancel_requested", json_boolean(task->cancel_requested));
    set_attempts(object, task->earlier);
    set_late(object, task);
    set_u64(object, "start_deadline_ms", task->start_deadline_ms);
    set_u64(object, "finish_deadline_ms", task->finish_deadline_ms);
    json_object_set_new(object, "pid", task->pid != 0 ? json_integer(task->pid) : json_null());
    if (header != NULL) {
        set_u64(object, "index", header->index);
        set_text(object, "node", header->node);
    }
    return object;
}

json_t *nl_json_agent(const Nodelink__V1__Agent *agent) {
    json_t *object = json_object();
    set_text(object, "id", agent->id);
    set_text(object, "state", nl_format_connection(agent->connection));
    bool held = agent->connection == NODELINK__V1__AGENT_CONNECTION__AGENT_CONNECTED;
    json_object_set_new(object, "node",
                        held || *agent->node != '\0' ? json_string(agent->node) : json_null());
    set_u64(object, "epoch", agent->epoch);
    set_u64(object, "connected_ms", agent->connected_ms);
    set_u64(object, "disconnected_ms", agent->disconnected_ms);
    json_t *labels = json_object();
    for (size_t i = 0; i < agent->n_labels; i++) {
        set_text(labels, agent->labels[i]->key, agent->labels[i]->value);
    }
    json_object_set_new(object, "labels", labels);
    set_text(object, "version", agent->version);
    set_text(object, "hostname", agent->hostname);
    set_text(object, "address", agent->address);
    set_u64(object, "capacity", agent->capacity);
    set_u64(object, "tasks_running", agent->tasks_running);
    set_u64(object, "tasks_submitted", agent->tasks_submitted);
    set_u64(object, "tasks_finished", agent->tasks_finished);
    json_object_set_new(object, "has_token", json_boolean(agent->has_token));
    json_object_set_new(object, "extended", json_boolean(agent->extended));
    set_u64(object, "created_ms", agent->created_ms);
    return object;
}

static char *base64(const uint8_t *data, size_t len) {
    static const char DIGITS[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *out = malloc((len + 2) / 3 * 4 + 1);
    char *to = out;
    for (size_t i = 0; out != NULL && i < len; i += 3) {
        size_t left = len - i;
        uint32_t word = (uint32_t)data[i] << 16;
        word |= left > 1 ? (uint32_t)data[i + 1] << 8 : 0;
        word |= left > 2 ? data[i + 2] : 0;
        *to++ = DIGITS[word >> 18];
        *to++ = DIGITS[word >> 12 & 63];
        *to++ = left > 1 ? DIGITS[word >> 6 & 63] : '=';
        *to++ = left > 2 ? DIGITS[word & 63] : '=';
    }
    if (out != NULL) {
        *to = '\0';
    }
    return out;
}

void nl_json_set_bytes(json_t *object, const char *name, const void *data, size_t len) {
    if (nl_text_utf8_ok(data, len)) {
        json_object_set_new(object, name, json_stringn(len > 0 ? data : "", len));
        return;
    }
    char key[64];
    char *text = base64(data, len);
    snprintf(key, sizeof key, "%s_base64", name);
    json_object_set_new(object, key, text != NULL ? json_string(text) : json_null());
    free(text);
}

// ---- tables ----------------------------------------------------------------

const char *const NL_TASK_TITLES[] = {"TASK",    "AGENT", "STATE", "EXIT",
                                      "CREATED", "TIME",  "CMD",   NULL};

static void format_result(char out[32], const Nodelink__V1__TaskResult *result) {
    if (result != NULL && result->signal != 0) {
        snprintf(out, 32, "signal %d", result->signal);
    } else if (has_exit_code(result)) {
        snprintf(out, 32, "%d", result->exit_code);
    } else {
        snprintf(out, 32, "-");
    }
}

static void format_exit(char out[32], const Nodelink__V1__Task *task) {
    format_result(out, task->has_result ? task->result : NULL);
}

static uint64_t run_time(const Nodelink__V1__Task *task) {
    uint64_t start = started_ms(task);
    return start != 0 && task->finished_ms >= start ? task->finished_ms - start : UINT64_MAX;
}

void nl_task_row(struct nl_table *table, const Nodelink__V1__Task *task) {
    enum { CMD_COLUMNS = 48 };
    char text[32];
    const char *cmd = task->spec != NULL ? task->spec->cmd : "";
    nl_table_add(table, "%s", task->id);
    nl_table_add(table, "%s", task->spec != NULL ? task->spec->agent_id : "");
    nl_table_add(table, "%s", nl_format_task_state(task->state));
    format_exit(text, task);
    nl_table_add(table, "%s", text);
    nl_table_add(table, "%s", nl_format_time(text, task->created_ms));
    nl_table_add(table, "%s", nl_format_age(text, run_time(task)));
    bool cut = strlen(cmd) > CMD_COLUMNS;
    nl_table_add(table, "%.*s%s", CMD_COLUMNS, cmd, cut ? "..." : "");
}

static void print_line(FILE *out, const char *name, const char *value) {
    if (value != NULL && *value != '\0') {
        fprintf(out, "%-10s %s\n", name, value);
    }
}

static void print_stream(FILE *out, const char *name, uint64_t bytes,
                         const ProtobufCBinaryData *hash) {
    char hex[2 * NL_SHA256_LEN + 1] = "-";
    if (hash->len == NL_SHA256_LEN) {
        nl_hex_encode(hash->data, hash->len, hex);
    }
    fprintf(out, "%-10s %" PRIu64 " bytes  sha256 %s\n", name, bytes, hex);
}

static void print_attempts(FILE *out, const Nodelink__V1__Task *task) {
    uint32_t most = task->spec != NULL && task->spec->attempts > 1 ? task->spec->attempts : 1;
    char text[32];
    for (size_t i = 0; task->earlier != NULL && i < task->earlier->n_attempts; i++) {
        const Nodelink__V1__AttemptRecord *attempt = task->earlier->attempts[i];
        format_result(text, attempt->result);
        fprintf(out, "%-10s %u: %s, exit %s  %s\n", "attempt", attempt->attempt, end_name(attempt),
                text, attempt->reason);
    }
    fprintf(out, "%-10s %u of %u\n", "attempt", task->attempt, most);
}

static void print_late(FILE *out, const Nodelink__V1__Task *task) {
    char text[32];
    if (task->late_results == 0) {
        return;
    }
    fprintf(out, "%-10s %u, kept as late: they changed nothing\n", "late", task->late_results);
    if (task->late_result != NULL) {
        format_result(text, task->late_result);
        fprintf(out, "%-10s exit %s, %" PRIu64 " + %" PRIu64 " bytes (attempt %u)\n", "late", text,
                task->late_result->stdout_bytes, task->late_result->stderr_bytes,
                task->late_attempt);
    }
}

void nl_task_print(FILE *out, const Nodelink__V1__Task *task) {
    char text[32];
    print_line(out, "task", task->id);
    print_line(out, "agent", task->spec != NULL ? task->spec->agent_id : NULL);
    print_line(out, "state", nl_format_task_state(task->state));
    print_line(out, "reason", task->reason);
    print_line(out, "cancel", task->cancel_requested ? "requested" : NULL);
    format_exit(text, task);
    print_line(out, "exit", text);
    print_attempts(out, task);
    print_line(out, "created", nl_format_time(text, task->created_ms));
    print_line(out, "started", nl_format_time(text, started_ms(task)));
    print_line(out, "finished", nl_format_time(text, task->finished_ms));
    if (task->start_deadline_ms != 0) {
        print_line(out, "start by", nl_format_time(text, task->start_deadline_ms));
    }
    if (task->finish_deadline_ms != 0) {
        print_line(out, "finish by", nl_format_time(text, task->finish_deadline_ms));
    }
    print_line(out, "took", nl_format_age(text, run_time(task)));
    if (task->pid != 0) {
        fprintf(out, "%-10s %d\n", "pid", task->pid);
    }
    if (task->has_result && task->result != NULL) {
        print_stream(out, "stdout", task->result->stdout_bytes, &task->result->stdout_sha256);
        print_stream(out, "stderr", task->result->stderr_bytes, &task->result->stderr_sha256);
    }
    print_late(out, task);
    print_line(out, "command", task->spec != NULL ? task->spec->cmd : NULL);
}

const char *const NL_AGENT_TITLES[] = {"AGENT", "STATE",   "NODE",   "EPOCH", "SINCE",
                                       "TASKS", "VERSION", "LABELS", NULL};

static void format_labels(char *out, size_t size, const Nodelink__V1__Agent *agent) {
    size_t at = 0;
    out[0] = '\0';
    for (size_t i = 0; i < agent->n_labels && at < size; i++) {
        int n = snprintf(out + at, size - at, "%s%s=%s", i > 0 ? "," : "", agent->labels[i]->key,
                         agent->labels[i]->value);
        at += n > 0 ? (size_t)n : 0;
    }
}

static uint64_t since(const Nodelink__V1__Agent *agent) {
    bool held = agent->connection == NODELINK__V1__AGENT_CONNECTION__AGENT_CONNECTED;
    return held || agent->disconnected_ms == 0 ? agent->connected_ms : agent->disconnected_ms;
}

void nl_agent_row(struct nl_table *table, const Nodelink__V1__Agent *agent) {
    char text[512];
    nl_table_add(table, "%s", agent->id);
    nl_table_add(table, "%s", nl_format_connection(agent->connection));
    nl_table_add(table, "%s", agent->node);
    nl_table_add(table, "%" PRIu64, agent->epoch);
    nl_table_add(table, "%s", nl_format_time(text, since(agent)));
    nl_table_add(table, "%u", agent->tasks_running);
    nl_table_add(table, "%s", agent->version);
    format_labels(text, sizeof text, agent);
    nl_table_add(table, "%s", text);
}

void nl_agent_print(FILE *out, const Nodelink__V1__Agent *agent) {
    char text[512];
    print_line(out, "agent", agent->id);
    print_line(out, "state", nl_format_connection(agent->connection));
    print_line(out, "node", agent->node);
    fprintf(out, "%-10s %" PRIu64 "\n", "epoch", agent->epoch);
    print_line(out, "since", nl_format_time(text, since(agent)));
    print_line(out, "hostname", agent->hostname);
    print_line(out, "address", agent->address);
    print_line(out, "version", agent->version);
    format_labels(text, sizeof text, agent);
    print_line(out, "labels", text);
    if (agent->capacity > 0) {
        fprintf(out, "%-10s %u at once\n", "capacity", agent->capacity);
    }
    fprintf(out, "%-10s %u running, %" PRIu64 " submitted, %" PRIu64 " finished\n", "tasks",
            agent->tasks_running, agent->tasks_submitted, agent->tasks_finished);
    print_line(out, "token", agent->has_token ? "valid" : "none: it can't connect");
}

// ---- labels ----------------------------------------------------------------

int nl_parse_label(const char *text, Nodelink__V1__Label *label, char **storage) {
    const char *equals = strchr(text, '=');
    if (equals == NULL || equals == text) {
        return NL_EINVAL;
    }
    *storage = strdup(text);
    if (*storage == NULL) {
        return NL_ENOMEM;
    }
    nodelink__v1__label__init(label);
    (*storage)[equals - text] = '\0';
    label->key = *storage;
    label->value = *storage + (equals - text) + 1;
    return NL_OK;
}

int nl_labels_parse(const char *const *texts, size_t n, struct nl_labels *ret, const char **bad) {
    *ret = (struct nl_labels){0};
    ret->labels = calloc(n + 1, sizeof *ret->labels);
    ret->pointers = calloc(n + 1, sizeof *ret->pointers);
    ret->storage = calloc(n + 1, sizeof *ret->storage);
    if (ret->labels == NULL || ret->pointers == NULL || ret->storage == NULL) {
        return NL_ENOMEM;
    }
    for (; ret->count < n; ret->count++) {
        size_t i = ret->count;
        int rc = nl_parse_label(texts[i], &ret->labels[i], &ret->storage[i]);
        if (rc != NL_OK) {
            *bad = texts[i];
            return rc;
        }
        ret->pointers[i] = &ret->labels[i];
    }
    return NL_OK;
}

void nl_labels_close(struct nl_labels *labels) {
    for (size_t i = 0; i < labels->count; i++) {
        free(labels->storage[i]);
    }
    free(labels->storage);
    free(labels->pointers);
    free(labels->labels);
    *labels = (struct nl_labels){0};
}
