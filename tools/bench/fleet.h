// Agents that a benchmark brings along: thousands in one process, each with a connection and a
// stream of its own, speaking the extended protocol. They run nothing: each task is answered at
// once with its result, which is repeated until it is acknowledged, as the real
// agent does. A lost stream is opened again at the next address, at once, and after a round over
// all of them with a growing pause of random length.
//
// Loop thread only.
#ifndef NODELINK_TOOLS_BENCH_FLEET_H
#define NODELINK_TOOLS_BENCH_FLEET_H

#include <nodelink/v1/task.pb-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tools/bench/bench.h"

struct nl_fleet;
struct nl_fleet_agent;

// For agents that do more than answering at once. The requests are borrowed.
struct nl_fleet_hooks {
    // A task has come; the hook ends it with nl_fleet_finish.
    void (*run)(void *user, struct nl_fleet_agent *agent, const char *task_id, uint32_t attempt);
    // OutputOpen, OutputCredit or OutputClose.
    void (*output)(void *user, struct nl_fleet_agent *agent,
                   const Nodelink__V1__TaskRequest *request);
    // The agent's stream is over: its subscriptions are.
    void (*lost)(void *user, struct nl_fleet_agent *agent);
    // A result was recorded (late: as a late one, which changed nothing).
    void (*acked)(void *user, struct nl_fleet_agent *agent, const char *task_id, bool late);
    // Welcomed. away_us: since its stream was lost; 0: the first time.
    void (*up)(void *user, struct nl_fleet_agent *agent, uint64_t away_us);
};

struct nl_fleet_options {
    size_t count;
    const char *prefix;                  // agent i is PREFIX-i
    uint64_t connects_per_s;             // 0: 2000
    uint64_t ping_ms;                    // 0: as the node asks for
    bool together;                       // all begin at the first address, not spread over all
    const struct nl_fleet_hooks *hooks;  // NULL or any of them NULL: answer at once
    void *user;
};

struct nl_fleet_stats {
    struct nl_histogram connect_us;  // from the connect to the Welcome
    struct nl_histogram ping_us;
    struct nl_histogram away_us;  // from the loss of a stream to the next Welcome
    uint64_t connected, lost, refused, finished;
    uint64_t first_us, last_us;  // of the first connects: when the first began, the last was done
    char last_refusal[160];
};

// Makes the agents' tokens. NL_EXIT_OK or the failure was printed; *ret is to be closed in both
// cases (it may be NULL).
int nl_fleet_open(struct nl_bench *bench, const struct nl_fleet_options *options,
                  struct nl_fleet **ret);
// Until all are welcomed. NL_EXIT_OK or the failure was printed.
int nl_fleet_connect(struct nl_fleet *fleet);
// Says goodbye, waits for the ends of the streams, revokes the tokens. NULL is allowed.
void nl_fleet_close(struct nl_fleet *fleet);

const char *nl_fleet_id(const struct nl_fleet *fleet, size_t index);
struct nl_fleet_stats *nl_fleet_stats(struct nl_fleet *fleet);

// ---- for hooks -------------------------------------------------------------

size_t nl_fleet_index(const struct nl_fleet_agent *agent);
// As nl_rpc_call_send; fills agent_id and epoch. NL_ECLOSED without a stream.
int nl_fleet_send(struct nl_fleet_agent *agent, Nodelink__V1__TaskResponse *response);
// What agents without hooks do: the result, which says the start, too.
void nl_fleet_answer(struct nl_fleet_agent *agent, const char *task_id, uint32_t attempt);
// The start alone.
int nl_fleet_started(struct nl_fleet_agent *agent, const char *task_id, uint32_t attempt);
// Exit code 0, with these totals.
int nl_fleet_finish(struct nl_fleet_agent *agent, const char *task_id, uint32_t attempt,
                    uint64_t stdout_bytes, const uint8_t stdout_sha256[32]);

#endif
