// The link's decisions, as a pure machine: nl_link_core_step(now, event) -> actions. No clock, no
// random numbers, no I/O: time and 64 random bits come with each event, what is to be done
// comes back as data. The drivers (link.c and what it composes) do it, in order.
//
// One stream (docs/protocol.md), `main`; during a drain a second one, `spare`:
//
//   NONE --(retry time)--> CONNECTING --(headers)--> HELLO --(Welcome)--> SAVING --(saved)--> UP
//                          |     |                                                 extensions
//          (time: probe)   |     \--(headers without nodelink-protocol)--> STOCK
//                          v                 ^
//                       HEADERS --(silence)--/  a stock server may say nothing until it has a task
//
//   any --(closed, time limit, silence)--> NONE; `spare` UP becomes `main`, the old one is left
//
// Memory: actions and what they point to belong to the core and live until the next step. Events
// are borrowed. Threads: the loop's, or none. The one error is NL_ENOMEM: the machine is
// then half-way and the process must end; the supervisor's journal loses nothing by it.
#ifndef NODELINK_AGENT_LINK_CORE_H
#define NODELINK_AGENT_LINK_CORE_H

#include <nodelink/v1/supervisor.pb-c.h>
#include <nodelink/v1/task.pb-c.h>
#include <stdbool.h>
#include <stdint.h>

#include "agent/link/servers.h"
#include "common/base/log.h"

struct nl_link_core;

struct nl_link_core_options {
    const char *agent_id;
    const char *version;
    const char *hostname;
    const char *os;
    int32_t pid;                     // of this process, for the supervisor's log
    uint32_t capacity;               // 0: no limit
    struct nl_link_strings labels;   // "key=value"
    struct nl_link_strings servers;  // configured
    struct nl_link_strings learned;  // from the cache
    const char *last_good;           // from the cache; or NULL
    uint64_t epoch;                  // highest seen, from the disk; 0: none
    uint64_t backoff_start_ms;
    uint64_t backoff_factor_percent;
    uint64_t backoff_cap_ms;
    uint64_t connect_ms;  // until the transport is up
    // The rest has defaults for 0.
    uint64_t attach_ms;          // until the supervisor has said all its tasks [10 s]
    uint64_t supervisor_ms;      // without it so long: the server is left [10 s]
    uint64_t headers_ms;         // from there until the headers [5 s]
    uint64_t welcome_ms;         // from Hello until Welcome [10 s]
    uint64_t stable_ms;          // a stream that lives so long resets backoff and rounds [10 s]
    uint64_t stock_settle_ms;    // a stock stream that lives so long after a result has it [15 s]
    uint64_t reader_linger_ms;   // a reader that went may come back so long [30 s]
    uint64_t kill_wait_ms;       // SIGQUIT: for the supervisor to end the tasks [20 s]
    uint64_t forgotten_keep_ms;  // how long a forgotten task's spool may be read [1 h]
    uint32_t tasks_max;          // live ones [16384]
    uint32_t forgotten_max;      // [16384]
    uint32_t subs_max;           // [1024]
};

enum nl_link_event_type {
    NL_LINK_TICK,    // nl_link_core_deadline_ms has come, or nothing else
    NL_LINK_CONFIG,  // servers and labels were read again
    NL_LINK_STOP,
    NL_LINK_EPOCH_SAVED,  // answers NL_LINK_SAVE_EPOCH
    NL_LINK_CALL_UP,      // answers NL_LINK_PROBE: the transport is up
    NL_LINK_CALL_HEADERS,
    NL_LINK_CALL_MESSAGE,
    NL_LINK_CALL_CLOSED,  // exactly one per NL_LINK_CONNECT, unless it was left or cancelled
    NL_LINK_SUP_UP,       // the socket is connected
    NL_LINK_SUP_DOWN,
    NL_LINK_SUP_MESSAGE,
    NL_LINK_OUTPUT_SENT,    // the chunk of nl_link_core_output_next was sent
    NL_LINK_OUTPUT_FAILED,  // its bytes can't be read
};

struct nl_link_event {
    enum nl_link_event_type type;
    uint64_t random;
    uint64_t call;  // CALL_*: number given by NL_LINK_CONNECT
    union {
        struct {
            bool extended;     // nodelink-protocol: 1
            const char *node;  // nodelink-node; or NULL
        } headers;
        struct {
            int code;  // enum nl_rpc_code
            const char *message;
        } closed;
        const Nodelink__V1__TaskRequest *request;
        const Nodelink__V1__FromSupervisor *from_sup;
        struct {
            struct nl_link_strings servers;
            struct nl_link_strings labels;
        } config;
        bool kill_tasks;  // STOP
        bool ok;          // EPOCH_SAVED
        struct {
            bool gone;  // the file is not there, or shorter than the supervisor said
            const char *message;
        } output_failed;
    };
};

enum nl_link_action_type {
    NL_LINK_CONNECT,       // open a stream to `address` as number `call`
    NL_LINK_PROBE,         // is the transport of `call` up? CALL_UP or CALL_CLOSED follows at once
    NL_LINK_SEND,          // response, on `call`; the driver packs or copies it; tail
    NL_LINK_LEAVE,         // half-close after what is queued; its end is no longer news
    NL_LINK_CANCEL,        // at once; its end is no longer news
    NL_LINK_SUP_SEND,      // to_sup
    NL_LINK_SUP_DROP,      // the supervisor does not answer: close the socket; SUP_DOWN follows
    NL_LINK_SAVE_EPOCH,    // durably; then step with EPOCH_SAVED before any other event
    NL_LINK_SAVE_SERVERS,  // nl_link_core_servers, to the cache
    NL_LINK_OUTPUT,        // nl_link_core_output_next has something
    NL_LINK_LOG,           // level, event, and what of address, epoch, reason is set
    NL_LINK_EXIT,          // everything is said: let the calls that were left end, then leave
};

// Where the end of a task's output is.
struct nl_link_tail_source {
    char *spool_dir;  // below the state directory; NULL: there is none
    uint64_t base[2], end[2];
};

struct nl_link_action {
    enum nl_link_action_type type;
    uint64_t call;
    struct nl_link_tail_source tail;  // SEND of a result: the driver adds it
    union {
        const char *address;  // CONNECT
        const Nodelink__V1__TaskResponse *response;
        const Nodelink__V1__ToSupervisor *to_sup;
        uint64_t epoch;
        struct {
            enum nl_log_level level;
            const char *event;
            const char *server;  // or NULL
            const char *reason;  // or NULL
            uint64_t epoch;      // 0: none
        } log;
    };
};

struct nl_link_actions {
    const struct nl_link_action *items;
    size_t count;
};

// Everything in options is copied. NL_ENOMEM.
int nl_link_core_new(const struct nl_link_core_options *options, struct nl_link_core **ret);
void nl_link_core_free(struct nl_link_core *core);

int nl_link_core_step(struct nl_link_core *core, uint64_t now_ms, const struct nl_link_event *event,
                      struct nl_link_actions *ret);
// When a TICK is due, monotonic ms; UINT64_MAX: never.
uint64_t nl_link_core_deadline_ms(const struct nl_link_core *core);

// What is to be cached.
const struct nl_link_servers *nl_link_core_servers(const struct nl_link_core *core);

// The next chunk of output: the driver reads it and sends it on `call`, then steps with OUTPUT_SENT
// or OUTPUT_FAILED before it asks again. If it could not send, it just asks again later.
struct nl_link_output {
    uint64_t call;
    const char *spool_dir;  // below the state directory
    int stream;             // 0 stdout, 1 stderr
    uint64_t offset;
    uint32_t len;
};
bool nl_link_core_output_next(const struct nl_link_core *core, struct nl_link_output *ret);
// The frame for it, with `data` borrowed. Only between output_next and the step after it.
struct nl_link_output_frame {
    Nodelink__V1__TaskResponse response;
    Nodelink__V1__ShellExecuteResponse shell;
};
void nl_link_core_output_frame(const struct nl_link_core *core, uint8_t *data,
                               struct nl_link_output_frame *ret);

// For logs and tests.
enum nl_link_state {
    NL_LINK_NONE,
    NL_LINK_CONNECTING,
    NL_LINK_HEADERS,
    NL_LINK_HELLO,
    NL_LINK_SAVING,
    NL_LINK_UP,
    NL_LINK_STOCK,
};
enum nl_link_state nl_link_core_state(const struct nl_link_core *core);
uint64_t nl_link_core_epoch(const struct nl_link_core *core);

#endif
