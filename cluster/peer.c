// Who the other nodes are: credentials, channels, status.

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "cluster/internal.h"
#include "common/base/clock.h"
#include "common/base/config.h"
#include "common/base/crypto.h"
#include "common/base/err.h"

#define KEY_ID "nodelink-peer"
#define KEY_AUTH "nodelink-peer-auth"

// ---- credentials -------------------------------------------------------------

// Each node's credential differs: one that leaks can be told, and doesn't give the secret away.
static void make_auth(const struct nl_cluster *cluster, uint64_t id, uint8_t out[NL_SHA256_LEN]) {
    char text[512];
    // Neither part can hold the separator: names are identifiers (nl_text_id_ok).
    int n = snprintf(text, sizeof text, "peer|%s|%" PRIu64, cluster->cluster_name, id);
    nl_hmac_sha256(cluster->secret, cluster->secret_len, text, (size_t)n, out);
}

void nl_peer_credential_init(struct nl_cluster *cluster) {
    struct nl_peer_credential *c = &cluster->credential;
    uint8_t auth[NL_SHA256_LEN];
    make_auth(cluster, cluster->id, auth);
    snprintf(c->id, sizeof c->id, "%" PRIu64, cluster->id);
    nl_hex_encode(auth, sizeof auth, c->auth);
    c->metadata[0] = (struct nl_rpc_metadata){KEY_ID, c->id};
    c->metadata[1] = (struct nl_rpc_metadata){KEY_AUTH, c->auth};
    c->metadata[2] = (struct nl_rpc_metadata){NULL, NULL};
}

uint64_t nl_peer_id_of(const struct nl_rpc_call *call) {
    const char *text = nl_rpc_call_metadata(call, KEY_ID);
    uint64_t id = 0;
    return text != NULL && nl_parse_u64(text, &id) == NL_OK ? id : 0;
}

static const char *why_not(const struct nl_cluster *cluster, const struct nl_rpc_call *call) {
    const char *hex = nl_rpc_call_metadata(call, KEY_AUTH);
    uint64_t id = nl_peer_id_of(call);
    uint8_t have[NL_SHA256_LEN], want[NL_SHA256_LEN];
    if (cluster->secret_len == 0) {
        return "this node has no peer secret";
    }
    if (id == 0 || hex == NULL || nl_hex_decode(hex, have, sizeof have) != NL_OK) {
        return "no peer credential";
    }
    make_auth(cluster, id, want);
    if (!nl_equal_const_time(have, want, sizeof want)) {
        return "wrong peer credential";
    }
    if (id == cluster->id || nl_cluster_member_of(cluster, id) == NULL) {
        return "not a member of this cluster";
    }
    return NULL;
}

bool nl_cluster_authorize_peer(struct nl_cluster *cluster, struct nl_rpc_call *call) {
    const char *why = why_not(cluster, call);
    uint32_t suppressed = 0;
    if (why == NULL) {
        return true;
    }
    if (nl_log_allow(&cluster->credential.log_limit, nl_clock_mono_ms(), 5, 10000, &suppressed)) {
        nl_log(NL_LOG_WARN, "cluster", "peer call refused", "why", why, "address",
               nl_rpc_call_peer(call), "suppressed", nl_log_u64(suppressed).s, NULL);
    }
    nl_rpc_call_finish(call, NL_RPC_UNAUTHENTICATED, "peer credential required");
    return false;
}

struct nl_rpc_channel *nl_cluster_peer_channel(struct nl_cluster *cluster, uint64_t node_id) {
    struct nl_link *link = nl_link_of(cluster, node_id);
    return link != NULL ? link->channel : NULL;
}

const struct nl_rpc_metadata *nl_cluster_peer_metadata(struct nl_cluster *cluster) {
    return cluster->credential.metadata;
}

// ---- status ------------------------------------------------------------------

const struct nl_cluster_member *nl_cluster_member_of(const struct nl_cluster *cluster,
                                                     uint64_t id) {
    for (size_t i = 0; i < cluster->n_members; i++) {
        if (cluster->members[i].id == id) {
            return &cluster->members[i];
        }
    }
    return NULL;
}

static const struct nl_cluster_member *member_after(const struct nl_cluster *cluster,
                                                    uint64_t after_id) {
    const struct nl_cluster_member *best = NULL;
    for (size_t i = 0; i < cluster->n_members; i++) {
        const struct nl_cluster_member *m = &cluster->members[i];
        if (m->id > after_id && (best == NULL || m->id < best->id)) {
            best = m;
        }
    }
    return best;
}

static uint64_t seen_ago_ms(struct nl_cluster *cluster, uint64_t id) {
    const struct nl_link *link = nl_link_of(cluster, id);
    uint64_t now = nl_clock_mono_ms();
    uint64_t seen = nl_raft_seen_ms(cluster->raft, id);
    if (link == NULL) {
        return 0;  // this node
    }
    seen = link->seen_ms > seen ? link->seen_ms : seen;
    return seen == 0 ? UINT64_MAX : now - seen;
}

const struct nl_cluster_peer_status *nl_cluster_peer_next(struct nl_cluster *cluster,
                                                          uint64_t after_id) {
    const struct nl_cluster_member *m = member_after(cluster, after_id);
    struct nl_cluster_peer_status *status = &cluster->peer_status;
    if (m == NULL) {
        return NULL;
    }
    const struct nl_link *link = nl_link_of(cluster, m->id);
    const char *role = nl_raft_member_role(cluster->raft, m->id);
    *status = (struct nl_cluster_peer_status){
        .id = m->id,
        .name = m->name,
        .raft_address = m->raft_address,
        .grpc_address = m->grpc_address,
        .role = role != NULL ? role : "spare",
        .last_seen_ms = seen_ago_ms(cluster, m->id),
        .boot = link != NULL ? link->boot : cluster->boot,
        .match_index = nl_raft_match(cluster->raft, m->id),
    };
    return status;
}

static bool leader_hears_majority(struct nl_cluster *cluster) {
    uint64_t now = nl_clock_mono_ms();
    size_t voters = 0, heard = 0;
    for (size_t i = 0; i < cluster->n_members; i++) {
        uint64_t id = cluster->members[i].id;
        const char *role = nl_raft_member_role(cluster->raft, id);
        if (role == NULL || strcmp(role, "voter") != 0) {
            continue;
        }
        uint64_t seen = nl_raft_seen_ms(cluster->raft, id);
        voters++;
        heard += id == cluster->id ||
                 (seen != 0 && now - seen <= 2 * (uint64_t)cluster->election_timeout_ms);
    }
    return heard > voters / 2;
}

static enum nl_cluster_role role_of(enum nl_raft_role role) {
    switch (role) {
        case NL_RAFT_FOLLOWER:
            return NL_ROLE_FOLLOWER;
        case NL_RAFT_CANDIDATE:
            return NL_ROLE_CANDIDATE;
        case NL_RAFT_LEADER:
            return NL_ROLE_LEADER;
        case NL_RAFT_LEARNER:
            return NL_ROLE_LEARNER;
        case NL_RAFT_UNAVAILABLE:
            break;
    }
    return NL_ROLE_UNAVAILABLE;
}

const char *nl_cluster_role_name(enum nl_cluster_role role) {
    switch (role) {
        case NL_ROLE_FOLLOWER:
            return "follower";
        case NL_ROLE_CANDIDATE:
            return "candidate";
        case NL_ROLE_LEADER:
            return "leader";
        case NL_ROLE_LEARNER:
            return "learner";
        case NL_ROLE_UNAVAILABLE:
            break;
    }
    return "unavailable";
}

void nl_cluster_status(struct nl_cluster *cluster, struct nl_cluster_status *ret) {
    // As of the last step: so the numbers fit what on_role has told.
    const struct nl_raft_info *info = &cluster->info;
    uint64_t since = nl_clock_mono_ms() - cluster->leader_since_ms;
    *ret = (struct nl_cluster_status){
        .role = role_of(info->role),
        .term = info->term,
        .commit = info->commit,
        .applied = info->applied,
        .leader = info->leader,
        .leader_known_ms = info->leader != 0 ? since : 0,
        .leaderless_ms = info->leader != 0 ? 0 : since,
        .quorum = info->role == NL_RAFT_LEADER ? leader_hears_majority(cluster) : info->leader != 0,
        .fsync_p99_us = cluster->append_p99_us,
        .proposals_in_flight = nl_core_pending(cluster->proposer.core),
        .snapshots_taken = info->snapshots_taken,
        .loop_lag_us = nl_loop_lag_recent(&cluster->lag.second),
        .loop_lag_minute_us = nl_loop_lag_recent(&cluster->lag.minute),
        .loop_lag_max_us = cluster->lag.max_us,
    };
}
