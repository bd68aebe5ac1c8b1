// Puts together libraft, its disk backend behind the guard, the transport and the state machine.

#include <assert.h>
#include <raft.h>
#include <raft/uv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/raft/fsm.h"
#include "cluster/raft/guard.h"
#include "cluster/raft/push.h"
#include "cluster/raft/raft_node.h"
#include "cluster/raft/segments.h"
#include "cluster/raft/transport.h"
#include "common/base/clock.h"
#include "common/base/crypto.h"
#include "common/base/err.h"
#include "common/base/failpoint.h"

enum {
    WATCH_MS = 100,
    PUSH_MS = 1,
    CONNECT_RETRY_MS = 100,
    INSTALL_SNAPSHOT_MS = 5000,
    INFLIGHT_ENTRIES = 1024,
    TRAILING_MIN = 16,
    // A write that failed is not tried again: the watchdog stops the node, and its log is read
    // anew by the next start.
    DISK_RETRY_MS = 3600 * 1000,
};

struct nl_raft_node {
    struct nl_raft_options options;
    struct nl_raft_events events;
    void *user;
    struct raft raft;
    struct nl_guard guard;
    struct nl_fsm fsm;
    struct nl_transport *transport;
    uv_timer_t watch;
    uv_timer_t push;  // to those who are in no hurry
    bool push_due;
    struct raft_transfer transfer;
    nl_raft_done transfer_done;  // NULL: none under way
    void *transfer_user;
    bool led;         // at the last step
    unsigned timers;  // not yet closed
    bool raft_closed;
    void (*closed)(void *user);
    void *closed_user;
};

struct request {
    union {
        struct raft_apply apply;
        struct raft_barrier barrier;
    };
    nl_raft_done done;
    void *user;
};

// ---- steps -------------------------------------------------------------------

static void forget_told_commits(struct nl_raft_node *node) {
    for (unsigned i = 0; i < node->guard.n_peers; i++) {
        node->guard.peers[i].told_commit = 0;
    }
}

// libraft counts entries, but one entry holds from a few bytes to a quarter of a megabyte, and the
// log since the last snapshot is in memory: many bytes bring the next snapshot forward, and large
// entries leave fewer behind it.
static void bound_log(struct nl_raft_node *node) {
    const struct nl_raft_options *o = &node->options;
    const struct nl_guard *g = &node->guard;
    if (g->snapshot != NULL || g->log_entries == 0) {
        return;
    }
    // A snapshot costs in proportion to the whole state, a longer log at the next start to its own
    // length: with a million tasks every 8192 entries would mean snapshots without a pause.
    struct nl_state_counts counts;
    nl_state_counts(o->state, &counts);
    uint64_t threshold = counts.tasks_total / 16;
    threshold = threshold < o->snapshot_threshold ? o->snapshot_threshold : threshold;
    bool large = g->log_bytes > o->snapshot_bytes;
    uint64_t trailing = o->snapshot_bytes / 4 / (g->log_bytes / g->log_entries + 1);
    trailing = trailing < TRAILING_MIN ? TRAILING_MIN : trailing;
    trailing = trailing < o->snapshot_trailing ? trailing : o->snapshot_trailing;
    raft_set_snapshot_threshold(&node->raft, large ? 1 : (unsigned)threshold);
    raft_set_snapshot_trailing(&node->raft, (unsigned)trailing);
}

static void on_push(uv_timer_t *timer) {
    struct nl_raft_node *node = timer->data;
    node->push_due = false;
    nl_push_commit(&node->raft, &node->guard, true);
}

static void on_stepped(void *user) {
    struct nl_raft_node *node = user;
    struct raft *raft = &node->raft;
    bool leads = raft_state(raft) == RAFT_LEADER;
    if (raft_state(raft) == RAFT_UNAVAILABLE) {
        node->events.on_fatal(node->user, raft_errmsg(raft));
    }
    if (raft_last_applied(raft) > nl_state_index(node->options.state)) {
        nl_state_set_index(node->options.state, raft_last_applied(raft));
    }
    if (leads && !node->led) {
        forget_told_commits(node);
    }
    node->led = leads;
    bound_log(node);
    // Who waits for an answer here gets it before the followers are woken.
    node->events.on_step(node->user);
    if (nl_push_commit(raft, &node->guard, false) && !node->push_due) {
        node->push_due = true;
        uv_timer_start(&node->push, on_push, PUSH_MS, 0);
    }
}

static void on_fatal(void *user, const char *why) {
    struct nl_raft_node *node = user;
    node->events.on_fatal(node->user, why);
}

static void on_effect(void *user, const struct nl_effect *effect) {
    struct nl_raft_node *node = user;
    node->events.on_effect(node->user, effect);
}

static void on_restored(void *user) {
    struct nl_raft_node *node = user;
    node->events.on_restored(node->user);
}

static int on_snapshot_write(void *user, uint8_t **ret, size_t *ret_len) {
    struct nl_raft_node *node = user;
    return nl_fsm_snapshot_write(&node->fsm, ret, ret_len);
}

static void on_snapshot_load(void *user, const uint8_t *data, size_t len) {
    struct nl_raft_node *node = user;
    nl_fsm_snapshot_load(&node->fsm, data, len);
}

static void on_watch(uv_timer_t *timer) {
    struct nl_raft_node *node = timer->data;
    nl_guard_watch(&node->guard);
}

// ---- open --------------------------------------------------------------------

static int by_id(const void *a, const void *b) {
    uint64_t x = ((const struct raft_server *)a)->id, y = ((const struct raft_server *)b)->id;
    return (x > y) - (x < y);
}

// Every node of a new cluster writes this as its first entry: it must come out the same
// everywhere, whatever the order of the settings.
static int bootstrap(struct nl_raft_node *node) {
    struct raft_configuration conf;
    int rv = 0;
    raft_configuration_init(&conf);
    for (size_t i = 0; rv == 0 && i < node->options.n_members; i++) {
        const struct nl_raft_member *m = &node->options.members[i];
        rv = raft_configuration_add(&conf, m->id, m->address, RAFT_VOTER);
    }
    if (rv == 0) {
        qsort(conf.servers, conf.n, sizeof *conf.servers, by_id);
        rv = raft_bootstrap(&node->raft, &conf);
    }
    raft_configuration_close(&conf);
    return rv;
}

static int error_of(int rv) {
    switch (rv) {
        case RAFT_NOMEM:
            return NL_ENOMEM;
        case RAFT_CORRUPT:
        case RAFT_MALFORMED:
            return NL_ECORRUPT;
        case RAFT_NAMETOOLONG:
        case RAFT_DUPLICATEID:
        case RAFT_DUPLICATEADDRESS:
        case RAFT_BADID:
            return NL_EINVAL;
        default:
            return NL_EIO;
    }
}

static void configure(struct nl_raft_node *node) {
    struct raft *raft = &node->raft;
    const struct nl_raft_options *o = &node->options;
    unsigned seed;
    nl_random_bytes(&seed, sizeof seed);
    raft_seed(raft, seed);
    raft_set_heartbeat_timeout(raft, o->heartbeat_ms);
    raft_set_election_timeout(raft, o->election_timeout_ms);
    raft_set_pre_vote(raft, true);
    raft_set_install_snapshot_timeout(raft, INSTALL_SNAPSHOT_MS);
    raft_set_max_inflight_entries(raft, INFLIGHT_ENTRIES);
    // The default refuses entries while no prepared segment is at hand, and a node that wins an
    // election just then dies of an assertion (its own barrier is refused). Room on the disk is
    // watched by cluster.c.
    raft_set_capacity_threshold(raft, 0);
    raft_set_snapshot_threshold(raft, o->snapshot_threshold);
    raft_set_snapshot_trailing(raft, o->snapshot_trailing);
    if (getenv("LIBRAFT_TRACE") == NULL) {
        raft->tracer = NULL;  // it would format every message and then drop the text
    }
}

static int init_io(struct nl_raft_node *node) {
    static const struct nl_guard_hooks hooks = {.stepped = on_stepped,
                                                .fatal = on_fatal,
                                                .snapshot_write = on_snapshot_write,
                                                .snapshot_load = on_snapshot_load};
    struct nl_guard_hooks own = hooks;
    struct raft_io *inner = &node->guard.inner;
    int rv = raft_uv_init(inner, node->options.loop, node->options.dir,
                          nl_transport_raft(node->transport));
    if (rv != 0) {
        return rv;
    }
    raft_uv_set_auto_recovery(inner, false);
    raft_uv_set_connect_retry_delay(inner, CONNECT_RETRY_MS);
    raft_uv_set_disk_retry(inner, DISK_RETRY_MS);
    if (getenv("LIBRAFT_TRACE") == NULL) {
        raft_uv_set_tracer(inner, NULL);
    }
    own.user = node;
    node->guard.mark.fd = -1;
    nl_guard_init(&node->guard, node->options.loop, &own);
    return 0;
}

static void init_fsm(struct nl_raft_node *node) {
    node->fsm.instance = &node->raft;
    node->fsm.state = node->options.state;
    node->fsm.on_effect = on_effect;
    node->fsm.on_restored = on_restored;
    node->fsm.on_fatal = on_fatal;
    node->fsm.user = node;
    node->fsm.reaper = &node->guard.reaper;
    nl_fsm_init(&node->fsm);
}

static const char *own_address(const struct nl_raft_options *options) {
    for (size_t i = 0; i < options->n_members; i++) {
        if (options->members[i].id == options->id) {
            return options->members[i].address;
        }
    }
    return NULL;
}

static void node_free(struct nl_raft_node *node) {
    nl_transport_free(node->transport);
    nl_fsm_close(&node->fsm);
    free(node);
}

static void free_abandoned(void *user) {
    node_free(user);
}

// A log that ends before what was known to be stored has lost its end: libraft took damage for a
// write that was cut off.
static int check_mark(struct nl_raft_node *node, uint64_t last) {
    struct raft *raft = &node->raft;
    uint64_t stored = node->guard.mark.index;
    if (last >= stored) {
        return 0;
    }
    snprintf(raft->errmsg, sizeof raft->errmsg,
             "the log ends at entry %llu, but entry %llu was stored: it is damaged",
             (unsigned long long)last, (unsigned long long)stored);
    return RAFT_CORRUPT;
}

static int raft_code(int rv) {
    return rv == NL_OK         ? 0
           : rv == NL_ECORRUPT ? RAFT_CORRUPT
           : rv == NL_ENOMEM   ? RAFT_NOMEM
                               : RAFT_IOERR;
}

// Before libraft loads the segments, because it changes them while it does.
static int check_segments(struct nl_raft_node *node) {
    struct raft *raft = &node->raft;
    uint64_t last = 0;
    int rv = nl_segments_last(node->options.dir, &last, raft->errmsg, sizeof raft->errmsg);
    return rv == NL_OK ? check_mark(node, last) : raft_code(rv);
}

// A crash while a leader's snapshot took the place of the log may leave both, or parts.
static int finish_install(struct nl_raft_node *node) {
    struct nl_mark *mark = &node->guard.mark;
    struct raft *raft = &node->raft;
    if (mark->install_index == 0) {
        return 0;
    }
    nl_log(NL_LOG_INFO, "raft", "a snapshot was being installed", "index",
           nl_log_u64(mark->install_index).s, "term", nl_log_u64(mark->install_term).s, NULL);
    int rv = nl_segments_finish_install(node->options.dir, mark->install_index, mark->install_term,
                                        raft->errmsg, sizeof raft->errmsg);
    return raft_code(rv == NL_OK ? nl_mark_install_end(mark) : rv);
}

static int open_mark(struct nl_raft_node *node) {
    int rv =
        NL_FAILPOINT("start.mark") ? NL_EIO : nl_mark_open(&node->guard.mark, node->options.dir);
    if (rv != NL_OK) {
        snprintf(node->raft.errmsg, sizeof node->raft.errmsg, "file \"stored\": %s",
                 nl_strerror(rv));
    }
    return raft_code(rv);
}

static int start(struct nl_raft_node *node, const char **ret_step) {
    int rv = 0;
    configure(node);
    if (node->options.bootstrap) {
        *ret_step = "can't write the first configuration";
        rv = bootstrap(node);
    }
    if (rv == 0) {
        *ret_step = "can't load the log";
        rv = open_mark(node);
    }
    rv = rv == 0 ? finish_install(node) : rv;
    rv = rv == 0 ? check_segments(node) : rv;
    if (rv == 0 && NL_FAILPOINT("start.load")) {
        rv = RAFT_IOERR;
    }
    rv = rv == 0 ? raft_start(&node->raft) : rv;
    if (rv == 0 && NL_FAILPOINT("start.loaded")) {
        rv = RAFT_CORRUPT;
    }
    return rv == 0 ? check_mark(node, raft_last_index(&node->raft)) : rv;
}

static void report(const struct nl_raft_node *node, const char *step, const char *said, int rv,
                   char *error_text, size_t error_size) {
    snprintf(error_text, error_size, "%s: %s: %s: %s", node->options.dir, step, raft_strerror(rv),
             said);
}

static int open_transport(struct nl_raft_node *node, char *error_text, size_t error_size) {
    const struct nl_raft_options *o = &node->options;
    struct nl_transport_options options = {
        .loop = o->loop,
        .cluster_name = o->cluster_name,
        .id = o->id,
        .listen_address = o->listen_address,
        .members = o->members,
        .n_members = o->n_members,
        .secret = o->secret,
        .secret_len = o->secret_len,
        .tls = o->tls,
    };
    return nl_transport_new(&options, &node->transport, error_text, error_size);
}

// After a failure only the transport has handles.
static int init(struct nl_raft_node *node, char *error_text, size_t error_size) {
    const char *step = "can't open the log";
    init_fsm(node);
    int rv = NL_FAILPOINT("start.raft_io") ? RAFT_NOMEM : init_io(node);
    if (rv != 0) {
        report(node, step, node->guard.inner.errmsg, rv, error_text, error_size);
        return rv;
    }
    rv = raft_init(&node->raft, &node->guard.io, &node->fsm.raft, node->options.id,
                   own_address(&node->options));
    if (rv != 0) {
        report(node, step, node->raft.errmsg, rv, error_text, error_size);
        raft_uv_close(&node->guard.inner);
    }
    return rv;
}

static void start_timers(struct nl_raft_node *node) {
    uv_timer_init(node->options.loop, &node->watch);
    uv_timer_init(node->options.loop, &node->push);
    node->watch.data = node->push.data = node;
    node->timers = 2;
    uv_timer_start(&node->watch, on_watch, WATCH_MS, WATCH_MS);
}

int nl_raft_open(const struct nl_raft_options *options, const struct nl_raft_events *events,
                 void *user, struct nl_raft_node **ret, char *error_text, size_t error_size) {
    const char *step = "";
    struct nl_raft_node *node = calloc(1, sizeof *node);
    if (node == NULL) {
        snprintf(error_text, error_size, "no memory");
        return NL_ENOMEM;
    }
    node->options = *options;
    node->events = *events;
    node->user = user;
    int rv = open_transport(node, error_text, error_size);
    if (rv != NL_OK) {
        free(node);
        return rv;
    }
    rv = init(node, error_text, error_size);
    if (rv != 0) {
        nl_transport_abandon(node->transport, free_abandoned, node);
        return error_of(rv);
    }
    start_timers(node);
    rv = start(node, &step);
    if (rv != 0) {
        report(node, step, raft_errmsg(&node->raft), rv, error_text, error_size);
        nl_raft_close(node, NULL, NULL);
        return error_of(rv);
    }
    node->fsm.started = true;
    *ret = node;
    return NL_OK;
}

// ---- close -------------------------------------------------------------------

static void maybe_closed(struct nl_raft_node *node) {
    if (node->timers > 0 || !node->raft_closed) {
        return;
    }
    void (*closed)(void *) = node->closed;
    void *user = node->closed_user;
    raft_uv_close(&node->guard.inner);
    nl_mark_close(&node->guard.mark);
    node_free(node);
    if (closed != NULL) {
        closed(user);
    }
}

static void on_timer_closed(uv_handle_t *handle) {
    struct nl_raft_node *node = handle->data;
    node->timers--;
    maybe_closed(node);
}

static void on_raft_closed(struct raft *raft) {
    struct nl_raft_node *node = (void *)((char *)raft - offsetof(struct nl_raft_node, raft));
    node->raft_closed = true;
    maybe_closed(node);
}

void nl_raft_close(struct nl_raft_node *node, void (*done)(void *user), void *user) {
    node->closed = done;
    node->closed_user = user;
    uv_close((uv_handle_t *)&node->watch, on_timer_closed);
    uv_close((uv_handle_t *)&node->push, on_timer_closed);
    raft_close(&node->raft, on_raft_closed);
}

void nl_raft_hurry(struct nl_raft_node *node, uint64_t id) {
    nl_push_hurry(&node->guard, id);
}

// ---- requests ------------------------------------------------------------------

static bool takes_entries(struct nl_raft_node *node) {
    return raft_state(&node->raft) == RAFT_LEADER && raft_transferee(&node->raft) == 0;
}

static void request_done(struct request *request, int status) {
    nl_raft_done done = request->done;
    void *user = request->user;
    free(request);
    done(user, status == 0 ? NL_OK : NL_EUNKNOWN);
}

static void on_applied(struct raft_apply *req, int status, void *result) {
    (void)result;
    request_done(req->data, status);
}

static void on_barrier(struct raft_barrier *req, int status) {
    request_done(req->data, status);
}

static struct request *request_new(nl_raft_done done, void *user) {
    struct request *request = calloc(1, sizeof *request);
    if (request != NULL) {
        request->done = done;
        request->user = user;
    }
    return request;
}

// What libraft refuses although it leads is lack of memory. It has then freed or kept the entry,
// depending on where it failed, so the node can't go on.
static int refused(struct nl_raft_node *node, struct request *request, int rv) {
    free(request);
    if (rv != RAFT_NOTLEADER) {
        node->events.on_fatal(node->user, raft_strerror(rv));
    }
    return NL_ENOTLEADER;
}

int nl_raft_append(struct nl_raft_node *node, struct nl_frame *frame, nl_raft_done done,
                   void *user) {
    struct raft_buffer buf;
    uint8_t *data;
    if (!takes_entries(node)) {
        return NL_ENOTLEADER;
    }
    struct request *request = request_new(done, user);
    if (request == NULL) {
        return NL_ENOMEM;
    }
    int rv = nl_frame_finish(frame, &data, &buf.len);
    if (rv != NL_OK) {
        free(request);
        return rv;
    }
    buf.base = data;
    request->apply.data = request;
    nl_guard_hold_appends(&node->guard);
    rv = raft_apply(&node->raft, &request->apply, &buf, 1, on_applied);
    nl_guard_release_appends(&node->guard);
    if (rv == RAFT_NOTLEADER) {
        free(data);
    }
    return rv == 0 ? NL_OK : refused(node, request, rv);
}

int nl_raft_barrier(struct nl_raft_node *node, nl_raft_done done, void *user) {
    if (!takes_entries(node)) {
        return NL_ENOTLEADER;
    }
    struct request *request = request_new(done, user);
    if (request == NULL) {
        return NL_ENOMEM;
    }
    request->barrier.data = request;
    nl_guard_hold_appends(&node->guard);
    int rv = raft_barrier(&node->raft, &request->barrier, on_barrier);
    nl_guard_release_appends(&node->guard);
    return rv == 0 ? NL_OK : refused(node, request, rv);
}

static void on_transferred(struct raft_transfer *req) {
    struct nl_raft_node *node = req->data;
    nl_raft_done done = node->transfer_done;
    node->transfer_done = NULL;
    done(node->transfer_user, NL_OK);
}

int nl_raft_transfer(struct nl_raft_node *node, uint64_t id, nl_raft_done done, void *user) {
    if (node->transfer_done != NULL) {
        return NL_EAGAIN;
    }
    if (!takes_entries(node)) {
        return NL_ENOTLEADER;
    }
    node->transfer.data = node;
    node->transfer_done = done;
    node->transfer_user = user;
    int rv = raft_transfer(&node->raft, &node->transfer, id, on_transferred);
    if (rv != 0) {
        node->transfer_done = NULL;
        return rv == RAFT_NOTLEADER ? NL_ENOTLEADER : NL_EINVAL;
    }
    return NL_OK;
}

// ---- status ------------------------------------------------------------------

static const struct raft_server *server_of(const struct nl_raft_node *node, uint64_t id) {
    const struct raft_configuration *conf = &node->raft.configuration;
    for (unsigned i = 0; i < conf->n; i++) {
        if (conf->servers[i].id == id) {
            return &conf->servers[i];
        }
    }
    return NULL;
}

static enum nl_raft_role role_of(struct nl_raft_node *node) {
    switch (raft_state(&node->raft)) {
        case RAFT_LEADER:
            return NL_RAFT_LEADER;
        case RAFT_CANDIDATE:
            return NL_RAFT_CANDIDATE;
        case RAFT_FOLLOWER:
            return raft_role(&node->raft) == RAFT_VOTER ? NL_RAFT_FOLLOWER : NL_RAFT_LEARNER;
        case RAFT_UNAVAILABLE:
            break;
    }
    return NL_RAFT_UNAVAILABLE;
}

void nl_raft_info(struct nl_raft_node *node, struct nl_raft_info *ret) {
    raft_id leader = 0;
    const char *address;
    raft_leader(&node->raft, &leader, &address);
    ret->role = role_of(node);
    ret->term = raft_current_term(&node->raft);
    ret->commit = raft_commit_index(&node->raft);
    ret->applied = raft_last_applied(&node->raft);
    ret->last = raft_last_index(&node->raft);
    ret->leader = ret->role == NL_RAFT_LEADER ? node->options.id : leader;
    ret->snapshots_taken = node->guard.snapshots_taken;
}

uint64_t nl_raft_append_p99_us(const struct nl_raft_node *node) {
    return nl_histogram_recent_percentile(&node->guard.append_us, 99);
}

uint64_t nl_raft_seen_ms(const struct nl_raft_node *node, uint64_t id) {
    for (unsigned i = 0; i < node->guard.n_peers; i++) {
        if (node->guard.peers[i].id == id) {
            return node->guard.peers[i].seen_ms;
        }
    }
    return 0;
}

const char *nl_raft_member_role(const struct nl_raft_node *node, uint64_t id) {
    const struct raft_server *server = server_of(node, id);
    if (server == NULL) {
        return NULL;
    }
    switch (server->role) {
        case RAFT_VOTER:
            return "voter";
        case RAFT_STANDBY:
            return "learner";
        default:
            return "spare";
    }
}

uint64_t nl_raft_match(const struct nl_raft_node *node, uint64_t id) {
    raft_index match = 0;
    return raft_match_index(&node->raft, id, &match) == 0 ? match : 0;
}

int nl_raft_reload_tls(struct nl_raft_node *node, char *error_text, size_t error_size) {
    return nl_transport_reload_tls(node->transport, error_text, error_size);
}

uint16_t nl_raft_port(const struct nl_raft_node *node) {
    return nl_transport_port(node->transport);
}
