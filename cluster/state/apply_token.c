// AgentTokenCreate, AgentTokenRevoke. The cluster holds hashes of tokens only (P14).

#include "cluster/state/internal.h"
#include "common/base/text.h"

static bool has_token(const struct nl_agent *agent, const uint8_t sha256[32]) {
    for (uint32_t i = 0; i < agent->tokens; i++) {
        if (memcmp(agent->token_sha256[i], sha256, 32) == 0) {
            return true;
        }
    }
    return false;
}

static void add_token(struct nl_agent *agent, const uint8_t sha256[32]) {
    if (agent->tokens == NL_STATE_TOKENS_MAX) {
        // By age: the oldest is the first.
        memmove(agent->token_sha256[0], agent->token_sha256[1],
                (NL_STATE_TOKENS_MAX - 1) * sizeof agent->token_sha256[0]);
        agent->tokens--;
    }
    memcpy(agent->token_sha256[agent->tokens++], sha256, 32);
}

int nl_apply_token_create(struct nl_apply *a, const Nodelink__V1__AgentTokenCreate *m) {
    struct nl_state *state = a->state;
    if (!nl_text_id_ok(m->agent_id) || m->token_sha256.len != 32) {
        return nl_apply_done(a, NL_OUTCOME_INVALID, 0);
    }
    struct nl_agent_rec *rec = nl_agent_get(state, m->agent_id);
    if (rec != NULL && has_token(&rec->agent, m->token_sha256.data)) {
        return nl_apply_done(a, NL_OUTCOME_EXISTED, 0);
    }
    enum nl_agent_connection old = rec == NULL ? 0 : rec->agent.connection;
    int rv;
    if (rec != NULL) {
        rv = nl_agent_edit(state, rec->head.slot, &rec);
    } else if (state->agents.count >= state->limits.agents_max) {
        return nl_apply_done(a, NL_OUTCOME_LIMIT, 0);
    } else {
        rv = nl_agent_add(state, m->agent_id, &rec);
    }
    if (rv != NL_OK) {
        return rv;
    }
    if (old == 0) {
        rec->agent.created_ms = state->clock_ms;
    }
    add_token(&rec->agent, m->token_sha256.data);
    nl_agent_commit(a, rec, old);
    return nl_apply_done(a, NL_OUTCOME_OK, 0);
}

int nl_apply_token_revoke(struct nl_apply *a, const Nodelink__V1__AgentTokenRevoke *m) {
    struct nl_agent_rec *rec = nl_agent_get(a->state, m->agent_id);
    if (rec == NULL) {
        return nl_apply_done(a, NL_OUTCOME_NO_AGENT, 0);
    }
    if (rec->agent.tokens == 0) {
        return nl_apply_done(a, NL_OUTCOME_NOTHING, 0);
    }
    int rv = nl_agent_edit(a->state, rec->head.slot, &rec);
    if (rv != NL_OK) {
        return rv;
    }
    memset(rec->agent.token_sha256, 0, sizeof rec->agent.token_sha256);
    rec->agent.tokens = 0;
    nl_agent_commit(a, rec, rec->agent.connection);
    return nl_apply_done(a, NL_OUTCOME_OK, 0);
}
