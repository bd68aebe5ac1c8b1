// Restore: the bytes of a snapshot become a new state, which is swapped in only when all of it
// has been verified.

#include "cluster/state/frame.h"
#include "cluster/state/internal.h"

#define RECORD_MEMORY_MAX ((size_t)256 << 20)

struct reader {
    struct nl_state *state;  // being built
    struct nl_arena *arena;  // of the message at hand
    const uint8_t *data;
    size_t len;
    size_t at;
    const uint8_t *payload;  // of the message at hand
    size_t payload_len;
    bool canonical;  // it is what packing the message gives
};

struct frame {
    unsigned type;
    const uint8_t *payload;
    size_t len;
};

static int next_frame(struct reader *r, struct frame *ret) {
    if (r->len - r->at < NL_FRAME_HEAD) {
        return NL_ECORRUPT;
    }
    const uint8_t *head = r->data + r->at;
    size_t len =
        (size_t)head[0] | (size_t)head[1] << 8 | (size_t)head[2] << 16 | (size_t)head[3] << 24;
    if (r->len - r->at - NL_FRAME_HEAD < len) {
        return NL_ECORRUPT;
    }
    *ret = (struct frame){head[4], head + NL_FRAME_HEAD, len};
    r->at += NL_FRAME_HEAD + len;
    return NL_OK;
}

// The next frame's message, which must be of this type; good until the next one is read.
static int next_message(struct reader *r, enum nl_frame_type type,
                        const ProtobufCMessageDescriptor *descriptor, void *ret) {
    struct frame frame;
    int rv = next_frame(r, &frame);
    if (rv != NL_OK) {
        return rv;
    }
    if (frame.type != type) {
        return NL_ECORRUPT;
    }
    ProtobufCMessage *message =
        nl_canonical_decode(r->arena, descriptor, frame.payload, frame.len, RECORD_MEMORY_MAX);
    r->payload = frame.payload;
    r->payload_len = frame.len;
    r->canonical = message != NULL;
    if (message == NULL) {
        message =
            nl_arena_decode(r->arena, descriptor, frame.payload, frame.len, RECORD_MEMORY_MAX, &rv);
    }
    if (message != NULL) {
        *(ProtobufCMessage **)ret = message;
    }
    return rv;
}

// ---- records ----

// last: the key before this one in the snapshot, 0 or "" at the beginning; keys must rise.
struct last {
    uint64_t number;
    char id[NL_STATE_ID_MAX + 1];
};

static bool id_rises(struct last *last, const char *id) {
    size_t len = strlen(id);
    if (len == 0 || len > NL_STATE_ID_MAX || strcmp(last->id, id) >= 0) {
        return false;
    }
    memcpy(last->id, id, len + 1);
    return true;
}

static bool number_rises(struct last *last, uint64_t number) {
    bool rises = number > last->number;
    last->number = number;
    return rises;
}

static int load_node(struct nl_state *state, const Nodelink__V1__NodeRecord *m, struct last *last) {
    struct nl_node_rec *rec;
    if (!number_rises(last, m->node)) {
        return NL_ECORRUPT;
    }
    int rv = nl_node_add(state, m->node, &rec);
    if (rv != NL_OK || (rv = nl_text_copy(m->name, &rec->node.name)) != NL_OK ||
        (rv = nl_text_copy(m->grpc_address, &rec->node.grpc_address)) != NL_OK ||
        (rv = nl_text_copy(m->version, &rec->node.version)) != NL_OK) {
        return rv;
    }
    rec->node.boot = m->boot;
    rec->node.up = m->up;
    rec->node.changed_ms = m->changed_ms;
    nl_rehash(state, &rec->head, nl_hash_node(&rec->node));
    return NL_OK;
}

static int load_proposer(struct nl_state *state, const Nodelink__V1__ProposerRecord *m,
                         struct last *last) {
    struct nl_proposer_rec *rec;
    if (!number_rises(last, m->proposer)) {
        return NL_ECORRUPT;
    }
    int rv = nl_proposer_add(state, m->proposer, &rec);
    if (rv != NL_OK) {
        return rv;
    }
    rec->boot = m->boot;
    rec->done_below = m->done_below;
    nl_rehash(state, &rec->head, nl_hash_proposer(rec));
    for (size_t i = 0; rv == NL_OK && i < m->n_outcomes; i++) {
        const Nodelink__V1__OutcomeRecord *o = m->outcomes[i];
        if (o->sequence < m->done_below || (i > 0 && o->sequence <= m->outcomes[i - 1]->sequence)) {
            return NL_ECORRUPT;
        }
        rv = nl_proposer_append(state, rec, (struct nl_done){o->sequence, o->value, o->code});
    }
    return rv;
}

static int load_agent_texts(struct nl_agent *agent, const Nodelink__V1__AgentRecord *m) {
    int rv = nl_labels_compact(m->labels, m->n_labels, &agent->labels);
    if (rv != NL_OK || (rv = nl_text_copy(m->version, &agent->version)) != NL_OK ||
        (rv = nl_text_copy(m->boot_id, &agent->boot_id)) != NL_OK ||
        (rv = nl_text_copy(m->journal_id, &agent->journal_id)) != NL_OK ||
        (rv = nl_text_copy(m->address, &agent->address)) != NL_OK ||
        (rv = nl_text_copy(m->hostname, &agent->hostname)) != NL_OK) {
        return rv;
    }
    agent->n_labels = m->n_labels;
    return nl_text_copy(m->disconnect_reason, &agent->disconnect_reason);
}

static bool load_tokens(struct nl_agent *agent, const Nodelink__V1__AgentRecord *m) {
    if (m->n_token_sha256 > NL_STATE_TOKENS_MAX) {
        return false;
    }
    for (size_t i = 0; i < m->n_token_sha256; i++) {
        if (m->token_sha256[i].len != sizeof agent->token_sha256[i]) {
            return false;
        }
        memcpy(agent->token_sha256[i], m->token_sha256[i].data, sizeof agent->token_sha256[i]);
    }
    agent->tokens = (uint32_t)m->n_token_sha256;
    return true;
}

static int load_agent(struct nl_state *state, const Nodelink__V1__AgentRecord *m,
                      struct last *last) {
    struct nl_agent_rec *rec;
    if (!id_rises(last, m->id) || m->connection < NL_AGENT_NEVER_CONNECTED ||
        m->connection > NL_AGENT_LOST) {
        return NL_ECORRUPT;
    }
    int rv = nl_agent_add(state, m->id, &rec);
    if (rv != NL_OK || (rv = load_agent_texts(&rec->agent, m)) != NL_OK) {
        return rv;
    }
    struct nl_agent *agent = &rec->agent;
    if (!load_tokens(agent, m)) {
        return NL_ECORRUPT;
    }
    agent->epoch = m->epoch;
    agent->connection = (enum nl_agent_connection)m->connection;
    agent->owner = m->owner;
    agent->owner_boot = m->owner_boot;
    agent->capacity = m->capacity;
    agent->extended = m->extended;
    agent->created_ms = m->created_ms;
    agent->connected_ms = m->connected_ms;
    agent->disconnected_ms = m->disconnected_ms;
    agent->next_order = m->next_order;
    agent->tasks_submitted = m->tasks_submitted;
    agent->tasks_finished = m->tasks_finished;
    state->counts.agents[agent->connection]++;
    state->counts.agents_total++;
    nl_rehash(state, &rec->head, nl_hash_agent(agent));
    return NL_OK;
}

static bool task_message_ok(const Nodelink__V1__TaskRecord *m) {
    return m->state >= NL_TASK_PENDING && m->state <= NL_TASK_CANCELLED && m->spec != NULL &&
           m->spec_sha256.len == 32 && m->has_result == (m->result != NULL);
}

// NULL stays NULL. NL_ENOMEM.
static int copy_message(const void *message, void *ret) {
    void *copy = message == NULL ? NULL : nl_message_compact(message);
    memcpy(ret, &copy, sizeof copy);
    return message != NULL && copy == NULL ? NL_ENOMEM : NL_OK;
}

static int fill_task(struct nl_task *task, const Nodelink__V1__TaskRecord *m) {
    int rv;
    if ((rv = nl_text_copy(m->cancel_reason, &task->cancel_reason)) != NL_OK ||
        (rv = nl_text_copy(m->reason, &task->reason)) != NL_OK ||
        (rv = copy_message(m->spec, &task->spec)) != NL_OK ||
        (rv = copy_message(m->result, &task->result)) != NL_OK ||
        (rv = copy_message(m->late_result, &task->late_result)) != NL_OK ||
        (rv = copy_message(m->earlier, &task->earlier)) != NL_OK ||
        (rv = copy_message(m->tail, &task->tail)) != NL_OK) {
        return rv;
    }
    task->late_attempt = m->late_attempt;
    memcpy(task->spec_sha256, m->spec_sha256.data, sizeof task->spec_sha256);
    task->state = (enum nl_task_state)m->state;
    task->attempt = m->attempt;
    task->order = m->order;
    task->epoch = m->epoch;
    task->cancel_requested = m->cancel_requested;
    task->created_ms = m->created_ms;
    task->dispatched_ms = m->dispatched_ms;
    task->started_ms = m->started_ms;
    task->finished_ms = m->finished_ms;
    task->version = m->version;
    task->late_results = m->late_results;
    task->pid = m->pid;
    return NL_OK;
}

// Submits with the same id are compared by it.
static int check_spec_hash(const struct nl_task *task) {
    uint8_t sha256[sizeof task->spec_sha256];
    int rv = nl_message_sha256(&task->spec->base, sha256);
    if (rv == NL_OK && memcmp(sha256, task->spec_sha256, sizeof sha256) != 0) {
        rv = NL_ECORRUPT;
    }
    return rv;
}

// The record says what the message at hand did, so its hash is that of the bytes.
static int insert_task(const struct reader *r, struct nl_task_rec *rec, uint32_t agent_slot) {
    struct nl_sum hash =
        r->canonical ? nl_hash_task_bytes(r->payload, r->payload_len) : nl_hash_task(&rec->task);
    return nl_task_insert_hashed(r->state, rec, agent_slot, hash);
}

static int load_task(const struct reader *r, const Nodelink__V1__TaskRecord *m, struct last *last) {
    struct nl_state *state = r->state;
    if (!id_rises(last, m->id) || !task_message_ok(m)) {
        return NL_ECORRUPT;
    }
    struct nl_agent_rec *agent = nl_agent_get(state, m->spec->agent_id);
    if (agent == NULL) {
        return NL_ECORRUPT;
    }
    struct nl_task_rec *rec = nl_task_rec_new(m->id);
    if (rec == NULL) {
        return NL_ENOMEM;
    }
    int rv = fill_task(&rec->task, m);
    rv = rv == NL_OK ? check_spec_hash(&rec->task) : rv;
    if (rv == NL_OK) {
        rv = insert_task(r, rec, agent->head.slot);
    }
    if (rv != NL_OK) {
        nl_task_rec_free(state, rec);
        return rv;
    }
    agent->agent.tasks_active += !nl_task_is_terminal(rec->task.state);
    return nl_tails_add(state, rec);
}

static int load_record(struct reader *r, enum nl_frame_type type, struct last *last) {
    static const ProtobufCMessageDescriptor *const descriptors[] = {
        [NL_FRAME_NODE] = &nodelink__v1__node_record__descriptor,
        [NL_FRAME_PROPOSER] = &nodelink__v1__proposer_record__descriptor,
        [NL_FRAME_AGENT] = &nodelink__v1__agent_record__descriptor,
        [NL_FRAME_TASK] = &nodelink__v1__task_record__descriptor,
    };
    ProtobufCMessage *message;
    int rv = next_message(r, type, descriptors[type], &message);
    if (rv != NL_OK) {
        return rv;
    }
    if (type == NL_FRAME_NODE) {
        rv = load_node(r->state, (const Nodelink__V1__NodeRecord *)message, last);
    } else if (type == NL_FRAME_PROPOSER) {
        rv = load_proposer(r->state, (const Nodelink__V1__ProposerRecord *)message, last);
    } else if (type == NL_FRAME_AGENT) {
        rv = load_agent(r->state, (const Nodelink__V1__AgentRecord *)message, last);
    } else {
        rv = load_task(r, (const Nodelink__V1__TaskRecord *)message, last);
    }
    return rv;
}

static int load_records(struct reader *r, enum nl_frame_type type, uint64_t count) {
    struct last last = {0};
    int rv = NL_OK;
    for (uint64_t i = 0; rv == NL_OK && i < count; i++) {
        rv = load_record(r, type, &last);
    }
    return rv;
}

// ---- the orders of tasks ----

// Tasks came by their ids, which is a random order of time. They are sorted beside their records,
// which are seldom in the processor's cache. A tree is named by its agent's slot, 0: of no agent.

static int compare_places(const void *x, const void *y) {
    const struct nl_place *a = x, *b = y;
    if (a->tree != b->tree) {
        return a->tree < b->tree ? -1 : 1;
    }
    if (a->key != b->key) {
        return a->key < b->key ? -1 : 1;
    }
    // Nothing was removed yet: slots are 1..count, and rise with the ids.
    return (a->slot > b->slot) - (a->slot < b->slot);
}

// Those of no agent at the front, the others at the end; returns how many of the former.
static uint32_t collect_places(const struct nl_state *state, enum nl_order_kind kind,
                               struct nl_place *places) {
    uint32_t front = 0, back = state->tasks.count;
    for (uint32_t slot = 1; slot <= state->tasks.count; slot++) {
        const struct nl_task *task = &nl_task_at(state, slot)->task;
        const struct nl_link *link = nl_table_link(&state->tasks, slot);
        bool of_agent = kind == NL_ORDER_LIFE && !nl_task_is_terminal(task->state);
        places[of_agent ? --back : front++] =
            (struct nl_place){.key = nl_task_order_key(task, kind),
                              .slot = slot,
                              .hash = link->hash,
                              .tree = of_agent ? link->agent : NL_SLOT_NONE};
    }
    return front;
}

#define DIGIT_BITS 11u
#define DIGITS (1u << DIGIT_BITS)

// By one digit of the key less `least`, from one array into the other.
static void sort_by_digit(const struct nl_place *from, struct nl_place *to, uint32_t n,
                          uint64_t least, unsigned shift) {
    uint32_t at[DIGITS] = {0};
    for (uint32_t i = 0; i < n; i++) {
        at[(from[i].key - least) >> shift & (DIGITS - 1)]++;
    }
    uint32_t sum = 0;
    for (uint32_t d = 0; d < DIGITS; d++) {
        uint32_t count = at[d];
        at[d] = sum;
        sum += count;
    }
    for (uint32_t i = 0; i < n; i++) {
        to[at[(from[i].key - least) >> shift & (DIGITS - 1)]++] = from[i];
    }
}

// By key, keeping the order of equal ones: the keys are stamps within days or weeks of each other,
// so three passes do, where a comparing sort needs twenty.
static struct nl_place *sort_by_key(struct nl_place *places, struct nl_place *spare, uint32_t n) {
    uint64_t least = UINT64_MAX, most = 0;
    for (uint32_t i = 0; i < n; i++) {
        least = places[i].key < least ? places[i].key : least;
        most = places[i].key > most ? places[i].key : most;
    }
    for (unsigned shift = 0; n > 1 && shift < 64 && (most - least) >> shift != 0;
         shift += DIGIT_BITS) {
        sort_by_digit(places, spare, n, least, shift);
        struct nl_place *sorted = spare;
        spare = places;
        places = sorted;
    }
    return places;
}

// Sorted places of one or several trees.
static void build_trees(struct nl_state *state, enum nl_order_kind kind, struct nl_place *places,
                        uint32_t n) {
    uint32_t size;
    for (uint32_t at = 0; at < n; at += size) {
        size = 1;
        while (at + size < n && places[at + size].tree == places[at].tree) {
            size++;
        }
        const struct nl_task *task = &nl_task_at(state, places[at].slot)->task;
        *nl_task_order_root(state, task, kind) =
            nl_order_build(&state->tasks, kind, places + at, size);
    }
}

static void order_tasks(struct nl_state *state, enum nl_order_kind kind, struct nl_place *places,
                        struct nl_place *spare) {
    uint32_t front = collect_places(state, kind, places);
    uint32_t back = state->tasks.count - front;
    qsort(places + front, back, sizeof *places, compare_places);
    build_trees(state, kind, places + front, back);
    build_trees(state, kind, sort_by_key(places, spare, front), front);
}

static int order_all_tasks(struct nl_state *state) {
    size_t n = state->tasks.count;
    struct nl_place *places = malloc(2 * n * sizeof *places + 1);
    if (places == NULL) {
        return NL_ENOMEM;
    }
    order_tasks(state, NL_ORDER_ALL, places, places + n);
    order_tasks(state, NL_ORDER_LIFE, places, places + n);
    free(places);
    return NL_OK;
}

// ---- the whole ----

// Verifies the last frame, the sum over all bytes before it, and cuts it off.
static int check_bytes(struct reader *r) {
    const size_t tail = NL_FRAME_HEAD + NL_STATE_HASH_LEN;
    if (r->len < tail) {
        return NL_ECORRUPT;
    }
    struct reader end = {.data = r->data, .len = r->len, .at = r->len - tail};
    struct frame frame;
    if (next_frame(&end, &frame) != NL_OK || frame.type != NL_FRAME_CHECKSUM ||
        frame.len != NL_STATE_HASH_LEN) {
        return NL_ECORRUPT;
    }
    uint8_t checksum[NL_STATE_HASH_LEN];
    nl_sum_bytes(nl_hash_bytes(r->data, r->len - tail), checksum);
    if (memcmp(checksum, frame.payload, sizeof checksum) != 0) {
        return NL_ECORRUPT;
    }
    r->len -= tail;
    return NL_OK;
}

static int check_footer(struct reader *r, uint64_t records) {
    Nodelink__V1__SnapshotFooter *footer = NULL;
    int rv = next_message(r, NL_FRAME_FOOTER, &nodelink__v1__snapshot_footer__descriptor, &footer);
    if (rv != NL_OK) {
        return rv;
    }
    uint8_t hash[NL_STATE_HASH_LEN];
    nl_state_hash(r->state, hash);
    bool ok = footer->records == records && footer->state_hash.len == sizeof hash &&
              memcmp(footer->state_hash.data, hash, sizeof hash) == 0 && r->at == r->len;
    return ok ? NL_OK : NL_ECORRUPT;
}

static int read_body(struct reader *r, const Nodelink__V1__SnapshotHeader *header) {
    if (header->version == 0 || header->version > NL_SNAPSHOT_VERSION || header->clock_ms == 0) {
        return NL_ECORRUPT;
    }
    r->state->index = header->index;
    r->state->clock_ms = header->clock_ms;
    int rv = nl_table_reserve(&r->state->tasks, header->tasks);
    if (rv != NL_OK || (rv = load_records(r, NL_FRAME_NODE, header->nodes)) != NL_OK ||
        (rv = load_records(r, NL_FRAME_PROPOSER, header->proposers)) != NL_OK ||
        (rv = load_records(r, NL_FRAME_AGENT, header->agents)) != NL_OK ||
        (rv = load_records(r, NL_FRAME_TASK, header->tasks)) != NL_OK ||
        (rv = order_all_tasks(r->state)) != NL_OK) {
        return rv;
    }
    return check_footer(r, header->nodes + header->proposers + header->agents + header->tasks);
}

static int read_snapshot(struct reader *r) {
    Nodelink__V1__SnapshotHeader *message = NULL;
    int rv = check_bytes(r);
    if (rv != NL_OK) {
        return rv;
    }
    rv = next_message(r, NL_FRAME_HEADER, &nodelink__v1__snapshot_header__descriptor, &message);
    if (rv != NL_OK) {
        return rv;
    }
    const Nodelink__V1__SnapshotHeader header = *message;
    rv = read_body(r, &header);
    return rv == NL_OK ? nl_check_loaded(r->state) : rv;
}

int nl_state_load(const struct nl_state *like, const uint8_t *data, size_t len,
                  struct nl_state **ret) {
    struct nl_state *fresh;
    struct nl_arena arena;
    memset(&arena, 0, offsetof(struct nl_arena, block));
    int rv = nl_state_new(&like->limits, &fresh);
    if (rv != NL_OK) {
        return rv;
    }
    struct reader r = {.state = fresh, .arena = &arena, .data = data, .len = len};
    rv = read_snapshot(&r);
    nl_arena_reset(&arena);
    if (rv != NL_OK) {
        nl_state_free(fresh);
        return rv;
    }
    *ret = fresh;
    return NL_OK;
}

void nl_state_swap(struct nl_state *a, struct nl_state *b) {
    assert(a->snapshot == NULL && b->snapshot == NULL);
    struct nl_state tmp = *a;
    *a = *b;
    *b = tmp;
}

int nl_state_restore(struct nl_state *state, const uint8_t *data, size_t len) {
    struct nl_state *fresh;
    assert(state->snapshot == NULL);
    int rv = nl_state_load(state, data, len, &fresh);
    if (rv == NL_OK) {
        nl_state_swap(state, fresh);
        nl_state_free(fresh);
    }
    return rv;
}
