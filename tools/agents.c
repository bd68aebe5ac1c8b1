#include "tools/agents.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"

enum { PAGE = 1000 };

struct walk {
    int (*each)(void *user, const Nodelink__V1__Agent *agent);
    void *user;
    uint64_t left;
    char *page_token;  // owned; where the next page begins; NULL: no more
};

static bool out_of_memory(struct nl_client_error *ret_error) {
    *ret_error = (struct nl_client_error){.code = NL_RPC_INTERNAL, .text = "out of memory"};
    return false;
}

static bool take_page(struct walk *w, const Nodelink__V1__ListAgentsReply *reply) {
    for (size_t i = 0; i < reply->n_agents && w->left > 0; i++, w->left--) {
        if (w->each(w->user, reply->agents[i]) != NL_OK) {
            return false;
        }
    }
    free(w->page_token);
    w->page_token = NULL;
    if (w->left > 0 && *reply->next_page_token != '\0') {
        w->page_token = strdup(reply->next_page_token);
        return w->page_token != NULL;
    }
    return true;
}

bool nl_agents_each(struct nl_client *client, const struct nl_labels *labels, uint64_t limit,
                    uint64_t timeout_ms, int (*each)(void *user, const Nodelink__V1__Agent *agent),
                    void *user, struct nl_client_error *ret_error) {
    struct walk w = {each, user, limit > 0 ? limit : UINT64_MAX, NULL};
    Nodelink__V1__ListAgentsRequest request = NODELINK__V1__LIST_AGENTS_REQUEST__INIT;
    Nodelink__V1__ReadOptions read = NODELINK__V1__READ_OPTIONS__INIT;
    request.read = &read;
    request.labels = labels->pointers;
    request.n_labels = labels->count;
    struct nl_client_call call = {
        .method = "ListAgents",
        .request = &request.base,
        .min_index = &read.min_index,
        .repeat = NL_CLIENT_READ,
        .timeout_ms = timeout_ms,
    };
    bool ok = true;
    do {
        ProtobufCMessage *reply = NULL;
        request.page_token = w.page_token != NULL ? w.page_token : (char *)"";
        request.limit = w.left < PAGE ? (uint32_t)w.left : PAGE;
        ok = nl_client_wait(client, &call, &reply, ret_error);
        if (ok && !take_page(&w, (const Nodelink__V1__ListAgentsReply *)reply)) {
            ok = out_of_memory(ret_error);
        }
        nl_rpc_message_free(reply);
    } while (ok && w.page_token != NULL);
    free(w.page_token);
    return ok;
}
