// Frees large things in a worker thread: giving back a few hundred megabytes, or a million records,
// takes tens to hundreds of milliseconds, which the loop thread doesn't have. Loop thread only.
#ifndef NODELINK_CLUSTER_RAFT_REAP_H
#define NODELINK_CLUSTER_RAFT_REAP_H

#include <stddef.h>
#include <uv.h>

struct nl_reaper {
    uv_loop_t *loop;
    unsigned pending;
    // After the last one; may be NULL. The loop must not be closed while something is pending.
    void (*idle)(void *user);
    void *user;
};

// Takes `item`. Without memory for the errand it is released here and now.
void nl_reap(struct nl_reaper *reaper, void (*release)(void *item), void *item);
// Any thread: frees a malloc'd block of `len` bytes, or NULL. A large one goes to the kernel in
// pieces: in one go, whoever maps memory meanwhile waits for all of it.
void nl_free_large(void *block, size_t len);
// nl_free_large in a worker thread.
void nl_reap_large(struct nl_reaper *reaper, void *block, size_t len);

#endif
