// The same call for many names: making tokens, revoking them, cancelling tasks.
#include <nodelink/v1/control.pb-c.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/base/err.h"
#include "tools/bench/bench.h"

enum { AT_ONCE = 128, CALL_MS = 10000 };

struct round;

struct slot {
    struct round *round;
    size_t job;
    char name[160];
    union {
        Nodelink__V1__CreateAgentTokenRequest create;
        Nodelink__V1__RevokeAgentTokenRequest revoke;
        Nodelink__V1__CancelTaskRequest cancel;
    } request;
};

struct round {
    struct nl_bench *bench;
    const struct nl_bench_jobs *jobs;
    struct slot slots[AT_ONCE];
    size_t next, done, under_way;
    bool failed;
    unsigned failed_in_a_row;
};

static const char *const DOING[] = {"create the token of", "revoke the token of", "cancel"};

static struct nl_client_call call_of(struct slot *slot) {
    struct nl_client_call call = {.repeat = NL_CLIENT_IDEMPOTENT, .timeout_ms = CALL_MS};
    switch (slot->round->jobs->kind) {
        case NL_BENCH_CREATE_TOKEN:
            // Twice is no harm: all tokens of a benchmark's agent are revoked in the end.
            nodelink__v1__create_agent_token_request__init(&slot->request.create);
            slot->request.create.agent_id = slot->name;
            call.method = "CreateAgentToken";
            call.request = &slot->request.create.base;
            break;
        case NL_BENCH_REVOKE_TOKEN:
            nodelink__v1__revoke_agent_token_request__init(&slot->request.revoke);
            slot->request.revoke.agent_id = slot->name;
            call.method = "RevokeAgentToken";
            call.request = &slot->request.revoke.base;
            break;
        case NL_BENCH_CANCEL_TASK:
            nodelink__v1__cancel_task_request__init(&slot->request.cancel);
            slot->request.cancel.task_id = slot->name;
            slot->request.cancel.reason = (char *)"end of a benchmark";
            call.method = "CancelTask";
            call.request = &slot->request.cancel.base;
            break;
    }
    return call;
}

static void on_done(void *user, const struct nl_client_error *error, ProtobufCMessage *reply);

static bool wanted(const struct round *round) {
    const struct nl_bench *b = round->bench;
    // One that can't be cleaned up leaves the others; a cluster that is gone leaves them all.
    bool stopped = round->jobs->cleaning ? b->abandoned || round->failed_in_a_row >= AT_ONCE
                                         : b->interrupted || round->failed;
    return !stopped && round->next < round->jobs->n;
}

static void start(struct slot *slot) {
    struct round *round = slot->round;
    if (!wanted(round)) {
        return;
    }
    slot->job = round->next++;
    round->jobs->name(round->jobs->user, slot->job, slot->name, sizeof slot->name);
    struct nl_client_call call = call_of(slot);
    if (nl_client_start(round->bench->client, &call, on_done, slot) == NL_OK) {
        round->under_way++;
    } else {
        round->failed = true;
    }
}

static void fail(struct slot *slot, const struct nl_client_error *error) {
    struct round *round = slot->round;
    char what[256];
    round->failed_in_a_row++;
    if (round->failed) {
        return;
    }
    round->failed = true;
    snprintf(what, sizeof what, "%s %s", DOING[round->jobs->kind], slot->name);
    nl_bench_draw(round->bench, "");
    nl_cli_fail_call(round->bench->cli, error, what);
}

static void on_done(void *user, const struct nl_client_error *error, ProtobufCMessage *reply) {
    struct slot *slot = user;
    struct round *round = slot->round;
    round->under_way--;
    round->done++;
    bool gone = error != NULL && error->code == NL_RPC_NOT_FOUND && round->jobs->cleaning;
    if (error != NULL && !gone) {
        fail(slot, error);
        nl_rpc_message_free(reply);
        start(slot);
        return;
    }
    round->failed_in_a_row = 0;
    if (round->jobs->done != NULL) {
        const Nodelink__V1__CreateAgentTokenReply *token = (const void *)reply;
        bool has_token = reply != NULL && round->jobs->kind == NL_BENCH_CREATE_TOKEN;
        round->jobs->done(round->jobs->user, slot->job, has_token ? token->token : NULL);
    }
    nl_rpc_message_free(reply);
    start(slot);
}

static void draw(struct round *round) {
    char line[128];
    snprintf(line, sizeof line, "%s: %zu of %zu", round->jobs->doing, round->done, round->jobs->n);
    nl_bench_draw(round->bench, line);
}

int nl_bench_do_all(struct nl_bench *b, const struct nl_bench_jobs *jobs) {
    struct round *round = calloc(1, sizeof *round);
    if (round == NULL) {
        return NL_EXIT_FAILED;
    }
    round->bench = b;
    round->jobs = jobs;
    for (size_t i = 0; i < AT_ONCE; i++) {
        round->slots[i].round = round;
        start(&round->slots[i]);
    }
    while (round->under_way > 0) {
        uv_run(b->loop, UV_RUN_ONCE);
        if (round->done % AT_ONCE == 0) {
            draw(round);
        }
    }
    nl_bench_draw(b, "");
    bool ok = !round->failed && (round->done == jobs->n || b->interrupted);
    free(round);
    return ok ? NL_EXIT_OK : NL_EXIT_FAILED;
}
