// The state machine once more, naively: fixed arrays, linear scans, nothing shared with
// cluster/state but its enums. Written from the rules, not from the code.
#ifndef NODELINK_TESTS_UNIT_STATE_MODEL_H
#define NODELINK_TESTS_UNIT_STATE_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cluster/state/state.h"

#define MODEL_TASKS 64
#define MODEL_AGENTS 8
#define MODEL_NODES 8
#define MODEL_PROPOSERS 8
#define MODEL_OUTCOMES 16
#define MODEL_TEXT 160
#define MODEL_BYTES 600

#define MODEL_ATTEMPTS 4  // of one task, as the generator asks for

struct model_attempt {
    int state;
    char reason[MODEL_TEXT];
    uint8_t result[MODEL_BYTES];
    size_t result_len;
    bool has_result;
    uint64_t dispatched_ms, started_ms, finished_ms;
};

struct model_task {
    bool used;
    char id[40], agent[40];
    uint8_t spec[MODEL_BYTES], result[MODEL_BYTES];
    size_t spec_len, result_len;
    bool has_result;
    uint64_t wait_ms;
    uint32_t attempts_max;
    bool retry_on[8];  // by enum RetryOn
    uint64_t start_deadline, finish_deadline;
    struct model_attempt earlier[MODEL_ATTEMPTS];
    uint8_t late[MODEL_BYTES], tail[MODEL_BYTES];
    size_t late_len, tail_len, tail_bytes;  // len 0: there is none
    uint32_t late_attempt;
    int state;
    uint32_t attempt, late_results;
    uint64_t order, epoch, version;
    uint64_t created_ms, dispatched_ms, started_ms, finished_ms;
    bool cancel_requested;
    char cancel_reason[MODEL_TEXT], reason[MODEL_TEXT];
    int32_t pid;
};

struct model_agent {
    bool used;
    char id[40];
    uint8_t tokens[2][32];
    int n_tokens;
    int connection;
    uint64_t epoch, owner, owner_boot;
    char version[MODEL_TEXT], boot_id[MODEL_TEXT], journal_id[MODEL_TEXT], address[MODEL_TEXT];
    char hostname[MODEL_TEXT], disconnect_reason[MODEL_TEXT];
    char labels[MODEL_TEXT];  // "key=value;" of each
    uint32_t capacity;
    bool extended;
    uint64_t created_ms, connected_ms, disconnected_ms;
    uint64_t next_order, tasks_submitted, tasks_finished;
};

struct model_node {
    bool used;
    uint64_t id, boot, changed_ms;
    bool up;
    char name[MODEL_TEXT], grpc_address[MODEL_TEXT], version[MODEL_TEXT];
};

struct model_proposer {
    bool used;
    uint64_t id, boot, done_below;
    struct model_outcome {
        bool used;
        uint64_t sequence;
        struct nl_outcome outcome;
    } outcomes[MODEL_OUTCOMES + 1];
};

struct model {
    struct nl_state_limits limits;
    uint64_t clock_ms;
    uint32_t rules;  // of the command
    struct model_task tasks[MODEL_TASKS];
    struct model_agent agents[MODEL_AGENTS];
    struct model_node nodes[MODEL_NODES];
    struct model_proposer proposers[MODEL_PROPOSERS];
    struct nl_outcome outcome;  // of the last command
    bool duplicate;
};

void model_init(struct model *model, const struct nl_state_limits *limits);
void model_apply(struct model *model, const Nodelink__V1__Command *command);
struct model_task *model_task(struct model *model, const char *id);
struct model_agent *model_agent(struct model *model, const char *id);
uint32_t model_active(const struct model *model, const char *agent);

#endif
