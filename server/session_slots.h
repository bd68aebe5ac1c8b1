// Inside of the session core: the tasks an agent stream has to do with, and what is due for each.
#ifndef NODELINK_SERVER_SESSION_SLOTS_H
#define NODELINK_SERVER_SESSION_SLOTS_H

#include <uthash.h>

#include "server/session_core.h"

enum {
    SESSION_SLOTS_MAX = 32768,  // tasks one stream has to do with at once
    SESSION_REFS_MAX = 20000,   // of one Hello
    SESSION_LABELS_MAX = 64,
    SESSION_IN_FLIGHT_MAX = 64,   // proposals of one stream
    SESSION_START_DELAY_MS = 20,  // a result within it saves the TaskStart
    SESSION_RETRY_MS = 500,
    SESSION_HELLO_LIMIT_MS = 10000,
    SESSION_LINGER_MS = 10000,  // results go on to the log after the stream's end
};

enum slot_queue { SLOT_IDLE, SLOT_START, SLOT_FINISH, SLOT_IN_FLIGHT };

// One attempt of a task.
struct slot {
    char *id;   // begins key
    char *key;  // owned; id, NUL, attempt (of stock agents, who know none: 0)
    uint32_t attempt;
    bool sent;       // by us on this stream, or named in the Hello
    bool busy;       // the agent has not reported its end: it counts against the capacity
    bool withdrawn;  // cancelled before it was sent: we finish it ourselves
    bool cancel_due, cancel_sent;
    bool ack_due, ack_late, ack_if_current;
    bool started, timed_out;
    bool uncertain, uncertain_known;    // the agent does not know how it ended; the log has that
    enum nl_session_purpose in_flight;  // while queue is SLOT_IN_FLIGHT
    enum slot_queue queue;
    uint64_t start_at_ms;  // when TaskStart is to be proposed
    uint64_t started_ms;
    int32_t pid;
    uint64_t timeout_at_ms;            // stock agents don't know timeouts: ours; 0: none
    Nodelink__V1__TaskResult *result;  // owned; waits to be, or is being, proposed
    Nodelink__V1__OutputTail *tail;    // owned; goes with it, or NULL
    size_t bytes;                      // of both, packed
    struct slot *prev, *next;          // in the list of its queue
    bool out;                          // in the list of slots with something to send
    struct slot *out_prev, *out_next;
    UT_hash_handle hh;
};

struct nl_session_core {
    struct nl_session_config config;
    enum nl_session_state state;
    uint64_t epoch;
    Nodelink__V1__Hello *hello;  // owned; until its tasks are reconciled
    struct slot *slots;
    struct slot *starts, *finishes, *outs;
    uint32_t busy, in_flight, n_finishing;  // n_finishing: slots with a result
    size_t backlog;                         // bytes of them
    int64_t wall_ahead_ms;                  // wall time minus the clock of the calls
    uint64_t expire_at_ms;                  // when the next task that waits has its deadline
    uint64_t cursor;                        // order behind the last task sent, up to held_order
    uint64_t held_order;                    // lowest one that waits for an attempt before it
    const struct nl_task *scan;             // where the search goes on; valid within one round
    const struct nl_task *sending;          // of the RUN action that is out; valid until its done
    bool register_due, registering, welcome_due, drain_due, pong_due, ping_due, close_due;
    bool check_due, reconcile_due, pump_due, sweep_due, blocked, draining, pinged, gone;
    uint64_t pong_nonce;
    uint64_t heard_at_ms, entered_at_ms, resume_at_ms, close_at_ms, gone_at_ms, timeout_at_ms;
    enum nl_rpc_code code;
    char *why;      // owned or NULL
    char *scratch;  // owned: text of the action that is out
};

struct slot *session_slot_find(const struct nl_session_core *core, const char *id,
                               uint32_t attempt);
// Finds or makes it. NULL: no memory or too many.
struct slot *session_slot_get(struct nl_session_core *core, const char *id, uint32_t attempt);
void session_slot_free(struct nl_session_core *core, struct slot *slot);
// Moves it to a queue (starts, finishes) or out of one.
void session_slot_queue(struct nl_session_core *core, struct slot *slot, enum slot_queue queue);
// Puts it on the list of slots with something to send, or takes it off.
void session_slot_out(struct nl_session_core *core, struct slot *slot, bool out);
// The agent has ended it, or never had it.
void session_slot_set_busy(struct nl_session_core *core, struct slot *slot, bool busy);
// Tells the agent to stop it, once, unless it has reported its end.
void session_slot_cancel(struct nl_session_core *core, struct slot *slot);
// Keeps a copy of the result and its tail (or NULL) and queues it for the log. NL_ENOMEM.
int session_slot_finish(struct nl_session_core *core, struct slot *slot,
                        const Nodelink__V1__TaskResult *result,
                        const Nodelink__V1__OutputTail *tail);
// A task that was never sent is finished here: the only holder of the permission says so. As
// CANCELLED if that was asked for, else as NOT_STARTED.
int session_slot_withdraw(struct nl_session_core *core, const struct nl_task *task,
                          const char *reason);
// Whether an earlier attempt of the task still runs, as far as is known here.
bool session_slot_earlier_runs(const struct nl_session_core *core, const struct nl_task *task);
// The result it waited to report is no longer needed.
void session_slot_drop_result(struct nl_session_core *core, struct slot *slot);
// Frees it if nothing is due, in flight or running.
void session_slot_settle(struct nl_session_core *core, struct slot *slot);

void session_close(struct nl_session_core *core, enum nl_rpc_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
// Handles one frame in ACTIVE or HELLO (session_frames.c).
void session_frame(struct nl_session_core *core, uint64_t now_ms,
                   const struct nl_session_event *event);
// Compares with the state: is the stream still the owner, what became of its tasks. May close.
void session_check(struct nl_session_core *core, const struct nl_state *state);
void session_reconcile(struct nl_session_core *core, const struct nl_state *state);
// Deadlines of a task that was not sent yet. Passed: why, for a person; else NULL, and expire_at_ms
// is not behind it.
const char *session_deadline(struct nl_session_core *core, uint64_t now_ms,
                             const struct nl_task *task);
// Withdraws the tasks that wait and whose deadline has come.
void session_sweep(struct nl_session_core *core, uint64_t now_ms, const struct nl_state *state);

#endif
