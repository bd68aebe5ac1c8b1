#include "tools/probe.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/rpc/rpc.h"

enum { NODES_MAX = 64 };  // a wrong answer must not make this ask the whole world

struct round;

struct slot {
    struct round *round;
    size_t index;  // in the probes, which may move
};

struct round {
    struct nl_probes *probes;
    struct slot slots[NODES_MAX];
    size_t waiting;
};

static bool known(const struct nl_probes *probes, const char *address) {
    for (size_t i = 0; i < probes->count; i++) {
        if (strcmp(probes->items[i].address, address) == 0) {
            return true;
        }
    }
    return false;
}

// The same node under two names ("localhost", "127.0.0.1") has answered already.
static bool answered(const struct nl_probes *probes, uint64_t node_id) {
    for (size_t i = 0; i < probes->count; i++) {
        if (probes->items[i].reply != NULL && probes->items[i].reply->node_id == node_id) {
            return true;
        }
    }
    return false;
}

static int add(struct nl_probes *probes, const char *address) {
    if (probes->count >= NODES_MAX || known(probes, address)) {
        return NL_OK;
    }
    struct nl_probe *items = realloc(probes->items, (probes->count + 1) * sizeof *items);
    if (items == NULL) {
        return NL_ENOMEM;
    }
    probes->items = items;
    items[probes->count] = (struct nl_probe){.address = strdup(address)};
    return items[probes->count].address != NULL ? (probes->count++, NL_OK) : NL_ENOMEM;
}

static void on_reply(void *user, const struct nl_client_error *error, ProtobufCMessage *reply) {
    struct slot *slot = user;
    struct nl_probe *probe = &slot->round->probes->items[slot->index];
    slot->round->waiting--;
    if (error != NULL) {
        probe->error = *error;
    } else {
        probe->reply = (Nodelink__V1__GetStatusReply *)reply;
    }
}

// Asks the probes from `first` on.
static void ask(struct nl_client *client, struct nl_probes *probes, size_t first,
                uint64_t timeout_ms) {
    Nodelink__V1__GetStatusRequest request = NODELINK__V1__GET_STATUS_REQUEST__INIT;
    struct round round = {.probes = probes};
    for (size_t i = first; i < probes->count; i++) {
        struct nl_client_call call = {
            .method = "GetStatus",
            .request = &request.base,
            .repeat = NL_CLIENT_READ,
            .timeout_ms = timeout_ms,
            .only = probes->items[i].address,
        };
        round.slots[i] = (struct slot){&round, i};
        if (nl_client_start(client, &call, on_reply, &round.slots[i]) == NL_OK) {
            round.waiting++;
        }
    }
    while (round.waiting > 0) {
        uv_run(nl_client_loop(client), UV_RUN_ONCE);
    }
}

static int learn_from(struct nl_probes *probes, size_t index) {
    const Nodelink__V1__GetStatusReply *reply = probes->items[index].reply;
    for (size_t i = 0; reply != NULL && i < reply->n_members; i++) {
        const Nodelink__V1__Member *member = reply->members[i];
        if (*member->grpc_address != '\0' && !answered(probes, member->id)) {
            int rc = add(probes, member->grpc_address);
            if (rc != NL_OK) {
                return rc;
            }
        }
    }
    return NL_OK;
}

int nl_probes_run(struct nl_client *client, const struct nl_client_target *target, bool learn,
                  uint64_t timeout_ms, struct nl_probes *ret) {
    *ret = (struct nl_probes){0};
    int rc = NL_OK;
    for (size_t i = 0; i < target->n_addresses && rc == NL_OK; i++) {
        rc = add(ret, target->addresses[i]);
    }
    for (size_t asked = 0; rc == NL_OK && asked < ret->count;) {
        size_t end = ret->count;
        ask(client, ret, asked, timeout_ms);
        for (; rc == NL_OK && asked < end; asked++) {
            rc = learn ? learn_from(ret, asked) : NL_OK;
        }
        asked = end;
    }
    return rc;
}

void nl_probes_close(struct nl_probes *probes) {
    for (size_t i = 0; i < probes->count; i++) {
        free(probes->items[i].address);
        nl_rpc_message_free(probes->items[i].reply != NULL ? &probes->items[i].reply->base : NULL);
    }
    free(probes->items);
    *probes = (struct nl_probes){0};
}
