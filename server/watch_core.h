// A reader's place in a task's two output streams, as a pure machine: what of a chunk is new, when
// all was delivered, what is lost for good, when to look for the output again.
//
// Offsets decide: a byte is delivered once and in order, whichever node it comes from; a hole is
// never skipped without a gap that says so.
#ifndef NODELINK_SERVER_WATCH_CORE_H
#define NODELINK_SERVER_WATCH_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cluster/state/state.h"
#include "server/output.h"

struct nl_watch_core {
    bool output, no_follow, only_attempt;  // as asked
    uint32_t attempt;                      // being read
    uint64_t next[2];                      // first byte of it not delivered yet
    // of the attempt
    bool started, terminal, never_sent, totals_known, lost;
    bool followed;  // another attempt comes after it, and is to be read too
    uint64_t total[2];
    bool has_tail, tail_bad;  // the cluster keeps its output from here on
    uint64_t tail[2];
    // of the source
    bool open, complete, gone, away;
    uint32_t failures;  // since the last byte
    uint64_t retry_at_ms, quiet_at_ms;
    char why[128];  // why the output is gone or away
};

// Reads the attempt that the first task given has. What else was asked for is set by the caller:
// only_attempt, attempt.
void nl_watch_core_init(struct nl_watch_core *w, bool output, bool no_follow,
                        const uint64_t offset[2]);
// The task as it is now; agent_lost: nobody expects its agent back.
void nl_watch_core_task(struct nl_watch_core *w, const struct nl_task *task, bool agent_lost);

enum nl_watch_chunk { NL_WATCH_NEW, NL_WATCH_OLD, NL_WATCH_HOLE };
// NEW: data, len and offset are cut to what was not delivered, and count as delivered now.
// HOLE: bytes before it are missing; the source must be opened anew.
enum nl_watch_chunk nl_watch_core_chunk(struct nl_watch_core *w, uint64_t now_ms, int stream,
                                        uint64_t *offset, const uint8_t **data, size_t *len);

// Bytes that are not there any more: from next to `to`.
struct nl_watch_gap {
    uint64_t from[2], to[2];
};

// The source is open from here on.
void nl_watch_core_opened(struct nl_watch_core *w, uint64_t now_ms);
// It could not be opened: its agent is away (NL_EAGAIN), or nobody has it (NL_EGAP), or another
// error that passes.
void nl_watch_core_not_opened(struct nl_watch_core *w, uint64_t now_ms, int result);
// It ended. true: *ret_gap is to be said, and reading goes on behind it.
bool nl_watch_core_ended(struct nl_watch_core *w, uint64_t now_ms, const struct nl_output_end *end,
                         struct nl_watch_gap *ret_gap);
// A change of the agent: worth to look for the output again.
void nl_watch_core_agent_changed(struct nl_watch_core *w);

enum nl_watch_todo {
    NL_WATCH_WAIT,
    NL_WATCH_OPEN,
    NL_WATCH_TAIL,         // the rest is in the task's tail: deliver it
    NL_WATCH_TAIL_GAP,     // the tail is all that is left: say the gap before it
    NL_WATCH_NEXT,         // this attempt's output was delivered: go on with the next one's
    NL_WATCH_END,          // all was delivered
    NL_WATCH_GAP_END,      // the rest is gone: say the gap, then end
    NL_WATCH_UNAVAILABLE,  // no_follow, and the output can't be reached now
};
enum nl_watch_todo nl_watch_core_next(const struct nl_watch_core *w, uint64_t now_ms);
// NEXT was done: the next attempt, from its beginning. The task must be given again.
void nl_watch_core_advance(struct nl_watch_core *w);
// The tail can't be used after all.
void nl_watch_core_no_tail(struct nl_watch_core *w);
// From what was delivered to the tail; what lies between counts as said.
void nl_watch_core_to_tail(struct nl_watch_core *w, struct nl_watch_gap *ret);
// The rest that nobody has; where totals are not known it begins and ends at next.
void nl_watch_core_rest(const struct nl_watch_core *w, struct nl_watch_gap *ret);
// When to ask nl_watch_core_next again without an event; UINT64_MAX: never.
uint64_t nl_watch_core_deadline(const struct nl_watch_core *w);

#endif
