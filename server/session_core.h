// One agent stream as a pure machine: events in, actions out. No I/O, no clock, no library calls
// but reads of the replicated state that it is given.
//
//   driver: step(event) ... then while (next(&action)) done(&action, result of doing it)
//
// A send that is refused (NL_EFULL) is asked for again after NL_SESSION_EV_WRITABLE: nothing is
// queued here, what is due is a flag of a task's slot or follows from the state.
//
// state         | event                                    | next
// --------------+------------------------------------------+-------------------------------------
// AUTH          | AUTHORIZED, agent speaks the extensions  | HELLO
// AUTH          | AUTHORIZED, stock agent                  | REGISTERING (proposes AgentRegister)
// AUTH          | REFUSED                                  | CLOSING
// HELLO         | FRAME with Hello                         | REGISTERING
// HELLO         | any other FRAME, time limit              | CLOSING (INVALID_ARGUMENT, DEADLINE)
// REGISTERING   | REGISTERED ok                            | ACTIVE (Welcome, reconcile, tasks)
// REGISTERING   | REGISTERED refused or failed             | CLOSING
// ACTIVE        | AGENT: newer epoch, other owner, token   | CLOSING (ABORTED, UNAUTHENTICATED)
// ACTIVE        | malformed FRAME                          | CLOSING (INVALID_ARGUMENT)
// ACTIVE        | silence over three ping intervals        | CLOSING (DEADLINE_EXCEEDED)
// ACTIVE        | DRAIN                                    | ACTIVE; after the grace CLOSING
// any           | CLOSE                                    | CLOSING
// any           | GONE                                     | CLOSING; results still go to the log
//
// Invariant: an attempt of a task is sent at most once per stream, only in ACTIVE, only under its
// own epoch, never after this core has proposed to finish it, never after its deadline to start,
// and never while an earlier attempt of the task is not known to be over.
#ifndef NODELINK_SERVER_SESSION_CORE_H
#define NODELINK_SERVER_SESSION_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <nodelink/v1/command.pb-c.h>
#include <nodelink/v1/task.pb-c.h>

#include "cluster/state/state.h"
#include "common/rpc/rpc.h"

struct nl_session_core;

enum nl_session_state {
    NL_SESSION_AUTH,
    NL_SESSION_HELLO,
    NL_SESSION_REGISTERING,
    NL_SESSION_ACTIVE,
    NL_SESSION_CLOSING,
};
const char *nl_session_state_name(enum nl_session_state state);

// Strings are borrowed for the life of the core, except agent_id and address, which are copied.
struct nl_session_config {
    const char *agent_id;
    const char *address;  // of the agent, for show
    bool extended;
    uint8_t token_sha256[32];
    uint64_t node, node_boot;
    const char *node_name, *cluster_name;
    const char *const *servers;  // gRPC addresses of all nodes, for the agent's cache
    size_t n_servers;
    uint64_t ping_interval_ms;
    bool leave_orphans;  // what runs although its task has ended is not killed
};

enum nl_session_event_kind {
    NL_SESSION_EV_AUTHORIZED,
    NL_SESSION_EV_REFUSED,     // code, text
    NL_SESSION_EV_FRAME,       // frame, synthesised
    NL_SESSION_EV_REGISTERED,  // result, outcome
    NL_SESSION_EV_PROPOSED,    // purpose, task_id, attempt, result, outcome
    NL_SESSION_EV_TASK,        // task: one of the agent's changed (read during the step only)
    NL_SESSION_EV_PRUNED,      // task
    NL_SESSION_EV_AGENT,       // the agent's record changed
    NL_SESSION_EV_RESTORED,    // anything may have changed
    NL_SESSION_EV_WRITABLE,
    NL_SESSION_EV_TICK,   // the deadline has come
    NL_SESSION_EV_DRAIN,  // text, grace_ms
    NL_SESSION_EV_CLOSE,  // code, text
    NL_SESSION_EV_GONE,   // the stream is over
};

// What an action is for.
enum nl_session_purpose {
    NL_SESSION_WELCOME,
    NL_SESSION_RUN,
    NL_SESSION_CANCEL,
    NL_SESSION_ACK,
    NL_SESSION_PING,
    NL_SESSION_PONG,
    NL_SESSION_DRAIN,
    NL_SESSION_REGISTER,
    NL_SESSION_START,
    NL_SESSION_UNCERTAIN,
    NL_SESSION_FINISH,
    NL_SESSION_END,
};
const char *nl_session_purpose_name(enum nl_session_purpose purpose);

struct nl_session_event {
    enum nl_session_event_kind kind;
    const Nodelink__V1__TaskResponse *frame;
    // For a final response without a result (stock agents): the result the driver made of it.
    const Nodelink__V1__TaskResult *synthesised;
    const Nodelink__V1__OutputTail *synthesised_tail;  // or NULL
    enum nl_session_purpose purpose;
    const char *task_id;
    uint32_t attempt;
    int result;
    struct nl_outcome outcome;
    const struct nl_task *task;
    enum nl_rpc_code code;
    const char *text;
    uint64_t grace_ms;
};

enum nl_session_action_kind { NL_SESSION_SEND, NL_SESSION_PROPOSE, NL_SESSION_FINISH_STREAM };

// Points into itself and into the core: not to be copied, valid until the next call on the core.
struct nl_session_action {
    enum nl_session_action_kind kind;
    enum nl_session_purpose purpose;
    const char *task_id;  // "" if it is about no task
    uint32_t attempt;     // of it
    Nodelink__V1__TaskRequest frame;
    Nodelink__V1__Command command;
    enum nl_rpc_code code;
    const char *text;
    union {
        Nodelink__V1__Welcome welcome;
        Nodelink__V1__Ping ping;
        Nodelink__V1__Pong pong;
        Nodelink__V1__ResultAck ack;
        Nodelink__V1__Drain drain;
        Nodelink__V1__TaskCancel cancel;
        struct {
            Nodelink__V1__ShellExecute shell;
            Nodelink__V1__ShellOptions options;
        } run;
        Nodelink__V1__AgentRegister registration;
        Nodelink__V1__TaskStart start;
        Nodelink__V1__TaskUnknown uncertain;
        Nodelink__V1__TaskFinish finish;
    } body;
};

// NL_ENOMEM. The core is owned by the caller.
int nl_session_core_new(const struct nl_session_config *config, uint64_t now_ms,
                        struct nl_session_core **ret);
void nl_session_core_free(struct nl_session_core *core);

// Deadlines of tasks are in wall time: wall_ms is now as now_ms is, in every call from here on.
// Until it is called both clocks are taken to be the same.
void nl_session_core_set_wall(struct nl_session_core *core, uint64_t now_ms, uint64_t wall_ms);

void nl_session_core_step(struct nl_session_core *core, uint64_t now_ms,
                          const struct nl_session_event *event);
// Fills *ret with the next thing to do and returns true, or false if there is none now.
bool nl_session_core_next(struct nl_session_core *core, uint64_t now_ms,
                          const struct nl_state *state, struct nl_session_action *ret);
// What became of it. SEND: NL_OK, NL_EFULL (asked again later), other: given up. PROPOSE: NL_OK
// means in flight, its end comes as an event; other: asked again later.
void nl_session_core_done(struct nl_session_core *core, uint64_t now_ms,
                          const struct nl_session_action *action, int result);

// When EV_TICK is due, UINT64_MAX: never.
uint64_t nl_session_core_deadline(const struct nl_session_core *core);
enum nl_session_state nl_session_core_state(const struct nl_session_core *core);
uint64_t nl_session_core_epoch(const struct nl_session_core *core);  // 0: not registered
// The stream is over and no result waits for the log: AgentDisconnect may be proposed. (A stock
// agent keeps nothing: its results must come before it.)
bool nl_session_core_settled(const struct nl_session_core *core);
// Nothing is left to do and nothing in flight: it may be freed.
bool nl_session_core_finished(const struct nl_session_core *core);
// Bytes of results and tails that wait for the log.
size_t nl_session_core_backlog(const struct nl_session_core *core);
// The task was sent on this stream, or the agent's Hello named it.
bool nl_session_core_knows(const struct nl_session_core *core, const char *task_id);
// Why the stream ended, for AgentDisconnect and the log. Never NULL.
const char *nl_session_core_why(const struct nl_session_core *core);

#endif
