// Private to cluster/state: the representation, and what its files offer each other.
//
// A record (task, agent, node, proposer) lives in a slot of its table. Slots are reached through
// pages of pointers; that is all a snapshot freezes. What finds or orders records (hash chains,
// trees) is kept beside them per slot, belongs to the owner's thread alone, and is never frozen.
#ifndef NODELINK_CLUSTER_STATE_INTERNAL_H
#define NODELINK_CLUSTER_STATE_INTERNAL_H

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#include <nodelink/v1/snapshot.pb-c.h>

#include "cluster/state/state.h"
#include "common/base/err.h"

#define NL_SLOT_NONE 0u
#define NL_PAGE_SLOTS 256u
#define NL_BUCKET_PAGE 1024u
// Room kept for one command's deferred frees: an agent's registration needs the most (nine).
#define NL_GRAVE_ROOM 32u
#define NL_GRAVE_ITEMS 510u
// What unpacking one command may take of memory, counted in requested bytes, so that the limit
// is hit on all replicas or on none.
#define NL_DECODE_MAX ((size_t)64 << 20)
#define NL_SPEC_MAX ((size_t)256 << 10)  // encoded

// A 128-bit hash; those of all records are added up modulo 2^128.
struct nl_sum {
    uint64_t lo, hi;
};

// Beginning of each version of a record.
struct nl_rec {
    uint32_t slot;
    uint32_t generation;  // of the state when this version was made
    struct nl_sum hash;   // as added to the state's sum
};

struct nl_task_rec {
    struct nl_rec head;
    struct nl_task task;  // spec and result are one block each
    char id[];
};

struct nl_agent_rec {
    struct nl_rec head;
    struct nl_agent agent;  // labels is one block
    char id[];
};

struct nl_node_rec {
    struct nl_rec head;
    struct nl_node node;
};

struct nl_done {
    uint64_t sequence;
    uint64_t value;
    uint32_t code;
};

// What a proposer's recent commands came to. `done` may be shared with a frozen version of the
// record: entries [first, first + count) of a frozen one are never written, appending is fine.
struct nl_proposer_rec {
    struct nl_rec head;
    uint64_t id, boot, done_below;
    struct nl_done *done;  // by sequence
    uint32_t first, count, cap;
};

// Node of a balanced tree over slots (a treap; the hash of the id is its priority).
struct nl_order_node {
    uint64_t key;
    uint32_t left, right, parent;
};

enum nl_order_kind {
    NL_ORDER_ALL,   // tasks by (created_ms, id), agents by id, nodes and proposers by number
    NL_ORDER_LIFE,  // tasks: active ones of an agent by order, terminal ones by (finished_ms, id)
};

struct nl_link {
    struct nl_order_node order[2];
    uint32_t hash;       // of the id
    uint32_t hash_next;  // next slot of the chain; next free slot while not in use
    union {
        uint32_t agent;    // of a task: its agent's slot
        uint32_t running;  // of an agent: how many of its tasks are RUNNING
    };
    uint32_t active;  // of an agent: root of its active tasks
};

struct nl_page {
    uint32_t generation;
    struct nl_rec *slots[NL_PAGE_SLOTS];
};

// Linear hashing: grows by one bucket per insertion, so no insertion is slow.
struct nl_idmap {
    uint32_t **pages;
    uint32_t pages_used, pages_cap;
    uint32_t mask, split;  // buckets: mask + 1 + split
};

struct nl_table {
    struct nl_page **pages;  // copy on write while a snapshot is taken
    struct nl_link **links;  // the same slots
    uint32_t pages_used, pages_cap;
    uint32_t next_slot;  // never used so far; slot 0 is "none"
    uint32_t free_slot;
    uint32_t count;
    uint32_t root;        // of NL_ORDER_ALL
    size_t id_at;         // where a record has its `char *id`; 0: numbered records
    struct nl_idmap map;  // of records with an id
};

// Tasks with a tail, a binary heap: the one that ended first on top. Those are also the first that
// are pruned, so nothing is ever taken out of the middle.
struct nl_tails {
    struct nl_tail_at {
        uint64_t finished_ms;
        uint32_t slot;
    } * heap;
    uint32_t count, cap;
};

// Blocks that the snapshot being written may still read.
struct nl_grave {
    struct nl_grave *next;
    uint32_t count;
    void *items[NL_GRAVE_ITEMS];
};

struct nl_state {
    struct nl_state_limits limits;
    uint64_t index;
    uint64_t clock_ms;
    struct nl_sum sum;
    struct nl_table nodes, proposers, agents, tasks;
    uint32_t finished;  // root of the terminal tasks
    struct nl_tails tails;
    struct nl_state_counts counts;
    uint32_t generation;
    struct nl_state_snapshot *snapshot;  // being taken, or NULL
    struct nl_grave *graves;
};

// One view, frozen. Its directories are copies; pages and records are shared with the state,
// which copies them before it changes them.
struct nl_frozen {
    struct nl_page **pages;
    uint32_t pages_used;
    uint32_t count;
};
struct nl_state_snapshot {
    uint64_t index;
    uint64_t clock_ms;
    struct nl_sum hash;  // as nl_state_hash at begin
    struct nl_frozen nodes, proposers, agents, tasks;
    struct nl_grave *graves;  // from the end on; until then they are the state's
};

// One command being applied.
struct nl_apply {
    struct nl_state *state;
    uint64_t index;
    const Nodelink__V1__Command *command;
    struct nl_outcome outcome;
    nl_effect_cb effect;
    void *user;
};

#define NL_CONTAINER(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

// ---- memory.c: copies, deferred frees ----

// Makes room so that the next NL_GRAVE_ROOM releases can't fail. NL_ENOMEM.
int nl_grave_reserve(struct nl_state *state);
// Frees, or while a snapshot is taken puts aside until its end. NULL is allowed.
void nl_release(struct nl_state *state, void *block);
void nl_graves_free(struct nl_grave *graves);
// NULL or "" gives NULL. NL_ENOMEM.
int nl_text_copy(const char *text, char **ret);
// Replaces an owned text and releases the old one.
int nl_text_replace(struct nl_state *state, char **field, const char *text);

// ---- message.c: protobuf-c ----

// The message (free it with nl_message_free), or NULL with *ret_err: NL_ECORRUPT, NL_ENOMEM.
ProtobufCMessage *nl_message_decode(const ProtobufCMessageDescriptor *type, const uint8_t *data,
                                    size_t len, size_t memory_max, int *ret_err);
void nl_message_free(ProtobufCMessage *message);

// Memory of one decoded message at a time, for decoding many in turn: a million records are a
// dozen million small blocks otherwise. Zeroed at first but for `block`; reset at the end.
struct nl_arena_extra;
struct nl_arena {
    struct nl_arena_extra *extra;  // blocks of a large message
    size_t used, left;
    bool no_memory;
    _Alignas(16) uint8_t block[8192];
};
void nl_arena_reset(struct nl_arena *arena);
// NULL: beyond `left`, or no memory. Aligned for any type, not zeroed.
void *nl_arena_alloc(struct nl_arena *arena, size_t size);
// As nl_message_decode. The message is good until the next decode or reset; it is not freed.
ProtobufCMessage *nl_arena_decode(struct nl_arena *arena, const ProtobufCMessageDescriptor *type,
                                  const uint8_t *data, size_t len, size_t memory_max, int *ret_err);
// decode.c: as nl_arena_decode, for bytes that packing the message would give again; NULL: these
// aren't such bytes, or are of a kind that no record has, or no memory. nl_arena_decode judges
// then.
ProtobufCMessage *nl_canonical_decode(struct nl_arena *arena,
                                      const ProtobufCMessageDescriptor *type, const uint8_t *data,
                                      size_t len, size_t memory_max);
// encode.c: packs the message into the end of the buffer; it begins at *ret. false: it doesn't fit,
// or is of a kind that no record has; protobuf-c has to pack it.
bool nl_canonical_encode(const ProtobufCMessage *message, uint8_t *buffer, size_t size,
                         uint8_t **ret);
// Deep copy in one block (free it with free), or NULL: no memory.
void *nl_message_compact(const ProtobufCMessage *message);
// The array of labels in one block. Nothing to copy gives NULL.
int nl_labels_compact(Nodelink__V1__Label *const *labels, size_t n, Nodelink__V1__Label ***ret);
// Whether every string in it is UTF-8.
bool nl_message_utf8_ok(const ProtobufCMessage *message);
// 1 if the encodings are equal, 0 if not, NL_ENOMEM.
int nl_message_same(const ProtobufCMessage *a, const ProtobufCMessage *b);
int nl_message_sha256(const ProtobufCMessage *message, uint8_t out[32]);

// ---- record.c: records as messages of snapshot.proto; everything is borrowed ----

struct nl_agent_message {
    Nodelink__V1__AgentRecord record;
    ProtobufCBinaryData tokens[NL_STATE_TOKENS_MAX];
};
void nl_node_to_message(const struct nl_node *node, Nodelink__V1__NodeRecord *out);
void nl_agent_to_message(const struct nl_agent *agent, struct nl_agent_message *out);
void nl_task_to_message(const struct nl_task *task, Nodelink__V1__TaskRecord *out);
// Without outcomes.
void nl_proposer_to_message(const struct nl_proposer_rec *proposer,
                            Nodelink__V1__ProposerRecord *out);
void nl_done_to_message(const struct nl_done *done, Nodelink__V1__OutcomeRecord *out);

// ---- hash.c ----

uint32_t nl_hash_id(const char *id);
struct nl_sum nl_hash_bytes(const void *data, size_t len);
struct nl_sum nl_hash_node(const struct nl_node *node);
struct nl_sum nl_hash_agent(const struct nl_agent *agent);
struct nl_sum nl_hash_task(const struct nl_task *task);
// The same of a task's canonical encoding.
struct nl_sum nl_hash_task_bytes(const uint8_t *data, size_t len);
struct nl_sum nl_hash_proposer(const struct nl_proposer_rec *proposer);  // without its outcomes
struct nl_sum nl_hash_done(const struct nl_proposer_rec *proposer, const struct nl_done *done);
struct nl_sum nl_hash_final(struct nl_sum sum, uint64_t clock_ms);
void nl_sum_add(struct nl_sum *sum, struct nl_sum item);
void nl_sum_sub(struct nl_sum *sum, struct nl_sum item);
bool nl_sum_equal(struct nl_sum a, struct nl_sum b);
void nl_sum_bytes(struct nl_sum sum, uint8_t out[NL_STATE_HASH_LEN]);
// Moves the state's sum from the record's old hash to this one.
void nl_rehash(struct nl_state *state, struct nl_rec *rec, struct nl_sum hash);

// ---- table.c: slots, pages, copy on write ----

void nl_table_init(struct nl_table *table, size_t id_at);
// Frees the pages and links; the records must be gone.
void nl_table_close(struct nl_table *table);
struct nl_rec *nl_table_get(const struct nl_table *table, uint32_t slot);
struct nl_link *nl_table_link(const struct nl_table *table, uint32_t slot);
const char *nl_table_id(const struct nl_table *table, uint32_t slot);
uint32_t nl_table_find(const struct nl_table *table, const char *id);
// Takes the record in on success: slot and hash chain, but no order yet. `number` identifies
// records without an id. NL_ENOMEM.
int nl_table_add(struct nl_state *state, struct nl_table *table, struct nl_rec *rec,
                 uint64_t number);
// Of an empty table of records with ids: this many are to come. A wrong number does no harm.
int nl_table_reserve(struct nl_table *table, uint64_t count);
// Forgets the record; it isn't freed, and must leave its orders too. NL_ENOMEM.
int nl_table_remove(struct nl_state *state, struct nl_table *table, uint32_t slot);
// The record for changing: a copy of it while it is frozen. `size` is the whole record's.
int nl_table_edit(struct nl_state *state, struct nl_table *table, uint32_t slot, size_t size,
                  struct nl_rec **ret);

// ---- idmap.c ----

int nl_idmap_init(struct nl_idmap *map);
void nl_idmap_close(struct nl_idmap *map);
// Of an empty map, before many insertions: about so many buckets. NL_ENOMEM.
int nl_idmap_reserve(struct nl_idmap *map, uint32_t buckets);
uint32_t nl_idmap_find(const struct nl_table *table, const char *id);
void nl_idmap_add(struct nl_table *table, uint32_t slot);  // its link's hash is set
void nl_idmap_remove(struct nl_table *table, uint32_t slot);

// ---- order.c: trees over slots, sorted by (key, id) ----

void nl_order_add(struct nl_table *table, enum nl_order_kind kind, uint32_t *root, uint32_t slot,
                  uint64_t key);
// A record's place in an order.
struct nl_place {
    uint64_t key;
    uint32_t slot;
    uint32_t hash;                 // of the id: its priority
    uint32_t tree;                 // which one it belongs to, for the caller
    uint32_t left, right, parent;  // set by nl_order_build: places, from 1; 0: none
};
// Makes the tree of sorted places, O(n); returns its root. Records are not looked at.
uint32_t nl_order_build(struct nl_table *table, enum nl_order_kind kind, struct nl_place *places,
                        uint32_t n);
void nl_order_remove(struct nl_table *table, enum nl_order_kind kind, uint32_t *root,
                     uint32_t slot);
uint32_t nl_order_first(const struct nl_table *table, enum nl_order_kind kind, uint32_t root);
uint32_t nl_order_last(const struct nl_table *table, enum nl_order_kind kind, uint32_t root);
uint32_t nl_order_next(const struct nl_table *table, enum nl_order_kind kind, uint32_t slot);
uint32_t nl_order_prev(const struct nl_table *table, enum nl_order_kind kind, uint32_t slot);
// First one above, last one below (key, id); id NULL sorts before every id.
uint32_t nl_order_above(const struct nl_table *table, enum nl_order_kind kind, uint32_t root,
                        uint64_t key, const char *id);
uint32_t nl_order_below(const struct nl_table *table, enum nl_order_kind kind, uint32_t root,
                        uint64_t key, const char *id);
// The slot with exactly this key, of numbered records.
uint32_t nl_order_find(const struct nl_table *table, uint64_t key);

// ---- nodes.c, agents.c, tasks.c: records of each kind ----
//
// x_edit gives the record for changing, x_commit hashes it, counts it and emits its effect.

int nl_node_add(struct nl_state *state, uint64_t id, struct nl_node_rec **ret);
int nl_node_edit(struct nl_state *state, uint64_t id, struct nl_node_rec **ret);
void nl_node_commit(struct nl_apply *a, struct nl_node_rec *rec);

struct nl_agent_rec *nl_agent_get(const struct nl_state *state, const char *id);
int nl_agent_add(struct nl_state *state, const char *id, struct nl_agent_rec **ret);
int nl_agent_edit(struct nl_state *state, uint32_t slot, struct nl_agent_rec **ret);
// old: the connection before the change, 0 for a new record.
void nl_agent_commit(struct nl_apply *a, struct nl_agent_rec *rec, enum nl_agent_connection old);

struct nl_task_rec *nl_task_get(const struct nl_state *state, const char *id);
struct nl_task_rec *nl_task_at(const struct nl_state *state, uint32_t slot);
// First / next active task of the agent, as slots.
uint32_t nl_task_active_first(const struct nl_state *state, uint32_t agent_slot);
uint32_t nl_task_active_next(const struct nl_state *state, uint32_t slot);
// An empty record, in no table yet.
struct nl_task_rec *nl_task_rec_new(const char *id);
// Takes a complete record in: table, counts and hash; the agent's own counters aside. NL_ENOMEM.
int nl_task_insert(struct nl_state *state, struct nl_task_rec *rec, uint32_t agent_slot);
// `hash`: as nl_hash_task gives it.
int nl_task_insert_hashed(struct nl_state *state, struct nl_task_rec *rec, uint32_t agent_slot,
                          struct nl_sum hash);
// Then its orders. Where the task belongs in the order of this kind: the key, and the root.
void nl_task_order(struct nl_state *state, const struct nl_task *task, enum nl_order_kind kind);
uint64_t nl_task_order_key(const struct nl_task *task, enum nl_order_kind kind);
uint32_t *nl_task_order_root(struct nl_state *state, const struct nl_task *task,
                             enum nl_order_kind kind);
int nl_task_edit(struct nl_state *state, uint32_t slot, struct nl_task_rec **ret);
// Version, order, agent's counters, effects of task and (when it ended) agent.
int nl_task_commit(struct nl_apply *a, struct nl_task_rec *rec, enum nl_task_state old);
int nl_task_remove(struct nl_apply *a, uint32_t slot);
// An active task gets a new place, the last one, among those of its agent. NL_ENOMEM.
int nl_task_requeue(struct nl_apply *a, struct nl_task_rec *rec);

void nl_node_rec_free(struct nl_state *state, struct nl_node_rec *rec);
void nl_agent_rec_free(struct nl_state *state, struct nl_agent_rec *rec);
void nl_task_rec_free(struct nl_state *state, struct nl_task_rec *rec);
void nl_proposer_rec_free(struct nl_state *state, struct nl_proposer_rec *rec);

// ---- tails.c ----

size_t nl_tail_bytes(const Nodelink__V1__OutputTail *tail);  // NULL: 0
// Counts the tail of a task that has just ended or was loaded. NL_ENOMEM.
int nl_tails_add(struct nl_state *state, const struct nl_task_rec *rec);
// The task is about to go: it is the one that ended first.
void nl_tails_remove(struct nl_state *state, const struct nl_task_rec *rec);
// Drops tails until all of them are within their bound. NL_ENOMEM.
int nl_tails_trim(struct nl_apply *a);

// ---- attempts.c ----

// How an attempt that is over ended.
struct nl_attempt_end {
    enum nl_task_state state;                // terminal
    const char *reason;                      // or NULL
    Nodelink__V1__RetryOn retry_on;          // 0: never followed by another one
    const Nodelink__V1__TaskResult *result;  // or NULL
    const Nodelink__V1__OutputTail *tail;    // or NULL; kept if the task ends
};
// Begins the next attempt if the task may have one, else ends the task. NL_ENOMEM.
int nl_attempt_over(struct nl_apply *a, uint32_t slot, const struct nl_attempt_end *end);
bool nl_attempts_spec_ok(const Nodelink__V1__TaskSpec *spec);

// ---- dedup.c ----

enum nl_dedup_verdict { NL_DEDUP_APPLY, NL_DEDUP_DUPLICATE, NL_DEDUP_REFUSED };
// What to do with the command; for the last two *ret_outcome is what became of it. NL_ENOMEM.
int nl_dedup_begin(struct nl_apply *a, enum nl_dedup_verdict *ret, struct nl_outcome *ret_outcome);
// Records the outcome and drops what the proposer no longer needs.
int nl_dedup_end(struct nl_apply *a);
int nl_proposer_add(struct nl_state *state, uint64_t id, struct nl_proposer_rec **ret);
// Appends during a restore; sequences must rise.
int nl_proposer_append(struct nl_state *state, struct nl_proposer_rec *rec, struct nl_done done);

// ---- apply.c: for the handlers ----

int nl_apply_done(struct nl_apply *a, enum nl_outcome_code code, uint64_t value);  // NL_OK
void nl_emit_task(struct nl_apply *a, enum nl_effect_kind kind, const struct nl_task *task,
                  enum nl_task_state old);
void nl_emit_agent(struct nl_apply *a, const struct nl_agent *agent, enum nl_agent_connection old);
void nl_emit_node(struct nl_apply *a, const struct nl_node *node);

// ---- apply_*.c: one per command ----

int nl_apply_node_up(struct nl_apply *a, const Nodelink__V1__NodeUp *m);
int nl_apply_node_down(struct nl_apply *a, const Nodelink__V1__NodeDown *m);
int nl_apply_token_create(struct nl_apply *a, const Nodelink__V1__AgentTokenCreate *m);
int nl_apply_token_revoke(struct nl_apply *a, const Nodelink__V1__AgentTokenRevoke *m);
int nl_apply_register(struct nl_apply *a, const Nodelink__V1__AgentRegister *m);
int nl_apply_disconnect(struct nl_apply *a, const Nodelink__V1__AgentDisconnect *m);
int nl_apply_timeout(struct nl_apply *a, const Nodelink__V1__AgentTimeout *m);
int nl_apply_submit(struct nl_apply *a, const Nodelink__V1__TaskSubmit *m);
int nl_apply_start(struct nl_apply *a, const Nodelink__V1__TaskStart *m);
int nl_apply_unknown(struct nl_apply *a, const Nodelink__V1__TaskUnknown *m);
int nl_apply_finish(struct nl_apply *a, const Nodelink__V1__TaskFinish *m);
int nl_apply_cancel(struct nl_apply *a, const Nodelink__V1__TaskCancelRequest *m);
int nl_apply_expire(struct nl_apply *a, const Nodelink__V1__TaskExpire *m);
int nl_apply_prune(struct nl_apply *a, const Nodelink__V1__TaskPrune *m);

// CONNECTED -> DISCONNECTED.
int nl_agent_disconnect(struct nl_apply *a, uint32_t slot, const char *reason);
// Moves a task on; reason NULL clears it.
int nl_task_move(struct nl_apply *a, uint32_t slot, enum nl_task_state to, const char *reason);

// ---- check.c ----

// What a loaded state's records must be like, O(n). Its hashes, counts, tables and orders were made
// from the records a moment ago and its sum compared with the snapshot's, so they are not checked.
int nl_check_loaded(const struct nl_state *state);

const char *nl_signal_name(int32_t signal);  // "SIGKILL", or NULL

#endif
