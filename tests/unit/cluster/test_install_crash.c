// A crash while a leader's snapshot takes the place of a node's log. libraft stores the snapshot,
// then removes the log's segments, oldest first; only then are the removals synced, so that a power
// failure may undo any of them. Whatever is left, the node starts, catches up, and starts again
// after kill -9. On real files: the directory is copied at the first removal (the linker puts the
// copy in: --wrap=UvFsRemoveFile), and the removals that "happened" are made by hand.

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/err.h"
#include "tests/unit/cluster/fixture.h"
#include "tests/unit/cluster/segment_file.h"

int __real_UvFsRemoveFile(const char *dir, const char *filename, char *errmsg);
int __wrap_UvFsRemoveFile(const char *dir, const char *filename, char *errmsg);

enum { SEGMENTS_MAX = 16, ALL = -1 };

struct snapshot {
    unsigned long long term, index;
};

static struct fixture f;
static unsigned victim;
static char raft_dir[160];            // of the victim
static char crashed[96], forged[96];  // copies of it
static bool armed, copied;            // by a worker, while the test waits for what follows

static bool is_closed_segment(const char *name) {
    unsigned long long first, last;
    int end = 0;
    return sscanf(name, "%16llu-%16llu%n", &first, &last, &end) == 2 && name[end] == '\0';
}

int __wrap_UvFsRemoveFile(const char *dir, const char *filename, char *errmsg) {
    if (armed && !copied && strcmp(dir, raft_dir) == 0 && is_closed_segment(filename)) {
        segment_copy_dir(raft_dir, crashed);
        copied = true;
    }
    return __real_UvFsRemoveFile(dir, filename, errmsg);
}

// ---- the cluster ---------------------------------------------------------------

static void commands(unsigned n) {
    struct result r;
    int leader = fixture_leader(&f);
    assert_true(leader >= 0);
    for (unsigned i = 0; i < n; i++) {
        assert_int_equal(propose_token(&f, (unsigned)leader, "a", &r), NL_OK);
        fixture_wait(&f, &r);
        assert_int_equal(r.result, NL_OK);
    }
    fixture_assert_equal(&f);
}

// So many that the leader no longer has the entries that the victim lacks.
static void leave_behind(void) {
    struct nl_cluster_status status;
    do {
        commands(50);
        nl_cluster_status(f.nodes[fixture_leader(&f)].cluster, &status);
    } while (status.snapshots_taken < 2);
}

static void start_all(void) {
    for (unsigned i = 0; i < f.n; i++) {
        fixture_start(&f, i);
    }
}

static void stop_all(void) {
    for (unsigned i = 0; i < f.n; i++) {
        fixture_stop(&f, i);
    }
}

static void restart_others(void) {
    for (unsigned i = 1; i < f.n; i++) {
        unsigned other = (victim + i) % f.n;
        fixture_stop(&f, other);
        fixture_start(&f, other);
    }
}

// The victim's log is in several segments, the snapshot that it gets is of a newer term.
static int setup(void **state) {
    (void)state;
    fixture_open(&f, 3);
    f.snapshot_threshold = 100;
    f.snapshot_trailing = 8;
    start_all();
    victim = (unsigned)(fixture_leader(&f) + 1) % f.n;
    snprintf(raft_dir, sizeof raft_dir, "%s/raft", f.nodes[victim].dir);
    snprintf(crashed, sizeof crashed, "%s/crashed", f.dir);
    snprintf(forged, sizeof forged, "%s/forged", f.dir);
    commands(20);
    fixture_stop(&f, victim);
    fixture_start(&f, victim);
    commands(20);
    fixture_stop(&f, victim);
    restart_others();  // for another term
    leave_behind();
    restart_others();  // and for what waits to be sent to the victim
    armed = true;
    fixture_start(&f, victim);
    commands(1);
    armed = false;
    assert_true(copied);
    stop_all();
    return 0;
}

static int teardown(void **state) {
    (void)state;
    fixture_close(&f);
    return 0;
}

// ---- directories ---------------------------------------------------------------

static int by_name(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static size_t closed_segments(const char *dir, char *ret[SEGMENTS_MAX]) {
    size_t n = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *e = readdir(d); e != NULL; e = readdir(d)) {
        if (is_closed_segment(e->d_name)) {
            assert_true(n < SEGMENTS_MAX);
            ret[n++] = strdup(e->d_name);
        }
    }
    closedir(d);
    qsort(ret, n, sizeof *ret, by_name);
    return n;
}

// Removes those whose bit is set.
static size_t remove_closed(const char *dir, int which) {
    char *names[SEGMENTS_MAX], path[512];
    size_t n = closed_segments(dir, names);
    for (size_t i = 0; i < n; i++) {
        snprintf(path, sizeof path, "%s/%s", dir, names[i]);
        assert_true((which >> i & 1) == 0 || unlink(path) == 0);
        free(names[i]);
    }
    return n;
}

static struct snapshot newest_snapshot(const char *dir) {
    struct snapshot newest = {0}, s;
    unsigned long long time;
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *e = readdir(d); e != NULL; e = readdir(d)) {
        int end = 0;
        if (sscanf(e->d_name, "snapshot-%llu-%llu-%llu%n", &s.term, &s.index, &time, &end) == 3 &&
            e->d_name[end] == '\0' && s.index > newest.index) {
            newest = s;
        }
    }
    closedir(d);
    assert_true(newest.index > 0);
    return newest;
}

static void give_victim(const char *dir) {
    fixture_remove(raft_dir);
    segment_copy_dir(dir, raft_dir);
}

// The victim has a crashed directory, and nobody remembers what it stored since.
static void recovers(const char *what) {
    char killed[96];
    printf("%s\n", what);
    fflush(stdout);
    start_all();
    commands(20);
    snprintf(killed, sizeof killed, "%s/killed", f.dir);
    segment_copy_dir(raft_dir, killed);  // as kill -9 would leave it
    stop_all();
    give_victim(killed);
    fixture_remove(killed);
    start_all();
    commands(3);
    stop_all();
}

static void each_removal(const char *dir, const char *what) {
    char text[128];
    char *names[SEGMENTS_MAX];
    size_t n = closed_segments(dir, names);
    for (size_t i = 0; i < n; i++) {
        free(names[i]);
    }
    assert_in_range(n, 2, 4);
    for (int which = 0; which < 1 << n; which++) {
        give_victim(dir);
        remove_closed(raft_dir, which);
        snprintf(text, sizeof text, "%s, removed %x of %zu", what, (unsigned)which, n);
        recovers(text);
    }
}

// ---- tests ---------------------------------------------------------------------

static void log_behind_the_snapshot(void **state) {
    (void)state;
    each_removal(crashed, "log behind the snapshot");
}

// The log holds other entries than the snapshot, up to it and beyond: those of a deposed leader.
static void log_that_contradicts(void **state) {
    struct snapshot s = newest_snapshot(crashed);
    (void)state;
    assert_true(s.index > 100 && s.term > 1);
    segment_copy_dir(crashed, forged);
    remove_closed(forged, ALL);
    segment_write_closed(forged, s.index - 60, s.index - 10, s.term - 1);
    segment_write_closed(forged, s.index - 9, s.index + 3, s.term - 1);
    segment_write_closed(forged, s.index + 4, s.index + 20, s.term - 1);
    each_removal(forged, "log that contradicts the snapshot");
    fixture_remove(forged);
}

// The old log may even be of a later term than the snapshot's end (figure 8 of the Raft paper: an
// entry of an older term was committed by a newer one). Here of one in which nobody led.
static void log_of_a_later_term(void **state) {
    struct snapshot s = newest_snapshot(crashed);
    (void)state;
    segment_copy_dir(crashed, forged);
    remove_closed(forged, ALL);
    segment_write_closed(forged, s.index - 9, s.index, s.term + 1000);
    segment_write_closed(forged, s.index + 1, s.index + 20, s.term + 1000);
    each_removal(forged, "log of a later term");
    fixture_remove(forged);
}

int main(int argc, char **argv) {
    if (argc > 1) {
        cmocka_set_test_filter(argv[1]);
    }
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(log_behind_the_snapshot),
        cmocka_unit_test(log_that_contradicts),
        cmocka_unit_test(log_of_a_later_term),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
