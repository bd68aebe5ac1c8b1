// What a server asks of the agent. Everything here comes from outside: a request that makes
// no sense is answered with a final FAILURE where it names a task, and logged otherwise.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/link/core_internal.h"
#include "agent/link/validate.h"
#include "common/base/text.h"

// Longer ids are not echoed.
enum { ECHO_LEN_MAX = 1024 };

static void refuse(struct nl_link_core *core, struct nl_link_conn *conn,
                   const Nodelink__V1__TaskRequest *request, const char *reason) {
    nl_link_log_bad(core, "request refused", reason);
    if (request->task_id[0] != '\0' && strlen(request->task_id) <= ECHO_LEN_MAX) {
        nl_link_report_refusal(core, conn, request, reason);
    }
}

static uint32_t attempt_of(const struct nl_link_conn *conn,
                           const Nodelink__V1__TaskRequest *request) {
    return conn->extended && request->attempt != 0 ? request->attempt : 1;
}

// ---- run -------------------------------------------------------------------

static ProtobufCMessage *run_message(struct nl_link_core *core, const struct nl_link_task *task,
                                     uint64_t epoch, const Nodelink__V1__TaskRequest *request) {
    Nodelink__V1__SupRun run = NODELINK__V1__SUP_RUN__INIT;
    run.task_id = task->id;
    run.attempt = task->attempt;
    run.epoch = epoch;
    run.shell = request->shell_execute;
    run.options = request->shell_options;
    Nodelink__V1__ToSupervisor message = NODELINK__V1__TO_SUPERVISOR__INIT;
    message.body_case = NODELINK__V1__TO_SUPERVISOR__BODY_RUN;
    message.run = &run;
    return nl_link_clone(core, &message.base);
}

static uint64_t deadline(const struct nl_link_core *core, uint64_t within_ms) {
    bool is = within_ms != 0 && within_ms < UINT64_MAX - core->now_ms;
    return is ? core->now_ms + within_ms : 0;
}

static void take_deadlines(const struct nl_link_core *core, struct nl_link_task *task,
                           const Nodelink__V1__ShellOptions *options) {
    if (options != NULL) {
        task->start_by_ms = deadline(core, options->start_within_ms);
        task->finish_by_ms = deadline(core, options->finish_within_ms);
        task->timeout_ms = options->timeout_ms;
    }
}

static void run(struct nl_link_core *core, struct nl_link_conn *conn,
                const Nodelink__V1__TaskRequest *request) {
    uint32_t attempt = attempt_of(conn, request);
    struct nl_link_task *task = nl_link_tasks_find(&core->tasks, request->task_id, attempt);
    if (task != NULL) {
        nl_link_report_task(core, task, true);  // never run again: what is known is said again
        return;
    }
    if (core->tasks.live_count >= core->options.tasks_max) {
        refuse(core, conn, request, "the agent has too many tasks");
        return;
    }
    task = nl_link_tasks_add(&core->tasks, request->task_id, attempt);
    if (task == NULL) {
        core->no_memory = true;
        return;
    }
    take_deadlines(core, task, request->shell_options);
    task->run = (Nodelink__V1__ToSupervisor *)run_message(core, task, conn->epoch, request);
    if (task->run != NULL) {
        nl_link_sup_run(core, task);
    }
}

static void shell(struct nl_link_core *core, struct nl_link_conn *conn,
                  const Nodelink__V1__TaskRequest *request) {
    const char *wrong =
        !nl_text_id_ok(request->task_id)
            ? "the task id is not 1 to 128 of A-Z a-z 0-9 . _ : -"
            : nl_link_validate_shell(request->shell_execute, request->shell_options);
    if (wrong != NULL) {
        refuse(core, conn, request, wrong);
    } else if (core->stopping) {
        // Not an answer: the server gives it to the next link, or to this agent's next start.
        nl_link_log_bad(core, "request ignored", "the agent is stopping");
    } else {
        run(core, conn, request);
    }
}

// ---- cancel ----------------------------------------------------------------

static struct nl_link_task *task_to_cancel(struct nl_link_core *core, struct nl_link_conn *conn,
                                           const Nodelink__V1__TaskRequest *request) {
    if (!conn->extended || request->attempt == 0) {
        return nl_link_tasks_find_latest(&core->tasks, request->task_id);
    }
    return nl_link_tasks_find(&core->tasks, request->task_id, request->attempt);
}

// A cancel that overtook its task, or came after it was lost: it never ran here, and it is kept
// as a finished task so that it can't begin if it comes after all.
static void cancel_unknown(struct nl_link_core *core, struct nl_link_conn *conn,
                           const Nodelink__V1__TaskRequest *request) {
    if (!conn->extended || !core->sup_attached) {
        if (!conn->extended) {
            nl_link_report_refusal(core, conn, request, "no such task");
        }
        return;  // the supervisor may know it: the node repeats the cancel on its next Hello
    }
    if (core->tasks.live_count >= core->options.tasks_max) {
        return;
    }
    struct nl_link_task *task =
        nl_link_tasks_add(&core->tasks, request->task_id, attempt_of(conn, request));
    if (task == NULL) {
        core->no_memory = true;
        return;
    }
    nl_link_finish_locally(core, task, NODELINK__V1__TASK_RESULT__KIND__CANCELLED,
                           "cancelled before it was started");
}

static void cancel(struct nl_link_core *core, struct nl_link_conn *conn,
                   const Nodelink__V1__TaskRequest *request) {
    if (!nl_text_id_ok(request->task_id)) {
        refuse(core, conn, request, "a cancel without a valid task id");
        return;
    }
    struct nl_link_task *task = task_to_cancel(core, conn, request);
    if (task == NULL) {
        cancel_unknown(core, conn, request);
    } else if (task->phase >= NL_LINK_FINISHED) {
        nl_link_report_task(core, task, true);
    } else {
        free(task->cancel_reason);
        task->cancel_reason = nl_link_strdup(core, request->task_cancel->reason);
        nl_link_sup_cancel(core, task);
    }
}

// ---- control ---------------------------------------------------------------

static void pong(struct nl_link_core *core, struct nl_link_conn *conn, uint64_t nonce) {
    Nodelink__V1__Pong message = NODELINK__V1__PONG__INIT;
    message.nonce = nonce;
    Nodelink__V1__TaskResponse response = NODELINK__V1__TASK_RESPONSE__INIT;
    response.agent_id = (char *)core->options.agent_id;
    response.epoch = conn->epoch;
    response.control_case = NODELINK__V1__TASK_RESPONSE__CONTROL_PONG;
    response.pong = &message;
    nl_link_do_send(core, conn, &response);
}

static void result_ack(struct nl_link_core *core, const Nodelink__V1__ResultAck *ack) {
    struct nl_link_task *task =
        nl_link_tasks_find(&core->tasks, ack->task_id, ack->attempt == 0 ? 1 : ack->attempt);
    if (task == NULL || task->phase < NL_LINK_FINISHED) {
        return;
    }
    if (task->local) {
        nl_link_remove_task(core, task);
    } else {
        nl_link_sup_forget(core, task);
    }
}

// True: it was one.
static bool control(struct nl_link_core *core, struct nl_link_conn *conn,
                    const Nodelink__V1__TaskRequest *request) {
    bool is_main = conn == &core->main && conn->state == NL_LINK_UP;
    switch (request->control_case) {
        case NODELINK__V1__TASK_REQUEST__CONTROL_WELCOME:
            nl_link_conn_welcome(core, conn, request->welcome);
            return true;
        case NODELINK__V1__TASK_REQUEST__CONTROL_PING:
            pong(core, conn, request->ping->nonce);
            return true;
        case NODELINK__V1__TASK_REQUEST__CONTROL_PONG:
            return true;  // that something came was noted
        case NODELINK__V1__TASK_REQUEST__CONTROL_DRAIN:
            nl_link_conn_drain(core, conn, request->drain);
            return true;
        case NODELINK__V1__TASK_REQUEST__CONTROL_RESULT_ACK:
            if (is_main) {
                result_ack(core, request->result_ack);
            }
            return true;
        case NODELINK__V1__TASK_REQUEST__CONTROL_OUTPUT_OPEN:
            if (is_main) {
                nl_link_output_open(core, conn, request->output_open);
            }
            return true;
        case NODELINK__V1__TASK_REQUEST__CONTROL_OUTPUT_CREDIT:
            if (is_main) {
                nl_link_output_credit(core, request->output_credit);
            }
            return true;
        case NODELINK__V1__TASK_REQUEST__CONTROL_OUTPUT_CLOSE:
            if (is_main) {
                nl_link_output_close(core, request->output_close);
            }
            return true;
        default:
            return false;
    }
}

// ---- dispatch --------------------------------------------------------------

static const char *wrong_owner(const struct nl_link_core *core,
                               const Nodelink__V1__TaskRequest *request) {
    if (request->agent_id[0] != '\0' && strcmp(request->agent_id, core->options.agent_id) != 0) {
        return "the request is for another agent";
    }
    return NULL;
}

// Of an owner that was replaced. It gets no answer: a final response under the epoch of today would
// end the task for its rightful owner.
static bool is_of_older_epoch(const struct nl_link_conn *conn,
                              const Nodelink__V1__TaskRequest *request) {
    return conn->extended && request->epoch != 0 && request->epoch < conn->epoch;
}

static void task_request(struct nl_link_core *core, struct nl_link_conn *conn,
                         const Nodelink__V1__TaskRequest *request) {
    if (is_of_older_epoch(conn, request)) {
        nl_link_log_bad(core, "request ignored", "it is of an older epoch");
        return;
    }
    const char *wrong = wrong_owner(core, request);
    if (wrong != NULL) {
        refuse(core, conn, request, wrong);
        return;
    }
    switch (request->task_case) {
        case NODELINK__V1__TASK_REQUEST__TASK_SHELL_EXECUTE:
            shell(core, conn, request);
            break;
        case NODELINK__V1__TASK_REQUEST__TASK_TASK_CANCEL:
            cancel(core, conn, request);
            break;
        case NODELINK__V1__TASK_REQUEST__TASK_DOCKER_OPERATION:
            refuse(core, conn, request,
                   "docker operations are not supported by this agent version");
            break;
        default:
            refuse(core, conn, request, "a request without a task");
            break;
    }
}

void nl_link_request(struct nl_link_core *core, struct nl_link_conn *conn,
                     const Nodelink__V1__TaskRequest *request) {
    if (conn->extended && control(core, conn, request)) {
        return;
    }
    if (conn->state == NL_LINK_UP || conn->state == NL_LINK_STOCK) {
        task_request(core, conn, request);
    } else {
        nl_link_log_bad(core, "request before the welcome", NULL);
    }
}
