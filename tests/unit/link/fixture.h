// A link core with a transcript: each step appends one line per action, short enough to read and to
// compare. Asserts on failures. Time is a field, random numbers come from a seed.
#ifndef NODELINK_TESTS_UNIT_LINK_FIXTURE_H
#define NODELINK_TESTS_UNIT_LINK_FIXTURE_H

#include <nodelink/v1/supervisor.pb-c.h>
#include <nodelink/v1/task.pb-c.h>

#include "agent/link/core.h"

struct fixture {
    struct nl_link_core *core;
    uint64_t now_ms;
    uint64_t seed;
    char *transcript;  // owned; lines of the steps since the last `expect`
    size_t transcript_len;
    uint64_t call;        // of the last CONNECT
    char connect_to[64];  // its address
    uint64_t epoch_to_save;
    uint64_t tail_base, tail_end;  // of stdout, where the last response's tail is; equal: none
    bool quiet;                    // keeps no transcript
    bool hide_logs;
    int connects;
};

// Servers "a:1", "b:1" ... Defaults: agent "agent-1", backoff 1 s * 1.5 up to 60 s, connect 3 s.
void fx_init(struct fixture *f, const char *servers);
void fx_init_with(struct fixture *f, const char *servers,
                  const struct nl_link_core_options *options);
void fx_close(struct fixture *f);

// The transcript since the last call is exactly this; then it is emptied.
void fx_expect(struct fixture *f, const char *transcript);
void fx_forget(struct fixture *f);  // empties it

void fx_step(struct fixture *f, struct nl_link_event *event);
// Moves time on; ticks whenever the core asks for it.
void fx_advance(struct fixture *f, uint64_t ms);
// The same, with a server that answers pings.
void fx_advance_alive(struct fixture *f, uint64_t call, uint64_t ms);

void fx_attach(struct fixture *f, uint32_t tasks);  // SUP_UP and SupAttached
void fx_sup_task(struct fixture *f, const char *id, Nodelink__V1__TaskRef__Phase phase,
                 uint64_t stdout_end);                // FINISHED: exit code 0
void fx_sup_lost(struct fixture *f, const char *id);  // what is left of it is being taken down
void fx_sup_spool(struct fixture *f, const char *id, uint64_t stdout_base, uint64_t stdout_end,
                  uint32_t releases);
void fx_sup_refused(struct fixture *f, const char *id, const char *reason);
void fx_sup_down(struct fixture *f);

void fx_call_up(struct fixture *f, uint64_t call);
void fx_headers(struct fixture *f, uint64_t call, bool extended);
void fx_closed(struct fixture *f, uint64_t call, int code, const char *message);
void fx_request(struct fixture *f, uint64_t call, Nodelink__V1__TaskRequest *request);
void fx_welcome(struct fixture *f, uint64_t call, uint64_t epoch);  // and saves the epoch
void fx_shell(struct fixture *f, uint64_t call, const char *id, uint64_t epoch);
// The same, with limits in ms.
void fx_shell_within(struct fixture *f, uint64_t call, const char *id, uint64_t epoch,
                     uint64_t timeout_ms, uint64_t start_ms, uint64_t finish_ms);
void fx_cancel(struct fixture *f, uint64_t call, const char *id);
void fx_ack(struct fixture *f, uint64_t call, const char *id);
void fx_open(struct fixture *f, uint64_t call, uint64_t sub, const char *id, uint64_t offset,
             uint64_t credit);
void fx_credit(struct fixture *f, uint64_t call, uint64_t sub, uint64_t bytes);
void fx_output_sent(struct fixture *f);
void fx_stop(struct fixture *f, bool kill);

// Attached without tasks, connected and welcomed with this epoch; the transcript is empty.
void fx_up(struct fixture *f, uint64_t epoch);

#endif
