#include "server/output.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "server/output_remote.h"
#include "server/output_stock.h"
#include "server/sessions.h"
#include "server/stock.h"

struct nl_outputs {
    struct nl_server *server;
    struct nl_stock *stock;
    uint64_t readers;
};

struct nl_outputs *nl_outputs_new(struct nl_server *server) {
    struct nl_outputs *outputs = calloc(1, sizeof *outputs);
    if (outputs == NULL) {
        return NULL;
    }
    outputs->server = server;
    outputs->stock = nl_stock_new();
    if (outputs->stock == NULL) {
        free(outputs);
        return NULL;
    }
    return outputs;
}

void nl_outputs_free(struct nl_outputs *outputs) {
    if (outputs != NULL) {
        nl_stock_free(outputs->stock);
        free(outputs);
    }
}

struct nl_stock *nl_outputs_stock(struct nl_outputs *outputs) {
    return outputs->stock;
}

static int open_at_agent(struct nl_outputs *outputs, const struct nl_agent *agent,
                         const struct nl_output_request *request, struct nl_output_reader **ret) {
    struct nl_session *session =
        nl_sessions_find(outputs->server->sessions, agent->id, agent->epoch);
    if (session == NULL) {
        return NL_EAGAIN;
    }
    return agent->extended ? nl_agent_readers_open(&session->readers, request, ret) : NL_EGAP;
}

static int open_anywhere(struct nl_outputs *outputs, const struct nl_output_request *request,
                         bool local_only, struct nl_output_reader **ret) {
    const struct nl_state *state = nl_cluster_state(outputs->server->cluster);
    const struct nl_task *task = nl_state_task(state, request->task_id);
    if (task == NULL) {
        return NL_ENOTFOUND;
    }
    struct nl_stock_task *pushed = nl_stock_find(outputs->stock, request->task_id);
    if (pushed != NULL) {
        return nl_output_stock_open(outputs->server, outputs->stock, pushed, request, ret);
    }
    const struct nl_agent *agent = nl_state_agent(state, task->spec->agent_id);
    if (agent == NULL || agent->connection != NL_AGENT_CONNECTED) {
        return NL_EAGAIN;
    }
    if (agent->owner == nl_cluster_id(outputs->server->cluster)) {
        return open_at_agent(outputs, agent, request, ret);
    }
    return local_only ? NL_EAGAIN
                      : nl_output_remote_open(outputs->server, agent->owner, request, ret);
}

int nl_output_open(struct nl_outputs *outputs, const struct nl_output_request *request,
                   bool local_only, const struct nl_output_events *events, void *user,
                   struct nl_output_reader **ret) {
    // Readers of clients and of other nodes: twice the limit of the clients' own.
    if (outputs->readers >= 2 * outputs->server->settings->watches_max) {
        return NL_EFULL;
    }
    struct nl_output_reader *reader = NULL;
    int rv = open_anywhere(outputs, request, local_only, &reader);
    if (rv != NL_OK) {
        return rv;
    }
    reader->outputs = outputs;
    reader->events = events;
    reader->user = user;
    outputs->readers++;
    *ret = reader;
    return NL_OK;
}

void nl_output_credit(struct nl_output_reader *reader, size_t bytes) {
    if (!reader->closed) {
        reader->credit(reader, bytes);
    }
}

void nl_output_close(struct nl_output_reader *reader) {
    if (reader == NULL) {
        return;
    }
    reader->closed = true;
    if (!reader->delivering) {
        reader->close(reader);
    }
}

bool nl_output_deliver(struct nl_output_reader *reader, enum nl_stream stream, uint64_t offset,
                       const uint8_t *data, size_t len) {
    reader->delivering = true;
    reader->events->on_data(reader->user, stream, offset, data, len);
    reader->delivering = false;
    if (reader->closed) {
        reader->close(reader);
        return false;
    }
    return true;
}

void nl_output_finish(struct nl_output_reader *reader, const struct nl_output_end *end) {
    const struct nl_output_events *events = reader->events;
    void *user = reader->user;
    reader->closed = true;
    reader->close(reader);
    events->on_end(user, end);
}

void nl_output_released(struct nl_output_reader *reader) {
    reader->outputs->readers--;
}
