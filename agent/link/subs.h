// Subscriptions to the output of tasks: who is to get which bytes next. Pure: it decides, the
// driver (output.c) reads the spool and sends.
//
//            open                        credit, growth
//   (none) --------> PARKED <-----------------------------> READY (in the ring)
//                       \------- COMPLETE, GAP (the core says so and closes it) -------/
//
// READY means: bytes from `offset` on are in the spool and there is credit. The ring is served
// round-robin, one chunk each, so that a reader of a flood delays nobody by more than one chunk.
#ifndef NODELINK_AGENT_LINK_SUBS_H
#define NODELINK_AGENT_LINK_SUBS_H

#include "agent/link/tasks.h"

// Payload bytes of one frame.
#define NL_LINK_CHUNK_BYTES_MAX (256u * 1024u)
#define NL_LINK_SUB_BUCKETS 256u

struct nl_link_sub {
    TAILQ_ENTRY(nl_link_sub) in_task;
    TAILQ_ENTRY(nl_link_sub) in_ready;
    LIST_ENTRY(nl_link_sub) in_bucket;
    struct nl_link_task *task;
    uint64_t id;  // chosen by the node; with push: none
    bool push;    // to a stock server: no id, no credit, no end frame
    bool ready;
    uint32_t fence;  // number of the release that lifts it
    bool fenced;     // the supervisor has not yet confirmed that nothing more is dropped
    unsigned turn;   // stream that is served first, when both have bytes
    uint64_t opened[NL_LINK_STREAMS];
    uint64_t offset[NL_LINK_STREAMS];  // next byte to send
    uint64_t credit;                   // bytes that may still be sent
    uint64_t sent, returned;           // bytes sent; bytes the reader has taken (credit given back)
};

struct nl_link_subs {
    LIST_HEAD(, nl_link_sub) buckets[NL_LINK_SUB_BUCKETS];
    struct nl_link_sub_list ready;
    uint32_t count;
};

enum nl_link_sub_state {
    NL_LINK_SUB_PARKED,
    NL_LINK_SUB_READY,
    NL_LINK_SUB_COMPLETE,  // the task has ended and all was sent
    NL_LINK_SUB_GAP,       // the next byte is no longer in the spool
};

void nl_link_subs_init(struct nl_link_subs *s);
// NULL: no memory. `id` must be new (push subs all have 0).
struct nl_link_sub *nl_link_subs_open(struct nl_link_subs *s, struct nl_link_task *task,
                                      uint64_t id, const uint64_t offsets[NL_LINK_STREAMS],
                                      uint64_t credit);
struct nl_link_sub *nl_link_subs_open_push(struct nl_link_subs *s, struct nl_link_task *task);
void nl_link_subs_close(struct nl_link_subs *s, struct nl_link_sub *sub);
struct nl_link_sub *nl_link_subs_find(const struct nl_link_subs *s, uint64_t id);

// Judges a sub after anything about it or its task changed, and puts it into or out of the ring.
enum nl_link_sub_state nl_link_subs_settle(struct nl_link_subs *s, struct nl_link_sub *sub);
void nl_link_subs_credit(struct nl_link_sub *sub, uint64_t bytes);

// The next chunk: false: nothing is ready. Changes nothing.
struct nl_link_chunk {
    struct nl_link_sub *sub;
    int stream;
    uint64_t offset;
    uint32_t len;  // 1..NL_LINK_CHUNK_BYTES_MAX
};
bool nl_link_subs_next(const struct nl_link_subs *s, struct nl_link_chunk *ret);
// It was sent: advances, and the sub goes to the end of the ring (settle it afterwards).
void nl_link_subs_sent(struct nl_link_subs *s, const struct nl_link_chunk *chunk);
// Lowest byte of a stream that this reader may still ask for again: everything that it has
// not yet confirmed by giving credit back. The confirmation doesn't say of which stream the bytes
// were, so all of it is assumed to be of this one.
uint64_t nl_link_subs_needed(const struct nl_link_sub *sub, int stream);

#endif
