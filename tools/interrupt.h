// Ctrl-C (SIGINT) for commands that do something about it: the callback runs on the loop, the
// count is also seen by a write that blocks.
#ifndef NODELINK_TOOLS_INTERRUPT_H
#define NODELINK_TOOLS_INTERRUPT_H

#include <uv.h>

// `count`: how often so far. One watcher per process at a time. NL_EIO.
int nl_interrupt_watch(uv_loop_t *loop, void (*callback)(void *user, unsigned count), void *user);
unsigned nl_interrupt_count(void);
// Restores what was there before; the loop still has to run once.
void nl_interrupt_close(void);

#endif
