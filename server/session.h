// One agent's stream: the thin driver between the pure core, the call and the cluster.
//
// Loop thread. A session frees itself when its stream is over and nothing is in flight; the table
// (sessions.c) hears of it by nl_sessions_ended.
#ifndef NODELINK_SERVER_SESSION_H
#define NODELINK_SERVER_SESSION_H

#include "server/agent_readers.h"
#include "server/server.h"
#include "server/session_core.h"

struct nl_session {
    struct nl_server *server;
    struct nl_session_core *core;
    struct nl_rpc_call *call;         // a reference, until the stream is over
    struct nl_agent_readers readers;  // of tasks' output
    struct nl_defer_item turn;
    uv_timer_t timer;
    char *agent_id;  // owned
    uint8_t token_sha256[32];
    bool extended, paused, left, freed, listed;
    uint32_t pending;                // callbacks that still need the session
    struct nl_session *prev, *next;  // of the same agent
    struct nl_session *all_prev, *all_next;
};

// A call of StreamTasks whose credential is still to be looked at. Ends the call if it can't take
// it; otherwise the session is in the table.
void nl_session_start(struct nl_server *server, struct nl_rpc_call *call, const char *agent_id,
                      const uint8_t token_sha256[32], bool extended);
// Gives the core an event, and does what is due on the next turn of the loop.
void nl_session_post(struct nl_session *session, const struct nl_session_event *event);
// As nl_rpc_call_send; NL_ECLOSED when the stream is over.
int nl_session_send(struct nl_session *session, const Nodelink__V1__TaskRequest *frame);
uint64_t nl_session_epoch(const struct nl_session *session);
bool nl_session_is_active(const struct nl_session *session);

#endif
