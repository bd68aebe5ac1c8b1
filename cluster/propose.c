// This node's proposals: stamped, handed to whoever leads, answered when they apply here.

#include <stdlib.h>
#include <string.h>

#include "cluster/internal.h"
#include "common/base/clock.h"
#include "common/base/crypto.h"
#include "common/base/err.h"

enum {
    TIMEOUT_MS = 10000,
    WINDOW_MAX = 32768,
    COMMAND_BYTES_MAX = 1024 * 1024,
    BATCH_BYTES_MAX = 256 * 1024,
    BATCH_COMMANDS_MAX = 4096,
    HOLD_MS_MIN = 5,
    HOLD_MS_MAX = 160,
};

// ---- commands ----------------------------------------------------------------

static int pack(const Nodelink__V1__Command *command, uint8_t **ret, size_t *ret_len) {
    size_t len = nodelink__v1__command__get_packed_size(command);
    if (len > COMMAND_BYTES_MAX) {
        return NL_ETOOBIG;
    }
    uint8_t *data = malloc(len > 0 ? len : 1);
    if (data == NULL) {
        return NL_ENOMEM;
    }
    *ret_len = nodelink__v1__command__pack(command, data);
    *ret = data;
    return NL_OK;
}

static void stamp(const struct nl_cluster *cluster, Nodelink__V1__Command *command,
                  uint64_t sequence) {
    command->proposer = cluster->id;
    command->boot = cluster->boot;
    command->sequence = sequence;
    command->ack_below = nl_core_ack_below(cluster->proposer.core);
    command->time_ms = nl_clock_wall_ms();
    command->rules = NL_STATE_RULES;
}

static int make_noop(void *user, uint64_t sequence, uint8_t **ret, size_t *ret_len) {
    Nodelink__V1__Command command = NODELINK__V1__COMMAND__INIT;
    Nodelink__V1__Noop noop = NODELINK__V1__NOOP__INIT;
    command.body_case = NODELINK__V1__COMMAND__BODY_NOOP;
    command.noop = &noop;
    stamp(user, &command, sequence);
    return pack(&command, ret, ret_len);
}

int nl_cluster_propose(struct nl_cluster *cluster, Nodelink__V1__Command *command,
                       uint64_t timeout_ms, nl_propose_cb done, void *user) {
    struct nl_propose_core *core = cluster->proposer.core;
    uint8_t *data;
    size_t len;
    if (cluster->closing) {
        return NL_ECANCELED;
    }
    // Elsewhere the leader's disk counts; what it stores comes here as fast as without us.
    if (cluster->disk_full && cluster->info.role == NL_RAFT_LEADER) {
        return NL_EFULL;
    }
    stamp(cluster, command, nl_core_next_sequence(core));
    int rv = pack(command, &data, &len);
    if (rv != NL_OK) {
        return rv;
    }
    rv = nl_core_add(core, data, len,
                     nl_clock_mono_ms() + (timeout_ms > 0 ? timeout_ms : TIMEOUT_MS), done, user);
    if (rv != NL_OK) {
        free(data);
    }
    return rv;
}

// ---- where to ------------------------------------------------------------------

uint64_t nl_propose_target(struct nl_cluster *cluster, uint64_t now_ms) {
    struct nl_proposer *proposer = &cluster->proposer;
    if (cluster->info.role == NL_RAFT_LEADER) {
        return cluster->id;
    }
    if (proposer->hint != 0 && proposer->hint != cluster->id && now_ms < proposer->hint_until_ms) {
        return proposer->hint;
    }
    return cluster->info.leader == cluster->id ? 0 : cluster->info.leader;
}

struct outgoing {
    ProtobufCBinaryData *commands;
    size_t n, cap;
    size_t bytes;
};

static bool collect(void *user, const uint8_t *command, size_t len) {
    struct outgoing *out = user;
    if (out->n == BATCH_COMMANDS_MAX || (out->n > 0 && out->bytes + len > BATCH_BYTES_MAX)) {
        return false;
    }
    if (out->n == out->cap) {
        size_t cap = out->cap > 0 ? 2 * out->cap : 64;
        ProtobufCBinaryData *more = realloc(out->commands, cap * sizeof *more);
        if (more == NULL) {
            return false;
        }
        out->commands = more;
        out->cap = cap;
    }
    // Borrowed until nl_link_propose has packed them.
    out->commands[out->n].data = (uint8_t *)(uintptr_t)command;
    out->commands[out->n].len = len;
    out->n++;
    out->bytes += len;
    return true;
}

static bool send_batch(struct nl_cluster *cluster, struct nl_link *link, uint64_t now_ms) {
    struct outgoing out = {0};
    struct nl_core_batch batch;
    bool sent = false;
    if (nl_core_take(cluster->proposer.core, now_ms, collect, &out, &batch)) {
        sent = nl_link_propose(link, out.commands, &batch);
        if (!sent) {
            nl_propose_verdict(cluster, &batch, NL_CORE_REFUSED, 0);
        }
    }
    free(out.commands);
    return sent;
}

void nl_propose_flush(struct nl_cluster *cluster) {
    uint64_t now_ms = nl_clock_mono_ms();
    uint64_t target = nl_propose_target(cluster, now_ms);
    if (target == 0 || target == cluster->id || now_ms < cluster->proposer.hold_until_ms ||
        !cluster->boot_counted) {
        return;
    }
    struct nl_link *link = nl_link_of(cluster, target);
    while (link != NULL && nl_core_has_ready(cluster->proposer.core) &&
           nl_link_usable(link, now_ms) && nl_link_has_room(link) &&
           send_batch(cluster, link, now_ms)) {
    }
}

// ---- what comes back -------------------------------------------------------------

// A short pause, growing while refusals go on and a little different on each node: a cluster
// between two leaders isn't helped by being asked as fast as possible.
static void hold(struct nl_proposer *proposer, uint64_t now_ms) {
    uint8_t jitter;
    nl_random_bytes(&jitter, sizeof jitter);
    proposer->hold_ms = proposer->hold_ms == 0 ? HOLD_MS_MIN : 2 * proposer->hold_ms;
    proposer->hold_ms = proposer->hold_ms < HOLD_MS_MAX ? proposer->hold_ms : HOLD_MS_MAX;
    proposer->hold_until_ms = now_ms + proposer->hold_ms + jitter % HOLD_MS_MIN;
}

void nl_propose_verdict(struct nl_cluster *cluster, const struct nl_core_batch *batch,
                        enum nl_core_verdict verdict, uint64_t hint) {
    struct nl_proposer *proposer = &cluster->proposer;
    uint64_t now_ms = nl_clock_mono_ms();
    nl_core_verdict(proposer->core, batch, verdict);
    proposer->hint = hint;
    proposer->hint_until_ms = now_ms + cluster->election_timeout_ms;
    hold(proposer, now_ms);
}

void nl_propose_effect(struct nl_cluster *cluster, const struct nl_effect *effect) {
    if (effect->kind != NL_EFFECT_OUTCOME || effect->proposer != cluster->id ||
        effect->boot != cluster->boot) {
        return;
    }
    cluster->proposer.hold_ms = 0;
    nl_core_outcome(cluster->proposer.core, effect->sequence, effect->outcome, effect->index, 0);
}

void nl_propose_leader_changed(struct nl_cluster *cluster) {
    struct nl_proposer *proposer = &cluster->proposer;
    nl_core_resend(proposer->core);
    proposer->hold_until_ms = 0;
    proposer->hold_ms = 0;
    proposer->hint = 0;
}

void nl_propose_answer(struct nl_cluster *cluster) {
    struct nl_core_result r;
    while (nl_core_next_result(cluster->proposer.core, &r)) {
        r.done(r.user, r.result, r.outcome, r.index, cluster->info.term);
    }
}

void nl_propose_tick(struct nl_cluster *cluster, uint64_t now_ms) {
    nl_core_tick(cluster->proposer.core, now_ms, nl_propose_target(cluster, now_ms) != 0);
    nl_propose_answer(cluster);
}

int nl_propose_open(struct nl_cluster *cluster, uint32_t outcomes_max) {
    struct nl_core_options options = {
        .window_max = WINDOW_MAX, .make_noop = make_noop, .user = cluster};
    // Half of what the state machine remembers: a command carries the ack_below of when it was
    // proposed, which lags behind by up to a window.
    if (outcomes_max > 0 && outcomes_max / 2 < WINDOW_MAX) {
        options.window_max = outcomes_max > 1 ? outcomes_max / 2 : 1;
    }
    return nl_core_new(&options, &cluster->proposer.core);
}

void nl_propose_close(struct nl_cluster *cluster) {
    nl_core_cancel(cluster->proposer.core);
    nl_propose_answer(cluster);
}
