// What servers are told: Hello, starts, results. A result goes out on every new stream until
// it is acknowledged (by ResultAck, or by a stock stream that lives on for a while).
#include <stdlib.h>
#include <string.h>

#include "agent/link/core_internal.h"

static void init_response(const struct nl_link_core *core, const struct nl_link_conn *conn,
                          const struct nl_link_task *task, Nodelink__V1__TaskResponse *ret) {
    nodelink__v1__task_response__init(ret);
    ret->agent_id = (char *)core->options.agent_id;
    if (task != NULL) {
        ret->task_id = task->id;
    }
    if (conn->extended) {
        ret->attempt = task == NULL ? 0 : task->attempt;
        ret->epoch = conn->epoch;
    }
}

// ---- Hello -----------------------------------------------------------------

struct hello {
    Nodelink__V1__Hello message;
    Nodelink__V1__TaskRef *refs;
    Nodelink__V1__TaskRef **ref_pointers;
    Nodelink__V1__Label *labels;
    Nodelink__V1__Label **label_pointers;
};

static void fill_labels(const struct nl_link_core *core, struct hello *h) {
    for (size_t i = 0; i < core->label_count; i++) {
        nodelink__v1__label__init(&h->labels[i]);
        h->labels[i].key = core->labels[i].key;
        h->labels[i].value = core->labels[i].value;
        h->label_pointers[i] = &h->labels[i];
    }
    h->message.n_labels = core->label_count;
    h->message.labels = h->label_pointers;
}

static void fill_refs(struct nl_link_core *core, const struct nl_link_conn *conn, struct hello *h) {
    size_t n = 0;
    struct nl_link_task *task;
    TAILQ_FOREACH(task, &core->tasks.live, in_order) {
        if (task->phase == NL_LINK_STARTING) {
            continue;  // the journal may not have it; the node sends it again
        }
        nodelink__v1__task_ref__init(&h->refs[n]);
        h->refs[n].task_id = task->id;
        h->refs[n].attempt = task->attempt;
        h->refs[n].started_ms = task->started_ms;
        h->refs[n].phase = task->phase == NL_LINK_RUNNING ? NODELINK__V1__TASK_REF__PHASE__RUNNING
                                                          : NODELINK__V1__TASK_REF__PHASE__FINISHED;
        h->ref_pointers[n] = &h->refs[n];
        n++;
        if (task->phase == NL_LINK_RUNNING) {
            task->hello_on = conn->call;
        }
    }
    h->message.n_tasks = n;
    h->message.tasks = h->ref_pointers;
}

void nl_link_report_hello(struct nl_link_core *core, struct nl_link_conn *conn) {
    size_t tasks = core->tasks.live_count + 1, labels = core->label_count + 1;
    struct hello h = {
        .refs = calloc(tasks, sizeof *h.refs),
        .ref_pointers = calloc(tasks, sizeof *h.ref_pointers),
        .labels = calloc(labels, sizeof *h.labels),
        .label_pointers = calloc(labels, sizeof *h.label_pointers),
    };
    if (h.refs != NULL && h.ref_pointers != NULL && h.labels != NULL && h.label_pointers != NULL) {
        nodelink__v1__hello__init(&h.message);
        h.message.version = (char *)core->options.version;
        h.message.boot_id = core->boot_id;
        h.message.journal_id = core->journal_id;
        h.message.capacity = core->options.capacity;
        h.message.last_epoch = core->epoch;
        h.message.hostname = (char *)core->options.hostname;
        h.message.os = (char *)core->options.os;
        fill_labels(core, &h);
        fill_refs(core, conn, &h);
        Nodelink__V1__TaskResponse response;
        init_response(core, conn, NULL, &response);
        response.control_case = NODELINK__V1__TASK_RESPONSE__CONTROL_HELLO;
        response.hello = &h.message;
        nl_link_do_send(core, conn, &response);
    } else {
        core->no_memory = true;
    }
    free(h.refs);
    free(h.ref_pointers);
    free(h.labels);
    free(h.label_pointers);
}

// ---- starts and results ----------------------------------------------------

static void send_started(struct nl_link_core *core, struct nl_link_conn *conn,
                         struct nl_link_task *task) {
    Nodelink__V1__TaskStarted started = NODELINK__V1__TASK_STARTED__INIT;
    started.started_ms = task->started_ms;
    started.pid = task->pid;
    Nodelink__V1__ShellExecuteResponse shell = NODELINK__V1__SHELL_EXECUTE_RESPONSE__INIT;
    Nodelink__V1__TaskResponse response;
    init_response(core, conn, task, &response);
    response.status = NODELINK__V1__TASK_RESPONSE__STATUS__IN_PROGRESS;
    response.response_case = NODELINK__V1__TASK_RESPONSE__RESPONSE_SHELL_EXECUTE;
    response.shell_execute = &shell;
    if (conn->extended) {
        response.control_case = NODELINK__V1__TASK_RESPONSE__CONTROL_STARTED;
        response.started = &started;
    }
    nl_link_do_send(core, conn, &response);
    task->started_on = conn->call;
}

// Where the fixed fields are all there is this can't be said: its LOST comes as a failure.
static void send_uncertain(struct nl_link_core *core, struct nl_link_conn *conn,
                           struct nl_link_task *task) {
    Nodelink__V1__TaskUncertain uncertain = NODELINK__V1__TASK_UNCERTAIN__INIT;
    uncertain.reason = (char *)"supervisor lost";
    Nodelink__V1__TaskResponse response;
    init_response(core, conn, task, &response);
    response.status = NODELINK__V1__TASK_RESPONSE__STATUS__UNKNOWN;
    response.control_case = NODELINK__V1__TASK_RESPONSE__CONTROL_UNCERTAIN;
    response.uncertain = &uncertain;
    nl_link_do_send(core, conn, &response);
    task->uncertain_on = conn->call;
}

// A number as shells give it, for peers that know no more than an exit code.
static int32_t exit_code_of(const Nodelink__V1__TaskResult *result) {
    if (result->kind == NODELINK__V1__TASK_RESULT__KIND__EXITED) {
        return result->exit_code;
    }
    if (result->signal != 0) {
        return 128 + result->signal;
    }
    return result->exit_code != 0 ? result->exit_code : -1;
}

static bool succeeded(const Nodelink__V1__TaskResult *result) {
    return result->kind == NODELINK__V1__TASK_RESULT__KIND__EXITED && result->exit_code == 0;
}

static void fill_final(Nodelink__V1__TaskResponse *response,
                       Nodelink__V1__ShellExecuteResponse *shell,
                       const Nodelink__V1__TaskResult *result) {
    response->is_final = true;
    response->cancelled = result->kind == NODELINK__V1__TASK_RESULT__KIND__CANCELLED;
    response->status = succeeded(result) ? NODELINK__V1__TASK_RESPONSE__STATUS__COMPLETED
                                         : NODELINK__V1__TASK_RESPONSE__STATUS__FAILURE;
    nodelink__v1__shell_execute_response__init(shell);
    shell->exit_code = exit_code_of(result);
    response->response_case = NODELINK__V1__TASK_RESPONSE__RESPONSE_SHELL_EXECUTE;
    response->shell_execute = shell;
}

static void send_result(struct nl_link_core *core, struct nl_link_conn *conn,
                        struct nl_link_task *task) {
    Nodelink__V1__ShellExecuteResponse shell;
    Nodelink__V1__TaskResponse response;
    init_response(core, conn, task, &response);
    fill_final(&response, &shell, task->result);
    if (conn->extended) {
        response.control_case = NODELINK__V1__TASK_RESPONSE__CONTROL_RESULT;
        response.result = task->result;
    } else if (task->result->kind == NODELINK__V1__TASK_RESULT__KIND__NOT_STARTED ||
               task->result->kind == NODELINK__V1__TASK_RESULT__KIND__LOST) {
        // The fixed fields have no other place for a sentence. Nothing else is said there: it would
        // look like the command's own output.
        shell.stderr.data = (uint8_t *)task->result->reason;
        shell.stderr.len = strlen(task->result->reason);
    }
    nl_link_do_send_result(core, conn, task, &response);
    task->result_on = conn->call;
    task->result_at_ms = core->now_ms;
}

void nl_link_report_task(struct nl_link_core *core, struct nl_link_task *task, bool again) {
    struct nl_link_conn *conn = nl_link_conn_serving(core);
    if (conn == NULL) {
        return;
    }
    if (task->phase == NL_LINK_RUNNING) {
        bool told = task->started_on == conn->call || task->hello_on == conn->call;
        if (task->lost && conn->extended) {
            if (again || task->uncertain_on != conn->call) {
                send_uncertain(core, conn, task);
            }
        } else if (again || !told) {
            send_started(core, conn, task);
        }
        if (!conn->extended) {
            nl_link_output_push(core, task);
        }
    } else if (task->phase == NL_LINK_FINISHED || (task->phase == NL_LINK_FORGOTTEN && again)) {
        bool due = again || (!task->acked && task->result_on != conn->call);
        if (due && task->result != NULL && (conn->extended || nl_link_output_push(core, task))) {
            send_result(core, conn, task);
        }
        nl_link_housekeep_soon(core);
    }
}

void nl_link_report_all(struct nl_link_core *core) {
    struct nl_link_task *task;
    TAILQ_FOREACH(task, &core->tasks.live, in_order) {
        nl_link_report_task(core, task, false);
    }
}

void nl_link_finish_locally(struct nl_link_core *core, struct nl_link_task *task,
                            Nodelink__V1__TaskResult__Kind kind, const char *reason) {
    Nodelink__V1__TaskResult result = NODELINK__V1__TASK_RESULT__INIT;
    result.kind = kind;
    result.reason = (char *)reason;
    result.stdout_bytes = task->end[NL_LINK_OUT];
    result.stderr_bytes = task->end[NL_LINK_ERR];
    result.started_ms = task->started_ms;
    task->result = (Nodelink__V1__TaskResult *)nl_link_clone(core, &result.base);
    if (task->result == NULL) {
        return;
    }
    if (task->run != NULL) {
        nodelink__v1__to_supervisor__free_unpacked(task->run, NULL);
        task->run = NULL;
    }
    task->local = true;
    task->phase = NL_LINK_FINISHED;
    nl_link_report_task(core, task, false);
    nl_link_output_task_changed(core, task);
}

void nl_link_report_refusal(struct nl_link_core *core, struct nl_link_conn *conn,
                            const Nodelink__V1__TaskRequest *request, const char *reason) {
    Nodelink__V1__TaskResult result = NODELINK__V1__TASK_RESULT__INIT;
    result.kind = NODELINK__V1__TASK_RESULT__KIND__NOT_STARTED;
    result.reason = (char *)reason;
    Nodelink__V1__ShellExecuteResponse shell;
    Nodelink__V1__TaskCancelResponse cancel = NODELINK__V1__TASK_CANCEL_RESPONSE__INIT;
    Nodelink__V1__TaskResponse response;
    init_response(core, conn, NULL, &response);
    response.task_id = request->task_id;
    fill_final(&response, &shell, &result);
    if (conn->extended) {
        response.attempt = request->attempt;
        response.control_case = NODELINK__V1__TASK_RESPONSE__CONTROL_RESULT;
        response.result = &result;
    } else if (request->task_case == NODELINK__V1__TASK_REQUEST__TASK_TASK_CANCEL) {
        cancel.message = (char *)reason;
        response.response_case = NODELINK__V1__TASK_RESPONSE__RESPONSE_TASK_CANCEL;
        response.task_cancel = &cancel;
    } else {
        shell.stderr.data = (uint8_t *)reason;
        shell.stderr.len = strlen(reason);
    }
    nl_link_do_send(core, conn, &response);
}
