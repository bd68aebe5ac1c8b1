// What all benchmarks share: one loop, the load's connections, the measured interval, the watch on
// the nodes, the progress line, Ctrl-C, the report. Loop thread (the main thread) only.
//
//   nl_bench_open, set up what is needed, nl_bench_run, clean up, nl_bench_report, nl_bench_close
#ifndef NODELINK_TOOLS_BENCH_BENCH_H
#define NODELINK_TOOLS_BENCH_BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "common/rpc/rpc.h"
#include "tools/bench/stats.h"
#include "tools/cli.h"

// One connection of the load. Clients share them: an operation in flight is a call, not a
// connection.
struct nl_bench_line {
    const char *address;  // the target's
    struct nl_rpc_channel *channel;
};

struct nl_bench_node {
    struct nl_bench *bench;
    char *address;  // owned
    char *name;     // owned; NULL: not known
    struct nl_rpc_channel *channel;
    bool asked;     // an answer is to come
    bool answered;  // the last question
    uint64_t loop_lag_max_us;
    uint64_t rss_bytes, rss_before;  // the latest, and before the load began; 0: not known
    uint64_t agents;                 // streams that it holds
};

struct nl_bench_options {
    uint64_t duration_ms, warmup_ms;
    uint64_t count;        // stop after so many operations; 0: when the duration is over
    uint64_t connections;  // of the load, per address; 0: 1
};

struct nl_bench_load {
    void (*start)(void *user);                  // begins the first operations
    void (*tick)(void *user, uint64_t now_us);  // every 10 ms; may be NULL
    // Something for the progress line; may be NULL.
    void (*progress)(void *user, char *out, size_t size);
};

struct nl_bench {
    struct nl_cli *cli;
    struct nl_bench_options options;
    struct nl_client *client;  // calls before and after; owned
    uv_loop_t *loop;           // the client's
    struct nl_rpc *rpc;        // the load's; owned
    struct nl_bench_line *lines;
    size_t n_lines;
    struct nl_bench_node *nodes;
    size_t n_nodes, n_asked;
    struct nl_bench_stats stats;
    char run_id[9];  // in the names of what this run makes
    uint64_t in_flight, begun;
    const struct nl_bench_load *load;
    void *user;
    uv_timer_t timer;
    uint64_t probe_at_us, draw_at_us;
    bool stopped;      // no new operations
    bool interrupted;  // Ctrl-C: to the end, with cleaning up
    bool abandoned;    // twice: no cleaning up
    bool watching, terminal, drawn;
};

// NL_EXIT_OK, or the failure was printed. `b` is to be closed in both cases.
int nl_bench_open(struct nl_bench *b, struct nl_cli *cli, const struct nl_bench_options *options);
void nl_bench_close(struct nl_bench *b);

// Runs the load through warm-up and measured interval, then waits for what is in flight (at most
// 15 s; what has not ended then is an error).
void nl_bench_run(struct nl_bench *b, const struct nl_bench_load *load, void *user);
bool nl_bench_wants_more(const struct nl_bench *b);  // may another operation begin?
uint64_t nl_bench_begin(struct nl_bench *b);         // it does; returns now
void nl_bench_ok(struct nl_bench *b, uint64_t began_us);
void nl_bench_error(struct nl_bench *b, unsigned error, const char *text);
// Takes the words of a status that carry the code.
void nl_bench_failed(struct nl_bench *b, const struct nl_rpc_status *status);

// Asks all nodes for their memory and waits for the answers; nl_bench_run does it, too.
void nl_bench_ask_nodes(struct nl_bench *b);

// Runs the loop until the condition holds. false: timeout or Ctrl-C.
bool nl_bench_wait(struct nl_bench *b, bool (*condition)(void *user), void *user,
                   uint64_t timeout_ms);
// One line on stderr, if that is a terminal; "" clears it.
void nl_bench_draw(struct nl_bench *b, const char *text);

// Prints and takes `more` (keys beyond the common ones, or NULL). The exit code: 1 with errors or
// without any success.
int nl_bench_report(struct nl_bench *b, const char *what, json_t *more);

// ---- many calls (jobs.c) ---------------------------------------------------

enum nl_bench_job { NL_BENCH_CREATE_TOKEN, NL_BENCH_REVOKE_TOKEN, NL_BENCH_CANCEL_TASK };

struct nl_bench_jobs {
    enum nl_bench_job kind;
    size_t n;
    const char *doing;  // for the progress line: "making tokens"
    bool cleaning;      // goes on after the first Ctrl-C
    // Writes the agent's or task's id of job i.
    void (*name)(void *user, size_t i, char *out, size_t size);
    // With the token of CREATE_TOKEN, NULL for others. May be NULL.
    void (*done)(void *user, size_t i, const char *token);
    void *user;
};
// Through all of them, several at a time, repeating what failed for the moment. NL_EXIT_OK, or the
// first failure was printed (it goes on through the others when cleaning).
int nl_bench_do_all(struct nl_bench *b, const struct nl_bench_jobs *jobs);

#endif
