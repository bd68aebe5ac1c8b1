#include "server/session_slots.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "common/base/crypto.h"
#include "common/base/err.h"
#include "server/messages.h"

struct slot *session_slot_find(const struct nl_session_core *core, const char *id) {
    struct slot *slot = NULL;
    HASH_FIND_STR(core->slots, id, slot);
    return slot;
}

struct slot *session_slot_get(struct nl_session_core *core, const char *id, uint32_t attempt) {
    struct slot *slot = session_slot_find(core, id);
    if (slot != NULL) {
        return slot;
    }
    if (HASH_COUNT(core->slots) >= SESSION_SLOTS_MAX) {
        return NULL;
    }
    slot = calloc(1, sizeof *slot);
    char *copy = strdup(id);
    if (slot == NULL || copy == NULL) {
        free(slot);
        free(copy);
        return NULL;
    }
    slot->id = copy;
    slot->attempt = attempt;
    HASH_ADD_KEYPTR(hh, core->slots, slot->id, strlen(slot->id), slot);
    return slot;
}

void session_slot_queue(struct nl_session_core *core, struct slot *slot, enum slot_queue queue) {
    if (slot->queue == SLOT_START) {
        DL_DELETE(core->starts, slot);
    } else if (slot->queue == SLOT_FINISH) {
        DL_DELETE(core->finishes, slot);
    }
    slot->queue = queue;
    if (queue == SLOT_START) {
        DL_APPEND(core->starts, slot);
    } else if (queue == SLOT_FINISH) {
        DL_APPEND(core->finishes, slot);
    }
}

void session_slot_out(struct nl_session_core *core, struct slot *slot, bool out) {
    if (out && !slot->out) {
        DL_APPEND2(core->outs, slot, out_prev, out_next);
    } else if (!out && slot->out) {
        DL_DELETE2(core->outs, slot, out_prev, out_next);
    }
    slot->out = out;
}

void session_slot_set_busy(struct nl_session_core *core, struct slot *slot, bool busy) {
    if (slot->busy != busy) {
        core->busy += busy ? 1u : (uint32_t)-1;
        core->pump_due = core->pump_due || !busy;
    }
    slot->busy = busy;
}

void session_slot_drop_result(struct nl_session_core *core, struct slot *slot) {
    if (slot->result != NULL) {
        protobuf_c_message_free_unpacked(&slot->result->base, NULL);
        slot->result = NULL;
        core->n_finishing--;
    }
}

void session_slot_free(struct nl_session_core *core, struct slot *slot) {
    session_slot_queue(core, slot, SLOT_IDLE);
    session_slot_out(core, slot, false);
    session_slot_set_busy(core, slot, false);
    session_slot_drop_result(core, slot);
    HASH_DEL(core->slots, slot);
    free(slot->id);
    free(slot);
}

void session_slot_cancel(struct nl_session_core *core, struct slot *slot) {
    if (!slot->busy || slot->cancel_sent || slot->cancel_due) {
        return;
    }
    slot->cancel_due = true;
    session_slot_out(core, slot, true);
}

int session_slot_finish(struct nl_session_core *core, struct slot *slot,
                        const Nodelink__V1__TaskResult *result) {
    session_slot_set_busy(core, slot, false);
    if (slot->result != NULL) {
        return NL_OK;  // repeated while the first one is under way
    }
    slot->result = (Nodelink__V1__TaskResult *)(void *)nl_message_clone(&result->base);
    if (slot->result == NULL) {
        return NL_ENOMEM;
    }
    core->n_finishing++;
    slot->cancel_due = false;
    if (slot->queue != SLOT_IN_FLIGHT) {  // else a TaskStart is: the finish follows its end
        session_slot_queue(core, slot, SLOT_FINISH);
    }
    return NL_OK;
}

int session_slot_withdraw(struct nl_session_core *core, const struct nl_task *task) {
    struct slot *slot = session_slot_get(core, task->id, task->attempt);
    if (slot == NULL) {
        return NL_ENOMEM;
    }
    if (slot->sent || slot->withdrawn) {
        return NL_OK;
    }
    uint8_t empty[NL_SHA256_LEN];
    nl_sha256_of("", 0, empty);
    Nodelink__V1__TaskResult result = NODELINK__V1__TASK_RESULT__INIT;
    result.kind = NODELINK__V1__TASK_RESULT__KIND__CANCELLED;
    result.stdout_sha256 = (ProtobufCBinaryData){sizeof empty, empty};
    result.stderr_sha256 = (ProtobufCBinaryData){sizeof empty, empty};
    result.reason = nl_message_text("cancelled before it was sent to the agent");
    slot->withdrawn = true;
    return session_slot_finish(core, slot, &result);
}

void session_slot_settle(struct nl_session_core *core, struct slot *slot) {
    if (!slot->busy && slot->queue == SLOT_IDLE && !slot->ack_due && !slot->cancel_due &&
        slot->result == NULL) {
        session_slot_free(core, slot);
    }
}
