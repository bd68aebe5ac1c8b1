// Agent records.

#include "cluster/state/internal.h"

static struct nl_agent_rec *as_agent(struct nl_rec *rec) {
    return NL_CONTAINER(rec, struct nl_agent_rec, head);
}

void nl_agent_rec_free(struct nl_state *state, struct nl_agent_rec *rec) {
    struct nl_agent *agent = &rec->agent;
    nl_release(state, agent->version);
    nl_release(state, agent->boot_id);
    nl_release(state, agent->journal_id);
    nl_release(state, agent->address);
    nl_release(state, agent->hostname);
    nl_release(state, agent->labels);
    nl_release(state, agent->disconnect_reason);
    nl_release(state, rec);
}

struct nl_agent_rec *nl_agent_get(const struct nl_state *state, const char *id) {
    uint32_t slot = nl_table_find(&state->agents, id);
    return slot == NL_SLOT_NONE ? NULL : as_agent(nl_table_get(&state->agents, slot));
}

int nl_agent_add(struct nl_state *state, const char *id, struct nl_agent_rec **ret) {
    size_t id_size = strlen(id) + 1;
    struct nl_agent_rec *rec = calloc(1, sizeof *rec + id_size);
    if (rec == NULL) {
        return NL_ENOMEM;
    }
    memcpy(rec->id, id, id_size);
    rec->agent.id = rec->id;
    rec->agent.connection = NL_AGENT_NEVER_CONNECTED;
    int rv = nl_table_add(state, &state->agents, &rec->head, 0);
    if (rv != NL_OK) {
        free(rec);
        return rv;
    }
    nl_order_add(&state->agents, NL_ORDER_ALL, &state->agents.root, rec->head.slot, 0);
    *ret = rec;
    return NL_OK;
}

int nl_agent_edit(struct nl_state *state, uint32_t slot, struct nl_agent_rec **ret) {
    size_t size = sizeof(struct nl_agent_rec) + strlen(nl_table_id(&state->agents, slot)) + 1;
    struct nl_rec *head;
    int rv = nl_table_edit(state, &state->agents, slot, size, &head);
    if (rv == NL_OK) {
        *ret = as_agent(head);
        (*ret)->agent.id = (*ret)->id;  // a copy's own
    }
    return rv;
}

void nl_agent_commit(struct nl_apply *a, struct nl_agent_rec *rec, enum nl_agent_connection old) {
    struct nl_state *state = a->state;
    if (old != 0) {
        state->counts.agents[old]--;
    } else {
        state->counts.agents_total++;
    }
    state->counts.agents[rec->agent.connection]++;
    nl_rehash(state, &rec->head, nl_hash_agent(&rec->agent));
    nl_emit_agent(a, &rec->agent, old);
}

int nl_agent_disconnect(struct nl_apply *a, uint32_t slot, const char *reason) {
    struct nl_agent_rec *rec;
    int rv = nl_agent_edit(a->state, slot, &rec);
    if (rv == NL_OK) {
        rv = nl_text_replace(a->state, &rec->agent.disconnect_reason, reason);
    }
    if (rv != NL_OK) {
        return rv;
    }
    assert(rec->agent.connection == NL_AGENT_CONNECTED);
    rec->agent.connection = NL_AGENT_DISCONNECTED;
    rec->agent.owner = 0;
    rec->agent.owner_boot = 0;
    rec->agent.disconnected_ms = a->state->clock_ms;
    nl_agent_commit(a, rec, NL_AGENT_CONNECTED);
    return NL_OK;
}

const struct nl_agent *nl_state_agent(const struct nl_state *state, const char *agent_id) {
    struct nl_agent_rec *rec = nl_agent_get(state, agent_id);
    return rec == NULL ? NULL : &rec->agent;
}

const struct nl_agent *nl_state_agent_next(const struct nl_state *state, const char *after_id) {
    const char *after = after_id != NULL && after_id[0] != '\0' ? after_id : NULL;
    uint32_t slot = nl_order_above(&state->agents, NL_ORDER_ALL, state->agents.root, 0, after);
    return slot == NL_SLOT_NONE ? NULL : &as_agent(nl_table_get(&state->agents, slot))->agent;
}
