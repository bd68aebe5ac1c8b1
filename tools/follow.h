// Follows one task to its end through the loss of nodes: its state changes and, byte-exact, its
// output. A broken stream goes on at the next node from the offsets that were delivered; bytes
// that nobody has any more are said, not skipped. A stream that is silent is checked with a read,
// so that a node that is stopped or cut off doesn't hold it up.
#ifndef NODELINK_TOOLS_FOLLOW_H
#define NODELINK_TOOLS_FOLLOW_H

#include <nodelink/v1/control.pb-c.h>
#include <stdbool.h>
#include <stdint.h>

#include "tools/client.h"

struct nl_follow;

enum nl_stream { NL_STDOUT, NL_STDERR, NL_N_STREAMS };

struct nl_follow_events {
    // The task's state changed; `task` is valid until the next one.
    void (*on_task)(void *user, const Nodelink__V1__Task *task);
    void (*on_output)(void *user, enum nl_stream stream, const uint8_t *data, size_t len);
    // Bytes from..to (exclusive) of a stream are gone.
    void (*on_gap)(void *user, enum nl_stream stream, uint64_t from, uint64_t to,
                   const char *reason);
    // From here on offsets are of this attempt of the task and begin at 0. Optional.
    void (*on_attempt)(void *user, uint32_t attempt);
    // A node failed, the stream goes on at another. Optional.
    void (*on_moved)(void *user, const char *from, const char *to, const char *why);
    // Once, the last one; the object is freed after it. error NULL: the task has ended and all its
    // output was delivered (or, with no_follow, what there was). `task`: as last seen; NULL: never.
    void (*on_end)(void *user, const struct nl_client_error *error, const Nodelink__V1__Task *task);
};

struct nl_follow_options {
    const char *task_id;  // borrowed until on_end
    bool output;
    bool no_follow;  // end with what is there now
    // This client has just submitted it: the first stream begins without a round to the leader.
    bool submitted;
    // The attempt that the offsets are of; 0: the one that is under way, or was the last. It goes
    // on with the attempts after it, unless only_attempt.
    uint32_t attempt;
    bool only_attempt;
    uint64_t offset[NL_N_STREAMS];
    uint64_t patience_ms;  // how long no node may answer before it is given up
};

// NL_OK: on_end will come, not from inside this call. NL_ENOMEM.
int nl_follow_start(struct nl_client *client, const struct nl_follow_options *options,
                    const struct nl_follow_events *events, void *user, struct nl_follow **ret);
// on_end comes with code CANCELLED, from the loop.
void nl_follow_stop(struct nl_follow *follow);

#endif
