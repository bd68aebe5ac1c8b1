// Shared by core*.c only: one file for each kind of event, core.c dispatches.
#ifndef NODELINK_AGENT_LINK_CORE_INTERNAL_H
#define NODELINK_AGENT_LINK_CORE_INTERNAL_H

#include "agent/link/backoff.h"
#include "agent/link/core.h"
#include "agent/link/subs.h"
#include "agent/link/tasks.h"

struct nl_link_conn {
    enum nl_link_state state;
    uint64_t call;  // 0: none
    char *address;  // owned
    char node[130];
    bool extended;
    bool draining;  // main: asked to leave
    bool renew;     // main: another stream, to the same server too, has to say the new labels
    bool said_hello;
    uint64_t deadline_ms;  // of the state; 0: none
    uint64_t epoch;
    uint64_t up_at_ms;  // Welcome, or taken for stock
    uint64_t ping_ms;   // interval
    uint64_t ping_at_ms;
    bool heard, sent;  // since the last ping time
    uint32_t missed;   // ping intervals without a word from the node
};

struct nl_link_label_copy {
    char *key;  // owned; value points into it
    char *value;
};

struct nl_link_core {
    struct nl_link_core_options options;  // its strings are owned copies; its lists are not used
    struct nl_link_label_copy *labels;
    size_t label_count;
    struct nl_link_servers servers;
    struct nl_link_backoff backoff;
    struct nl_link_conn main, spare;
    uint64_t next_call;
    uint64_t retry_at_ms;  // when to connect next, if one is wanted
    bool round_refused;    // this round: a server refused us for good reason (token, id)
    bool round_failed;     // this round: a server failed otherwise
    bool stable;           // the main stream reset the backoff
    uint64_t epoch;        // highest seen and saved
    uint64_t epoch_pending;
    bool stopping, exited;
    uint64_t stop_at_ms;  // SIGQUIT: don't wait for the supervisor longer than that

    struct nl_link_tasks tasks;
    struct nl_link_subs subs;
    bool output_told;       // NL_LINK_OUTPUT is among the actions
    uint64_t housekeep_ms;  // next one; 0: none

    bool sup_up;                 // the socket is
    bool sup_attached;           // and every SupTask of the attach has come
    uint64_t attach_by_ms;       // until then it must be; UINT64_MAX: it is, or the socket is down
    uint64_t sup_back_by_ms;     // lost; UINT64_MAX: attached, never was, or given up
    bool sup_gone;               // given up: no server is wanted before it is back
    uint32_t sup_due;            // SupTasks that still belong to the attach
    char *boot_id, *journal_id;  // owned; NULL before the first attach

    uint64_t now_ms, random;  // of the step
    bool no_memory;
    struct nl_link_action *actions;  // owned, with what they point to
    size_t action_count, action_cap;
    struct nl_log_limit limit_conn, limit_bad;
};

// ---- actions: actions.c ----------------------------------------------------

void nl_link_actions_clear(struct nl_link_core *core);
void nl_link_do(struct nl_link_core *core, enum nl_link_action_type type, uint64_t call);
void nl_link_do_connect(struct nl_link_core *core, const struct nl_link_conn *conn);
void nl_link_do_save_epoch(struct nl_link_core *core, uint64_t epoch);
// Copies.
void nl_link_do_send(struct nl_link_core *core, struct nl_link_conn *conn,
                     const Nodelink__V1__TaskResponse *response);
// The same for a result: the driver adds the end of the task's output.
void nl_link_do_send_result(struct nl_link_core *core, struct nl_link_conn *conn,
                            const struct nl_link_task *task,
                            const Nodelink__V1__TaskResponse *response);
void nl_link_do_sup(struct nl_link_core *core, const Nodelink__V1__ToSupervisor *message);
void nl_link_do_output(struct nl_link_core *core);
// A change of a connection's state. conn may be NULL.
void nl_link_log_conn(struct nl_link_core *core, enum nl_log_level level, const char *event,
                      const struct nl_link_conn *conn, const char *reason);
// An attempt that failed: limited, since it repeats for as long as the servers are away.
void nl_link_log_failure(struct nl_link_core *core, enum nl_log_level level, const char *event,
                         const struct nl_link_conn *conn, const char *reason);
// Something a peer should not have sent; limited.
void nl_link_log_bad(struct nl_link_core *core, const char *event, const char *reason);
// Deep copy; NULL: no memory (noted).
ProtobufCMessage *nl_link_clone(struct nl_link_core *core, const ProtobufCMessage *message);
char *nl_link_strdup(struct nl_link_core *core, const char *s);  // the same

// ---- connections: core_conn.c ----------------------------------------------

// Connects if one is wanted and its time has come; checks the time limits.
void nl_link_conn_tick(struct nl_link_core *core);
uint64_t nl_link_conn_deadline_ms(const struct nl_link_core *core);
void nl_link_conn_event(struct nl_link_core *core, const struct nl_link_event *event);
void nl_link_conn_supervisor_ready(struct nl_link_core *core);  // a Hello may be waiting for it
void nl_link_conn_supervisor_gone(struct nl_link_core *core);
void nl_link_conn_welcome(struct nl_link_core *core, struct nl_link_conn *conn,
                          const Nodelink__V1__Welcome *welcome);
void nl_link_conn_drain(struct nl_link_core *core, struct nl_link_conn *conn,
                        const Nodelink__V1__Drain *drain);
void nl_link_conn_servers_changed(struct nl_link_core *core);
void nl_link_conn_labels_changed(struct nl_link_core *core);
// Ends a connection that is still open: sends nothing more.
void nl_link_conn_drop(struct nl_link_core *core, struct nl_link_conn *conn, const char *why);
void nl_link_conn_goodbye(struct nl_link_core *core, struct nl_link_conn *conn, const char *why);
struct nl_link_conn *nl_link_conn_find(struct nl_link_core *core, uint64_t call);
// The stream on which tasks travel, or NULL.
struct nl_link_conn *nl_link_conn_serving(struct nl_link_core *core);

// ---- requests of a server: core_request.c ----------------------------------

void nl_link_request(struct nl_link_core *core, struct nl_link_conn *conn,
                     const Nodelink__V1__TaskRequest *request);

// ---- the supervisor: core_sup.c --------------------------------------------

void nl_link_sup_event(struct nl_link_core *core, const struct nl_link_event *event);
void nl_link_sup_run(struct nl_link_core *core, struct nl_link_task *task);
void nl_link_sup_cancel(struct nl_link_core *core, struct nl_link_task *task);
void nl_link_sup_forget(struct nl_link_core *core, struct nl_link_task *task);
void nl_link_sup_stop(struct nl_link_core *core, bool kill_tasks);
// Tells it which bytes nobody needs any more, if that changed enough to be worth a message.
void nl_link_sup_release(struct nl_link_core *core, struct nl_link_task *task);

// ---- what servers are told: core_report.c ----------------------------------

void nl_link_report_hello(struct nl_link_core *core, struct nl_link_conn *conn);
// Says what has not been said on the serving stream; `again` repeats it.
void nl_link_report_task(struct nl_link_core *core, struct nl_link_task *task, bool again);
void nl_link_report_all(struct nl_link_core *core);
// Final FAILURE for a request that was not taken. task_id is any non-empty text.
void nl_link_report_refusal(struct nl_link_core *core, struct nl_link_conn *conn,
                            const Nodelink__V1__TaskRequest *request, const char *reason);
// Ends a task that the supervisor does not have, or has no more.
void nl_link_finish_locally(struct nl_link_core *core, struct nl_link_task *task,
                            Nodelink__V1__TaskResult__Kind kind, const char *reason);

// ---- output: core_output.c -------------------------------------------------

void nl_link_output_open(struct nl_link_core *core, struct nl_link_conn *conn,
                         const Nodelink__V1__OutputOpen *open);
void nl_link_output_credit(struct nl_link_core *core, const Nodelink__V1__OutputCredit *credit);
void nl_link_output_close(struct nl_link_core *core, const Nodelink__V1__OutputClose *close);
void nl_link_output_event(struct nl_link_core *core, const struct nl_link_event *event);
// The task grew, ended, or its fence was lifted.
void nl_link_output_task_changed(struct nl_link_core *core, struct nl_link_task *task);
// Its spool is gone.
void nl_link_output_task_gone(struct nl_link_core *core, struct nl_link_task *task);
// To a stock server. True: everything was pushed, the final response may go.
bool nl_link_output_push(struct nl_link_core *core, struct nl_link_task *task);
// The stream they were on is gone.
void nl_link_output_drop_all(struct nl_link_core *core);

// ---- housekeeping: core.c --------------------------------------------------

void nl_link_housekeep_soon(struct nl_link_core *core);
void nl_link_remove_task(struct nl_link_core *core, struct nl_link_task *task);

#endif
