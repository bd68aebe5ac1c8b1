// The gRPC streams of the link: at most one that serves, one that is being built, and those that
// are being left. Driver of the core's CONNECT, PROBE, SEND, LEAVE, CANCEL. Loop thread only.
#ifndef NODELINK_AGENT_LINK_STREAMS_H
#define NODELINK_AGENT_LINK_STREAMS_H

#include <sys/queue.h>

#include "agent/link/core.h"
#include "agent/link/settings.h"
#include "common/rpc/rpc.h"

struct nl_link_stream;

struct nl_link_streams {
    struct nl_rpc *rpc;
    const struct nl_link_settings *settings;  // of the next connect; borrowed
    // Events for the core, and room in the send queue of a stream that refused a chunk.
    void (*on_event)(void *user, const struct nl_link_event *event);
    void (*on_writable)(void *user);
    void (*on_idle)(void *user);  // the last stream is gone, after nl_link_streams_stop
    void *user;
    LIST_HEAD(, nl_link_stream) list;
    uv_timer_t leave_timer;
    bool stopping;
};

// The fields above `list` are set by the caller. `close` needs an empty list; the timer's handle
// ends with the loop's next turn.
void nl_link_streams_init(struct nl_link_streams *s, uv_loop_t *loop);
void nl_link_streams_close(struct nl_link_streams *s);
// Streams that are left get two seconds; then on_idle, perhaps at once.
void nl_link_streams_stop(struct nl_link_streams *s);

// Reads the token and starts the call. On failure nothing was started: *ret_code and error_text
// are for the CALL_CLOSED that the caller owes the core.
int nl_link_streams_connect(struct nl_link_streams *s, uint64_t call, const char *address,
                            int *ret_code, char *error_text, size_t error_size);
bool nl_link_streams_is_connected(const struct nl_link_streams *s, uint64_t call);
// Never refused: what the send queue has no room for waits in an outbox of the stream; a stream
// whose outbox overflows is cut (CALL_CLOSED follows). NL_OK, NL_ETOOBIG: dropped, NL_ECLOSED,
// NL_ENOMEM.
int nl_link_streams_send(struct nl_link_streams *s, uint64_t call,
                         const Nodelink__V1__TaskResponse *response);
// For output: NL_EFULL when there is no room, on_writable comes.
int nl_link_streams_try_send(struct nl_link_streams *s, uint64_t call,
                             const Nodelink__V1__TaskResponse *response);
void nl_link_streams_leave(struct nl_link_streams *s, uint64_t call);
void nl_link_streams_cancel(struct nl_link_streams *s, uint64_t call);

#endif
