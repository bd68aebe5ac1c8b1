// ControlService: agents.
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "server/control.h"
#include "server/messages.h"

// What one call looks at and sends takes a few milliseconds of the loop's time; the rest is on the
// next page.
enum { LIST_DEFAULT = 1000, LIST_MAX = 2000, SCAN_MAX = 4000, LIST_BYTES_MAX = 1024 * 1024 };

static void get_done(struct nl_control_op *op, Nodelink__V1__ReplyHeader *header) {
    const Nodelink__V1__GetAgentRequest *request = (const void *)op->request;
    const struct nl_state *state = nl_cluster_state(op->control->server->cluster);
    const struct nl_agent *agent = nl_state_agent(state, request->agent_id);
    if (agent == NULL) {
        nl_control_fail(op->call, NL_RPC_NOT_FOUND, "agent %s is not known", request->agent_id);
        return;
    }
    Nodelink__V1__Agent record;
    Nodelink__V1__GetAgentReply reply = NODELINK__V1__GET_AGENT_REPLY__INIT;
    nl_control_fill_agent(state, agent, &record);
    reply.header = header;
    reply.agent = &record;
    nl_rpc_call_reply(op->call, &reply.base);
}

void nl_control_get_agent(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    const Nodelink__V1__GetAgentRequest *request = (const void *)message;
    if (!nl_control_id_ok(call, "agent_id", request->agent_id)) {
        nl_rpc_message_free(message);
        return;
    }
    struct nl_control_op *op = nl_control_op_new(user, call, message);
    if (op != NULL) {
        op->read_done = get_done;
        nl_control_read(op, request->read);
    }
}

struct list {
    Nodelink__V1__Agent *records;
    Nodelink__V1__Agent **pointers;
    size_t n, limit, bytes, scanned;
};

// Returns the last agent looked at if there may be more, else NULL.
static const struct nl_agent *collect(const struct nl_state *state,
                                      const Nodelink__V1__ListAgentsRequest *request,
                                      struct list *list) {
    const struct nl_agent *agent = nl_state_agent_next(state, request->page_token);
    for (; agent != NULL; agent = nl_state_agent_next(state, agent->id)) {
        if (nl_labels_match(agent->labels, agent->n_labels, request->labels, request->n_labels)) {
            nl_control_fill_agent(state, agent, &list->records[list->n]);
            list->pointers[list->n] = &list->records[list->n];
            list->bytes += protobuf_c_message_get_packed_size(&list->records[list->n].base);
            list->n++;
        }
        list->scanned++;
        if (list->n == list->limit || list->bytes >= LIST_BYTES_MAX || list->scanned == SCAN_MAX) {
            return nl_state_agent_next(state, agent->id) != NULL ? agent : NULL;
        }
    }
    return NULL;
}

static void list_done(struct nl_control_op *op, Nodelink__V1__ReplyHeader *header) {
    const Nodelink__V1__ListAgentsRequest *request = (const void *)op->request;
    const struct nl_state *state = nl_cluster_state(op->control->server->cluster);
    struct list list = {.limit = request->limit == 0         ? LIST_DEFAULT
                                 : request->limit < LIST_MAX ? request->limit
                                                             : LIST_MAX};
    list.records = calloc(list.limit, sizeof *list.records);
    list.pointers = calloc(list.limit, sizeof *list.pointers);
    if (list.records != NULL && list.pointers != NULL) {
        const struct nl_agent *last = collect(state, request, &list);
        Nodelink__V1__ListAgentsReply reply = NODELINK__V1__LIST_AGENTS_REPLY__INIT;
        reply.header = header;
        reply.n_agents = list.n;
        reply.agents = list.pointers;
        reply.next_page_token = nl_message_text(last != NULL ? last->id : NULL);
        nl_rpc_call_reply(op->call, &reply.base);
    } else {
        nl_control_fail(op->call, NL_RPC_RESOURCE_EXHAUSTED, "failed: this node is out of memory");
    }
    free(list.records);
    free(list.pointers);
}

void nl_control_list_agents(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    const Nodelink__V1__ListAgentsRequest *request = (const void *)message;
    if (request->page_token[0] != '\0' &&
        !nl_control_id_ok(call, "page_token", request->page_token)) {
        nl_rpc_message_free(message);
        return;
    }
    struct nl_control_op *op = nl_control_op_new(user, call, message);
    if (op != NULL) {
        op->read_done = list_done;
        nl_control_read(op, request->read);
    }
}
