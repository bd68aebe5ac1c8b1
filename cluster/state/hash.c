// The state's hash: the sum of the hashes of all records, so that it follows each change in O(1)
// and doesn't depend on the order of insertion.

// Inlined, so that the state fits on the stack whatever the library's version.
#define XXH_INLINE_ALL
#include <xxhash.h>

#include "cluster/state/internal.h"

// Seeds are constants: every replica must come to the same numbers.
#define ID_SEED 0x6e6f64656c696e6bULL

enum item { ITEM_NODE = 1, ITEM_PROPOSER, ITEM_OUTCOME, ITEM_AGENT, ITEM_TASK, ITEM_STATE };

// Nearly every record fits into `data` and is hashed there at once. Of a larger one protobuf-c
// gives the encoding as it is made, in many small pieces; when they don't fit they are streamed. No
// memory is asked for, so hashing can't fail.
struct feed {
    ProtobufCBuffer buffer;
    size_t len;
    bool streaming;
    uint8_t data[1024];
    XXH3_state_t hash;
};

static void feed_append(ProtobufCBuffer *buffer, size_t len, const uint8_t *data) {
    struct feed *feed = NL_CONTAINER(buffer, struct feed, buffer);
    if (!feed->streaming && len <= sizeof feed->data - feed->len) {
        memcpy(feed->data + feed->len, data, len);
        feed->len += len;
        return;
    }
    if (!feed->streaming) {
        feed->streaming = true;
        XXH3_128bits_reset(&feed->hash);
        XXH3_128bits_update(&feed->hash, feed->data, feed->len);
    }
    XXH3_128bits_update(&feed->hash, data, len);
}

static void feed_begin(struct feed *feed, enum item item) {
    feed->buffer.append = feed_append;
    feed->streaming = false;
    feed->data[0] = (uint8_t)item;
    feed->len = 1;
}

static struct nl_sum feed_end(const struct feed *feed) {
    XXH128_hash_t h =
        feed->streaming ? XXH3_128bits_digest(&feed->hash) : XXH3_128bits(feed->data, feed->len);
    return (struct nl_sum){.lo = h.low64, .hi = h.high64};
}

static struct nl_sum hash_message(enum item item, const ProtobufCMessage *message) {
    struct feed feed;
    uint8_t *encoded;
    if (nl_canonical_encode(message, feed.data + 1, sizeof feed.data - 1, &encoded)) {
        encoded[-1] = (uint8_t)item;
        XXH128_hash_t h =
            XXH3_128bits(encoded - 1, (size_t)(feed.data + sizeof feed.data - encoded) + 1);
        return (struct nl_sum){.lo = h.low64, .hi = h.high64};
    }
    feed_begin(&feed, item);
    protobuf_c_message_pack_to_buffer(message, &feed.buffer);
    return feed_end(&feed);
}

uint32_t nl_hash_id(const char *id) {
    return (uint32_t)XXH3_64bits_withSeed(id, strlen(id), ID_SEED);
}

struct nl_sum nl_hash_bytes(const void *data, size_t len) {
    XXH128_hash_t h = XXH3_128bits(data, len);
    return (struct nl_sum){.lo = h.low64, .hi = h.high64};
}

struct nl_sum nl_hash_node(const struct nl_node *node) {
    Nodelink__V1__NodeRecord record;
    nl_node_to_message(node, &record);
    return hash_message(ITEM_NODE, &record.base);
}

struct nl_sum nl_hash_agent(const struct nl_agent *agent) {
    struct nl_agent_message message;
    nl_agent_to_message(agent, &message);
    return hash_message(ITEM_AGENT, &message.record.base);
}

struct nl_sum nl_hash_task(const struct nl_task *task) {
    Nodelink__V1__TaskRecord record;
    nl_task_to_message(task, &record);
    return hash_message(ITEM_TASK, &record.base);
}

struct nl_sum nl_hash_task_bytes(const uint8_t *data, size_t len) {
    struct feed feed;
    feed_begin(&feed, ITEM_TASK);
    feed_append(&feed.buffer, len, data);
    return feed_end(&feed);
}

struct nl_sum nl_hash_proposer(const struct nl_proposer_rec *proposer) {
    Nodelink__V1__ProposerRecord record;
    nl_proposer_to_message(proposer, &record);
    return hash_message(ITEM_PROPOSER, &record.base);
}

struct nl_sum nl_hash_done(const struct nl_proposer_rec *proposer, const struct nl_done *done) {
    Nodelink__V1__OutcomeRecord outcome;
    Nodelink__V1__OutcomeRecord *outcomes[1] = {&outcome};
    Nodelink__V1__ProposerRecord record;
    nl_done_to_message(done, &outcome);
    nl_proposer_to_message(proposer, &record);
    record.done_below = 0;  // it moves with every acknowledgement, the outcome doesn't
    record.n_outcomes = 1;
    record.outcomes = outcomes;
    return hash_message(ITEM_OUTCOME, &record.base);
}

struct nl_sum nl_hash_final(struct nl_sum sum, uint64_t clock_ms) {
    Nodelink__V1__SnapshotHeader header = NODELINK__V1__SNAPSHOT_HEADER__INIT;
    header.clock_ms = clock_ms;
    nl_sum_add(&sum, hash_message(ITEM_STATE, &header.base));
    return sum;
}

void nl_sum_add(struct nl_sum *sum, struct nl_sum item) {
    sum->lo += item.lo;
    sum->hi += item.hi + (sum->lo < item.lo);
}

void nl_sum_sub(struct nl_sum *sum, struct nl_sum item) {
    sum->hi -= item.hi + (sum->lo < item.lo);
    sum->lo -= item.lo;
}

bool nl_sum_equal(struct nl_sum a, struct nl_sum b) {
    return a.lo == b.lo && a.hi == b.hi;
}

void nl_sum_bytes(struct nl_sum sum, uint8_t out[NL_STATE_HASH_LEN]) {
    for (int i = 0; i < 8; i++) {
        out[i] = (uint8_t)(sum.hi >> (56 - 8 * i));
        out[8 + i] = (uint8_t)(sum.lo >> (56 - 8 * i));
    }
}

void nl_rehash(struct nl_state *state, struct nl_rec *rec, struct nl_sum hash) {
    nl_sum_sub(&state->sum, rec->hash);
    nl_sum_add(&state->sum, hash);
    rec->hash = hash;
}
