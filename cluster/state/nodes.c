// Node records.

#include "cluster/state/internal.h"

static struct nl_node_rec *as_node(struct nl_rec *rec) {
    return NL_CONTAINER(rec, struct nl_node_rec, head);
}

void nl_node_rec_free(struct nl_state *state, struct nl_node_rec *rec) {
    nl_release(state, rec->node.name);
    nl_release(state, rec->node.grpc_address);
    nl_release(state, rec->node.version);
    nl_release(state, rec);
}

int nl_node_add(struct nl_state *state, uint64_t id, struct nl_node_rec **ret) {
    struct nl_node_rec *rec = calloc(1, sizeof *rec);
    if (rec == NULL) {
        return NL_ENOMEM;
    }
    rec->node.id = id;
    int rv = nl_table_add(state, &state->nodes, &rec->head, id);
    if (rv != NL_OK) {
        free(rec);
        return rv;
    }
    nl_order_add(&state->nodes, NL_ORDER_ALL, &state->nodes.root, rec->head.slot, id);
    *ret = rec;
    return NL_OK;
}

int nl_node_edit(struct nl_state *state, uint64_t id, struct nl_node_rec **ret) {
    uint32_t slot = nl_order_find(&state->nodes, id);
    assert(slot != NL_SLOT_NONE);
    struct nl_rec *rec;
    int rv = nl_table_edit(state, &state->nodes, slot, sizeof(struct nl_node_rec), &rec);
    if (rv == NL_OK) {
        *ret = as_node(rec);
    }
    return rv;
}

void nl_node_commit(struct nl_apply *a, struct nl_node_rec *rec) {
    rec->node.changed_ms = a->state->clock_ms;
    nl_rehash(a->state, &rec->head, nl_hash_node(&rec->node));
    nl_emit_node(a, &rec->node);
}

const struct nl_node *nl_state_node(const struct nl_state *state, uint64_t node_id) {
    uint32_t slot = nl_order_find(&state->nodes, node_id);
    return slot == NL_SLOT_NONE ? NULL : &as_node(nl_table_get(&state->nodes, slot))->node;
}

const struct nl_node *nl_state_node_next(const struct nl_state *state, uint64_t after_id) {
    uint32_t slot = nl_order_above(&state->nodes, NL_ORDER_ALL, state->nodes.root, after_id, "");
    return slot == NL_SLOT_NONE ? NULL : &as_node(nl_table_get(&state->nodes, slot))->node;
}
