// ControlService: what its groups of methods (control_*.c) share.
//
// Loop thread. A request belongs to its operation and goes with it; replies are packed at once, so
// messages may point into the replicated state.
#ifndef NODELINK_SERVER_CONTROL_H
#define NODELINK_SERVER_CONTROL_H

#include <nodelink/v1/control.pb-c.h>

#include "server/server.h"

struct nl_watches;
struct nl_submits;

struct nl_control {
    struct nl_server *server;
    struct nl_watches *watches;
    struct nl_submits *submits;  // open streams
    uint32_t operations;         // under way
};

struct nl_control *nl_control_new(struct nl_server *server);  // NULL: no memory
void nl_control_free(struct nl_control *control);             // nothing under way; NULL is allowed

// The methods; `user` of each is the nl_server.
extern const struct nl_rpc_method nl_control_methods[];
void nl_control_submit(struct nl_rpc_call *call, void *user, ProtobufCMessage *request);
void nl_control_submits(struct nl_rpc_call *call, void *user);
void nl_control_get_task(struct nl_rpc_call *call, void *user, ProtobufCMessage *request);
void nl_control_list_tasks(struct nl_rpc_call *call, void *user, ProtobufCMessage *request);
void nl_control_cancel(struct nl_rpc_call *call, void *user, ProtobufCMessage *request);
void nl_control_watch(struct nl_rpc_call *call, void *user, ProtobufCMessage *request);
void nl_control_get_agent(struct nl_rpc_call *call, void *user, ProtobufCMessage *request);
void nl_control_list_agents(struct nl_rpc_call *call, void *user, ProtobufCMessage *request);
void nl_control_create_token(struct nl_rpc_call *call, void *user, ProtobufCMessage *request);
void nl_control_revoke_token(struct nl_rpc_call *call, void *user, ProtobufCMessage *request);
void nl_control_status(struct nl_rpc_call *call, void *user, ProtobufCMessage *request);

// ---- operations ------------------------------------------------------------

// A call that waits for the cluster. Freed after `done`, which answers the call.
struct nl_control_op {
    struct nl_control *control;
    struct nl_rpc_call *call;   // a reference
    ProtobufCMessage *request;  // owned
    uint64_t min_index;
    bool stale;
    char *text;        // owned, see nl_control_op_name; or NULL
    const char *what;  // "task t1 on agent a1 ..." for error texts; points to `text`
    // Read: the state may be looked at; write: what became of the command.
    void (*read_done)(struct nl_control_op *op, Nodelink__V1__ReplyHeader *header);
    void (*write_done)(struct nl_control_op *op, struct nl_outcome outcome,
                       Nodelink__V1__ReplyHeader *header);
    // How a failure is told; NULL: it ends the call.
    void (*tell)(struct nl_control_op *op, enum nl_rpc_code code, const char *text);
    void *user;  // for the method
};

// Takes the request; NULL: no memory, the call is ended and the request freed.
struct nl_control_op *nl_control_op_new(struct nl_server *server, struct nl_rpc_call *call,
                                        ProtobufCMessage *request);
// What it is about, for error texts.
void nl_control_op_name(struct nl_control_op *op, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));
// Tells of a failure, mostly by ending the call. The operation stays.
void nl_control_op_tell(struct nl_control_op *op, enum nl_rpc_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
// The same, and frees the operation.
void nl_control_op_fail(struct nl_control_op *op, enum nl_rpc_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
// Linearizable unless options say stale; waits for min_index; then read_done.
void nl_control_read(struct nl_control_op *op, const Nodelink__V1__ReadOptions *options);
// Proposes; then write_done, or the call ends with "failed: ..." or "unknown: ...".
void nl_control_write(struct nl_control_op *op, Nodelink__V1__Command *command);

// Ends the call with a formatted text (cut at 1 KiB).
void nl_control_fail(struct nl_rpc_call *call, enum nl_rpc_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
// A header for a reply about the state as it is here now.
void nl_control_header(struct nl_server *server, Nodelink__V1__ReplyHeader *ret);
// How long this call may still wait, leaving time for the answer to get there.
uint64_t nl_control_timeout_ms(const struct nl_rpc_call *call);
// The id is well-formed; else ends the call with INVALID_ARGUMENT.
bool nl_control_id_ok(struct nl_rpc_call *call, const char *what, const char *id);

// ---- records as messages (they point into the state) -----------------------

void nl_control_fill_task(const struct nl_task *task, Nodelink__V1__Task *ret);
void nl_control_fill_agent(const struct nl_state *state, const struct nl_agent *agent,
                           Nodelink__V1__Agent *ret);

// ---- streams of submits (control_submit.c) ---------------------------------

// Ends them all; what is under way still happens, and a client asks again by its ids.
void nl_submits_end(struct nl_control *control, const char *text);

// ---- watches (control_watch.c) ---------------------------------------------

struct nl_watches *nl_watches_new(struct nl_server *server);
void nl_watches_free(struct nl_watches *watches);
uint64_t nl_watches_count(const struct nl_watches *watches);
// Ends them all; clients resume at another node.
void nl_watches_end(struct nl_watches *watches, const char *text);

#endif
