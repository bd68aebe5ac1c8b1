// The supervisor: what it is told, and what it says of its tasks.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/link/core_internal.h"
#include "agent/supervisor/client.h"

// A release is worth a message when it frees so many bytes.
enum { RELEASE_BYTES_MIN = 256 * 1024 };

// ---- to the supervisor -----------------------------------------------------

// The supervisor knows one limit, from the start on: the earlier one of timeout and deadline.
static void set_limits(const struct nl_link_core *core, const struct nl_link_task *task) {
    Nodelink__V1__ShellOptions *options = task->run->run->options;
    if (options == NULL) {
        return;
    }
    options->start_within_ms = options->finish_within_ms = 0;
    options->timeout_ms = task->timeout_ms;
    if (task->finish_by_ms != 0) {
        uint64_t left = task->finish_by_ms - core->now_ms;
        bool sooner = task->timeout_ms == 0 || left < task->timeout_ms;
        options->timeout_ms = sooner ? left : task->timeout_ms;
    }
}

static bool is_past(const struct nl_link_core *core, uint64_t deadline_ms) {
    return deadline_ms != 0 && core->now_ms >= deadline_ms;
}

// Also again, to a supervisor that has never got it.
void nl_link_sup_run(struct nl_link_core *core, struct nl_link_task *task) {
    if (!core->sup_attached || task->run == NULL) {
        return;
    }
    if (is_past(core, task->start_by_ms) || is_past(core, task->finish_by_ms)) {
        nl_link_finish_locally(core, task, NODELINK__V1__TASK_RESULT__KIND__NOT_STARTED,
                               "not started by its deadline");
        return;
    }
    set_limits(core, task);
    nl_link_do_sup(core, task->run);
}

void nl_link_sup_cancel(struct nl_link_core *core, struct nl_link_task *task) {
    if (!core->sup_attached || task->cancel_reason == NULL) {
        return;
    }
    Nodelink__V1__SupCancel cancel = NODELINK__V1__SUP_CANCEL__INIT;
    cancel.task_id = task->id;
    cancel.attempt = task->attempt;
    cancel.reason = task->cancel_reason;
    Nodelink__V1__ToSupervisor message = NODELINK__V1__TO_SUPERVISOR__INIT;
    message.body_case = NODELINK__V1__TO_SUPERVISOR__BODY_CANCEL;
    message.cancel = &cancel;
    nl_link_do_sup(core, &message);
}

static void send_forget(struct nl_link_core *core, struct nl_link_task *task) {
    Nodelink__V1__SupForget forget = NODELINK__V1__SUP_FORGET__INIT;
    forget.task_id = task->id;
    forget.attempt = task->attempt;
    Nodelink__V1__ToSupervisor message = NODELINK__V1__TO_SUPERVISOR__INIT;
    message.body_case = NODELINK__V1__TO_SUPERVISOR__BODY_FORGET;
    message.forget = &forget;
    nl_link_do_sup(core, &message);
}

void nl_link_sup_forget(struct nl_link_core *core, struct nl_link_task *task) {
    task->acked = true;
    if (core->sup_attached) {  // else when it is
        send_forget(core, task);
        nl_link_tasks_forget(&core->tasks, task, core->now_ms);
        nl_link_housekeep_soon(core);
    }
}

void nl_link_sup_stop(struct nl_link_core *core, bool kill_tasks) {
    Nodelink__V1__SupStop stop = NODELINK__V1__SUP_STOP__INIT;
    stop.kill_tasks = kill_tasks;
    Nodelink__V1__ToSupervisor message = NODELINK__V1__TO_SUPERVISOR__INIT;
    message.body_case = NODELINK__V1__TO_SUPERVISOR__BODY_STOP;
    message.stop = &stop;
    nl_link_do_sup(core, &message);
}

// ---- release ---------------------------------------------------------------

static void lowest_needed(const struct nl_link_task *task, uint64_t low[NL_LINK_STREAMS]) {
    const struct nl_link_sub *sub;
    low[0] = task->end[0];
    low[1] = task->end[1];
    TAILQ_FOREACH(sub, &task->subs, in_task) {
        for (int i = 0; i < NL_LINK_STREAMS; i++) {
            uint64_t needed = nl_link_subs_needed(sub, i);
            low[i] = needed < low[i] ? needed : low[i];
        }
    }
}

static void send_release(struct nl_link_core *core, struct nl_link_task *task,
                         const uint64_t low[NL_LINK_STREAMS], bool no_reader) {
    Nodelink__V1__SupRelease release = NODELINK__V1__SUP_RELEASE__INIT;
    release.task_id = task->id;
    release.attempt = task->attempt;
    release.stdout_offset = low[NL_LINK_OUT];
    release.stderr_offset = low[NL_LINK_ERR];
    release.no_reader = no_reader;
    Nodelink__V1__ToSupervisor message = NODELINK__V1__TO_SUPERVISOR__INIT;
    message.body_case = NODELINK__V1__TO_SUPERVISOR__BODY_RELEASE;
    message.release = &release;
    nl_link_do_sup(core, &message);
    task->released[NL_LINK_OUT] = low[NL_LINK_OUT];
    task->released[NL_LINK_ERR] = low[NL_LINK_ERR];
    task->released_no_reader = no_reader;
    task->release_unknown = false;
    task->releases_sent++;
}

static bool worth_telling(const struct nl_link_task *task, const uint64_t low[NL_LINK_STREAMS]) {
    for (int i = 0; i < NL_LINK_STREAMS; i++) {
        if (low[i] < task->released[i] || low[i] >= task->released[i] + RELEASE_BYTES_MIN) {
            return true;
        }
    }
    return false;
}

void nl_link_sup_release(struct nl_link_core *core, struct nl_link_task *task) {
    if (!core->sup_attached || task->local) {
        return;
    }
    if (TAILQ_EMPTY(&task->subs)) {
        if (task->phase == NL_LINK_FORGOTTEN) {
            return;  // the supervisor drops those as it sees fit
        }
        // The reader may be on its way to another node: what it has not got is kept a while.
        if (!task->released_no_reader && task->no_reader_at_ms == 0) {
            task->no_reader_at_ms = core->now_ms + core->options.reader_linger_ms;
            nl_link_housekeep_soon(core);
        } else if (task->no_reader_at_ms != 0 && task->no_reader_at_ms <= core->now_ms) {
            task->no_reader_at_ms = 0;
            send_release(core, task, task->released, true);
        }
        return;
    }
    uint64_t low[NL_LINK_STREAMS];
    lowest_needed(task, low);
    task->no_reader_at_ms = 0;
    if (task->release_unknown || task->released_no_reader || worth_telling(task, low)) {
        send_release(core, task, low, false);
    }
}

// ---- from the supervisor ---------------------------------------------------

static void take_spool(struct nl_link_task *task, const Nodelink__V1__SupSpool *spool) {
    const uint64_t bases[] = {spool->stdout_base, spool->stderr_base};
    const uint64_t ends[] = {spool->stdout_end, spool->stderr_end};
    for (int i = 0; i < NL_LINK_STREAMS; i++) {
        task->base[i] = bases[i] > task->base[i] ? bases[i] : task->base[i];
        task->end[i] = ends[i] > task->end[i] ? ends[i] : task->end[i];
    }
    // Answers are merged, so they say how many releases the supervisor has taken.
    task->releases_taken =
        spool->releases > task->releases_taken ? spool->releases : task->releases_taken;
    struct nl_link_sub *sub;
    TAILQ_FOREACH(sub, &task->subs, in_task) {
        sub->fenced = sub->fenced && task->releases_taken < sub->fence;
    }
}

static void take_result(struct nl_link_core *core, struct nl_link_task *task,
                        const Nodelink__V1__TaskResult *result) {
    if (task->result != NULL || result == NULL) {
        return;
    }
    task->result = (Nodelink__V1__TaskResult *)nl_link_clone(core, &result->base);
}

static void take_phase(struct nl_link_core *core, struct nl_link_task *task,
                       const Nodelink__V1__SupTask *message) {
    if (message->phase == NODELINK__V1__TASK_REF__PHASE__FINISHED) {
        take_result(core, task, message->result);
        if (task->result == NULL) {
            return;  // no memory, or a supervisor that makes no sense
        }
        if (message->forgotten) {
            nl_link_tasks_forget(&core->tasks, task, core->now_ms);
            nl_link_housekeep_soon(core);
        } else if (task->phase < NL_LINK_FINISHED) {
            task->phase = NL_LINK_FINISHED;
        }
    } else if (message->phase == NODELINK__V1__TASK_REF__PHASE__RUNNING &&
               task->phase == NL_LINK_STARTING) {
        task->phase = NL_LINK_RUNNING;
    }
    if (task->phase != NL_LINK_STARTING && task->run != NULL) {
        nodelink__v1__to_supervisor__free_unpacked(task->run, NULL);
        task->run = NULL;
    }
}

static void attach_done(struct nl_link_core *core);

static void task_message(struct nl_link_core *core, const Nodelink__V1__SupTask *message) {
    struct nl_link_task *task =
        nl_link_tasks_find(&core->tasks, message->task_id, message->attempt);
    if (task == NULL) {
        task = nl_link_tasks_add(&core->tasks, message->task_id, message->attempt);
        if (task == NULL) {
            core->no_memory = true;
            return;
        }
    }
    bool first = !task->seen;  // a task may change, and be told again, while the attach goes on
    task->seen = true;
    task->local = false;
    task->lost = message->lost;
    task->started_ms = message->started_ms;
    task->pid = message->pid;
    if (task->spool_dir == NULL && message->spool_dir[0] != '\0') {
        task->spool_dir = nl_link_strdup(core, message->spool_dir);
    }
    if (message->spool != NULL) {
        take_spool(task, message->spool);
    }
    take_phase(core, task, message);
    if (!core->sup_attached) {
        core->sup_due -= first && core->sup_due > 0;
        if (core->sup_due == 0) {
            attach_done(core);
        }
        return;  // reported when all are known
    }
    nl_link_sup_release(core, task);
    nl_link_report_task(core, task, false);
    nl_link_output_task_changed(core, task);
}

static void spool_message(struct nl_link_core *core, const Nodelink__V1__SupSpool *message) {
    struct nl_link_task *task =
        nl_link_tasks_find(&core->tasks, message->task_id, message->attempt);
    if (task != NULL) {
        take_spool(task, message);
        nl_link_output_task_changed(core, task);
    }
}

static void refused_message(struct nl_link_core *core, const Nodelink__V1__SupRefused *message) {
    struct nl_link_task *task =
        nl_link_tasks_find(&core->tasks, message->task_id, message->attempt);
    if (task != NULL && task->phase == NL_LINK_STARTING) {
        nl_link_finish_locally(core, task, NODELINK__V1__TASK_RESULT__KIND__NOT_STARTED,
                               message->reason);
    }
}

// ---- attach ----------------------------------------------------------------

static void attach(struct nl_link_core *core) {
    core->sup_up = true;
    core->sup_attached = false;
    core->attach_by_ms = core->now_ms + core->options.attach_ms;
    Nodelink__V1__SupAttach attach = NODELINK__V1__SUP_ATTACH__INIT;
    attach.version = NL_SUP_PROTOCOL_VERSION;
    attach.pid = core->options.pid;
    Nodelink__V1__ToSupervisor message = NODELINK__V1__TO_SUPERVISOR__INIT;
    message.body_case = NODELINK__V1__TO_SUPERVISOR__BODY_ATTACH;
    message.attach = &attach;
    nl_link_do_sup(core, &message);
}

static void replace(struct nl_link_core *core, char **field, const char *value) {
    char *copy = nl_link_strdup(core, value);
    if (copy != NULL) {
        free(*field);
        *field = copy;
    }
}

static void attached_message(struct nl_link_core *core, const Nodelink__V1__SupAttached *message) {
    bool other = core->journal_id != NULL && strcmp(core->journal_id, message->journal_id) != 0;
    replace(core, &core->boot_id, message->boot_id);
    replace(core, &core->journal_id, message->journal_id);
    struct nl_link_task *task;
    TAILQ_FOREACH(task, &core->tasks.live, in_order) {
        task->seen = false;
    }
    TAILQ_FOREACH(task, &core->tasks.forgotten, in_order) {
        task->seen = false;
    }
    if (other) {
        nl_link_log_bad(core, "the supervisor has another journal", message->journal_id);
    }
    core->sup_due = message->tasks;
    if (core->sup_due == 0) {
        attach_done(core);
    }
}

// A task that this link knew and the supervisor does not.
static void unseen(struct nl_link_core *core, struct nl_link_task *task) {
    if (task->phase == NL_LINK_STARTING && task->run != NULL) {
        nl_link_sup_run(core, task);  // lost on the way; the journal makes repeating safe
        if (task->phase == NL_LINK_STARTING) {
            nl_link_sup_cancel(core, task);
        }
    } else if (task->phase == NL_LINK_FINISHED) {
        task->local = true;  // its result is still ours to deliver
    } else {
        nl_link_finish_locally(core, task, NODELINK__V1__TASK_RESULT__KIND__LOST,
                               "the supervisor's journal is gone");
    }
}

// What an earlier link, or this one before the socket broke, told of readers is not known.
static void readers_again(struct nl_link_core *core, struct nl_link_task *task) {
    struct nl_link_sub *sub;
    TAILQ_FOREACH(sub, &task->subs, in_task) {
        sub->fenced = true;
        sub->fence = 1;  // the release that follows is the first of this attach
        nl_link_subs_settle(&core->subs, sub);
    }
    task->releases_sent = task->releases_taken = 0;
    task->release_unknown = true;
    task->released_no_reader = false;
    task->released[0] = task->released[1] = 0;
    nl_link_sup_release(core, task);
}

static void attach_done(struct nl_link_core *core) {
    core->sup_attached = true;
    core->attach_by_ms = core->sup_back_by_ms = UINT64_MAX;
    struct nl_link_task *task = TAILQ_FIRST(&core->tasks.live);
    while (task != NULL) {
        struct nl_link_task *next = TAILQ_NEXT(task, in_order);
        if (!task->seen && !task->local) {
            unseen(core, task);
        } else {
            nl_link_sup_cancel(core, task);
            readers_again(core, task);
            if (task->acked && task->phase == NL_LINK_FINISHED) {
                nl_link_sup_forget(core, task);
            }
        }
        task = next;
    }
    TAILQ_FOREACH(task, &core->tasks.forgotten, in_order) {
        readers_again(core, task);
    }
    nl_link_conn_supervisor_ready(core);
    nl_link_report_all(core);
}

void nl_link_sup_event(struct nl_link_core *core, const struct nl_link_event *event) {
    if (event->type == NL_LINK_SUP_UP) {
        attach(core);
        return;
    }
    if (event->type == NL_LINK_SUP_DOWN) {
        core->sup_up = core->sup_attached = false;
        core->attach_by_ms = UINT64_MAX;
        core->sup_due = 0;
        if (core->sup_back_by_ms == UINT64_MAX && !core->sup_gone) {
            core->sup_back_by_ms = core->now_ms + core->options.supervisor_ms;
        }
        return;
    }
    const Nodelink__V1__FromSupervisor *message = event->from_sup;
    switch (message->body_case) {
        case NODELINK__V1__FROM_SUPERVISOR__BODY_ATTACHED:
            attached_message(core, message->attached);
            break;
        case NODELINK__V1__FROM_SUPERVISOR__BODY_TASK:
            task_message(core, message->task);
            break;
        case NODELINK__V1__FROM_SUPERVISOR__BODY_SPOOL:
            spool_message(core, message->spool);
            break;
        case NODELINK__V1__FROM_SUPERVISOR__BODY_REFUSED:
            refused_message(core, message->refused);
            break;
        default:
            break;
    }
}
