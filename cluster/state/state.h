// The replicated state machine: agents, tasks, nodes, and the outcomes of recent commands.
// Pure: no I/O, clock, randomness, threads or globals. Equal command sequences give equal
// states, hashes and snapshots on every replica (P12).
//
// Single-threaded, except where a function says "any thread": a snapshot is written while commands
// are applied (copy on write), and a state is loaded and freed beside the one in use.
#ifndef NODELINK_CLUSTER_STATE_STATE_H
#define NODELINK_CLUSTER_STATE_STATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <nodelink/v1/command.pb-c.h>
#include <nodelink/v1/snapshot.pb-c.h>

struct nl_state;

// ---- records (read-only outside the state machine) --------------------------
//
// A record's address is good until the next apply or restore. Texts are NULL rather than empty.
// Stamps (*_ms) are state time: the largest time_ms of any applied command, never 0.

// PENDING -> DISPATCHED -> RUNNING -> COMPLETED | FAILED | TIMED_OUT | CANCELLED.
//
// A task is DISPATCHED when it is assigned to a connected agent's current epoch: only from
// then on may the owner of that epoch send it. So PENDING means "was never sent", and a cancel
// of a PENDING task is final at once. UNKNOWN: the agent is unreachable, the task may run.
// A task that may have several attempts goes back to DISPATCHED (agent connected) or PENDING with
// the next number when one has failed; attempts never overlap, and each is started at most once.
// The numbers are those of control.proto's TaskState and are stored in snapshots.
enum nl_task_state {
    NL_TASK_PENDING = 1,
    NL_TASK_DISPATCHED = 2,
    NL_TASK_RUNNING = 3,
    NL_TASK_UNKNOWN = 4,
    NL_TASK_COMPLETED = 5,  // exit code 0
    NL_TASK_FAILED = 6,     // another exit code, a signal, not started, agent lost; see reason
    NL_TASK_TIMED_OUT = 7,
    NL_TASK_CANCELLED = 8,
};

// Numbers of control.proto's AgentConnection.
enum nl_agent_connection {
    NL_AGENT_NEVER_CONNECTED = 1,
    NL_AGENT_CONNECTED = 2,
    NL_AGENT_DISCONNECTED = 3,
    NL_AGENT_UNREACHABLE = 4,
    NL_AGENT_LOST = 5,
};

#define NL_STATE_ID_MAX 128    // bytes of an agent or task id
#define NL_STATE_TOKENS_MAX 2  // valid tokens of one agent
#define NL_STATE_HASH_LEN 16
#define NL_STATE_RULES 1u                      // Command.rules of what is proposed today
#define NL_STATE_ATTEMPTS_MAX 100u             // of one task
#define NL_STATE_TAIL_MAX ((size_t)256 << 10)  // bytes of a task's tail, as they are stored

struct nl_task {
    char *id;
    Nodelink__V1__TaskSpec *spec;
    uint8_t spec_sha256[32];  // of the canonical encoding of spec
    enum nl_task_state state;
    uint32_t attempt;
    uint64_t order;  // among the tasks of its agent, rising
    uint64_t epoch;  // dispatched under this epoch of the agent; 0: not yet
    bool cancel_requested;
    char *cancel_reason;                                          // or NULL
    uint64_t created_ms, dispatched_ms, started_ms, finished_ms;  // state time; 0: not yet
    uint64_t version;                  // 1 at creation, +1 with each change
    char *reason;                      // why it is in this state, for a person; or NULL
    Nodelink__V1__TaskResult *result;  // or NULL
    uint32_t late_results;
    Nodelink__V1__TaskResult *late_result;  // the first of them, or NULL
    uint32_t late_attempt;                  // whose it is
    int32_t pid;
    Nodelink__V1__AttemptRecords *earlier;  // attempts before this one, or NULL
    Nodelink__V1__OutputTail *tail;         // of the last output; or NULL
};

struct nl_agent {
    char *id;
    uint8_t token_sha256[NL_STATE_TOKENS_MAX][32];
    uint32_t tokens;
    uint64_t epoch;  // 0: never registered; +1 with each registration (P7)
    enum nl_agent_connection connection;
    uint64_t owner;  // node id while CONNECTED, else 0
    uint64_t owner_boot;
    char *version, *boot_id, *journal_id, *address, *hostname;  // or NULL
    Nodelink__V1__Label **labels;
    size_t n_labels;
    uint32_t capacity;
    bool extended;  // speaks the extensions: has a journal, can resume
    uint64_t created_ms, connected_ms, disconnected_ms;
    char *disconnect_reason;  // or NULL
    uint64_t next_order;
    uint64_t tasks_submitted, tasks_finished;
    uint32_t tasks_active;  // not terminal; derived
};

struct nl_node {
    uint64_t id;
    char *name, *grpc_address, *version;
    uint64_t boot;
    bool up;
    uint64_t changed_ms;
};

bool nl_task_is_terminal(enum nl_task_state state);
const char *nl_task_state_name(enum nl_task_state state);  // "running"
// State time by which an attempt has to be started / ended; 0: no such deadline.
uint64_t nl_task_start_deadline_ms(const struct nl_task *task);
uint64_t nl_task_finish_deadline_ms(const struct nl_task *task);
// The record of an earlier attempt; NULL: it is not one.
const Nodelink__V1__AttemptRecord *nl_task_earlier(const struct nl_task *task, uint32_t attempt);
const char *nl_agent_connection_name(enum nl_agent_connection c);  // "connected"

// ---- life ------------------------------------------------------------------

struct nl_state_limits {
    uint32_t tasks_per_agent_active_max;  // not terminal; 0: 10000
    uint32_t agents_max;                  // 0: 100000
    uint32_t outcomes_per_proposer_max;   // window of de-duplication; 0: 65536
    uint64_t tails_bytes_max;  // of all tails; beyond it those that ended first go; 0: 64 MiB
};

// The limits are part of the state machine: equal on all replicas. NL_ENOMEM.
int nl_state_new(const struct nl_state_limits *limits, struct nl_state **ret);
void nl_state_free(struct nl_state *state);  // NULL is allowed

// ---- apply -----------------------------------------------------------------

// What became of a command. A refusal changes nothing but the de-duplication table and the clock.
// Not even those: a duplicate, STALE_BOOT, and INVALID because the proposer's window is full (that
// one is not remembered either; it applies once the proposer acknowledges older outcomes).
enum nl_outcome_code {
    NL_OUTCOME_OK = 1,
    NL_OUTCOME_EXISTED = 2,   // submit: same id, same spec (P8); value: state
    NL_OUTCOME_CONFLICT = 3,  // submit: same id, another spec
    NL_OUTCOME_NO_AGENT = 4,  // no such agent
    NL_OUTCOME_NO_TASK = 5,
    NL_OUTCOME_AGENT_OFFLINE = 6,  // submit: not connected, beyond its grace, and no wait asked
    NL_OUTCOME_LIMIT = 7,          // too many active tasks of the agent, or too many agents
    NL_OUTCOME_BAD_TOKEN = 8,      // register: token unknown or revoked
    NL_OUTCOME_STALE = 9,          // epoch, boot or attempt is older than the current one
    NL_OUTCOME_LATE = 10,          // finish: the task is terminal already; kept as late (P3)
    NL_OUTCOME_TOO_LATE = 11,  // cancel: the task is terminal; value: state. submit: its deadline
    NL_OUTCOME_CANCEL_REQUESTED = 12,  // cancel: the agent decides
    NL_OUTCOME_INVALID = 13,           // decodable but not valid (bad id, oneof missing, ...)
    NL_OUTCOME_NOTHING = 14,           // conditional command whose condition no longer holds
    NL_OUTCOME_STALE_BOOT = 15,        // command of an earlier boot of its proposer
};
const char *nl_outcome_name(enum nl_outcome_code code);

struct nl_outcome {
    enum nl_outcome_code code;
    // register: the epoch; submit, cancel: task state; prune: how many; start and finish: task
    // state with TOO_LATE, LATE and EXISTED; else 0.
    uint64_t value;
};

enum nl_effect_kind {
    NL_EFFECT_OUTCOME,  // of the command (also, again, when a duplicate applies); comes last
    NL_EFFECT_TASK,     // created or changed: its version has risen
    NL_EFFECT_TASK_PRUNED,
    // Created or changed. With equal connections either side and no new epoch only its counters
    // or tokens changed. At a registration it precedes the effects of the agent's tasks.
    NL_EFFECT_AGENT,
    NL_EFFECT_NODE,
};

struct nl_effect {
    enum nl_effect_kind kind;
    uint64_t index;
    // NL_EFFECT_OUTCOME
    uint64_t proposer, boot, sequence;
    struct nl_outcome outcome;
    bool duplicate;
    // the others; borrowed, valid during the call
    const struct nl_task *task;
    enum nl_task_state old_state;  // 0: created now
    const struct nl_agent *agent;
    enum nl_agent_connection old_connection;
    const struct nl_node *node;
};

// Called during apply, in order; must not change the state.
typedef void (*nl_effect_cb)(void *user, const struct nl_effect *effect);

// Applies one encoded Command of the log entry at `index` (an entry holds many commands, all
// applied with its index). NL_OK in every case of the domain. NL_ECORRUPT (can't be decoded)
// and NL_ENOMEM must stop the node: the state may be half changed then.
int nl_state_apply(struct nl_state *state, uint64_t index, const uint8_t *command, size_t len,
                   nl_effect_cb effect, void *user);
// Whether every replica can decode it: for proposers, before a command is in the log and would
// stop them all. NL_OK, NL_ECORRUPT, NL_ENOMEM. Any thread.
int nl_state_command_check(const uint8_t *command, size_t len);
// Highest index given to apply or restored.
uint64_t nl_state_index(const struct nl_state *state);
// Entries without commands (raft barriers, configuration) move the index too.
void nl_state_set_index(struct nl_state *state, uint64_t index);
uint64_t nl_state_clock_ms(const struct nl_state *state);

// ---- queries ---------------------------------------------------------------

const struct nl_task *nl_state_task(const struct nl_state *state, const char *task_id);
const struct nl_agent *nl_state_agent(const struct nl_state *state, const char *agent_id);
const struct nl_node *nl_state_node(const struct nl_state *state, uint64_t node_id);

// The agent's tasks that are not terminal, by order. NULL begins / ends.
const struct nl_task *nl_state_agent_task_next(const struct nl_state *state,
                                               const struct nl_agent *agent,
                                               const struct nl_task *after);
// How many of its tasks are RUNNING; O(1).
uint32_t nl_state_agent_running(const struct nl_state *state, const struct nl_agent *agent);
// All tasks, newest first: falling (created_ms, id). To resume after a task that was pruned in
// between, nl_state_task_older gives the first task that sorts after (created_ms, id).
const struct nl_task *nl_state_task_next_older(const struct nl_state *state,
                                               const struct nl_task *after);
const struct nl_task *nl_state_task_older(const struct nl_state *state, uint64_t created_ms,
                                          const char *id);
// Agents by id; the first one after `after_id` (NULL or "": the first).
const struct nl_agent *nl_state_agent_next(const struct nl_state *state, const char *after_id);
const struct nl_node *nl_state_node_next(const struct nl_state *state, uint64_t after_id);

struct nl_state_counts {
    uint64_t tasks[9];   // by enum nl_task_state
    uint64_t agents[6];  // by enum nl_agent_connection
    uint64_t tasks_total, agents_total, tasks_terminal;
    uint64_t tails_bytes;
};
void nl_state_counts(const struct nl_state *state, struct nl_state_counts *ret);  // O(1)
// finished_ms of the oldest terminal task (0: none): tells the leader whether to prune.
uint64_t nl_state_oldest_finished_ms(const struct nl_state *state);

// ---- hash, check, snapshot --------------------------------------------------

// 16 bytes over everything that is replicated; kept incrementally, O(1).
void nl_state_hash(const struct nl_state *state, uint8_t out[NL_STATE_HASH_LEN]);
// All invariants, O(n), and the incremental hash against one computed anew. NL_OK or
// NL_ECORRUPT with a sentence in `why`.
int nl_state_check(const struct nl_state *state, char *why, size_t why_size);

// A snapshot is taken in three steps: begin on the owner's thread (fast: it freezes a view,
// no copy of the records), write on any thread (sorts and encodes), end on the owner's
// thread. Apply may go on in between; one snapshot at a time. Canonical: equal states give
// equal bytes.
struct nl_state_snapshot;
int nl_state_snapshot_begin(struct nl_state *state, struct nl_state_snapshot **ret);
// *ret is owned (malloc).
int nl_state_snapshot_write(struct nl_state_snapshot *snapshot, uint8_t **ret, size_t *ret_len);
void nl_state_snapshot_end(struct nl_state *state, struct nl_state_snapshot *snapshot);
// The end in two steps, because what was let go meanwhile may be a million blocks: detach on the
// owner's thread (O(1)), free on any thread.
void nl_state_snapshot_detach(struct nl_state *state, struct nl_state_snapshot *snapshot);
void nl_state_snapshot_free(struct nl_state_snapshot *snapshot);

// Replaces the whole state. On failure (NL_ECORRUPT: bytes, version or hash; NL_ENOMEM) the
// state is unchanged. Not while a snapshot is being taken.
int nl_state_restore(struct nl_state *state, const uint8_t *data, size_t len);
// The restore in two steps, because a million tasks take seconds: load makes a new state with the
// limits of `like`, on any thread (of `like` only the limits are read, which never change); swap
// exchanges the contents of two states, O(1), on the owner's thread of both. What was replaced is
// then freed by nl_state_free, on any thread.
int nl_state_load(const struct nl_state *like, const uint8_t *data, size_t len,
                  struct nl_state **ret);
void nl_state_swap(struct nl_state *a, struct nl_state *b);

#endif
