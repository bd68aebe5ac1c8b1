// A state and short calls to apply one command each; every one is followed by nl_state_check.
#ifndef NODELINK_TESTS_UNIT_STATE_FIXTURE_H
#define NODELINK_TESTS_UNIT_STATE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "cluster/state/state.h"

#define FX_EFFECTS_MAX 4096

struct fx_effect {
    enum nl_effect_kind kind;
    char id[NL_STATE_ID_MAX + 1];  // of the task or agent
    enum nl_task_state old_state, state;
    enum nl_agent_connection old_connection, connection;
    uint64_t epoch;  // of the task
};

struct fx {
    struct nl_state *state;
    uint64_t index, sequence, time_ms;
    uint64_t proposer, boot, ack_below;  // of the next commands; 1, 1, 0
    uint32_t attempt;                    // of starts and finishes; 1
    uint32_t rules;                      // of commands; today's
    const char *tail;                    // stdout of the tail of finishes; NULL: none
    struct nl_outcome outcome;           // of the last one
    bool duplicate;
    struct fx_effect effects[FX_EFFECTS_MAX];
    size_t n_effects;
};

// limits NULL: the defaults.
void fx_open(struct fx *fx, const struct nl_state_limits *limits);
void fx_close(struct fx *fx);

// Applies encoded bytes / a command as it is / a command with the fixture's sequence and time.
struct nl_outcome fx_apply_bytes(struct fx *fx, const uint8_t *data, size_t len);
struct nl_outcome fx_apply_as_is(struct fx *fx, const Nodelink__V1__Command *command);
struct nl_outcome fx_apply(struct fx *fx, Nodelink__V1__Command *command);
// Owned (malloc).
uint8_t *fx_pack(const Nodelink__V1__Command *command, size_t *ret_len);

struct nl_outcome fx_noop(struct fx *fx);
struct nl_outcome fx_node_up(struct fx *fx, uint64_t node, uint64_t boot);
struct nl_outcome fx_node_down(struct fx *fx, uint64_t node, uint64_t boot);
// `token` fills the 32 bytes of the hash.
struct nl_outcome fx_token(struct fx *fx, const char *agent, uint8_t token);
struct nl_outcome fx_revoke(struct fx *fx, const char *agent);

struct fx_hello {
    const char *agent;
    uint64_t node, boot;  // 0: 1
    uint8_t token;        // 0: 1
    bool stock;
    const char *journal;  // NULL: "journal"
    uint64_t unseen;      // so many of its last epochs it does not know of
    const char *listed;   // one task in its journal, or NULL
    uint32_t attempt;     // of it; 0: 1
    Nodelink__V1__TaskRef__Phase phase;
};
struct nl_outcome fx_register(struct fx *fx, struct fx_hello hello);
struct nl_outcome fx_disconnect(struct fx *fx, const char *agent, uint64_t epoch);
struct nl_outcome fx_unreachable(struct fx *fx, const char *agent, uint64_t epoch);
struct nl_outcome fx_lost(struct fx *fx, const char *agent, uint64_t epoch);

struct nl_outcome fx_submit(struct fx *fx, const char *task, const char *agent, const char *cmd,
                            uint64_t wait_ms);
struct nl_outcome fx_submit_spec(struct fx *fx, const char *task, Nodelink__V1__TaskSpec *spec);
struct nl_outcome fx_start(struct fx *fx, const char *task, const char *agent, uint64_t epoch);
// value: exit code or signal, as the kind asks.
struct nl_outcome fx_finish(struct fx *fx, const char *task, const char *agent, uint64_t epoch,
                            Nodelink__V1__TaskResult__Kind kind, int32_t value);
struct nl_outcome fx_finish_result(struct fx *fx, const char *task, const char *agent,
                                   uint64_t epoch, Nodelink__V1__TaskResult *result);
struct nl_outcome fx_unknown(struct fx *fx, const char *task, const char *agent, uint64_t epoch);
struct nl_outcome fx_cancel(struct fx *fx, const char *task, const char *reason);
struct nl_outcome fx_expire(struct fx *fx, const char *task, uint64_t version);
struct nl_outcome fx_prune(struct fx *fx, uint64_t before_ms, uint64_t keep_max, uint32_t limit);

// Node 1 of boot 1, and the agent with token 1, registered there: epoch 1.
void fx_agent(struct fx *fx, const char *agent);
enum nl_task_state fx_task_state(const struct fx *fx, const char *task);  // 0: none
// A snapshot's bytes; owned (malloc).
uint8_t *fx_snapshot(struct nl_state *state, size_t *ret_len);
void fx_check(const struct nl_state *state);

#define fx_expect(call, expected) \
    assert_string_equal(nl_outcome_name((call).code), nl_outcome_name(expected))

#endif
