// Every invariant of the state, from the records themselves. What this accepts, the handlers may
// rely on; it runs after each command in tests and after each restore.

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#include "cluster/state/internal.h"
#include "common/base/text.h"

struct check {
    const struct nl_state *state;
    char *why;
    size_t why_size;
    struct nl_sum sum;
    struct nl_state_counts counts;
    uint32_t terminal, active;  // as met in the orders
    bool no_memory;
    bool loaded;  // only what the bytes of a snapshot could have wrong
};

static bool fail(struct check *c, const char *format, ...) __attribute__((format(printf, 2, 3)));

static bool fail(struct check *c, const char *format, ...) {
    if (c->why_size > 0) {
        va_list args;
        va_start(args, format);
        vsnprintf(c->why, c->why_size, format, args);
        va_end(args);
    }
    return false;
}

// In a function returning bool: what must hold of the record called `id`.
#define MUST(c, condition, kind, id)                                         \
    do {                                                                     \
        if (!(condition)) {                                                  \
            return fail((c), "%s %s: not so: %s", (kind), (id), #condition); \
        }                                                                    \
    } while (0)

// ---- trees, tables ----

static const struct nl_order_node *node_at(const struct nl_table *table, enum nl_order_kind kind,
                                           uint32_t slot) {
    return &nl_table_link(table, slot)->order[kind];
}

static bool child_ok(const struct nl_table *table, enum nl_order_kind kind, uint32_t slot,
                     uint32_t child) {
    return child == NL_SLOT_NONE ||
           (node_at(table, kind, child)->parent == slot &&
            nl_table_link(table, child)->hash <= nl_table_link(table, slot)->hash);
}

// Sorted, linked both ways, in heap order; *ret_count: how many it holds.
static bool check_order(struct check *c, const struct nl_table *table, enum nl_order_kind kind,
                        uint32_t root, uint32_t *ret_count) {
    uint32_t count = 0, before = NL_SLOT_NONE;
    MUST(c, root == NL_SLOT_NONE || node_at(table, kind, root)->parent == NL_SLOT_NONE, "order",
         "root");
    uint32_t slot = nl_order_first(table, kind, root);
    for (; slot != NL_SLOT_NONE; slot = nl_order_next(table, kind, slot)) {
        const struct nl_order_node *node = node_at(table, kind, slot);
        MUST(c, child_ok(table, kind, slot, node->left), "order", nl_table_id(table, slot));
        MUST(c, child_ok(table, kind, slot, node->right), "order", nl_table_id(table, slot));
        MUST(c, ++count <= table->count, "order", nl_table_id(table, slot));
        if (before != NL_SLOT_NONE) {
            uint64_t key = node_at(table, kind, before)->key;
            bool rises = key < node->key ||
                         (key == node->key &&
                          strcmp(nl_table_id(table, before), nl_table_id(table, slot)) < 0);
            MUST(c, rises, "order", nl_table_id(table, slot));
        }
        before = slot;
    }
    *ret_count = count;
    return true;
}

static bool check_slots(struct check *c, const struct nl_table *table, const char *kind) {
    uint32_t used = 0, sorted = 0;
    for (uint32_t slot = 1; slot < table->next_slot; slot++) {
        const struct nl_rec *rec = nl_table_get(table, slot);
        if (rec == NULL) {
            continue;
        }
        const char *id = nl_table_id(table, slot);
        used++;
        MUST(c, rec->slot == slot, kind, id);
        MUST(c, rec->generation <= c->state->generation, kind, id);
        MUST(c, table->id_at == 0 || nl_table_find(table, id) == slot, kind, id);
    }
    MUST(c, used == table->count, kind, "table");
    if (!check_order(c, table, NL_ORDER_ALL, table->root, &sorted)) {
        return false;
    }
    MUST(c, sorted == table->count, kind, "table");
    return true;
}

// Adds the record's hash to the recomputed sum; it must be the one kept with it.
static bool count_hash(struct check *c, const struct nl_rec *rec, struct nl_sum hash) {
    nl_sum_add(&c->sum, hash);
    return nl_sum_equal(rec->hash, hash);
}

// ---- nodes, proposers ----

static bool check_node(struct check *c, const struct nl_rec *rec) {
    const struct nl_node *n = &NL_CONTAINER(rec, struct nl_node_rec, head)->node;
    char id[24];
    snprintf(id, sizeof id, "%" PRIu64, n->id);
    MUST(c, n->id != 0, "node", id);
    MUST(c, n->changed_ms != 0 && n->changed_ms <= c->state->clock_ms, "node", id);
    MUST(c, nl_state_node(c->state, n->id) == n, "node", id);
    MUST(c, c->loaded || count_hash(c, rec, nl_hash_node(n)), "node", id);
    return true;
}

static bool check_proposer(struct check *c, const struct nl_rec *rec) {
    const struct nl_proposer_rec *p = NL_CONTAINER(rec, struct nl_proposer_rec, head);
    char id[24];
    snprintf(id, sizeof id, "%" PRIu64, p->id);
    MUST(c, p->id != 0, "proposer", id);
    MUST(c, (uint64_t)p->first + p->count <= p->cap, "proposer", id);
    MUST(c, c->loaded || count_hash(c, rec, nl_hash_proposer(p)), "proposer", id);
    for (uint32_t i = 0; i < p->count; i++) {
        const struct nl_done *done = &p->done[p->first + i];
        MUST(c, done->sequence >= p->done_below, "proposer", id);
        MUST(c, i == 0 || done->sequence > done[-1].sequence, "proposer", id);
        MUST(c, done->code >= NL_OUTCOME_OK && done->code < NL_OUTCOME_STALE_BOOT, "proposer", id);
        if (!c->loaded) {
            nl_sum_add(&c->sum, nl_hash_done(p, done));
        }
    }
    return true;
}

// ---- agents ----

static bool check_connection(struct check *c, const struct nl_agent *a) {
    const struct nl_node *owner = nl_state_node(c->state, a->owner);
    bool connected = a->connection == NL_AGENT_CONNECTED;
    bool never = a->connection == NL_AGENT_NEVER_CONNECTED;
    MUST(c, a->connection >= NL_AGENT_NEVER_CONNECTED && a->connection <= NL_AGENT_LOST, "agent",
         a->id);
    MUST(c, never == (a->epoch == 0), "agent", a->id);
    MUST(c, never == (a->connected_ms == 0), "agent", a->id);
    MUST(c, connected == (a->owner != 0), "agent", a->id);
    // P7: one owner, and only as the node is now.
    MUST(c, !connected || (owner != NULL && owner->boot == a->owner_boot), "agent", a->id);
    MUST(c, connected || a->owner_boot == 0, "agent", a->id);
    MUST(c, (connected || never) == (a->disconnected_ms == 0), "agent", a->id);
    MUST(c, !(connected || never) || a->disconnect_reason == NULL, "agent", a->id);
    return true;
}

static bool check_running(const struct check *c, const struct nl_agent *a) {
    uint32_t running = 0;
    const struct nl_task *t = NULL;
    while ((t = nl_state_agent_task_next(c->state, a, t)) != NULL) {
        running += t->state == NL_TASK_RUNNING;
    }
    return running == nl_state_agent_running(c->state, a);
}

static bool check_agent(struct check *c, const struct nl_rec *rec) {
    const struct nl_agent *a = &NL_CONTAINER(rec, struct nl_agent_rec, head)->agent;
    uint64_t now = c->state->clock_ms;
    uint32_t active = 0;
    MUST(c, nl_text_id_ok(a->id), "agent", a->id);
    MUST(c, a->tokens <= NL_STATE_TOKENS_MAX, "agent", a->id);
    MUST(c, a->tokens < 2 || memcmp(a->token_sha256[0], a->token_sha256[1], 32) != 0, "agent",
         a->id);
    MUST(c, (a->labels != NULL) == (a->n_labels > 0), "agent", a->id);
    MUST(c, a->created_ms != 0 && a->created_ms <= now, "agent", a->id);
    MUST(c, a->connected_ms <= now && a->disconnected_ms <= now, "agent", a->id);
    // Each attempt takes a new place.
    MUST(c, a->next_order >= a->tasks_submitted, "agent", a->id);
    MUST(c, a->tasks_submitted - a->tasks_finished == a->tasks_active, "agent", a->id);
    uint32_t root = nl_table_link(&c->state->agents, rec->slot)->active;
    if (!check_connection(c, a) ||
        (!c->loaded && !check_order(c, &c->state->tasks, NL_ORDER_LIFE, root, &active))) {
        return false;
    }
    MUST(c, c->loaded || active == a->tasks_active, "agent", a->id);
    MUST(c, c->loaded || check_running(c, a), "agent", a->id);
    MUST(c, c->loaded || count_hash(c, rec, nl_hash_agent(a)), "agent", a->id);
    c->active += active;
    c->counts.agents[a->connection]++;
    c->counts.agents_total++;
    return true;
}

// ---- tasks ----

static bool check_task_times(struct check *c, const struct nl_task *t) {
    bool terminal = nl_task_is_terminal(t->state);
    uint64_t now = c->state->clock_ms;
    MUST(c, t->created_ms != 0 && t->created_ms <= now, "task", t->id);
    MUST(c, t->dispatched_ms == 0 || t->dispatched_ms >= t->created_ms, "task", t->id);
    MUST(c, t->started_ms == 0 || t->started_ms >= t->dispatched_ms, "task", t->id);
    MUST(c, t->dispatched_ms <= now && t->started_ms <= now && t->finished_ms <= now, "task",
         t->id);
    MUST(c, terminal == (t->finished_ms != 0), "task", t->id);
    MUST(c, !terminal || t->finished_ms >= t->started_ms, "task", t->id);
    MUST(c, (t->dispatched_ms != 0) == (t->epoch != 0), "task", t->id);
    MUST(c, t->started_ms == 0 || t->dispatched_ms != 0, "task", t->id);
    return true;
}

static bool check_task_state(struct check *c, const struct nl_task *t, const struct nl_agent *a) {
    bool sent = t->state == NL_TASK_DISPATCHED || t->state == NL_TASK_RUNNING;
    bool terminal = nl_task_is_terminal(t->state);
    MUST(c, t->state >= NL_TASK_PENDING && t->state <= NL_TASK_CANCELLED, "task", t->id);
    MUST(c, t->epoch <= a->epoch, "task", t->id);
    MUST(c, t->state != NL_TASK_PENDING || t->epoch == 0, "task", t->id);
    // P7: only the current epoch's owner may send it or speak for it.
    MUST(c, !sent || (t->epoch == a->epoch && t->epoch != 0), "task", t->id);
    MUST(c, t->state != NL_TASK_UNKNOWN || t->epoch != 0, "task", t->id);
    // P2: what may be sent has not been started.
    MUST(c, t->state != NL_TASK_DISPATCHED || t->started_ms == 0, "task", t->id);
    MUST(c, t->state != NL_TASK_RUNNING || t->started_ms != 0, "task", t->id);
    MUST(c, t->state != NL_TASK_PENDING || !t->cancel_requested, "task", t->id);
    MUST(c, t->cancel_requested || t->cancel_reason == NULL, "task", t->id);
    MUST(c, terminal || t->result == NULL, "task", t->id);
    MUST(c, terminal || t->attempt > 1 || t->late_results == 0, "task", t->id);
    MUST(c, t->late_result == NULL || t->late_results > 0, "task", t->id);
    MUST(c, (t->late_result != NULL) == (t->late_attempt != 0), "task", t->id);
    MUST(c, t->late_attempt <= t->attempt, "task", t->id);
    MUST(c, t->tail == NULL || (terminal && t->result != NULL), "task", t->id);
    MUST(c, t->tail == NULL || nl_tail_bytes(t->tail) <= NL_STATE_TAIL_MAX, "task", t->id);
    MUST(c, t->state != NL_TASK_COMPLETED || (t->result != NULL && t->result->exit_code == 0),
         "task", t->id);
    MUST(c, t->state != NL_TASK_TIMED_OUT || t->result != NULL, "task", t->id);
    MUST(c, a->connection != NL_AGENT_LOST || terminal || t->spec->wait_for_agent_ms > 0, "task",
         t->id);
    return true;
}

// P2: each attempt has its own number, and there are no more than were asked for.
static bool check_attempts(struct check *c, const struct nl_task *t) {
    size_t earlier = t->earlier == NULL ? 0 : t->earlier->n_attempts;
    MUST(c, t->attempt == earlier + 1, "task", t->id);
    MUST(c, t->earlier == NULL || earlier > 0, "task", t->id);
    MUST(c, t->attempt == 1 || t->attempt <= t->spec->attempts, "task", t->id);
    for (size_t i = 0; i < earlier; i++) {
        const Nodelink__V1__AttemptRecord *over = t->earlier->attempts[i];
        MUST(c, over->attempt == i + 1, "task", t->id);
        MUST(c, over->state == NL_TASK_FAILED || over->state == NL_TASK_TIMED_OUT, "task", t->id);
        MUST(c, over->finished_ms != 0 && over->finished_ms <= c->state->clock_ms, "task", t->id);
    }
    return true;
}

static bool check_task_links(struct check *c, const struct nl_rec *rec, const struct nl_task *t) {
    const struct nl_link *link = nl_table_link(&c->state->tasks, rec->slot);
    uint64_t life = nl_task_is_terminal(t->state) ? t->finished_ms : t->order;
    MUST(c, link->agent == nl_table_find(&c->state->agents, t->spec->agent_id), "task", t->id);
    MUST(c, link->order[NL_ORDER_ALL].key == t->created_ms, "task", t->id);
    MUST(c, link->order[NL_ORDER_LIFE].key == life, "task", t->id);
    return true;
}

static bool check_spec(struct check *c, const struct nl_task *t) {
    uint8_t sha256[32];
    if (nl_message_sha256(&t->spec->base, sha256) != NL_OK) {
        c->no_memory = true;
        return fail(c, "no memory");
    }
    MUST(c, memcmp(sha256, t->spec_sha256, sizeof sha256) == 0, "task", t->id);
    return true;
}

static bool check_task(struct check *c, const struct nl_rec *rec) {
    const struct nl_task *t = &NL_CONTAINER(rec, struct nl_task_rec, head)->task;
    MUST(c, nl_text_id_ok(t->id), "task", t->id);
    MUST(c, t->spec != NULL && t->version > 0, "task", t->id);
    const struct nl_link *link = nl_table_link(&c->state->tasks, rec->slot);
    const struct nl_rec *agent = nl_table_get(&c->state->agents, link->agent);
    MUST(c, agent != NULL, "task", t->id);
    const struct nl_agent *a = &NL_CONTAINER(agent, struct nl_agent_rec, head)->agent;
    MUST(c, t->order < a->next_order, "task", t->id);
    if (!c->loaded && !check_spec(c, t)) {
        return false;
    }
    MUST(c, c->loaded || count_hash(c, rec, nl_hash_task(t)), "task", t->id);
    c->counts.tasks[t->state]++;
    c->counts.tasks_total++;
    c->counts.tasks_terminal += nl_task_is_terminal(t->state);
    c->counts.tails_bytes += nl_tail_bytes(t->tail);
    return check_task_times(c, t) && check_task_state(c, t, a) && check_attempts(c, t) &&
           (c->loaded || check_task_links(c, rec, t));
}

// ---- all ----

static bool check_table(struct check *c, const struct nl_table *table, const char *kind,
                        bool (*check_record)(struct check *c, const struct nl_rec *rec)) {
    if (!c->loaded && !check_slots(c, table, kind)) {
        return false;
    }
    for (uint32_t slot = 1; slot < table->next_slot; slot++) {
        const struct nl_rec *rec = nl_table_get(table, slot);
        if (rec != NULL && !check_record(c, rec)) {
            return false;
        }
    }
    return true;
}

static bool check_records(struct check *c) {
    const struct nl_state *s = c->state;
    return check_table(c, &s->nodes, "node", check_node) &&
           check_table(c, &s->proposers, "proposer", check_proposer) &&
           check_table(c, &s->agents, "agent", check_agent) &&
           check_table(c, &s->tasks, "task", check_task);
}

static bool check_all(struct check *c) {
    const struct nl_state *s = c->state;
    if (!check_records(c) || !check_order(c, &s->tasks, NL_ORDER_LIFE, s->finished, &c->terminal)) {
        return false;
    }
    MUST(c, c->terminal == s->counts.tasks_terminal, "state", "counts");
    MUST(c, c->terminal + c->active == s->tasks.count, "state", "counts");
    MUST(c, s->counts.tails_bytes <= s->limits.tails_bytes_max, "state", "tails");
    MUST(c, memcmp(&c->counts, &s->counts, sizeof c->counts) == 0, "state", "counts");
    MUST(c, nl_sum_equal(c->sum, s->sum), "state", "hash");
    return true;
}

int nl_state_check(const struct nl_state *state, char *why, size_t why_size) {
    struct check c = {.state = state, .why = why, .why_size = why_size};
    if (check_all(&c)) {
        return NL_OK;
    }
    return c.no_memory ? NL_ENOMEM : NL_ECORRUPT;
}

int nl_check_loaded(const struct nl_state *state) {
    struct check c = {.state = state, .loaded = true};
    return check_records(&c) ? NL_OK : NL_ECORRUPT;
}
