#include "server/session_slots.h"

#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "common/base/crypto.h"
#include "common/base/err.h"
#include "server/messages.h"

enum { KEY_MAX = NL_STATE_ID_MAX + 1 + sizeof(uint32_t) };

// Its length, or 0: no id is that long.
static size_t make_key(const struct nl_session_core *core, const char *id, uint32_t attempt,
                       char out[KEY_MAX]) {
    size_t len = strlen(id) + 1;
    uint32_t number = core->config.extended ? attempt : 0;
    if (len + sizeof number > KEY_MAX) {
        return 0;
    }
    memcpy(out, id, len);
    memcpy(out + len, &number, sizeof number);
    return len + sizeof number;
}

struct slot *session_slot_find(const struct nl_session_core *core, const char *id,
                               uint32_t attempt) {
    struct slot *slot = NULL;
    char key[KEY_MAX];
    size_t len = make_key(core, id, attempt, key);
    if (len > 0) {
        HASH_FIND(hh, core->slots, key, len, slot);
    }
    return slot;
}

struct slot *session_slot_get(struct nl_session_core *core, const char *id, uint32_t attempt) {
    struct slot *slot = session_slot_find(core, id, attempt);
    if (slot != NULL) {
        return slot;
    }
    char key[KEY_MAX];
    size_t len = make_key(core, id, attempt, key);
    if (len == 0 || HASH_COUNT(core->slots) >= SESSION_SLOTS_MAX) {
        return NULL;
    }
    slot = calloc(1, sizeof *slot);
    char *copy = malloc(len);
    if (slot == NULL || copy == NULL) {
        free(slot);
        free(copy);
        return NULL;
    }
    memcpy(copy, key, len);
    slot->id = slot->key = copy;
    slot->attempt = attempt;
    HASH_ADD_KEYPTR(hh, core->slots, slot->key, len, slot);
    return slot;
}

bool session_slot_earlier_runs(const struct nl_session_core *core, const struct nl_task *task) {
    for (uint32_t attempt = 1; attempt < task->attempt; attempt++) {
        const struct slot *slot = session_slot_find(core, task->id, attempt);
        if (slot != NULL && slot->busy) {
            return true;
        }
    }
    return false;
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
    if (slot->tail != NULL) {
        protobuf_c_message_free_unpacked(&slot->tail->base, NULL);
        slot->tail = NULL;
    }
    core->backlog -= slot->bytes;
    slot->bytes = 0;
}

void session_slot_free(struct nl_session_core *core, struct slot *slot) {
    session_slot_queue(core, slot, SLOT_IDLE);
    session_slot_out(core, slot, false);
    session_slot_set_busy(core, slot, false);
    session_slot_drop_result(core, slot);
    HASH_DEL(core->slots, slot);
    free(slot->key);
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
                        const Nodelink__V1__TaskResult *result,
                        const Nodelink__V1__OutputTail *tail) {
    session_slot_set_busy(core, slot, false);
    if (slot->result != NULL) {
        return NL_OK;  // repeated while the first one is under way
    }
    slot->result = (Nodelink__V1__TaskResult *)(void *)nl_message_clone(&result->base);
    if (slot->result == NULL) {
        return NL_ENOMEM;
    }
    core->n_finishing++;
    slot->bytes = protobuf_c_message_get_packed_size(&result->base);
    if (tail != NULL) {
        slot->tail = (Nodelink__V1__OutputTail *)(void *)nl_message_clone(&tail->base);
        slot->bytes += protobuf_c_message_get_packed_size(&tail->base);
    }
    core->backlog += slot->bytes;
    slot->cancel_due = false;
    if (slot->queue != SLOT_IN_FLIGHT) {  // else a TaskStart is: the finish follows its end
        session_slot_queue(core, slot, SLOT_FINISH);
    }
    return tail != NULL && slot->tail == NULL ? NL_ENOMEM : NL_OK;
}

int session_slot_withdraw(struct nl_session_core *core, const struct nl_task *task,
                          const char *reason) {
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
    result.kind = task->cancel_requested ? NODELINK__V1__TASK_RESULT__KIND__CANCELLED
                                         : NODELINK__V1__TASK_RESULT__KIND__NOT_STARTED;
    result.stdout_sha256 = (ProtobufCBinaryData){sizeof empty, empty};
    result.stderr_sha256 = (ProtobufCBinaryData){sizeof empty, empty};
    result.reason = nl_message_text(reason);
    slot->withdrawn = true;
    return session_slot_finish(core, slot, &result, NULL);
}

void session_slot_settle(struct nl_session_core *core, struct slot *slot) {
    if (!slot->busy && slot->queue == SLOT_IDLE && !slot->ack_due && !slot->cancel_due &&
        slot->result == NULL) {
        session_slot_free(core, slot);
    }
}
