// The connection to the supervisor: unix socket, frames, restart. Loop thread only.
//
//   DOWN --(retry time)--> CONNECTING --(connected)--> UP
//     ^---(no supervisor holds the directory: start one)---/ any failure goes back to DOWN
#ifndef NODELINK_AGENT_LINK_SUP_CLIENT_H
#define NODELINK_AGENT_LINK_SUP_CLIENT_H

#include <nodelink/v1/supervisor.pb-c.h>
#include <stdbool.h>
#include <uv.h>

#include "common/base/buf.h"
#include "common/base/log.h"

enum nl_link_sup_state {
    NL_LINK_SUP_STATE_DOWN,
    NL_LINK_SUP_STATE_CONNECTING,
    NL_LINK_SUP_STATE_UP
};

struct nl_link_sup_pipe;

struct nl_link_sup {
    // Set by the caller; borrowed.
    const char *state_dir;
    const char *self_exe;
    char *const *supervisor_args;  // argv of a supervisor, for a new start
    const char *supervisor_log;    // file; NULL: this process's stderr
    void (*on_up)(void *user);
    void (*on_message)(void *user, const Nodelink__V1__FromSupervisor *message);
    void (*on_down)(void *user, const char *why);
    void *user;

    uv_loop_t *loop;
    char *socket_path;  // owned
    enum nl_link_sup_state state;
    struct nl_link_sup_pipe *pipe;  // of the connection at hand; frees itself when closed
    uv_process_t *process;          // a supervisor started from here that still lives, or NULL
    uv_timer_t retry_timer;
    uint64_t retry_ms;
    bool may_start;  // false from stop on: a supervisor that ends is left so
    uint64_t start_not_before_ms;
    uint64_t down_since_ms;
    const char *drop_why;
    bool closed;
    struct nl_log_limit limit;
};

// NL_ENOMEM, NL_ETOOBIG (path).
int nl_link_sup_init(struct nl_link_sup *sup, uv_loop_t *loop);
void nl_link_sup_connect(struct nl_link_sup *sup);
// Packs at once. A supervisor that does not read (8 MiB waiting) is disconnected: NL_EFULL, on_down
// comes later in the loop's turn. NL_ECLOSED, NL_ENOMEM, NL_ETOOBIG.
int nl_link_sup_send(struct nl_link_sup *sup, const Nodelink__V1__ToSupervisor *message);
// Closes the connection and begins another one; on_down comes later in the loop's turn.
void nl_link_sup_drop(struct nl_link_sup *sup, const char *why);
// What was sent is written out as far as the socket takes it. No callback comes afterwards.
void nl_link_sup_close(struct nl_link_sup *sup);

#endif
