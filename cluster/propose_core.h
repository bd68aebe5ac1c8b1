// This node's proposals, from the call to their outcome. A step machine without I/O or clock: the
// driver (propose.c) tells it the time, what was sent and what came back, and asks what to send.
//
//   READY --take--> SENT --outcome--> done
//     ^                | refused, lost, new leader, silence
//     +----------------+
//
// A proposal that was sent may be in the log, whatever happened afterwards, until its outcome is
// known: `maybe_logged`. When its time is up it is answered NL_EUNKNOWN, its command replaced by a
// Noop with the same sequence, and sent on until that sequence has an outcome: from then on
// nothing under it can apply late, and ack_below may pass it. A proposal that was certainly never
// logged is answered as not done, and dropped.
#ifndef NODELINK_CLUSTER_PROPOSE_CORE_H
#define NODELINK_CLUSTER_PROPOSE_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cluster/state/state.h"

struct nl_propose_core;

typedef void (*nl_core_done)(void *user, int result, struct nl_outcome outcome, uint64_t index,
                             uint64_t term);

struct nl_core_options {
    uint32_t pending_max;  // proposals that somebody waits for; 0: 16384
    size_t bytes_max;      // of their commands; 0: 64 MiB
    uint32_t window_max;   // sequences between the oldest open one and the newest; 0: 32768
    uint32_t resend_ms;    // silence after which a sent proposal is sent again, doubling; 0: 2000
    // Encodes the Noop that fills a sequence; *ret is owned (malloc). NL_OK, NL_ENOMEM.
    int (*make_noop)(void *user, uint64_t sequence, uint8_t **ret, size_t *ret_len);
    void *user;
};

struct nl_core_result {
    nl_core_done done;
    void *user;
    int result;
    struct nl_outcome outcome;
    uint64_t index, term;
};

// What one take handed out: sequences first..last that carry this id.
struct nl_core_batch {
    uint64_t id;
    uint64_t first, last;
    uint32_t count;
    size_t bytes;
};

enum nl_core_verdict {
    NL_CORE_REFUSED,  // certainly not logged by this send: not the leader
    NL_CORE_BUSY,     // the same; the leader has no room
    NL_CORE_LOST,     // may be logged
};

// NL_ENOMEM.
int nl_core_new(const struct nl_core_options *options, struct nl_propose_core **ret);
void nl_core_free(struct nl_propose_core *core);  // NULL is allowed; nothing is answered

// The sequence the next proposal gets, and the lowest one whose outcome isn't known: to be stamped
// on its command before nl_core_add.
uint64_t nl_core_next_sequence(const struct nl_propose_core *core);
uint64_t nl_core_ack_below(const struct nl_propose_core *core);
// Takes `command` (malloc) on NL_OK. NL_EFULL, NL_ENOMEM.
int nl_core_add(struct nl_propose_core *core, uint8_t *command, size_t len, uint64_t deadline_ms,
                nl_core_done done, void *user);

// Gives the commands that wait to be sent, by sequence, as long as `give` accepts them; each
// becomes SENT. false and nothing given while there is none.
typedef bool (*nl_core_give)(void *user, const uint8_t *command, size_t len);
bool nl_core_take(struct nl_propose_core *core, uint64_t now_ms, nl_core_give give, void *user,
                  struct nl_core_batch *ret);
bool nl_core_has_ready(const struct nl_propose_core *core);
// What became of a batch as far as the leader said. Commands that were taken over need no word.
void nl_core_verdict(struct nl_propose_core *core, const struct nl_core_batch *batch,
                     enum nl_core_verdict verdict);
// Another leader or term, or a snapshot replaced the state: everything sent is sent again.
void nl_core_resend(struct nl_propose_core *core);
// A command of this node and boot applied here.
void nl_core_outcome(struct nl_propose_core *core, uint64_t sequence, struct nl_outcome outcome,
                     uint64_t index, uint64_t term);
// Deadlines and silences. leader_known tells which reason "not done" gets.
void nl_core_tick(struct nl_propose_core *core, uint64_t now_ms, bool leader_known);
// Ends every proposal: NL_EUNKNOWN or NL_ECANCELED.
void nl_core_cancel(struct nl_propose_core *core);
// The next answer to give; false: none. Answers are given outside of the functions above, so that
// a callback may propose again.
bool nl_core_next_result(struct nl_propose_core *core, struct nl_core_result *ret);

uint32_t nl_core_pending(const struct nl_propose_core *core);  // somebody waits for them
uint32_t nl_core_open(const struct nl_propose_core *core);     // these and the ones being filled

#endif
