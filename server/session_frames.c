// What an agent says: checked, then turned into flags of the task's slot.
#include <string.h>

#include "common/base/err.h"
#include "common/base/text.h"
#include "server/messages.h"
#include "server/session_slots.h"

enum { TEXT_LEN_MAX = 4096, NAME_LEN_MAX = 256 };

static bool malformed(struct nl_session_core *core, const char *what) {
    session_close(core, NL_RPC_INVALID_ARGUMENT, "malformed message: %s", what);
    return false;
}

// ---- Hello -----------------------------------------------------------------

static bool refs_ok(struct nl_session_core *core, const Nodelink__V1__Hello *hello) {
    if (hello->n_tasks > SESSION_REFS_MAX) {
        return malformed(core, "Hello names too many tasks");
    }
    for (size_t i = 0; i < hello->n_tasks; i++) {
        const Nodelink__V1__TaskRef *ref = hello->tasks[i];
        if (!nl_text_id_ok(ref->task_id) || ref->attempt == 0 ||
            (ref->phase != NODELINK__V1__TASK_REF__PHASE__RUNNING &&
             ref->phase != NODELINK__V1__TASK_REF__PHASE__FINISHED)) {
            return malformed(core, "a task of Hello without id, attempt or phase");
        }
    }
    return true;
}

static bool hello_ok(struct nl_session_core *core, const Nodelink__V1__Hello *hello) {
    if (strlen(hello->version) > NAME_LEN_MAX || strlen(hello->boot_id) > NAME_LEN_MAX ||
        strlen(hello->hostname) > NAME_LEN_MAX || strlen(hello->journal_id) > NAME_LEN_MAX) {
        return malformed(core, "a text of Hello is too long");
    }
    if (!nl_labels_ok(hello->labels, hello->n_labels, SESSION_LABELS_MAX)) {
        return malformed(core, "labels of Hello");
    }
    return refs_ok(core, hello);
}

static void on_hello(struct nl_session_core *core, const Nodelink__V1__TaskResponse *frame) {
    if (frame->control_case != NODELINK__V1__TASK_RESPONSE__CONTROL_HELLO) {
        malformed(core, "the first message must be Hello");
        return;
    }
    if (!hello_ok(core, frame->hello)) {
        return;
    }
    core->hello = (Nodelink__V1__Hello *)(void *)nl_message_clone(&frame->hello->base);
    if (core->hello == NULL) {
        session_close(core, NL_RPC_RESOURCE_EXHAUSTED, "this node is out of memory");
        return;
    }
    core->register_due = true;
    core->state = NL_SESSION_REGISTERING;
}

// ---- about tasks -----------------------------------------------------------

static bool about_task_ok(struct nl_session_core *core, const Nodelink__V1__TaskResponse *frame) {
    if (!nl_text_id_ok(frame->task_id)) {
        return malformed(core, "no task id");
    }
    if (core->config.extended && frame->attempt == 0) {
        return malformed(core, "no attempt");
    }
    if (core->config.extended && frame->epoch != core->epoch) {
        return malformed(core, "not of this stream's epoch");
    }
    return true;
}

static void on_started(struct nl_session_core *core, uint64_t now_ms,
                       const Nodelink__V1__TaskResponse *frame) {
    struct slot *slot = session_slot_find(core, frame->task_id, frame->attempt);
    if (slot == NULL || slot->started || slot->result != NULL || !slot->busy) {
        return;  // repeated, or of a task that this stream has nothing to do with
    }
    slot->started = true;
    if (frame->control_case == NODELINK__V1__TASK_RESPONSE__CONTROL_STARTED) {
        slot->started_ms = frame->started->started_ms;
        slot->pid = frame->started->pid;
    }
    if (slot->queue == SLOT_IDLE) {
        slot->start_at_ms = now_ms + SESSION_START_DELAY_MS;
        session_slot_queue(core, slot, SLOT_START);
    }
}

// Its result follows. Its start need not be said any more.
static void on_uncertain(struct nl_session_core *core, uint64_t now_ms,
                         const Nodelink__V1__TaskResponse *frame) {
    struct slot *slot = session_slot_find(core, frame->task_id, frame->attempt);
    if (slot == NULL || slot->uncertain || slot->result != NULL || !slot->busy) {
        return;
    }
    slot->started = slot->uncertain = true;
    if (slot->queue == SLOT_IDLE) {
        slot->start_at_ms = now_ms;
        session_slot_queue(core, slot, SLOT_START);
    }
}

static bool digest_ok(ProtobufCBinaryData digest) {
    return digest.len == 0 || digest.len == 32;
}

static bool result_ok(const Nodelink__V1__TaskResult *result) {
    return result->kind >= NODELINK__V1__TASK_RESULT__KIND__EXITED &&
           result->kind <= NODELINK__V1__TASK_RESULT__KIND__LOST &&
           digest_ok(result->stdout_sha256) && digest_ok(result->stderr_sha256) &&
           strlen(result->reason) <= TEXT_LEN_MAX;
}

// A tail that doesn't end where the output does, or is too large, is left out.
static const Nodelink__V1__OutputTail *usable(const Nodelink__V1__OutputTail *tail,
                                              const Nodelink__V1__TaskResult *result) {
    if (tail == NULL || tail->stdout.len + tail->stderr.len > NL_STATE_TAIL_MAX) {
        return NULL;
    }
    uint64_t out = tail->stdout_size != 0 ? tail->stdout_size : tail->stdout.len;
    uint64_t err = tail->stderr_size != 0 ? tail->stderr_size : tail->stderr.len;
    bool fits = out <= result->stdout_bytes && err <= result->stderr_bytes &&
                tail->stdout_offset == result->stdout_bytes - out &&
                tail->stderr_offset == result->stderr_bytes - err;
    return fits ? tail : NULL;
}

static void keep_result(struct nl_session_core *core, struct slot *slot,
                        const Nodelink__V1__TaskResult *result,
                        const Nodelink__V1__OutputTail *tail) {
    Nodelink__V1__TaskResult own = *result;
    if (slot->timed_out && own.kind != NODELINK__V1__TASK_RESULT__KIND__EXITED) {
        own.kind = NODELINK__V1__TASK_RESULT__KIND__TIMED_OUT;
    }
    if (session_slot_finish(core, slot, &own, usable(tail, &own)) != NL_OK) {
        session_close(core, NL_RPC_RESOURCE_EXHAUSTED, "this node is out of memory");
    }
}

// A result of a task that is not known here still goes to the log: the state decides.
static void on_result(struct nl_session_core *core, const Nodelink__V1__TaskResponse *frame,
                      const Nodelink__V1__TaskResult *result,
                      const Nodelink__V1__OutputTail *tail) {
    if (!result_ok(result)) {
        malformed(core, "result");
        return;
    }
    struct slot *slot = session_slot_find(core, frame->task_id, frame->attempt);
    if (slot == NULL && !core->config.extended) {
        return;  // never sent on this stream; a stock agent has no journal to repeat from
    }
    slot = slot != NULL ? slot : session_slot_get(core, frame->task_id, frame->attempt);
    if (slot == NULL) {
        session_close(core, NL_RPC_RESOURCE_EXHAUSTED, "too many tasks on one stream");
        return;
    }
    if (slot->withdrawn) {
        return;
    }
    keep_result(core, slot, result, tail);
}

static void on_task_frame(struct nl_session_core *core, uint64_t now_ms,
                          const struct nl_session_event *event) {
    const Nodelink__V1__TaskResponse *frame = event->frame;
    if (!about_task_ok(core, frame)) {
        return;
    }
    if (frame->control_case == NODELINK__V1__TASK_RESPONSE__CONTROL_RESULT) {
        on_result(core, frame, frame->result, frame->tail);
    } else if (frame->is_final && event->synthesised != NULL) {
        on_result(core, frame, event->synthesised, event->synthesised_tail);
    } else if (frame->is_final && core->config.extended) {
        malformed(core, "final response without result");
    } else if (frame->control_case == NODELINK__V1__TASK_RESPONSE__CONTROL_UNCERTAIN) {
        on_uncertain(core, now_ms, frame);
    } else if (frame->status == NODELINK__V1__TASK_RESPONSE__STATUS__IN_PROGRESS) {
        on_started(core, now_ms, frame);
    }
}

// ---- all -------------------------------------------------------------------

static bool envelope_ok(struct nl_session_core *core, const Nodelink__V1__TaskResponse *frame) {
    if (frame->agent_id[0] != '\0' && strcmp(frame->agent_id, core->config.agent_id) != 0) {
        return malformed(core, "another agent's id");
    }
    if (frame->agent_id[0] == '\0' && frame->task_id[0] != '\0' && frame->sub == 0) {
        return malformed(core, "no agent id");
    }
    if (frame->status < NODELINK__V1__TASK_RESPONSE__STATUS__UNKNOWN ||
        frame->status > NODELINK__V1__TASK_RESPONSE__STATUS__IN_PROGRESS) {
        return malformed(core, "unknown status");
    }
    if (core->config.extended && frame->epoch != 0 && core->epoch != 0 &&
        frame->epoch != core->epoch) {
        return malformed(core, "not of this stream's epoch");
    }
    return true;
}

static void on_active_frame(struct nl_session_core *core, uint64_t now_ms,
                            const struct nl_session_event *event) {
    const Nodelink__V1__TaskResponse *frame = event->frame;
    if (!core->config.extended) {
        on_task_frame(core, now_ms, event);
        return;
    }
    switch (frame->control_case) {
        case NODELINK__V1__TASK_RESPONSE__CONTROL_HELLO:
            malformed(core, "a second Hello");
            return;
        case NODELINK__V1__TASK_RESPONSE__CONTROL_PING:
            core->pong_due = true;
            core->pong_nonce = frame->ping->nonce;
            return;
        case NODELINK__V1__TASK_RESPONSE__CONTROL_PONG:
        case NODELINK__V1__TASK_RESPONSE__CONTROL_OUTPUT_END:  // the driver's: it has the readers
            return;
        case NODELINK__V1__TASK_RESPONSE__CONTROL_GOODBYE:
            session_close(core, NL_RPC_OK, "goodbye: %.200s", frame->goodbye->reason);
            return;
        case NODELINK__V1__TASK_RESPONSE__CONTROL_STARTED:
        case NODELINK__V1__TASK_RESPONSE__CONTROL_UNCERTAIN:
        case NODELINK__V1__TASK_RESPONSE__CONTROL_RESULT:
            on_task_frame(core, now_ms, event);
            return;
        case NODELINK__V1__TASK_RESPONSE__CONTROL__NOT_SET:
        default:
            break;
    }
    if (frame->sub == 0) {  // else a chunk for a reader
        on_task_frame(core, now_ms, event);
    }
}

void session_frame(struct nl_session_core *core, uint64_t now_ms,
                   const struct nl_session_event *event) {
    if (core->state == NL_SESSION_CLOSING) {
        return;
    }
    core->heard_at_ms = now_ms;
    core->pinged = false;
    if (!envelope_ok(core, event->frame)) {
        return;
    }
    if (core->state == NL_SESSION_HELLO) {
        on_hello(core, event->frame);
    } else if (core->state == NL_SESSION_ACTIVE) {
        on_active_frame(core, now_ms, event);
    } else {
        malformed(core, "a message before the registration");
    }
}
