// The list of actions that a step gives back, and what is put into it.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/link/core_internal.h"

enum { LOG_BURST = 10, LOG_PERIOD_MS = 60000, BAD_PERIOD_MS = 10000 };

char *nl_link_strdup(struct nl_link_core *core, const char *s) {
    char *copy = strdup(s);
    core->no_memory = core->no_memory || copy == NULL;
    return copy;
}

ProtobufCMessage *nl_link_clone(struct nl_link_core *core, const ProtobufCMessage *message) {
    size_t size = protobuf_c_message_get_packed_size(message);
    uint8_t *packed = malloc(size + 1);
    ProtobufCMessage *copy = NULL;
    if (packed != NULL) {
        protobuf_c_message_pack(message, packed);
        copy = protobuf_c_message_unpack(message->descriptor, NULL, size, packed);
    }
    free(packed);
    core->no_memory = core->no_memory || copy == NULL;
    return copy;
}

// Actions own what they point to; the pointers are const for those who execute them.
static void free_action(struct nl_link_action *action) {
    switch (action->type) {
        case NL_LINK_SEND:
            protobuf_c_message_free_unpacked((ProtobufCMessage *)&action->response->base, NULL);
            free(action->tail.spool_dir);
            break;
        case NL_LINK_SUP_SEND:
            protobuf_c_message_free_unpacked((ProtobufCMessage *)&action->to_sup->base, NULL);
            break;
        case NL_LINK_CONNECT:
            free((char *)action->address);
            break;
        case NL_LINK_LOG:
            free((char *)action->log.server);
            free((char *)action->log.reason);
            break;
        default:
            break;
    }
}

void nl_link_actions_clear(struct nl_link_core *core) {
    for (size_t i = 0; i < core->action_count; i++) {
        free_action(&core->actions[i]);
    }
    core->action_count = 0;
    core->output_told = false;
}

static void append(struct nl_link_core *core, struct nl_link_action action) {
    if (core->action_count == core->action_cap) {
        size_t cap = core->action_cap == 0 ? 32 : core->action_cap * 2;
        struct nl_link_action *bigger = realloc(core->actions, cap * sizeof *bigger);
        if (bigger == NULL) {
            core->no_memory = true;
            free_action(&action);
            return;
        }
        core->actions = bigger;
        core->action_cap = cap;
    }
    core->actions[core->action_count++] = action;
}

void nl_link_do(struct nl_link_core *core, enum nl_link_action_type type, uint64_t call) {
    append(core, (struct nl_link_action){.type = type, .call = call});
}

void nl_link_do_connect(struct nl_link_core *core, const struct nl_link_conn *conn) {
    char *address = nl_link_strdup(core, conn->address);
    if (address != NULL) {
        append(core, (struct nl_link_action){
                         .type = NL_LINK_CONNECT, .call = conn->call, .address = address});
    }
}

void nl_link_do_save_epoch(struct nl_link_core *core, uint64_t epoch) {
    append(core, (struct nl_link_action){.type = NL_LINK_SAVE_EPOCH, .epoch = epoch});
}

static void do_send(struct nl_link_core *core, struct nl_link_conn *conn,
                    const Nodelink__V1__TaskResponse *response, struct nl_link_tail_source tail) {
    ProtobufCMessage *copy = nl_link_clone(core, &response->base);
    if (copy == NULL) {
        free(tail.spool_dir);
        return;
    }
    conn->sent = true;
    append(core, (struct nl_link_action){.type = NL_LINK_SEND,
                                         .call = conn->call,
                                         .tail = tail,
                                         .response = (Nodelink__V1__TaskResponse *)copy});
}

void nl_link_do_send(struct nl_link_core *core, struct nl_link_conn *conn,
                     const Nodelink__V1__TaskResponse *response) {
    do_send(core, conn, response, (struct nl_link_tail_source){0});
}

void nl_link_do_send_result(struct nl_link_core *core, struct nl_link_conn *conn,
                            const struct nl_link_task *task,
                            const Nodelink__V1__TaskResponse *response) {
    struct nl_link_tail_source tail = {.base = {task->base[0], task->base[1]},
                                       .end = {task->end[0], task->end[1]}};
    bool has_output = tail.end[0] > tail.base[0] || tail.end[1] > tail.base[1];
    if (conn->extended && has_output && task->spool_dir != NULL && !task->local) {
        tail.spool_dir = nl_link_strdup(core, task->spool_dir);
    }
    do_send(core, conn, response, tail);
}

void nl_link_do_sup(struct nl_link_core *core, const Nodelink__V1__ToSupervisor *message) {
    ProtobufCMessage *copy = core->sup_up ? nl_link_clone(core, &message->base) : NULL;
    if (copy != NULL) {
        append(core, (struct nl_link_action){.type = NL_LINK_SUP_SEND,
                                             .to_sup = (Nodelink__V1__ToSupervisor *)copy});
    }
}

void nl_link_do_output(struct nl_link_core *core) {
    if (!core->output_told) {
        core->output_told = true;
        nl_link_do(core, NL_LINK_OUTPUT, core->main.call);
    }
}

static void append_log(struct nl_link_core *core, enum nl_log_level level, const char *event,
                       const struct nl_link_conn *conn, const char *reason) {
    struct nl_link_action action = {.type = NL_LINK_LOG, .log = {.level = level, .event = event}};
    if (conn != NULL && conn->address != NULL) {
        action.call = conn->call;
        action.log.epoch = conn->epoch;
        action.log.server = nl_link_strdup(core, conn->address);
    }
    if (reason != NULL && reason[0] != '\0') {
        action.log.reason = nl_link_strdup(core, reason);
    }
    append(core, action);
}

void nl_link_log_conn(struct nl_link_core *core, enum nl_log_level level, const char *event,
                      const struct nl_link_conn *conn, const char *reason) {
    append_log(core, level, event, conn, reason);
}

static void log_limited(struct nl_link_core *core, struct nl_log_limit *limit,
                        struct nl_link_action log, const struct nl_link_conn *conn) {
    uint32_t suppressed = 0;
    uint32_t period = limit == &core->limit_bad ? BAD_PERIOD_MS : LOG_PERIOD_MS;
    if (!nl_log_allow(limit, core->now_ms, LOG_BURST, period, &suppressed)) {
        return;
    }
    char text[512];
    const char *reason = log.log.reason == NULL ? "" : log.log.reason;
    if (suppressed > 0) {
        snprintf(text, sizeof text, "%s (%u lines like this were held back)", reason, suppressed);
        reason = text;
    }
    append_log(core, log.log.level, log.log.event, conn, reason);
}

void nl_link_log_failure(struct nl_link_core *core, enum nl_log_level level, const char *event,
                         const struct nl_link_conn *conn, const char *reason) {
    struct nl_link_action log = {.log = {.level = level, .event = event, .reason = reason}};
    log_limited(core, &core->limit_conn, log, conn);
}

void nl_link_log_bad(struct nl_link_core *core, const char *event, const char *reason) {
    struct nl_link_action log = {.log = {.level = NL_LOG_WARN, .event = event, .reason = reason}};
    log_limited(core, &core->limit_bad, log, &core->main);
}
