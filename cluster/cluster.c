// Opens, drives and closes a node's part of the cluster.
//
// The flow of a loop turn: libraft's events and the links' messages only note what is to do; the
// prepare callback at the end of the turn puts what has gathered into the log or onto a link, so
// that everything of one turn shares an entry or a message.

#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/internal.h"
#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/failpoint.h"
#include "common/base/fs.h"
#include "common/base/text.h"

enum {
    TICK_MS = 20,
    HEARTBEAT_MS = 50,
    ELECTION_MS = 300,
    SNAPSHOT_THRESHOLD = 8192,
    SNAPSHOT_TRAILING = 4096,
    SECRET_LEN_MIN = 16,
    STATFS_MS = 1000,
    GIVE_UP_LEAD_MS = 2000,
    GIVE_UP_LEAD_EVERY_MS = 5000,
    APPEND_P99_MS = 1000,
};
#define SNAPSHOT_BYTES ((uint64_t)256 * 1024 * 1024)
#define DISK_FREE_MIN ((uint64_t)64 * 1024 * 1024)

// ---- raft's events -------------------------------------------------------------

void nl_cluster_fatal(struct nl_cluster *cluster, const char *why) {
    cluster->events.on_fatal(cluster->user, why);
    abort();  // the contract says that it does not return
}

static void on_fatal(void *user, const char *why) {
    nl_cluster_fatal(user, why);
}

// The node that holds the agent's stream has something to send to it.
static void hurry_owner(struct nl_cluster *cluster, const struct nl_effect *effect) {
    if (effect->kind == NL_EFFECT_TASK && cluster->info.role == NL_RAFT_LEADER) {
        const struct nl_agent *agent = nl_state_agent(cluster->state, effect->task->spec->agent_id);
        if (agent != NULL && agent->owner != 0 && agent->owner != cluster->id) {
            nl_raft_hurry(cluster->raft, agent->owner);
        }
    }
}

static void on_effect(void *user, const struct nl_effect *effect) {
    struct nl_cluster *cluster = user;
    hurry_owner(cluster, effect);
    if (effect->kind == NL_EFFECT_OUTCOME && effect->proposer == cluster->id) {
        nl_cluster_check_boot(cluster, effect->boot);
    }
    nl_propose_effect(cluster, effect);
    if (cluster->opened && !cluster->closing) {
        cluster->events.on_effect(cluster->user, effect);
    }
}

static void on_restored(void *user) {
    struct nl_cluster *cluster = user;
    const struct nl_node *node = nl_state_node(cluster->state, cluster->id);
    if (node != NULL) {
        nl_cluster_check_boot(cluster, node->boot);
    }
    // Outcomes of commands that the snapshot holds are never announced here: asked for again,
    // they come as duplicates.
    nl_core_resend(cluster->proposer.core);
    if (!cluster->closing) {
        cluster->events.on_restored(cluster->user);
    }
}

static enum nl_cluster_role public_role(enum nl_raft_role role) {
    return (enum nl_cluster_role)role;
}
_Static_assert((int)NL_ROLE_UNAVAILABLE == (int)NL_RAFT_UNAVAILABLE &&
                   (int)NL_ROLE_FOLLOWER == (int)NL_RAFT_FOLLOWER &&
                   (int)NL_ROLE_CANDIDATE == (int)NL_RAFT_CANDIDATE &&
                   (int)NL_ROLE_LEADER == (int)NL_RAFT_LEADER &&
                   (int)NL_ROLE_LEARNER == (int)NL_RAFT_LEARNER,
               "the roles have the same numbers");

static void tell_role(struct nl_cluster *cluster) {
    const struct nl_raft_info *now = &cluster->info;
    cluster->role_told = true;
    cluster->events.on_role(cluster->user, public_role(now->role), now->term, now->leader);
}

static void note_role(struct nl_cluster *cluster) {
    struct nl_raft_info old = cluster->info;
    struct nl_raft_info *now = &cluster->info;
    nl_raft_info(cluster->raft, now);
    bool other_leader = now->leader != old.leader || now->term != old.term;
    if (!other_leader && now->role == old.role) {
        return;
    }
    if (now->leader != old.leader) {
        cluster->leader_since_ms = nl_clock_mono_ms();
    }
    if (other_leader && now->leader != 0) {
        nl_propose_leader_changed(cluster);
    }
    if (other_leader) {
        nl_read_leader_changed(cluster);
    }
    tell_role(cluster);
}

static void on_step(void *user) {
    struct nl_cluster *cluster = user;
    if (cluster->closing || !cluster->opened) {
        return;
    }
    note_role(cluster);
    nl_propose_answer(cluster);
    nl_read_applied(cluster);
}

// ---- timers --------------------------------------------------------------------

static void set_disk_full(struct nl_cluster *cluster, bool full, uint64_t free_bytes) {
    if (full == cluster->disk_full) {
        return;
    }
    cluster->disk_full = full;
    nl_log(full ? NL_LOG_ERROR : NL_LOG_INFO, "cluster",
           full ? "disk nearly full: writes are refused" : "disk has room again", "directory",
           cluster->dir.path, "free_bytes", nl_log_u64(free_bytes).s, NULL);
}

static void on_statfs(uv_fs_t *req) {
    struct nl_cluster *cluster = req->data;
    cluster->statfs_under_way = false;
    if (req->result == 0 && !cluster->closing) {
        const uv_statfs_t *st = req->ptr;
        uint64_t free_bytes = (uint64_t)st->f_bavail * (uint64_t)st->f_bsize;
        set_disk_full(cluster, free_bytes < cluster->disk_free_min, free_bytes);
    }
    uv_fs_req_cleanup(req);
    nl_cluster_maybe_closed(cluster);
}

static void watch_disk(struct nl_cluster *cluster, uint64_t now_ms) {
    if (cluster->statfs_under_way || now_ms < cluster->statfs_at_ms) {
        return;
    }
    cluster->statfs_at_ms = now_ms + STATFS_MS;
    cluster->statfs.data = cluster;
    cluster->statfs_under_way =
        uv_fs_statfs(cluster->loop, &cluster->statfs, cluster->dir.path, on_statfs) == 0;
}

static void step_down_tick(struct nl_cluster *cluster, uint64_t now_ms);

// A leader that refuses writes stops those of the whole cluster; another node may have room. Not
// too often: they may all be full.
static void give_up_lead_tick(struct nl_cluster *cluster, uint64_t now_ms) {
    if (!cluster->disk_full || cluster->info.role != NL_RAFT_LEADER ||
        cluster->step_down.under_way || now_ms < cluster->give_up_lead_at_ms) {
        return;
    }
    cluster->give_up_lead_at_ms = now_ms + GIVE_UP_LEAD_EVERY_MS;
    nl_cluster_step_down(cluster, GIVE_UP_LEAD_MS, NULL, NULL);
}

static void on_tick(uv_timer_t *timer) {
    struct nl_cluster *cluster = timer->data;
    uint64_t now_ms = nl_clock_mono_ms();
    if (cluster->closing) {
        return;
    }
    nl_propose_tick(cluster, now_ms);
    nl_read_tick(cluster, now_ms);
    nl_links_tick(cluster, now_ms);
    nl_boot_tick(cluster, now_ms);
    nl_serves_tick(cluster);
    give_up_lead_tick(cluster, now_ms);
    step_down_tick(cluster, now_ms);
    if (now_ms - cluster->append_p99_at_ms >= APPEND_P99_MS) {
        cluster->append_p99_us = nl_raft_append_p99_us(cluster->raft);
        cluster->append_p99_at_ms = now_ms;
    }
    watch_disk(cluster, now_ms);
}

static void begin_close(struct nl_cluster *cluster);

static void on_prepare(uv_prepare_t *prepare) {
    struct nl_cluster *cluster = prepare->data;
    if (cluster->closing) {
        begin_close(cluster);
        return;
    }
    if (!cluster->role_told) {  // the only voter leads when it is opened: no step changes that
        tell_role(cluster);
    }
    // Answers first: what their callbacks propose or read goes along at once.
    nl_propose_answer(cluster);
    nl_read_applied(cluster);
    nl_append_flush(cluster);
    nl_propose_flush(cluster);
    nl_read_flush(cluster);
    nl_loop_lag_turn(&cluster->lag, cluster->loop);
}

// ---- step down -----------------------------------------------------------------

static void step_down_done(struct nl_cluster *cluster) {
    struct nl_step_down *s = &cluster->step_down;
    void (*done)(void *) = s->done;
    s->under_way = false;
    s->done = NULL;
    if (done != NULL) {
        done(s->user);
    }
}

static void on_transferred(void *user, int result) {
    struct nl_cluster *cluster = user;
    (void)result;
    cluster->step_down.asked = false;
}

// The voter that holds most of the log among those that answer.
static uint64_t best_successor(struct nl_cluster *cluster) {
    uint64_t best = 0, best_match = 0, now_ms = nl_clock_mono_ms();
    for (size_t i = 0; i < cluster->n_members; i++) {
        uint64_t id = cluster->members[i].id;
        const char *role = nl_raft_member_role(cluster->raft, id);
        uint64_t seen = nl_raft_seen_ms(cluster->raft, id);
        uint64_t match = nl_raft_match(cluster->raft, id);
        if (id != cluster->id && role != NULL && strcmp(role, "voter") == 0 &&
            seen + cluster->election_timeout_ms > now_ms && match > best_match) {
            best = id;
            best_match = match;
        }
    }
    return best;
}

static void step_down_tick(struct nl_cluster *cluster, uint64_t now_ms) {
    struct nl_step_down *s = &cluster->step_down;
    if (!s->under_way) {
        return;
    }
    if (cluster->info.role != NL_RAFT_LEADER || now_ms >= s->deadline_ms) {
        step_down_done(cluster);
        return;
    }
    uint64_t successor = s->asked ? 0 : best_successor(cluster);
    if (successor != 0) {
        s->asked = nl_raft_transfer(cluster->raft, successor, on_transferred, cluster) == NL_OK;
    }
}

void nl_cluster_step_down(struct nl_cluster *cluster, uint64_t timeout_ms, void (*done)(void *user),
                          void *user) {
    struct nl_step_down *s = &cluster->step_down;
    if (s->under_way) {
        step_down_done(cluster);  // the newer request takes its place
    }
    s->under_way = true;
    s->deadline_ms = nl_clock_mono_ms() + timeout_ms;
    s->done = done;
    s->user = user;
}

// ---- open ----------------------------------------------------------------------

static void free_members(struct nl_cluster *cluster) {
    for (size_t i = 0; i < cluster->n_members; i++) {
        free((char *)(uintptr_t)cluster->members[i].name);
        free((char *)(uintptr_t)cluster->members[i].raft_address);
        free((char *)(uintptr_t)cluster->members[i].grpc_address);
    }
}

static void cluster_free(struct nl_cluster *cluster) {
    nl_core_free(cluster->proposer.core);
    nl_state_free(cluster->state);
    nl_data_dir_close(&cluster->dir);
    free_members(cluster);
    free(cluster->cluster_name);
    free(cluster->raft_address);
    if (cluster->secret != NULL) {
        explicit_bzero(cluster->secret, cluster->secret_len);
    }
    free(cluster->secret);
    free((char *)(uintptr_t)cluster->tls.ca_file);
    free((char *)(uintptr_t)cluster->tls.cert_file);
    free((char *)(uintptr_t)cluster->tls.key_file);
    free((char *)(uintptr_t)cluster->tls.server_name);
    free(cluster);
}

static bool copy_text(const char **ret, const char *text) {
    *ret = text != NULL ? strdup(text) : NULL;
    return text == NULL || *ret != NULL;
}

static bool copy_member(struct nl_cluster *cluster, const struct nl_cluster_member *from) {
    size_t i = cluster->n_members++;
    struct nl_cluster_member *to = &cluster->members[i];
    to->id = from->id;
    bool ok = copy_text(&to->name, from->name) &&
              copy_text(&to->raft_address, from->raft_address) &&
              copy_text(&to->grpc_address, from->grpc_address);
    cluster->raft_members[i] =
        (struct nl_raft_member){.id = to->id, .name = to->name, .address = to->raft_address};
    return ok;
}

static bool copy_tls(struct nl_cluster *cluster, const struct nl_rpc_tls *tls) {
    if (tls == NULL) {
        return true;
    }
    cluster->has_tls = true;
    return copy_text(&cluster->tls.ca_file, tls->ca_file) &&
           copy_text(&cluster->tls.cert_file, tls->cert_file) &&
           copy_text(&cluster->tls.key_file, tls->key_file) &&
           copy_text(&cluster->tls.server_name, tls->server_name);
}

static int copy_options(struct nl_cluster *cluster, const struct nl_cluster_options *o) {
    bool ok = true;
    cluster->loop = o->loop;
    cluster->rpc = o->rpc;
    cluster->id = o->id;
    cluster->election_timeout_ms =
        o->election_timeout_ms > 0 ? o->election_timeout_ms : ELECTION_MS;
    cluster->disk_free_min = o->disk_free_min > 0 ? o->disk_free_min : DISK_FREE_MIN;
    cluster->cluster_name = strdup(o->cluster_name);
    cluster->raft_address = strdup(o->raft_address);
    cluster->secret = malloc(o->secret_len > 0 ? o->secret_len : 1);
    ok = cluster->cluster_name != NULL && cluster->raft_address != NULL && cluster->secret != NULL;
    if (ok && o->secret_len > 0) {
        memcpy(cluster->secret, o->secret, o->secret_len);
    }
    cluster->secret_len = o->secret_len;
    for (size_t i = 0; ok && i < o->n_members; i++) {
        ok = copy_member(cluster, &o->members[i]);
    }
    ok = ok && copy_tls(cluster, o->tls);
    return ok ? NL_OK : NL_ENOMEM;
}

static const char *why_invalid(const struct nl_cluster_options *o) {
    bool has_self = false;
    if (o->cluster_name == NULL || !nl_text_id_ok(o->cluster_name)) {
        return "the cluster name is not an identifier";
    }
    if (o->n_members == 0 || o->n_members > NL_CLUSTER_MEMBERS_MAX) {
        return "the member list is empty or has more than 16 nodes";
    }
    for (size_t i = 0; i < o->n_members; i++) {
        has_self = has_self || o->members[i].id == o->id;
        if (o->members[i].id == 0) {
            return "a member's id is 0";
        }
        for (size_t j = 0; j < i; j++) {
            if (o->members[j].id == o->members[i].id ||
                strcmp(o->members[j].raft_address, o->members[i].raft_address) == 0) {
                return "two members have the same id or raft address";
            }
        }
    }
    if (!has_self) {
        return "this node's id is not in the member list";
    }
    if (o->n_members > 1 && o->secret_len < SECRET_LEN_MIN) {
        return "a cluster of several nodes needs a peer secret of at least 16 bytes";
    }
    return NULL;
}

static int open_raft(struct nl_cluster *cluster, const struct nl_cluster_options *o,
                     char *error_text, size_t error_size) {
    static const struct nl_raft_events events = {.on_effect = on_effect,
                                                 .on_restored = on_restored,
                                                 .on_step = on_step,
                                                 .on_fatal = on_fatal};
    const struct nl_raft_tls tls = {cluster->tls.ca_file, cluster->tls.cert_file,
                                    cluster->tls.key_file};
    struct nl_raft_options options = {
        .loop = o->loop,
        .cluster_name = cluster->cluster_name,
        .id = o->id,
        .dir = cluster->dir.raft_path,
        .listen_address = cluster->raft_address,
        .members = cluster->raft_members,
        .n_members = cluster->n_members,
        .bootstrap = cluster->dir.is_new,
        .secret = cluster->secret,
        .secret_len = cluster->secret_len,
        .tls = cluster->has_tls ? &tls : NULL,
        .heartbeat_ms = o->heartbeat_ms > 0 ? o->heartbeat_ms : HEARTBEAT_MS,
        .election_timeout_ms = cluster->election_timeout_ms,
        .snapshot_threshold =
            o->snapshot_threshold > 0 ? o->snapshot_threshold : SNAPSHOT_THRESHOLD,
        .snapshot_trailing = o->snapshot_trailing > 0 ? o->snapshot_trailing : SNAPSHOT_TRAILING,
        .snapshot_bytes = o->snapshot_bytes > 0 ? o->snapshot_bytes : SNAPSHOT_BYTES,
        .state = cluster->state,
    };
    return nl_raft_open(&options, &events, cluster, &cluster->raft, error_text, error_size);
}

static void on_handle_closed(uv_handle_t *handle) {
    struct nl_cluster *cluster = handle->data;
    cluster->handles--;
    nl_cluster_maybe_closed(cluster);
}

static void start_handles(struct nl_cluster *cluster) {
    uv_prepare_init(cluster->loop, &cluster->prepare);
    uv_timer_init(cluster->loop, &cluster->timer);
    cluster->prepare.data = cluster->timer.data = cluster;
    cluster->handles = 2;
    uv_prepare_start(&cluster->prepare, on_prepare);
    uv_timer_start(&cluster->timer, on_tick, TICK_MS, TICK_MS);
    nl_loop_lag_open(&cluster->lag, cluster->loop);
}

static void check_disk_at_open(struct nl_cluster *cluster) {
    uint64_t free_bytes;
    if (nl_fs_free_bytes(cluster->dir.path, &free_bytes) == NL_OK) {
        set_disk_full(cluster, free_bytes < cluster->disk_free_min, free_bytes);
    }
}

static int open_rest(struct nl_cluster *cluster, char *error_text, size_t error_size) {
    int rv = NL_OK;
    if (cluster->dir.is_new) {
        rv = NL_FAILPOINT("start.identity")
                 ? NL_EIO
                 : nl_data_dir_ready(&cluster->dir, cluster->cluster_name, cluster->id);
    }
    if (rv != NL_OK) {
        snprintf(error_text, error_size, "%s: can't write the node's files: %s", cluster->dir.path,
                 nl_strerror(rv));
        return rv;
    }
    rv = nl_boot_open(cluster, error_text, error_size);
    if (rv != NL_OK) {
        return rv;
    }
    nl_peer_credential_init(cluster);
    rv = nl_links_open(cluster);
    if (rv != NL_OK) {
        snprintf(error_text, error_size, "can't make the channels to the other nodes: %s",
                 nl_strerror(rv));
    }
    return rv;
}

static void free_after_failed_open(void *user) {
    cluster_free(user);
}

// What is freed at once and what needs the loop to turn: libraft's handles do.
static void undo_open(struct nl_cluster *cluster) {
    cluster->closing = true;
    nl_links_close(cluster);
    if (cluster->raft != NULL) {
        nl_raft_close(cluster->raft, free_after_failed_open, cluster);
    } else {
        cluster_free(cluster);
    }
}

static int open_parts(struct nl_cluster *cluster, const struct nl_cluster_options *o,
                      char *error_text, size_t error_size) {
    int rv = nl_state_new(&o->limits, &cluster->state);
    rv = rv == NL_OK ? nl_propose_open(cluster, o->limits.outcomes_per_proposer_max) : rv;
    if (rv == NL_OK && NL_FAILPOINT("start.data_dir")) {
        rv = NL_EIO;
    }
    if (rv != NL_OK) {
        snprintf(error_text, error_size, "can't begin: %s", nl_strerror(rv));
        return rv;
    }
    rv = nl_data_dir_open(o->data_dir, o->cluster_name, o->id, o->bootstrap, &cluster->dir,
                          error_text, error_size);
    rv = rv == NL_OK ? open_raft(cluster, o, error_text, error_size) : rv;
    return rv == NL_OK ? open_rest(cluster, error_text, error_size) : rv;
}

// libuv writes with write(2): a peer that went away would end the process. A handler that the
// program has set stays.
static void ignore_sigpipe(void) {
    struct sigaction old;
    if (sigaction(SIGPIPE, NULL, &old) == 0 && old.sa_handler == SIG_DFL) {
        signal(SIGPIPE, SIG_IGN);
    }
}

int nl_cluster_open(const struct nl_cluster_options *options,
                    const struct nl_cluster_events *events, void *user, struct nl_cluster **ret,
                    char *error_text, size_t error_size) {
    const char *why = why_invalid(options);
    if (why != NULL) {
        snprintf(error_text, error_size, "%s", why);
        return NL_EINVAL;
    }
    struct nl_cluster *cluster = calloc(1, sizeof *cluster);
    if (cluster == NULL) {
        snprintf(error_text, error_size, "no memory");
        return NL_ENOMEM;
    }
    ignore_sigpipe();
    cluster->dir.lock_fd = -1;
    cluster->events = *events;
    cluster->user = user;
    int rv = NL_FAILPOINT("start.cluster") ? NL_ENOMEM : copy_options(cluster, options);
    if (rv == NL_OK) {
        rv = open_parts(cluster, options, error_text, error_size);
    } else {
        snprintf(error_text, error_size, "no memory");
    }
    if (rv != NL_OK) {
        undo_open(cluster);
        return rv;
    }
    check_disk_at_open(cluster);
    start_handles(cluster);
    cluster->leader_since_ms = nl_clock_mono_ms();
    nl_raft_info(cluster->raft, &cluster->info);
    cluster->opened = true;
    *ret = cluster;
    return NL_OK;
}

// ---- close ---------------------------------------------------------------------

void nl_cluster_maybe_closed(struct nl_cluster *cluster) {
    if (!cluster->close_begun || cluster->handles > 0 || cluster->open_calls > 0 ||
        !cluster->raft_closed || cluster->statfs_under_way || cluster->boot_under_way) {
        return;
    }
    void (*closed)(void *) = cluster->closed;
    void *user = cluster->closed_user;
    assert(cluster->serves == NULL);
    cluster_free(cluster);
    closed(user);
}

static void on_raft_closed(void *user) {
    struct nl_cluster *cluster = user;
    cluster->raft_closed = true;
    nl_cluster_maybe_closed(cluster);
}

static void begin_close(struct nl_cluster *cluster) {
    if (cluster->close_begun) {
        return;
    }
    uv_close((uv_handle_t *)&cluster->prepare, on_handle_closed);
    uv_close((uv_handle_t *)&cluster->timer, on_handle_closed);
    if (cluster->step_down.under_way) {
        step_down_done(cluster);
    }
    nl_append_cancel(cluster);
    nl_propose_close(cluster);
    nl_read_close(cluster);
    nl_serve_close_all(cluster);
    nl_links_close(cluster);
    cluster->close_begun = true;
    nl_raft_close(cluster->raft, on_raft_closed, cluster);
}

// The work is left to the end of the loop turn: this may be called from inside of libraft's
// callbacks, which must return first.
void nl_cluster_close(struct nl_cluster *cluster, void (*done)(void *user), void *user) {
    assert(!cluster->closing);
    cluster->closing = true;
    cluster->closed = done;
    cluster->closed_user = user;
}

int nl_cluster_reload_tls(struct nl_cluster *cluster, char *error_text, size_t error_size) {
    return nl_raft_reload_tls(cluster->raft, error_text, error_size);
}

const struct nl_state *nl_cluster_state(const struct nl_cluster *cluster) {
    return cluster->state;
}

uint64_t nl_cluster_id(const struct nl_cluster *cluster) {
    return cluster->id;
}

uint64_t nl_cluster_boot(const struct nl_cluster *cluster) {
    return cluster->boot;
}
