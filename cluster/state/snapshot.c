// Snapshots: freezing a view on the owner's thread, writing it on any.

#include "cluster/state/frame.h"
#include "cluster/state/internal.h"

// ---- begin, end ----

static int freeze(const struct nl_table *table, struct nl_frozen *ret) {
    size_t size = table->pages_used * sizeof(struct nl_page *);
    ret->pages = malloc(size + 1);
    if (ret->pages == NULL) {
        return NL_ENOMEM;
    }
    if (size > 0) {
        memcpy(ret->pages, table->pages, size);
    }
    ret->pages_used = table->pages_used;
    ret->count = table->count;
    return NL_OK;
}

void nl_state_snapshot_free(struct nl_state_snapshot *snapshot) {
    nl_graves_free(snapshot->graves);
    free(snapshot->nodes.pages);
    free(snapshot->proposers.pages);
    free(snapshot->agents.pages);
    free(snapshot->tasks.pages);
    free(snapshot);
}

int nl_state_snapshot_begin(struct nl_state *state, struct nl_state_snapshot **ret) {
    assert(state->snapshot == NULL);
    struct nl_state_snapshot *snapshot = calloc(1, sizeof *snapshot);
    if (snapshot == NULL) {
        return NL_ENOMEM;
    }
    snapshot->index = state->index;
    snapshot->clock_ms = state->clock_ms;
    snapshot->hash = nl_hash_final(state->sum, state->clock_ms);
    if (freeze(&state->nodes, &snapshot->nodes) != NL_OK ||
        freeze(&state->proposers, &snapshot->proposers) != NL_OK ||
        freeze(&state->agents, &snapshot->agents) != NL_OK ||
        freeze(&state->tasks, &snapshot->tasks) != NL_OK) {
        nl_state_snapshot_free(snapshot);
        return NL_ENOMEM;
    }
    // Everything made so far is of an older generation from here on: frozen.
    state->generation++;
    state->snapshot = snapshot;
    *ret = snapshot;
    return NL_OK;
}

void nl_state_snapshot_detach(struct nl_state *state, struct nl_state_snapshot *snapshot) {
    assert(state->snapshot == snapshot);
    state->snapshot = NULL;
    snapshot->graves = state->graves;
    state->graves = NULL;
}

void nl_state_snapshot_end(struct nl_state *state, struct nl_state_snapshot *snapshot) {
    nl_state_snapshot_detach(state, snapshot);
    nl_state_snapshot_free(snapshot);
}

// ---- sorting ----

struct key {
    uint64_t first;    // number, or the first 8 bytes of the id: most comparisons end here
    const char *rest;  // the rest of a longer id, or NULL
    const struct nl_rec *rec;
};

static int compare_keys(const void *x, const void *y) {
    const struct key *a = x, *b = y;
    if (a->first != b->first) {
        return a->first < b->first ? -1 : 1;
    }
    return strcmp(a->rest, b->rest);
}

static struct key key_of_id(const struct nl_rec *rec, const char *id) {
    struct key key = {.rest = id, .rec = rec};
    for (int shift = 56; shift >= 0; shift -= 8) {
        key.first |= (uint64_t)(uint8_t)*key.rest << shift;
        key.rest += *key.rest != '\0';
    }
    return key;
}

static struct key key_of(enum nl_frame_type type, const struct nl_rec *rec) {
    switch (type) {
        case NL_FRAME_TASK:
            return key_of_id(rec, NL_CONTAINER(rec, struct nl_task_rec, head)->task.id);
        case NL_FRAME_AGENT:
            return key_of_id(rec, NL_CONTAINER(rec, struct nl_agent_rec, head)->agent.id);
        case NL_FRAME_NODE:
            return (struct key){NL_CONTAINER(rec, struct nl_node_rec, head)->node.id, "", rec};
        default:
            return (struct key){NL_CONTAINER(rec, struct nl_proposer_rec, head)->id, "", rec};
    }
}

// All records of the view, sorted; owned. NULL: no memory.
static struct key *sorted(const struct nl_frozen *view, enum nl_frame_type type) {
    struct key *keys = malloc(view->count * sizeof *keys + 1);
    if (keys == NULL) {
        return NULL;
    }
    uint32_t n = 0;
    for (uint32_t p = 0; p < view->pages_used; p++) {
        for (uint32_t i = 0; i < NL_PAGE_SLOTS; i++) {
            const struct nl_rec *rec = view->pages[p]->slots[i];
            if (rec != NULL) {
                keys[n++] = key_of(type, rec);
            }
        }
    }
    assert(n == view->count);
    qsort(keys, n, sizeof *keys, compare_keys);
    return keys;
}

// ---- writing ----

struct out {
    uint8_t *data;
    size_t len, cap;
};

static int out_reserve(struct out *out, size_t extra) {
    if (out->cap - out->len >= extra) {
        return NL_OK;
    }
    size_t cap = out->cap + out->cap / 2 + extra + 4096;
    uint8_t *data = realloc(out->data, cap);
    if (data == NULL) {
        return NL_ENOMEM;
    }
    out->data = data;
    out->cap = cap;
    return NL_OK;
}

// Room for one frame's payload is reserved and its head written.
static int put_head(struct out *out, enum nl_frame_type type, size_t len) {
    assert(len <= UINT32_MAX);
    if (out_reserve(out, NL_FRAME_HEAD + len) != NL_OK) {
        return NL_ENOMEM;
    }
    uint8_t *head = out->data + out->len;
    for (int i = 0; i < 4; i++) {
        head[i] = (uint8_t)(len >> (8 * i));
    }
    head[4] = (uint8_t)type;
    out->len += NL_FRAME_HEAD;
    return NL_OK;
}

static int put(struct out *out, enum nl_frame_type type, const ProtobufCMessage *message) {
    uint8_t small[2048], *encoded;
    if (nl_canonical_encode(message, small, sizeof small, &encoded)) {
        size_t n = (size_t)(small + sizeof small - encoded);
        if (put_head(out, type, n) != NL_OK) {
            return NL_ENOMEM;
        }
        memcpy(out->data + out->len, encoded, n);
        out->len += n;
        return NL_OK;
    }
    size_t len = protobuf_c_message_get_packed_size(message);
    int rv = put_head(out, type, len);
    if (rv == NL_OK) {
        out->len += protobuf_c_message_pack(message, out->data + out->len);
    }
    return rv;
}

static int put_proposer(struct out *out, const struct nl_proposer_rec *rec) {
    Nodelink__V1__ProposerRecord record;
    nl_proposer_to_message(rec, &record);
    Nodelink__V1__OutcomeRecord *outcomes = malloc(rec->count * sizeof *outcomes + 1);
    record.outcomes = malloc(rec->count * sizeof *record.outcomes + 1);
    int rv = NL_ENOMEM;
    if (outcomes != NULL && record.outcomes != NULL) {
        for (uint32_t i = 0; i < rec->count; i++) {
            nl_done_to_message(&rec->done[rec->first + i], &outcomes[i]);
            record.outcomes[i] = &outcomes[i];
        }
        record.n_outcomes = rec->count;
        rv = put(out, NL_FRAME_PROPOSER, &record.base);
    }
    free(outcomes);
    free(record.outcomes);
    return rv;
}

static int put_record(struct out *out, enum nl_frame_type type, const struct nl_rec *rec) {
    Nodelink__V1__NodeRecord node;
    Nodelink__V1__TaskRecord task;
    struct nl_agent_message agent;
    switch (type) {
        case NL_FRAME_NODE:
            nl_node_to_message(&NL_CONTAINER(rec, struct nl_node_rec, head)->node, &node);
            return put(out, type, &node.base);
        case NL_FRAME_PROPOSER:
            return put_proposer(out, NL_CONTAINER(rec, struct nl_proposer_rec, head));
        case NL_FRAME_AGENT:
            nl_agent_to_message(&NL_CONTAINER(rec, struct nl_agent_rec, head)->agent, &agent);
            return put(out, type, &agent.record.base);
        default:
            nl_task_to_message(&NL_CONTAINER(rec, struct nl_task_rec, head)->task, &task);
            return put(out, type, &task.base);
    }
}

// After this many records the size of the others is foreseen.
#define SAMPLE 1024u

// Room for the rest, which will be about like what was written so far: a buffer that grows by
// halves moves hundreds of megabytes, and whoever maps memory meanwhile has to wait.
static int reserve_rest(struct out *out, size_t sample, uint32_t rest) {
    return out_reserve(out, sample / SAMPLE * 17 / 16 * rest);
}

static int put_all(struct out *out, enum nl_frame_type type, const struct nl_frozen *view) {
    struct key *keys = sorted(view, type);
    int rv = keys == NULL ? NL_ENOMEM : NL_OK;
    size_t begin = out->len;
    for (uint32_t i = 0; rv == NL_OK && i < view->count; i++) {
        if (i == SAMPLE && (rv = reserve_rest(out, out->len - begin, view->count - i)) != NL_OK) {
            break;
        }
        rv = put_record(out, type, keys[i].rec);
    }
    free(keys);
    return rv;
}

static int put_header(struct out *out, const struct nl_state_snapshot *snapshot) {
    Nodelink__V1__SnapshotHeader header = NODELINK__V1__SNAPSHOT_HEADER__INIT;
    header.version = NL_SNAPSHOT_VERSION;
    header.index = snapshot->index;
    header.clock_ms = snapshot->clock_ms;
    header.tasks = snapshot->tasks.count;
    header.agents = snapshot->agents.count;
    header.nodes = snapshot->nodes.count;
    header.proposers = snapshot->proposers.count;
    return put(out, NL_FRAME_HEADER, &header.base);
}

static int put_end(struct out *out, const struct nl_state_snapshot *snapshot) {
    uint8_t hash[NL_STATE_HASH_LEN];
    nl_sum_bytes(snapshot->hash, hash);
    Nodelink__V1__SnapshotFooter footer = NODELINK__V1__SNAPSHOT_FOOTER__INIT;
    footer.state_hash.data = hash;
    footer.state_hash.len = sizeof hash;
    footer.records = (uint64_t)snapshot->tasks.count + snapshot->agents.count +
                     snapshot->nodes.count + snapshot->proposers.count;
    int rv = put(out, NL_FRAME_FOOTER, &footer.base);
    if (rv != NL_OK) {
        return rv;
    }
    // The state's hash doesn't cover the index, so the bytes have a sum of their own.
    struct nl_sum checksum = nl_hash_bytes(out->data, out->len);
    rv = put_head(out, NL_FRAME_CHECKSUM, NL_STATE_HASH_LEN);
    if (rv == NL_OK) {
        nl_sum_bytes(checksum, out->data + out->len);
        out->len += NL_STATE_HASH_LEN;
    }
    return rv;
}

int nl_state_snapshot_write(struct nl_state_snapshot *snapshot, uint8_t **ret, size_t *ret_len) {
    struct out out = {0};
    int rv = put_header(&out, snapshot);
    if (rv != NL_OK || (rv = put_all(&out, NL_FRAME_NODE, &snapshot->nodes)) != NL_OK ||
        (rv = put_all(&out, NL_FRAME_PROPOSER, &snapshot->proposers)) != NL_OK ||
        (rv = put_all(&out, NL_FRAME_AGENT, &snapshot->agents)) != NL_OK ||
        (rv = put_all(&out, NL_FRAME_TASK, &snapshot->tasks)) != NL_OK ||
        (rv = put_end(&out, snapshot)) != NL_OK) {
        free(out.data);
        return rv;
    }
    *ret = out.data;
    *ret_len = out.len;
    return NL_OK;
}
