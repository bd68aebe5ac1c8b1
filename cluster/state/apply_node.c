// NodeUp, NodeDown.

#include "cluster/state/internal.h"

// Disconnects the agents that this node owned under a boot below `boot_below`.
static int disconnect_agents(struct nl_apply *a, uint64_t node, uint64_t boot_below,
                             const char *reason) {
    const struct nl_table *agents = &a->state->agents;
    uint32_t slot = nl_order_first(agents, NL_ORDER_ALL, agents->root);
    for (; slot != NL_SLOT_NONE; slot = nl_order_next(agents, NL_ORDER_ALL, slot)) {
        const struct nl_agent *agent =
            &NL_CONTAINER(nl_table_get(agents, slot), struct nl_agent_rec, head)->agent;
        if (agent->owner != node || agent->owner_boot >= boot_below) {
            continue;
        }
        int rv = nl_agent_disconnect(a, slot, reason);
        if (rv != NL_OK) {
            return rv;
        }
    }
    return NL_OK;
}

static int node_open(struct nl_state *state, uint64_t id, struct nl_node_rec **ret) {
    return nl_state_node(state, id) == NULL ? nl_node_add(state, id, ret)
                                            : nl_node_edit(state, id, ret);
}

int nl_apply_node_up(struct nl_apply *a, const Nodelink__V1__NodeUp *m) {
    const struct nl_node *known = nl_state_node(a->state, m->node);
    if (m->node == 0) {
        return nl_apply_done(a, NL_OUTCOME_INVALID, 0);
    }
    if (known != NULL && m->node_boot < known->boot) {
        return nl_apply_done(a, NL_OUTCOME_STALE, 0);
    }
    struct nl_node_rec *rec;
    int rv = node_open(a->state, m->node, &rec);
    if (rv != NL_OK || (rv = nl_text_replace(a->state, &rec->node.name, m->name)) != NL_OK ||
        (rv = nl_text_replace(a->state, &rec->node.grpc_address, m->grpc_address)) != NL_OK ||
        (rv = nl_text_replace(a->state, &rec->node.version, m->version)) != NL_OK) {
        return rv;
    }
    rec->node.boot = m->node_boot;
    rec->node.up = true;
    nl_node_commit(a, rec);
    rv = disconnect_agents(a, m->node, m->node_boot, "the node restarted");
    return rv == NL_OK ? nl_apply_done(a, NL_OUTCOME_OK, 0) : rv;
}

int nl_apply_node_down(struct nl_apply *a, const Nodelink__V1__NodeDown *m) {
    const struct nl_node *known = nl_state_node(a->state, m->node);
    if (known == NULL || known->boot != m->node_boot || !known->up) {
        return nl_apply_done(a, NL_OUTCOME_NOTHING, 0);
    }
    struct nl_node_rec *rec;
    int rv = nl_node_edit(a->state, m->node, &rec);
    if (rv != NL_OK) {
        return rv;
    }
    rec->node.up = false;
    nl_node_commit(a, rec);
    rv = disconnect_agents(a, m->node, UINT64_MAX, "the node is down");
    return rv == NL_OK ? nl_apply_done(a, NL_OUTCOME_OK, 0) : rv;
}
