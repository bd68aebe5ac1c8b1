// One scenario for each of the fixes 1 to 3 of scripts/raft/README.md.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <cmocka.h>

#include "tests/raft/child.h"
#include "tests/raft/cluster.h"

static bool is_installing(struct raft_fixture *f, void *arg) {
    const unsigned *server = arg;
    return raft_fixture_get(f, *server)->snapshot.installing;
}

// Server 2 comes back while it takes a snapshot that lasts, and the leader 0, which has
// committed and compacted meanwhile, sends it its own.
static void install_during_snapshot(struct cluster *c) {
    unsigned behind = 2;
    raft_set_snapshot_threshold(cluster_raft(c, 0), 5);
    raft_set_snapshot_trailing(cluster_raft(c, 0), 2);
    for (uint64_t i = 0; i < 20; i++) {
        cluster_commit(c, 0, i);
    }
    raft_fixture_step_until_elapsed(&c->fixture, 200);

    raft_fixture_set_disk_latency(&c->fixture, behind, 1000);
    raft_set_snapshot_threshold(cluster_raft(c, behind), 1);
    raft_fixture_step_until_elapsed(&c->fixture, 150);  // a tick
    REACH(cluster_raft(c, behind)->legacy.snapshot_taking);
    raft_set_snapshot_threshold(cluster_raft(c, behind), 1000);

    cluster_join(c, behind);
    REACH(raft_fixture_step_until(&c->fixture, is_installing, &behind, 800));
    REACH(cluster_raft(c, behind)->legacy.snapshot_taking);
    raft_index index = raft_last_applied(cluster_raft(c, 0));
    REQUIRE(raft_fixture_step_until_applied(&c->fixture, behind, index, 10000));
    REQUIRE(c->machines[behind].sum == c->machines[0].sum);

    cluster_commit(c, 0, 7);
    REQUIRE(raft_fixture_step_until_applied(&c->fixture, behind, index + 1, 10000));
    REQUIRE(c->machines[behind].sum == c->machines[0].sum);
}

// Fix 1. The follower only fell behind.
static void snapshot_of_a_late_follower(void) {
    struct cluster c;
    cluster_start(&c);
    raft_fixture_set_randomized_election_timeout(&c.fixture, 2, 2000);
    cluster_commit(&c, 0, 1);
    raft_fixture_step_until_elapsed(&c.fixture, 200);
    cluster_cut(&c, 2);
    install_during_snapshot(&c);
    cluster_close(&c);
}

// Fix 1, its second half. The follower led before, and its log ends with an entry that was never
// committed: it must not be applied while the leader's snapshot waits.
static void snapshot_of_a_deposed_leader(void) {
    struct cluster c;
    cluster_start(&c);
    raft_fixture_depose(&c.fixture);
    raft_fixture_elect(&c.fixture, 2);
    cluster_commit(&c, 2, 1);
    raft_fixture_step_until_elapsed(&c.fixture, 200);

    cluster_cut(&c, 2);
    cluster_propose(&c, 2, CLUSTER_MARKED);
    REACH(raft_fixture_step_until_state_is(&c.fixture, 2, RAFT_FOLLOWER, 5000));
    REACH(raft_fixture_step_until_state_is(&c.fixture, 0, RAFT_LEADER, 20000));
    install_during_snapshot(&c);
    REQUIRE(!c.machines[2].marked_applied);
    cluster_close(&c);
}

// Fix 2. A follower gets a command and a configuration change in one message.
static void change_second_in_its_batch(void) {
    struct cluster c;
    cluster_start(&c);
    raft_fixture_disconnect(&c.fixture, 0, 2);
    cluster_commit(&c, 0, 1);
    struct raft_change change;
    REACH(raft_add(cluster_raft(&c, 0), &change, 4, "4", NULL) == 0);
    raft_index added = raft_last_index(cluster_raft(&c, 0));
    REACH(raft_fixture_step_until_applied(&c.fixture, 1, added, 1000));
    REACH(raft_last_index(cluster_raft(&c, 2)) == added - 2);

    raft_fixture_reconnect(&c.fixture, 0, 2);
    REACH(raft_fixture_step_until_applied(&c.fixture, 2, added, 2000));
    struct raft *follower = cluster_raft(&c, 2);
    REQUIRE(follower->configuration_uncommitted_index == 0);
    REQUIRE(follower->configuration_committed_index == added);
    REQUIRE(follower->configuration_committed.n == CLUSTER_SERVERS + 1);  // goes into snapshots
    cluster_close(&c);
}

// Fix 3. Writes a little rarer than heartbeats: each takes a round trip and a disk write.
static void sparse_writes(void) {
    struct cluster c;
    cluster_start(&c);
    unsigned ms_max = 0;
    for (unsigned i = 0; i < 200; i++) {
        raft_fixture_step_until_elapsed(&c.fixture, 70 + i % 60);
        unsigned ms = cluster_commit(&c, 0, 1);
        ms_max = ms > ms_max ? ms : ms_max;
    }
    fprintf(stderr, "slowest of the sparse writes: %u ms\n", ms_max);
    REQUIRE(ms_max <= 2 * 15 + 10);  // the fixture's network and disk
    cluster_close(&c);
}

static void test_snapshot_of_a_late_follower(void **state) {
    (void)state;
    child_check(snapshot_of_a_late_follower);
}

static void test_snapshot_of_a_deposed_leader(void **state) {
    (void)state;
    child_check(snapshot_of_a_deposed_leader);
}

static void test_change_second_in_its_batch(void **state) {
    (void)state;
    child_check(change_second_in_its_batch);
}

static void test_sparse_writes(void **state) {
    (void)state;
    child_check(sparse_writes);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_snapshot_of_a_late_follower),
        cmocka_unit_test(test_snapshot_of_a_deposed_leader),
        cmocka_unit_test(test_change_second_in_its_batch),
        cmocka_unit_test(test_sparse_writes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
