#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/err.h"
#include "tests/unit/cluster/fixture.h"

static struct fixture f;

static int setup3(void **state) {
    (void)state;
    fixture_open(&f, 3);
    return 0;
}

static int setup1(void **state) {
    (void)state;
    fixture_open(&f, 1);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    fixture_close(&f);
    return 0;
}

static void start_all(void) {
    for (unsigned i = 0; i < f.n; i++) {
        fixture_start(&f, i);
    }
    assert_true(fixture_leader(&f) >= 0);
    for (unsigned i = 0; i < f.n; i++) {
        fixture_node_up(&f, i);
    }
}

static void assert_ok(const struct result *r) {
    assert_int_equal(r->result, NL_OK);
    assert_int_equal(r->outcome.code, NL_OUTCOME_OK);
    assert_true(r->index > 0);
    assert_true(r->term > 0);
}

static void make_agent(unsigned node) {
    struct result r;
    assert_int_equal(propose_token(&f, node, "a", &r), NL_OK);
    fixture_wait(&f, &r);
    assert_ok(&r);
}

static void single_node(void **state) {
    struct result r;
    (void)state;
    start_all();
    // It leads from the start on, and its user is told so: it has a leader's duties.
    for (int turns = 0; f.nodes[0].role != NL_ROLE_LEADER && turns < 100; turns++) {
        uv_run(&f.loop, UV_RUN_NOWAIT);
    }
    assert_int_equal(f.nodes[0].role, NL_ROLE_LEADER);
    make_agent(0);
    assert_int_equal(propose_register(&f, 0, "a", 0, &r), NL_OK);
    fixture_wait(&f, &r);
    assert_ok(&r);
    memset(&r, 0, sizeof r);
    assert_int_equal(nl_cluster_read(f.nodes[0].cluster, 0, on_read, &r), NL_OK);
    fixture_wait(&f, &r);
    assert_int_equal(r.result, NL_OK);
}

// A read after an acknowledged write sees it, whichever nodes they went through.
static void write_and_read_through_every_node(void **state) {
    struct result r;
    uint64_t epoch = 0;
    (void)state;
    start_all();
    make_agent(1);
    for (unsigned writer = 0; writer < 3; writer++) {
        for (unsigned reader = 0; reader < 3; reader++) {
            assert_int_equal(propose_register(&f, writer, "a", 0, &r), NL_OK);
            fixture_wait(&f, &r);
            assert_ok(&r);
            assert_int_equal(r.outcome.value, ++epoch);
            assert_int_equal(epoch_at(&f, writer, "a"), epoch);
            uint64_t written_at = r.index;
            memset(&r, 0, sizeof r);
            assert_int_equal(nl_cluster_read(f.nodes[reader].cluster, 0, on_read, &r), NL_OK);
            fixture_wait(&f, &r);
            assert_int_equal(r.result, NL_OK);
            assert_true(r.index >= written_at);
            assert_int_equal(epoch_at(&f, reader, "a"), epoch);
        }
    }
    fixture_assert_equal(&f);
}

struct load {
    struct result results[600];
    unsigned n;
};

static bool load_done(struct fixture *fixture, void *arg) {
    struct load *load = arg;
    (void)fixture;
    for (unsigned i = 0; i < load->n; i++) {
        if (load->results[i].calls == 0) {
            return false;
        }
    }
    return true;
}

static unsigned count(const struct load *load, int result) {
    unsigned n = 0;
    for (unsigned i = 0; i < load->n; i++) {
        assert_int_equal(load->results[i].calls, 1);
        n += load->results[i].result == result;
    }
    return n;
}

static void propose_many(struct load *load, unsigned node, unsigned n, uint64_t timeout_ms) {
    for (unsigned i = 0; i < n; i++) {
        int rv = propose_register(&f, node, "a", timeout_ms, &load->results[load->n++]);
        assert_int_equal(rv, NL_OK);
    }
}

static unsigned other_than(unsigned node) {
    return node == 0 ? 1 : 0;
}

static bool epochs_equal(struct fixture *fixture, void *arg) {
    uint64_t want = *(uint64_t *)arg;
    for (unsigned i = 0; i < fixture->n; i++) {
        if (fixture->nodes[i].cluster != NULL && epoch_at(fixture, i, "a") != want) {
            return false;
        }
    }
    return true;
}

// The leader goes away with proposals of all nodes under way: each applies once, and those of the
// nodes that stay end with NL_OK.
static void leader_stops_under_load(void **state) {
    static struct load stayed, left;
    (void)state;
    memset(&stayed, 0, sizeof stayed);
    memset(&left, 0, sizeof left);
    start_all();
    make_agent(0);
    unsigned leader = (unsigned)fixture_leader(&f);
    for (unsigned i = 0; i < 3; i++) {
        propose_many(i == leader ? &left : &stayed, i, 100, 20000);
    }
    uv_run(&f.loop, UV_RUN_NOWAIT);
    uv_run(&f.loop, UV_RUN_NOWAIT);
    fixture_stop(&f, leader);
    for (unsigned i = 0; i < 3; i++) {
        if (i != leader) {
            propose_many(&stayed, i, 50, 20000);
        }
    }
    assert_true(fixture_until(&f, 30000, load_done, &stayed));
    assert_true(load_done(&f, &left));
    assert_int_equal(count(&stayed, NL_OK), 300);
    fixture_assert_equal(&f);
    uint64_t epoch = epoch_at(&f, other_than(leader), "a");
    unsigned sure = count(&left, NL_OK), unsure = count(&left, NL_EUNKNOWN);
    assert_true(epoch >= 300 + sure && epoch <= 300 + sure + unsure);
    fixture_start(&f, leader);
    assert_true(fixture_until(&f, 30000, epochs_equal, &epoch));
    fixture_assert_equal(&f);
}

static void follower_restarts_under_load(void **state) {
    static struct load load;
    (void)state;
    memset(&load, 0, sizeof load);
    start_all();
    make_agent(0);
    unsigned leader = (unsigned)fixture_leader(&f);
    unsigned follower = other_than(leader);
    fixture_stop(&f, follower);
    propose_many(&load, leader, 200, 0);
    assert_true(fixture_until(&f, 30000, load_done, &load));
    assert_int_equal(count(&load, NL_OK), 200);
    fixture_start(&f, follower);
    uint64_t epoch = 200;
    assert_true(fixture_until(&f, 30000, epochs_equal, &epoch));
    fixture_assert_equal(&f);
}

// Entries one after the other, so that each is an entry of its own and snapshots come about.
static void propose_in_turn(unsigned node, unsigned n) {
    struct result r;
    for (unsigned i = 0; i < n; i++) {
        assert_int_equal(propose_register(&f, node, "a", 0, &r), NL_OK);
        fixture_wait(&f, &r);
        assert_ok(&r);
    }
}

static bool have_snapshots(struct fixture *fixture, unsigned n) {
    struct nl_cluster_status status;
    for (unsigned i = 0; i < fixture->n; i++) {
        if (fixture->nodes[i].cluster == NULL) {
            continue;
        }
        nl_cluster_status(fixture->nodes[i].cluster, &status);
        if (status.snapshots_taken < n) {
            return false;
        }
    }
    return true;
}

static bool have_a_snapshot(struct fixture *fixture, void *arg) {
    (void)arg;
    return have_snapshots(fixture, 1);
}

// A node that missed more than the log still holds gets a snapshot; its proposals go on; the whole
// cluster restarts from its snapshots with the same state.
static void snapshots(void **state) {
    (void)state;
    f.snapshot_threshold = 20;
    f.snapshot_trailing = 5;
    start_all();
    make_agent(0);
    unsigned leader = (unsigned)fixture_leader(&f);
    unsigned follower = other_than(leader);
    fixture_stop(&f, follower);
    // The second one is past all that the follower has, even after a few elections more.
    uint64_t epoch = 60;
    propose_in_turn(leader, 60);
    for (; !have_snapshots(&f, 2); epoch++) {
        assert_true(epoch < 5000);
        propose_in_turn(leader, 1);
    }
    fixture_start(&f, follower);
    assert_true(fixture_until(&f, 30000, epochs_equal, &epoch));
    assert_true(f.nodes[follower].restored > 0);
    fixture_node_up(&f, follower);
    propose_in_turn(follower, 30);
    fixture_assert_equal(&f);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(nl_cluster_boot(f.nodes[i].cluster), i == follower ? 2 : 1);
        fixture_stop(&f, i);
    }
    start_all();
    epoch += 30;
    assert_true(fixture_until(&f, 30000, epochs_equal, &epoch));
    fixture_assert_equal(&f);
}

// Few but large entries bring a snapshot forward.
static void snapshot_by_bytes(void **state) {
    static char reason[20000];
    Nodelink__V1__Command command = NODELINK__V1__COMMAND__INIT;
    Nodelink__V1__AgentDisconnect body = NODELINK__V1__AGENT_DISCONNECT__INIT;
    (void)state;
    f.snapshot_bytes = 100000;
    start_all();
    memset(reason, 'x', sizeof reason - 1);
    body.agent_id = (char *)(uintptr_t) "nobody";
    body.reason = reason;
    command.body_case = NODELINK__V1__COMMAND__BODY_AGENT_DISCONNECT;
    command.agent_disconnect = &body;
    for (int i = 0; i < 20; i++) {
        struct result r = {0};
        assert_int_equal(nl_cluster_propose(f.nodes[0].cluster, &command, 0, on_proposed, &r),
                         NL_OK);
        fixture_wait(&f, &r);
        assert_int_equal(r.result, NL_OK);
    }
    assert_true(fixture_until(&f, 10000, have_a_snapshot, NULL));
    fixture_assert_equal(&f);
}

// Alone among three: no read is answered, no write is done, and both say so in time.
static void cut_off_node_answers_nothing(void **state) {
    struct result read = {0}, write;
    (void)state;
    start_all();
    make_agent(0);
    unsigned leader = (unsigned)fixture_leader(&f);
    unsigned alone = other_than(leader);
    for (unsigned i = 0; i < 3; i++) {
        if (i != alone) {
            fixture_stop(&f, i);
        }
    }
    assert_int_equal(nl_cluster_read(f.nodes[alone].cluster, 800, on_read, &read), NL_OK);
    assert_int_equal(propose_register(&f, alone, "a", 800, &write), NL_OK);
    fixture_wait(&f, &read);
    fixture_wait(&f, &write);
    assert_true(read.result == NL_ENOQUORUM || read.result == NL_ETIMEOUT);
    assert_int_equal(write.result, NL_ENOQUORUM);
    struct nl_cluster_status status;
    nl_cluster_status(f.nodes[alone].cluster, &status);
    assert_false(status.quorum);
    assert_true(status.leaderless_ms > 0);
}

// A leader that lost its followers: what it took in before it noticed is unknown, and afterwards
// can't apply late.
static void deposed_leader(void **state) {
    static struct load load;
    struct result read = {0};
    (void)state;
    memset(&load, 0, sizeof load);
    start_all();
    make_agent(0);
    unsigned leader = (unsigned)fixture_leader(&f);
    uint64_t before = epoch_at(&f, leader, "a");
    for (unsigned i = 0; i < 3; i++) {
        if (i != leader) {
            fixture_stop(&f, i);
        }
    }
    propose_many(&load, leader, 20, 1000);
    assert_int_equal(nl_cluster_read(f.nodes[leader].cluster, 1000, on_read, &read), NL_OK);
    assert_true(fixture_until(&f, 30000, load_done, &load));
    fixture_wait(&f, &read);
    assert_int_not_equal(read.result, NL_OK);
    assert_int_equal(count(&load, NL_OK), 0);
    assert_int_equal(epoch_at(&f, leader, "a"), before);
    for (unsigned i = 0; i < 3; i++) {
        if (i != leader) {
            fixture_start(&f, i);
        }
    }
    assert_true(fixture_leader(&f) >= 0);
    struct result r;
    assert_int_equal(propose_register(&f, leader, "a", 0, &r), NL_OK);
    fixture_wait(&f, &r);
    assert_ok(&r);
    fixture_assert_equal(&f);
    assert_true(epoch_at(&f, leader, "a") <= before + 21);
}

static void on_stepped_down(void *user) {
    (*(unsigned *)user)++;
}

static bool is_set(struct fixture *fixture, void *arg) {
    (void)fixture;
    return *(unsigned *)arg > 0;
}

static void step_down(void **state) {
    unsigned called = 0;
    (void)state;
    start_all();
    unsigned leader = (unsigned)fixture_leader(&f);
    uint64_t start = nl_clock_mono_ms();
    nl_cluster_step_down(f.nodes[leader].cluster, 5000, on_stepped_down, &called);
    assert_true(fixture_until(&f, 10000, is_set, &called));
    int next = fixture_leader(&f);
    assert_int_not_equal(next, leader);
    print_message("hand-over of leadership: %llu ms\n",
                  (unsigned long long)(nl_clock_mono_ms() - start));
}

static void wait_applied(void **state) {
    struct result past = {0}, later = {0}, never = {0};
    struct nl_cluster_status status;
    (void)state;
    start_all();
    make_agent(0);
    nl_cluster_status(f.nodes[1].cluster, &status);
    struct nl_cluster *cluster = f.nodes[1].cluster;
    assert_int_equal(nl_cluster_wait_applied(cluster, 1, 0, on_read, &past), NL_OK);
    assert_int_equal(nl_cluster_wait_applied(cluster, status.applied + 3, 0, on_read, &later),
                     NL_OK);
    assert_int_equal(nl_cluster_wait_applied(cluster, status.applied + 1000, 300, on_read, &never),
                     NL_OK);
    assert_int_equal(past.calls, 0);
    fixture_wait(&f, &past);
    assert_int_equal(past.result, NL_OK);
    propose_in_turn(2, 5);
    fixture_wait(&f, &later);
    assert_int_equal(later.result, NL_OK);
    assert_true(later.index >= status.applied + 3);
    fixture_wait(&f, &never);
    assert_int_equal(never.result, NL_ETIMEOUT);
}

static bool peers_seen(struct fixture *fixture, void *arg) {
    (void)arg;
    for (unsigned i = 0; i < 3; i++) {
        const struct nl_cluster_peer_status *p = NULL;
        unsigned n = 0;
        for (uint64_t id = 0; (p = nl_cluster_peer_next(fixture->nodes[i].cluster, id)) != NULL;
             id = p->id) {
            assert_string_equal(p->role, "voter");
            n += p->last_seen_ms < 1000 && p->boot == 1;
        }
        if (n != 3) {
            return false;
        }
    }
    return true;
}

static void peer_status(void **state) {
    (void)state;
    start_all();
    assert_true(fixture_until(&f, 10000, peers_seen, NULL));
}

// ---- coming and going ----------------------------------------------------------

struct busy {
    struct node *node;
    bool on;  // goes on proposing
    unsigned in_flight, ok, unknown, not_done;
};

static void propose_one(struct busy *b);

static void on_busy(void *user, int result, struct nl_outcome outcome, uint64_t index,
                    uint64_t term) {
    struct busy *b = user;
    (void)index;
    (void)term;
    b->in_flight--;
    if (result == NL_OK) {
        // A start of the node whose NodeUp came later is refused as stale: not applied either.
        b->ok += outcome.code == NL_OUTCOME_OK;
    } else if (result == NL_EUNKNOWN) {
        b->unknown++;
    } else {
        b->not_done++;
    }
    propose_one(b);
}

static void propose_one(struct busy *b) {
    Nodelink__V1__Command command = NODELINK__V1__COMMAND__INIT;
    Nodelink__V1__AgentRegister reg = NODELINK__V1__AGENT_REGISTER__INIT;
    if (!b->on || b->node->cluster == NULL) {
        return;
    }
    reg.agent_id = (char *)(uintptr_t) "a";
    reg.node = b->node->index + 1;
    reg.node_boot = nl_cluster_boot(b->node->cluster);
    reg.token_sha256.data = (uint8_t *)(uintptr_t)fixture_token;
    reg.token_sha256.len = sizeof fixture_token;
    command.body_case = NODELINK__V1__COMMAND__BODY_AGENT_REGISTER;
    command.agent_register = &reg;
    if (nl_cluster_propose(b->node->cluster, &command, 3000, on_busy, b) == NL_OK) {
        b->in_flight++;
    }
}

static bool for_a_while(struct fixture *fixture, void *arg) {
    (void)fixture;
    return nl_clock_mono_ms() >= *(uint64_t *)arg;
}

static bool all_answered(struct fixture *fixture, void *arg) {
    const struct busy *b = arg;
    return b[0].in_flight + b[1].in_flight + b[2].in_flight == 0 && fixture->n == 3;
}

static void start_busy(struct busy *b) {
    fixture_node_up(&f, b->node->index);
    b->on = true;
    for (int i = 0; i < 20; i++) {
        propose_one(b);
    }
}

// Nodes stop and start at random under load, with small snapshots. In the end every write that was
// answered NL_OK is there once, and none beyond those that may be.
static void nodes_come_and_go(void **state) {
    enum { ROUNDS = 24 };
    struct busy busy[3] = {{.node = &f.nodes[0]}, {.node = &f.nodes[1]}, {.node = &f.nodes[2]}};
    unsigned ok = 0, unknown = 0, not_done = 0;
    unsigned seed = (unsigned)nl_clock_wall_ms();
    (void)state;
    print_message("seed %u\n", seed);
    srand(seed);
    f.snapshot_threshold = 100;
    f.snapshot_trailing = 10;
    start_all();
    make_agent(0);
    for (unsigned i = 0; i < 3; i++) {
        start_busy(&busy[i]);
    }
    for (int round = 0; round < ROUNDS; round++) {
        unsigned i = (unsigned)rand() % 3;
        uint64_t until = nl_clock_mono_ms() + (unsigned)rand() % 300;
        fixture_until(&f, 10000, for_a_while, &until);
        busy[i].on = false;
        fixture_stop(&f, i);
        until = nl_clock_mono_ms() + (unsigned)rand() % 300;
        fixture_until(&f, 10000, for_a_while, &until);
        fixture_start(&f, i);
        start_busy(&busy[i]);
    }
    for (unsigned i = 0; i < 3; i++) {
        busy[i].on = false;
    }
    assert_true(fixture_until(&f, 30000, all_answered, busy));
    for (unsigned i = 0; i < 3; i++) {
        ok += busy[i].ok;
        unknown += busy[i].unknown;
        not_done += busy[i].not_done;
    }
    fixture_assert_equal(&f);
    uint64_t epoch = epoch_at(&f, 0, "a");
    print_message("%u done, %u unknown, %u not done; applied %llu\n", ok, unknown, not_done,
                  (unsigned long long)epoch);
    assert_true(epoch >= ok && epoch <= ok + unknown);
}

// ---- figures -----------------------------------------------------------------

static int compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

struct lag {
    unsigned node;
    uint64_t epoch;
};

static bool has_epoch(struct fixture *fixture, void *arg) {
    struct lag *lag = arg;
    return epoch_at(fixture, lag->node, "a") >= lag->epoch;
}

// How soon a follower has applied what the leader has: without the commit push it is a heartbeat.
static void commit_push(void **state) {
    enum { ROUNDS = 100 };
    uint64_t us[ROUNDS];
    struct result r;
    (void)state;
    start_all();
    make_agent(0);
    unsigned leader = (unsigned)fixture_leader(&f);
    for (unsigned i = 0; i < ROUNDS; i++) {
        struct lag lag = {other_than(leader), i + 1};
        assert_int_equal(propose_register(&f, leader, "a", 0, &r), NL_OK);
        fixture_wait(&f, &r);
        uint64_t start = nl_clock_mono_us();
        assert_true(fixture_until(&f, 10000, has_epoch, &lag));
        us[i] = nl_clock_mono_us() - start;
    }
    qsort(us, ROUNDS, sizeof us[0], compare);
    print_message("follower lag behind the leader: p50 %llu us, p95 %llu us, max %llu us\n",
                  (unsigned long long)us[ROUNDS / 2], (unsigned long long)us[ROUNDS * 95 / 100],
                  (unsigned long long)us[ROUNDS - 1]);
    assert_true(us[ROUNDS / 2] < 25000);  // half a heartbeat
}

struct stream {
    unsigned node;
    unsigned left, in_flight;
    uint64_t us[20000];
    unsigned n;
};

struct flight {
    struct stream *stream;
    uint64_t start_us;
};

static void on_flown(void *user, int result, struct nl_outcome outcome, uint64_t index,
                     uint64_t term) {
    struct flight *flight = user;
    struct stream *stream = flight->stream;
    (void)outcome;
    (void)index;
    (void)term;
    assert_int_equal(result, NL_OK);
    stream->us[stream->n++] = nl_clock_mono_us() - flight->start_us;
    stream->in_flight--;
    free(flight);
}

static void fly(struct stream *stream) {
    static uint8_t payload[230];
    Nodelink__V1__Command command = NODELINK__V1__COMMAND__INIT;
    Nodelink__V1__AgentDisconnect body = NODELINK__V1__AGENT_DISCONNECT__INIT;
    struct flight *flight = malloc(sizeof *flight);
    assert_non_null(flight);
    memset(payload, 'x', sizeof payload - 1);
    *flight = (struct flight){stream, nl_clock_mono_us()};
    // Of no agent: an outcome and 256 bytes, and the state stays as it is.
    body.agent_id = (char *)payload;
    command.body_case = NODELINK__V1__COMMAND__BODY_AGENT_DISCONNECT;
    command.agent_disconnect = &body;
    assert_int_equal(
        nl_cluster_propose(f.nodes[stream->node].cluster, &command, 0, on_flown, flight), NL_OK);
    stream->left--;
    stream->in_flight++;
}

static bool flown(struct fixture *fixture, void *arg) {
    struct stream *stream = arg;
    (void)fixture;
    return stream->in_flight == 0 && stream->left == 0;
}

struct pump {
    struct stream *stream;
    unsigned depth;
};

static bool pump(struct fixture *fixture, void *arg) {
    struct pump *p = arg;
    while (p->stream->left > 0 && p->stream->in_flight < p->depth) {
        fly(p->stream);
    }
    return flown(fixture, p->stream);
}

static void measure(const char *from, unsigned node, unsigned depth, unsigned total) {
    static struct stream stream;
    struct pump p = {&stream, depth};
    memset(&stream, 0, sizeof stream);
    stream.node = node;
    stream.left = total;
    uint64_t start = nl_clock_mono_us();
    assert_true(fixture_until(&f, 60000, pump, &p));
    uint64_t took = nl_clock_mono_us() - start;
    qsort(stream.us, stream.n, sizeof stream.us[0], compare);
    print_message("%s, %4u in flight: %6llu commands/s, p50 %llu us, p99 %llu us\n", from, depth,
                  (unsigned long long)((uint64_t)total * 1000000 / took),
                  (unsigned long long)stream.us[stream.n / 2],
                  (unsigned long long)stream.us[stream.n * 99 / 100]);
}

static void reads_in_turn(const char *at, unsigned node) {
    enum { READS = 200 };
    uint64_t us[READS];
    for (unsigned i = 0; i < READS; i++) {
        struct result r = {0};
        uint64_t start = nl_clock_mono_us();
        assert_int_equal(nl_cluster_read(f.nodes[node].cluster, 0, on_read, &r), NL_OK);
        fixture_wait(&f, &r);
        assert_int_equal(r.result, NL_OK);
        us[i] = nl_clock_mono_us() - start;
    }
    qsort(us, READS, sizeof us[0], compare);
    print_message("%s, one read at a time: p50 %llu us, p99 %llu us\n", at,
                  (unsigned long long)us[READS / 2], (unsigned long long)us[READS * 99 / 100]);
}

// Three nodes share this one thread, so the figures are for comparing with earlier ones.
static void figures(void **state) {
    struct nl_cluster_status status;
    (void)state;
    start_all();
    unsigned leader = (unsigned)fixture_leader(&f);
    measure("leader", leader, 1, 500);
    measure("leader", leader, 64, 10000);
    measure("leader", leader, 1024, 20000);
    measure("follower", other_than(leader), 1, 500);
    measure("follower", other_than(leader), 64, 10000);
    measure("follower", other_than(leader), 1024, 20000);
    reads_in_turn("leader", leader);
    reads_in_turn("follower", other_than(leader));
    nl_cluster_status(f.nodes[leader].cluster, &status);
    print_message("append p99 %llu us, longest loop lag %llu us\n",
                  (unsigned long long)status.fsync_p99_us,
                  (unsigned long long)status.loop_lag_max_us);
    fixture_assert_equal(&f);
}

// From the moment the leader is closed to the first write that another node has done.
static void failover_time(void **state) {
    struct result r;
    (void)state;
    start_all();
    make_agent(0);
    unsigned leader = (unsigned)fixture_leader(&f);
    uint64_t start = nl_clock_mono_ms();
    fixture_stop(&f, leader);
    assert_int_equal(propose_register(&f, other_than(leader), "a", 0, &r), NL_OK);
    fixture_wait(&f, &r);
    assert_ok(&r);
    print_message("from the leader's end to the next write: %llu ms\n",
                  (unsigned long long)(nl_clock_mono_ms() - start));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(single_node, setup1, teardown),
        cmocka_unit_test_setup_teardown(write_and_read_through_every_node, setup3, teardown),
        cmocka_unit_test_setup_teardown(leader_stops_under_load, setup3, teardown),
        cmocka_unit_test_setup_teardown(follower_restarts_under_load, setup3, teardown),
        cmocka_unit_test_setup_teardown(snapshots, setup3, teardown),
        cmocka_unit_test_setup_teardown(snapshot_by_bytes, setup3, teardown),
        cmocka_unit_test_setup_teardown(cut_off_node_answers_nothing, setup3, teardown),
        cmocka_unit_test_setup_teardown(deposed_leader, setup3, teardown),
        cmocka_unit_test_setup_teardown(step_down, setup3, teardown),
        cmocka_unit_test_setup_teardown(wait_applied, setup3, teardown),
        cmocka_unit_test_setup_teardown(peer_status, setup3, teardown),
        cmocka_unit_test_setup_teardown(nodes_come_and_go, setup3, teardown),
        cmocka_unit_test_setup_teardown(commit_push, setup3, teardown),
        cmocka_unit_test_setup_teardown(failover_time, setup3, teardown),
        cmocka_unit_test_setup_teardown(figures, setup3, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
