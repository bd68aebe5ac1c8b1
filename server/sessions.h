// The agents' streams of this node, by agent id; effects of the state go to them from here. Also
// sees to it that an agent without its stream does not stay "connected" in the state.
//
// Loop thread.
#ifndef NODELINK_SERVER_SESSIONS_H
#define NODELINK_SERVER_SESSIONS_H

#include "server/server.h"
#include "server/session.h"

struct nl_sessions *nl_sessions_new(struct nl_server *server);  // NULL: no memory
// Proposes nothing of its own any more; before the cluster closes. NULL is allowed.
void nl_sessions_stop(struct nl_sessions *sessions);
// All sessions must be gone. The timer handle is gone when the loop has turned. NULL is allowed.
void nl_sessions_close(struct nl_sessions *sessions);

// The method StreamTasks; user is the nl_server.
void nl_sessions_serve(struct nl_rpc_call *call, void *user);

void nl_sessions_on_effect(struct nl_sessions *sessions, const struct nl_effect *effect);
void nl_sessions_on_restored(struct nl_sessions *sessions);

// Agents that speak the extensions get Drain and grace_ms to move; the others are closed at once.
void nl_sessions_drain(struct nl_sessions *sessions, const char *text, uint64_t grace_ms);
// Closes them all.
void nl_sessions_end(struct nl_sessions *sessions, enum nl_rpc_code code, const char *text);
// Streams, and proposals and disconnects of streams that are over: 0 when all is done.
size_t nl_sessions_busy(const struct nl_sessions *sessions);
size_t nl_sessions_objects(const struct nl_sessions *sessions);  // sessions not freed yet
uint32_t nl_sessions_count(const struct nl_sessions *sessions);  // streams

// The active session of the agent under this epoch, or NULL.
struct nl_session *nl_sessions_find(struct nl_sessions *sessions, const char *agent_id,
                                    uint64_t epoch);
// Not terminal tasks of the agents connected here.
uint32_t nl_sessions_tasks_active(struct nl_sessions *sessions);

// ---- for session.c ----
int nl_sessions_add(struct nl_sessions *sessions, struct nl_session *session);  // NL_ENOMEM
// Its stream is over and its results are settled.
void nl_sessions_left(struct nl_sessions *sessions, struct nl_session *session);
// It is about to be freed.
void nl_sessions_ended(struct nl_sessions *sessions, struct nl_session *session);

#endif
