// A session core on a real state: what it proposes is applied when the test says so, and each thing
// it does becomes a word of a transcript that a person can read.
#ifndef NODELINK_TESTS_UNIT_SERVER_SESSION_RIG_H
#define NODELINK_TESTS_UNIT_SERVER_SESSION_RIG_H

#include "server/session_core.h"
#include "tests/unit/state/fixture.h"

#define RIG_TEXT_MAX 16384
#define RIG_PENDING_MAX 128

struct rig_pending {
    enum nl_session_purpose purpose;
    uint32_t attempt;
    char task_id[NL_STATE_ID_MAX + 1];
    Nodelink__V1__Command *command;  // owned
};

struct rig {
    struct fx fx;
    struct nl_session_core *core;
    uint64_t now;
    char text[RIG_TEXT_MAX];                     // "register; welcome; run t1; finish t1#2; ..."
    uint32_t attempt;                            // of the agent's frames; 1
    uint64_t last_epoch;                         // the highest that the agent says to have seen
    bool leave_orphans;                          // for rig_again
    uint64_t start_within_ms, finish_within_ms;  // of the last run
    int send_result;                             // of the next sends
    int propose_result;
    size_t sends_before_full;  // then NL_EFULL
    struct rig_pending pending[RIG_PENDING_MAX];
    size_t n_pending;
};

// Node 1 is up, agent "a1" has token 1 (32 bytes of 1).
void rig_open(struct rig *rig, bool extended);
void rig_close(struct rig *rig);
// Another stream of the same agent, on the same state.
void rig_again(struct rig *rig);

// Gives the core an event, then does what is due.
void rig_event(struct rig *rig, const struct nl_session_event *event);
void rig_kind(struct rig *rig, enum nl_session_event_kind kind);
// The clock goes on; the deadline's tick comes when it is due.
void rig_wait(struct rig *rig, uint64_t ms);
// Everything proposed is applied and reported / lost with this result.
void rig_commit(struct rig *rig);
void rig_lose(struct rig *rig, int result);
// Changes of others: applied to the state, and the core hears of them.
void rig_submit(struct rig *rig, const char *task);
void rig_cancel(struct rig *rig, const char *task);
void rig_tell_task(struct rig *rig, const char *task);

// Frames of the agent, of the core's epoch and the rig's attempt.
void rig_hello(struct rig *rig, uint32_t capacity, const char *running, const char *finished);
void rig_started(struct rig *rig, const char *task);
void rig_uncertain(struct rig *rig, const char *task);
void rig_result(struct rig *rig, const char *task, int exit_code);
void rig_frame(struct rig *rig, Nodelink__V1__TaskResponse *frame);
// AUTHORIZED, for an agent with extensions also an empty Hello, and the registration.
void rig_active(struct rig *rig, uint32_t capacity);

// What was done since the last call, and forgets it.
#define rig_expect(rig, expected)                     \
    do {                                              \
        assert_string_equal((rig)->text, (expected)); \
        (rig)->text[0] = '\0';                        \
    } while (0)

#endif
