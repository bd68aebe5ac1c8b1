// Output: what a node asks to read (subscriptions), and what is pushed to a stock server.
#include <stdlib.h>
#include <string.h>

#include "agent/link/core_internal.h"

// ---- ends ------------------------------------------------------------------

struct end {
    uint64_t sub;
    Nodelink__V1__OutputEnd__Why why;
    const struct nl_link_task *task;  // or NULL
    const char *message;              // or NULL
};

static void send_end(struct nl_link_core *core, struct end end) {
    Nodelink__V1__OutputEnd message = NODELINK__V1__OUTPUT_END__INIT;
    message.sub = end.sub;
    message.why = end.why;
    if (end.message != NULL) {
        message.message = (char *)end.message;
    }
    Nodelink__V1__TaskResponse response = NODELINK__V1__TASK_RESPONSE__INIT;
    if (end.task != NULL) {
        message.stdout_bytes = end.task->end[NL_LINK_OUT];
        message.stderr_bytes = end.task->end[NL_LINK_ERR];
        message.stdout_base = end.task->base[NL_LINK_OUT];
        message.stderr_base = end.task->base[NL_LINK_ERR];
        response.task_id = end.task->id;
        response.attempt = end.task->attempt;
    }
    response.agent_id = (char *)core->options.agent_id;
    response.epoch = core->main.epoch;
    response.sub = end.sub;
    response.control_case = NODELINK__V1__TASK_RESPONSE__CONTROL_OUTPUT_END;
    response.output_end = &message;
    nl_link_do_send(core, &core->main, &response);
}

static void end_sub(struct nl_link_core *core, struct nl_link_sub *sub,
                    Nodelink__V1__OutputEnd__Why why, const char *message) {
    if (!sub->push) {
        send_end(core, (struct end){sub->id, why, sub->task, message});
    }
    nl_link_subs_close(&core->subs, sub);
}

// A stock server can't be told of a gap: go on at what is there.
static void skip_gap(struct nl_link_core *core, struct nl_link_sub *sub) {
    for (int i = 0; i < NL_LINK_STREAMS; i++) {
        if (sub->offset[i] < sub->task->base[i]) {
            sub->offset[i] = sub->task->pushed[i] = sub->task->base[i];
        }
    }
    nl_link_log_bad(core, "output was dropped before a stock server could take it", sub->task->id);
}

static void settle(struct nl_link_core *core, struct nl_link_sub *sub) {
    enum nl_link_sub_state state = nl_link_subs_settle(&core->subs, sub);
    if (state == NL_LINK_SUB_GAP && sub->push) {
        skip_gap(core, sub);
        state = nl_link_subs_settle(&core->subs, sub);
    }
    struct nl_link_task *task = sub->task;
    switch (state) {
        case NL_LINK_SUB_PARKED:
            break;
        case NL_LINK_SUB_READY:
            nl_link_do_output(core);
            break;
        case NL_LINK_SUB_GAP:
            end_sub(core, sub, NODELINK__V1__OUTPUT_END__WHY__GAP, NULL);
            nl_link_sup_release(core, task);
            break;
        case NL_LINK_SUB_COMPLETE: {
            bool push = sub->push;
            end_sub(core, sub, NODELINK__V1__OUTPUT_END__WHY__COMPLETE, NULL);
            nl_link_sup_release(core, task);
            if (push) {
                nl_link_report_task(core, task, false);
            }
            break;
        }
    }
}

void nl_link_output_task_changed(struct nl_link_core *core, struct nl_link_task *task) {
    struct nl_link_sub *sub = TAILQ_FIRST(&task->subs);
    while (sub != NULL) {
        struct nl_link_sub *next = TAILQ_NEXT(sub, in_task);
        settle(core, sub);
        sub = next;
    }
}

void nl_link_output_task_gone(struct nl_link_core *core, struct nl_link_task *task) {
    struct nl_link_sub *sub;
    while ((sub = TAILQ_FIRST(&task->subs)) != NULL) {
        end_sub(core, sub, NODELINK__V1__OUTPUT_END__WHY__GONE, NULL);
    }
}

static void drop_task_subs(struct nl_link_core *core, struct nl_link_task *task) {
    bool had = !TAILQ_EMPTY(&task->subs);
    struct nl_link_sub *sub;
    while ((sub = TAILQ_FIRST(&task->subs)) != NULL) {
        nl_link_subs_close(&core->subs, sub);
    }
    if (had) {
        nl_link_sup_release(core, task);
    }
}

void nl_link_output_drop_all(struct nl_link_core *core) {
    struct nl_link_task *task;
    if (core->subs.count == 0) {
        return;
    }
    TAILQ_FOREACH(task, &core->tasks.live, in_order) {
        drop_task_subs(core, task);
    }
    TAILQ_FOREACH(task, &core->tasks.forgotten, in_order) {
        drop_task_subs(core, task);
    }
}

// ---- requests --------------------------------------------------------------

static bool needs_fence(const struct nl_link_task *task, const uint64_t offsets[]) {
    return task->release_unknown || task->released_no_reader ||
           task->releases_taken < task->releases_sent || offsets[0] < task->released[0] ||
           offsets[1] < task->released[1];
}

static void release_and_fence(struct nl_link_core *core, struct nl_link_sub *sub, bool fence) {
    nl_link_sup_release(core, sub->task);
    sub->fenced = fence;
    sub->fence = core->sup_attached ? sub->task->releases_sent : UINT32_MAX;  // until it is
}

void nl_link_output_open(struct nl_link_core *core, struct nl_link_conn *conn,
                         const Nodelink__V1__OutputOpen *open) {
    (void)conn;
    uint32_t attempt = open->attempt == 0 ? 1 : open->attempt;
    struct nl_link_task *task = nl_link_tasks_find(&core->tasks, open->task_id, attempt);
    const Nodelink__V1__OutputEnd__Why gone = NODELINK__V1__OUTPUT_END__WHY__GONE;
    if (nl_link_subs_find(&core->subs, open->sub) != NULL) {
        nl_link_log_bad(core, "subscription number used twice", NULL);
        return;
    }
    if (task == NULL) {
        send_end(core, (struct end){open->sub, gone, NULL, "no such task here"});
        return;
    }
    if (core->subs.count >= core->options.subs_max) {
        send_end(core, (struct end){open->sub, NODELINK__V1__OUTPUT_END__WHY__ERROR, task,
                                    "the agent has too many readers"});
        return;
    }
    const uint64_t offsets[] = {open->stdout_offset, open->stderr_offset};
    bool fence = !task->local && needs_fence(task, offsets);
    struct nl_link_sub *sub =
        nl_link_subs_open(&core->subs, task, open->sub, offsets, open->credit);
    if (sub == NULL) {
        core->no_memory = true;
        return;
    }
    release_and_fence(core, sub, fence);
    settle(core, sub);
}

void nl_link_output_credit(struct nl_link_core *core, const Nodelink__V1__OutputCredit *credit) {
    struct nl_link_sub *sub = nl_link_subs_find(&core->subs, credit->sub);
    if (sub != NULL) {
        nl_link_subs_credit(sub, credit->bytes);
        nl_link_sup_release(core, sub->task);
        settle(core, sub);
    }
}

void nl_link_output_close(struct nl_link_core *core, const Nodelink__V1__OutputClose *close) {
    struct nl_link_sub *sub = nl_link_subs_find(&core->subs, close->sub);
    if (sub != NULL) {
        struct nl_link_task *task = sub->task;
        nl_link_subs_close(&core->subs, sub);
        nl_link_sup_release(core, task);
    }
}

bool nl_link_output_push(struct nl_link_core *core, struct nl_link_task *task) {
    if (task->local) {
        return true;
    }
    if (!TAILQ_EMPTY(&task->subs)) {
        return false;
    }
    bool all = task->pushed[0] >= task->end[0] && task->pushed[1] >= task->end[1];
    if (task->phase >= NL_LINK_FINISHED && all) {
        return true;
    }
    bool fence = needs_fence(task, task->pushed);
    struct nl_link_sub *sub = nl_link_subs_open_push(&core->subs, task);
    if (sub == NULL) {
        core->no_memory = true;
        return false;
    }
    release_and_fence(core, sub, fence);
    settle(core, sub);
    return false;
}

// ---- chunks ----------------------------------------------------------------

bool nl_link_core_output_next(const struct nl_link_core *core, struct nl_link_output *ret) {
    struct nl_link_chunk chunk;
    if (!nl_link_subs_next(&core->subs, &chunk)) {
        return false;
    }
    const char *dir = chunk.sub->task->spool_dir;
    *ret = (struct nl_link_output){
        .call = core->main.call,
        .spool_dir = dir == NULL ? "" : dir,
        .stream = chunk.stream,
        .offset = chunk.offset,
        .len = chunk.len,
    };
    return true;
}

void nl_link_core_output_frame(const struct nl_link_core *core, uint8_t *data,
                               struct nl_link_output_frame *ret) {
    struct nl_link_chunk chunk;
    bool found = nl_link_subs_next(&core->subs, &chunk);
    nodelink__v1__task_response__init(&ret->response);
    nodelink__v1__shell_execute_response__init(&ret->shell);
    if (!found) {
        return;
    }
    const struct nl_link_sub *sub = chunk.sub;
    ret->response.agent_id = (char *)core->options.agent_id;
    ret->response.task_id = sub->task->id;
    ret->response.status = NODELINK__V1__TASK_RESPONSE__STATUS__IN_PROGRESS;
    ret->response.response_case = NODELINK__V1__TASK_RESPONSE__RESPONSE_SHELL_EXECUTE;
    ret->response.shell_execute = &ret->shell;
    ProtobufCBinaryData bytes = {.data = data, .len = chunk.len};
    if (chunk.stream == NL_LINK_OUT) {
        ret->shell.stdout = bytes;
    } else {
        ret->shell.stderr = bytes;
    }
    if (!sub->push) {
        ret->response.attempt = sub->task->attempt;
        ret->response.epoch = core->main.epoch;
        ret->response.sub = sub->id;
        ret->response.stdout_offset = sub->offset[NL_LINK_OUT];
        ret->response.stderr_offset = sub->offset[NL_LINK_ERR];
    }
}

static void output_failed(struct nl_link_core *core, struct nl_link_sub *sub, bool gone,
                          const char *message) {
    struct nl_link_task *task = sub->task;
    bool push = sub->push;
    if (push) {
        // Nothing more can be pushed; the result still has to go.
        task->pushed[0] = task->end[0];
        task->pushed[1] = task->end[1];
    }
    end_sub(core, sub,
            gone ? NODELINK__V1__OUTPUT_END__WHY__GONE : NODELINK__V1__OUTPUT_END__WHY__ERROR,
            message);
    nl_link_log_bad(core, "output can't be read", message);
    nl_link_sup_release(core, task);
    if (push) {
        nl_link_report_task(core, task, false);
    }
}

void nl_link_output_event(struct nl_link_core *core, const struct nl_link_event *event) {
    struct nl_link_chunk chunk;
    if (!nl_link_subs_next(&core->subs, &chunk)) {
        return;
    }
    if (event->type == NL_LINK_OUTPUT_FAILED) {
        output_failed(core, chunk.sub, event->output_failed.gone, event->output_failed.message);
        return;
    }
    core->main.sent = true;
    nl_link_subs_sent(&core->subs, &chunk);
    if (chunk.sub->push) {
        nl_link_sup_release(core, chunk.sub->task);
    }
    settle(core, chunk.sub);
}
