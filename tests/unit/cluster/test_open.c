// What a node refuses to start on, and what its directory looks like afterwards.

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/err.h"
#include "tests/unit/cluster/fixture.h"

static struct fixture f;

static int setup(void **state) {
    (void)state;
    fixture_open(&f, 1);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    fixture_close(&f);
    return 0;
}

static void refuse(const struct nl_cluster_options *options, int want, const char *mention) {
    static const struct nl_cluster_events events;
    struct nl_cluster *cluster = NULL;
    char text[512] = "";
    assert_int_equal(nl_cluster_open(options, &events, NULL, &cluster, text, sizeof text), want);
    assert_null(cluster);
    if (strstr(text, mention) == NULL) {
        fail_msg("\"%s\" does not mention \"%s\"", text, mention);
    }
}

static void start_and_stop(void) {
    fixture_start(&f, 0);
    assert_true(fixture_leader(&f) >= 0);
    fixture_node_up(&f, 0);
    fixture_stop(&f, 0);
}

static char *path_of(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", f.nodes[0].dir, name);
    return path;
}

static void empty_without_bootstrap(void **state) {
    struct nl_cluster_options options = fixture_options(&f, 0);
    (void)state;
    options.bootstrap = false;
    refuse(&options, NL_EINVAL, "bootstrap");
    refuse(&options, NL_EINVAL, "new id");
    start_and_stop();  // the refusal left nothing in the way
    fixture_start(&f, 0);
    assert_int_equal(nl_cluster_boot(f.nodes[0].cluster), 2);
}

static void bootstrap_flag_of_a_made_node_is_ignored(void **state) {
    struct stat st;
    (void)state;
    start_and_stop();
    assert_int_equal(stat(f.nodes[0].dir, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0700);
    fixture_start(&f, 0);
    assert_true(fixture_leader(&f) >= 0);
    assert_non_null(nl_state_node(nl_cluster_state(f.nodes[0].cluster), 1));
}

static void other_cluster(void **state) {
    struct nl_cluster_options options = fixture_options(&f, 0);
    (void)state;
    start_and_stop();
    options.cluster_name = "another";
    refuse(&options, NL_EINVAL, "belongs to cluster \"test\"");
}

static void other_node(void **state) {
    struct nl_cluster_options options = fixture_options(&f, 0);
    struct nl_cluster_member member = f.members[0];
    (void)state;
    start_and_stop();
    options.id = member.id = 7;
    options.members = &member;
    refuse(&options, NL_EINVAL, "belongs to node 1");
}

static void newer_format(void **state) {
    struct nl_cluster_options options = fixture_options(&f, 0);
    static const char text[] = "format 9\ncluster test\nnode 1\nstate ready\n";
    (void)state;
    start_and_stop();
    int fd = open(path_of("identity"), O_WRONLY | O_TRUNC);
    assert_int_equal(write(fd, text, sizeof text - 1), sizeof text - 1);
    close(fd);
    refuse(&options, NL_EVERSION, "format 9");
}

static void garbage_identity(void **state) {
    struct nl_cluster_options options = fixture_options(&f, 0);
    (void)state;
    start_and_stop();
    int fd = open(path_of("identity"), O_WRONLY | O_TRUNC);
    assert_int_equal(write(fd, "what is this", 12), 12);
    close(fd);
    refuse(&options, NL_ECORRUPT, "identity");
}

static void directory_in_use(void **state) {
    struct nl_cluster_options options = fixture_options(&f, 0);
    struct nl_cluster_member member = f.members[0];
    (void)state;
    fixture_start(&f, 0);
    member.raft_address = "127.0.0.1:1";
    options.members = &member;
    refuse(&options, NL_EBUSY, "in use by process");
}

static void address_in_use(void **state) {
    struct nl_cluster_options options = fixture_options(&f, 0);
    char dir[160];
    (void)state;
    fixture_start(&f, 0);
    snprintf(dir, sizeof dir, "%s/other", f.dir);
    options.data_dir = dir;
    refuse(&options, NL_EBUSY, f.nodes[0].raft_address);
}

static void bad_addresses(void **state) {
    struct nl_cluster_options options = fixture_options(&f, 0);
    (void)state;
    options.raft_address = "no port";
    refuse(&options, NL_EINVAL, "host:port");
}

static void log_is_gone(void **state) {
    struct nl_cluster_options options = fixture_options(&f, 0);
    char aside[256];
    (void)state;
    start_and_stop();
    snprintf(aside, sizeof aside, "%s/aside", f.dir);
    assert_int_equal(rename(path_of("raft"), aside), 0);
    refuse(&options, NL_ECORRUPT, "the log is gone");
    assert_int_equal(rename(aside, path_of("raft")), 0);
}

// The bytes of the whole directory, roughly: to see that nothing was changed.
static off_t size_of(const char *name) {
    struct stat st;
    return stat(path_of(name), &st) == 0 ? st.st_size : -1;
}

static void corrupt_log(void **state) {
    struct nl_cluster_options options = fixture_options(&f, 0);
    static const char segment[] = "raft/0000000000000001-0000000000000001";
    uint8_t byte;
    (void)state;
    start_and_stop();
    int fd = open(path_of(segment), O_RDWR);
    assert_true(fd >= 0);
    off_t size = size_of(segment), boot = size_of("boot");
    assert_int_equal(pread(fd, &byte, 1, 40), 1);
    byte ^= 0x10;
    assert_int_equal(pwrite(fd, &byte, 1, 40), 1);
    close(fd);
    refuse(&options, NL_ECORRUPT, f.nodes[0].dir);
    refuse(&options, NL_ECORRUPT, "checksum");
    assert_int_equal(size_of(segment), size);
    assert_int_equal(size_of("boot"), boot);
}

// Copies the files of a folder and of its folders.
static void copy_tree(const char *from, const char *to) {
    char a[512], b[512], bytes[65536];
    DIR *dir = opendir(from);
    assert_non_null(dir);
    assert_int_equal(mkdir(to, 0700), 0);
    for (struct dirent *e = readdir(dir); e != NULL; e = readdir(dir)) {
        snprintf(a, sizeof a, "%s/%s", from, e->d_name);
        snprintf(b, sizeof b, "%s/%s", to, e->d_name);
        if (e->d_name[0] == '.') {
            continue;
        }
        if (e->d_type == DT_DIR) {
            copy_tree(a, b);
            continue;
        }
        int in = open(a, O_RDONLY), out = open(b, O_WRONLY | O_CREAT, 0600);
        assert_true(in >= 0 && out >= 0);
        for (ssize_t n; (n = read(in, bytes, sizeof bytes)) > 0;) {
            assert_int_equal(write(out, bytes, (size_t)n), n);
        }
        close(in);
        close(out);
    }
    closedir(dir);
}

static void flip(const char *path, off_t at) {
    uint8_t byte;
    int fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    assert_int_equal(pread(fd, &byte, 1, at), 1);
    byte ^= 0x01;
    assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
}

// The mark is raised by ticks: what came since the last one is not known to it yet.
static bool is_marked(struct fixture *fx, void *arg) {
    struct nl_cluster_status status;
    uint64_t marked = 0;
    (void)arg;
    nl_cluster_status(fx->nodes[0].cluster, &status);
    int fd = open(path_of("raft/stored"), O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(read(fd, &marked, sizeof marked), sizeof marked);
    close(fd);
    return marked >= status.applied;
}

// libraft takes a flipped bit in the segment that was open for a write that a crash cut off. The
// node must not: it would forget what it has acknowledged.
static void damaged_end_of_the_log(void **state) {
    struct nl_cluster_options options = fixture_options(&f, 0);
    struct result r;
    char copy[128], segment[256];
    (void)state;
    fixture_start(&f, 0);
    assert_true(fixture_leader(&f) >= 0);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(propose_token(&f, 0, "a", &r), NL_OK);
        fixture_wait(&f, &r);
    }
    assert_true(fixture_until(&f, 5000, is_marked, NULL));
    snprintf(copy, sizeof copy, "%s/killed", f.dir);  // as kill -9 would leave it
    copy_tree(f.nodes[0].dir, copy);
    fixture_stop(&f, 0);
    snprintf(segment, sizeof segment, "%s/raft/open-1", copy);
    flip(segment, 700);
    options.data_dir = copy;
    refuse(&options, NL_ECORRUPT, "damaged");
    refuse(&options, NL_ECORRUPT, "damaged");  // and again: it isn't forgotten
}

// Without damage the same copy is a good directory.
static void killed_node_starts(void **state) {
    struct result r;
    char copy[128];
    (void)state;
    fixture_start(&f, 0);
    assert_true(fixture_leader(&f) >= 0);
    for (int i = 0; i < 20; i++) {
        assert_int_equal(propose_token(&f, 0, i % 2 == 0 ? "a" : "b", &r), NL_OK);
        fixture_wait(&f, &r);
    }
    snprintf(copy, sizeof copy, "%s/killed", f.dir);
    copy_tree(f.nodes[0].dir, copy);
    fixture_stop(&f, 0);
    snprintf(f.nodes[0].dir, sizeof f.nodes[0].dir, "%s", copy);
    fixture_start(&f, 0);
    assert_true(fixture_leader(&f) >= 0);
    fixture_node_up(&f, 0);
    assert_non_null(nl_state_agent(nl_cluster_state(f.nodes[0].cluster), "b"));
}

static void restored_from_a_backup(void **state) {
    struct nl_cluster_options options = fixture_options(&f, 0);
    (void)state;
    start_and_stop();
    start_and_stop();
    int fd = open(path_of("boot"), O_WRONLY | O_TRUNC);
    assert_int_equal(write(fd, "0\n", 2), 2);
    close(fd);
    refuse(&options, NL_ECORRUPT, "a later start of this node");
}

// A bootstrap that was cut off before its end may begin again.
static void unfinished_bootstrap(void **state) {
    static const char text[] = "format 1\ncluster test\nnode 1\nstate bootstrapping\n";
    (void)state;
    assert_int_equal(mkdir(f.nodes[0].dir, 0700), 0);
    assert_int_equal(mkdir(path_of("raft"), 0700), 0);
    int fd = open(path_of("identity"), O_WRONLY | O_CREAT, 0600);
    assert_int_equal(write(fd, text, sizeof text - 1), sizeof text - 1);
    close(fd);
    close(open(path_of("raft/metadata1"), O_WRONLY | O_CREAT, 0600));
    start_and_stop();
    fixture_start(&f, 0);
    assert_int_equal(nl_cluster_boot(f.nodes[0].cluster), 2);
}

static void bad_options(void **state) {
    struct nl_cluster_options options = fixture_options(&f, 0);
    struct nl_cluster_member two[2] = {f.members[0], f.members[0]};
    (void)state;
    options.cluster_name = "not an id";
    refuse(&options, NL_EINVAL, "cluster name");
    options = fixture_options(&f, 0);
    options.id = 5;
    refuse(&options, NL_EINVAL, "not in the member list");
    options = fixture_options(&f, 0);
    options.members = two;
    options.n_members = 2;
    refuse(&options, NL_EINVAL, "same id");
    two[1].id = 2;
    two[1].raft_address = "127.0.0.1:2";
    options.secret_len = 8;
    refuse(&options, NL_EINVAL, "secret");
}

// Closed at every early moment: nothing may leak or stay open.
static void close_early(void **state) {
    (void)state;
    for (int turns = 0; turns < 40; turns += 1 + turns / 8) {
        fixture_start(&f, 0);
        for (int i = 0; i < turns; i++) {
            uv_run(&f.loop, UV_RUN_NOWAIT);
        }
        fixture_stop(&f, 0);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(empty_without_bootstrap, setup, teardown),
        cmocka_unit_test_setup_teardown(bootstrap_flag_of_a_made_node_is_ignored, setup, teardown),
        cmocka_unit_test_setup_teardown(other_cluster, setup, teardown),
        cmocka_unit_test_setup_teardown(other_node, setup, teardown),
        cmocka_unit_test_setup_teardown(newer_format, setup, teardown),
        cmocka_unit_test_setup_teardown(garbage_identity, setup, teardown),
        cmocka_unit_test_setup_teardown(directory_in_use, setup, teardown),
        cmocka_unit_test_setup_teardown(address_in_use, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_addresses, setup, teardown),
        cmocka_unit_test_setup_teardown(log_is_gone, setup, teardown),
        cmocka_unit_test_setup_teardown(corrupt_log, setup, teardown),
        cmocka_unit_test_setup_teardown(damaged_end_of_the_log, setup, teardown),
        cmocka_unit_test_setup_teardown(killed_node_starts, setup, teardown),
        cmocka_unit_test_setup_teardown(restored_from_a_backup, setup, teardown),
        cmocka_unit_test_setup_teardown(unfinished_bootstrap, setup, teardown),
        cmocka_unit_test_setup_teardown(bad_options, setup, teardown),
        cmocka_unit_test_setup_teardown(close_early, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
