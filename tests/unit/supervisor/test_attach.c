// The socket: frames, links that come, go, lie or do not read; bounds of the spool with real
// pipes; starting the supervisor as the link does.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
// cmocka needs the four above first
#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/supervisor/client.h"
#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/log.h"
#include "tests/unit/supervisor/harness.h"

static int setup(void **state) {
    struct harness *h = malloc(sizeof *h);
    harness_open(h);
    *state = h;
    return 0;
}

static int teardown(void **state) {
    harness_close(*state);
    free(*state);
    return 0;
}

static void frames(void **state) {
    (void)state;
    struct nl_buf out;
    nl_buf_init(&out, 0);
    Nodelink__V1__FromSupervisor m = NODELINK__V1__FROM_SUPERVISOR__INIT;
    Nodelink__V1__SupRefused refused = NODELINK__V1__SUP_REFUSED__INIT;
    refused.reason = (char *)(uintptr_t) "why";
    m.body_case = NODELINK__V1__FROM_SUPERVISOR__BODY_REFUSED;
    m.refused = &refused;
    assert_int_equal(nl_sup_frame_encode(&out, &m.base), NL_OK);
    Nodelink__V1__FromSupervisor *got = NULL;
    size_t used = 0;
    for (size_t len = 0; len < out.len; len++) {
        assert_int_equal(nl_sup_decode_from(out.data, len, &got, &used), NL_EAGAIN);
    }
    assert_int_equal(nl_sup_decode_from(out.data, out.len, &got, &used), NL_OK);
    assert_int_equal(used, out.len);
    assert_string_equal(got->refused->reason, "why");
    nodelink__v1__from_supervisor__free_unpacked(got, NULL);
    out.data[4] = 0xFF;
    assert_int_equal(nl_sup_decode_from(out.data, out.len, &got, &used), NL_EINVAL);
    static const uint8_t too_long[] = {1, 0, 16, 0}, just[] = {0, 0, 16, 0};
    assert_int_equal(nl_sup_decode_from(too_long, 4, &got, &used), NL_ETOOBIG);
    assert_int_equal(nl_sup_decode_from(just, 4, &got, &used), NL_EAGAIN);
    char *big = calloc(1, NL_SUP_FRAME_BYTES_MAX + 1);
    memset(big, 'x', NL_SUP_FRAME_BYTES_MAX);
    refused.reason = big;
    size_t before = out.len;
    assert_int_equal(nl_sup_frame_encode(&out, &m.base), NL_ETOOBIG);
    assert_int_equal(out.len, before);
    free(big);
    nl_buf_close(&out);
}

static void new_link_replaces_old(void **state) {
    struct harness *h = *state;
    harness_start(h);
    harness_shell(h, "t", "sleep 0.3; echo x");
    harness_running(h, "t");
    int old = h->fd;
    h->fd = -1;
    harness_attach(h);
    assert_int_equal(h->attached->tasks, 1);
    char byte;
    while (recv(old, &byte, 1, 0) > 0) {  // what was under way, then the end
    }
    close(old);
    harness_finished(h, "t");
    harness_attach(h);
    assert_int_equal(harness_seen(h, "t")->end[0], 2);
}

static bool peer_closed(int fd) {
    char byte;
    return recv(fd, &byte, 1, 0) <= 0;
}

static void liars_are_dropped(void **state) {
    struct harness *h = *state;
    harness_start(h);
    static const struct {
        const char *bytes;
        size_t len;
    } cases[] = {{"\xFF\xFF\xFF\xFF", 4},
                 {"\x02\0\0\0\xFF\xFF", 6},
                 {"\x02\0\0\0\x32\x00", 6},           // SupStop before SupAttach
                 {"\x02\0\0\0\x0A\x00", 6},           // SupAttach of version 0
                 {"\x04\0\0\0\x0A\x02\x08\x63", 8}};  // of version 99
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        int fd = harness_connect(h);
        assert_int_equal(send(fd, cases[i].bytes, cases[i].len, 0), (int)cases[i].len);
        assert_true(peer_closed(fd));
        close(fd);
    }
    // Those that say nothing can't keep the link out.
    int silent[12];
    for (int i = 0; i < 12; i++) {
        silent[i] = harness_connect(h);
    }
    harness_attach(h);
    harness_shell(h, "t", "true");
    harness_finished(h, "t");
    for (int i = 0; i < 12; i++) {
        close(silent[i]);
    }
}

// A link that reads nothing while 300 tasks run: nothing is lost, and memory is bounded by
// construction (state, no queue).
static void link_that_does_not_read(void **state) {
    struct harness *h = *state;
    harness_start(h);
    for (int i = 0; i < 300; i++) {
        char id[20];
        snprintf(id, sizeof id, "n%d", i);
        harness_shell(h, id, "echo y; echo z >&2");
        for (int k = 0; k < 20; k++) {
            harness_cancel(h, "nobody", "floods the answers");
        }
    }
    for (int i = 0; i < 300; i++) {
        char id[20];
        snprintf(id, sizeof id, "n%d", i);
        assert_int_equal(harness_finished(h, id)->exit_code, 0);
    }
}

static bool has_gap(struct harness *h, void *id) {
    return harness_seen(h, id)->base[0] > 0;
}

static bool is_full(struct harness *h, void *id) {
    return harness_seen(h, id)->end[0] >= 1000000;
}

// The task is slowed at its bound, goes on by release, and what nobody reads is dropped with
// the base saying so; its blocks are freed on disk.
static void bounds(void **state) {
    struct harness *h = *state;
    h->options.spool_task_bytes_max = 1000000;
    h->options.drop_unread = true;
    harness_start(h);
    harness_shell(h, "flood", "head -c 3000000 /dev/zero | tr '\\0' 'x'");
    harness_until(h, is_full, (void *)(uintptr_t) "flood", "the bound");
    struct seen *s = harness_seen(h, "flood");
    for (int i = 0; i < 20; i++) {
        harness_pump(h, 10);
    }
    assert_int_equal(s->end[0], 1000000);
    assert_int_equal(s->base[0], 0);
    assert_int_not_equal(s->task->phase, NODELINK__V1__TASK_REF__PHASE__FINISHED);
    harness_release(h, "flood", 600000, 0, false);
    harness_until(h, has_gap, (void *)(uintptr_t) "flood", "bytes dropped");
    assert_true(s->base[0] <= 600000);
    harness_release(h, "flood", 600000, 0, true);
    assert_int_equal(harness_finished(h, "flood")->stdout_bytes, 3000000);
    assert_true(s->end[0] - s->base[0] <= 1000000 + 1048576);
    char path[200];
    struct stat st;
    snprintf(path, sizeof path, "%s/spool/flood.1/stdout", h->state_dir);
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, 3000000);
    assert_true((uint64_t)st.st_blocks * 512 < 2600000);
    // The base survives the supervisor.
    uint64_t base = s->base[0];
    harness_kill(h);
    harness_start(h);
    assert_int_equal(harness_seen(h, "flood")->base[0], base);
    assert_int_equal(harness_seen(h, "flood")->end[0], 3000000);
}

static bool has_end(struct harness *h, void *seen) {
    (void)h;
    return ((struct seen *)seen)->end[0] > 0;
}

static void release_is_answered(void **state) {
    struct harness *h = *state;
    harness_start(h);
    harness_shell(h, "t", "echo a");
    harness_finished(h, "t");
    struct seen *s = harness_seen(h, "t");
    s->end[0] = 0;
    harness_release(h, "t", 0, 0, false);
    harness_until(h, has_end, s, "the answer to the release");
}

static bool is_gone(struct harness *h, void *arg) {
    pid_t running = 0;
    (void)arg;
    assert_int_equal(nl_supervisor_running(h->state_dir, &running), NL_OK);
    return running == 0;
}

// As the link does it: detached, no child of ours, found by its lock.
static void spawned_detached(void **state) {
    struct harness *h = *state;
    pid_t pid = 0, running = 0;
    char log_file[200];
    snprintf(log_file, sizeof log_file, "%s", harness_path(h, "log"));
    char *missing[] = {(char *)(uintptr_t) "/no/such/supervisor", NULL};
    assert_int_equal(nl_supervisor_spawn(missing[0], missing, log_file, &pid), NL_ENOTFOUND);
    assert_int_equal(nl_supervisor_running(h->state_dir, &running), NL_OK);
    assert_int_equal(running, 0);
    char *args[] = {(char *)(uintptr_t) "/proc/self/exe", (char *)(uintptr_t) "--supervise",
                    h->state_dir, NULL};
    char self[300];
    ssize_t n = readlink("/proc/self/exe", self, sizeof self - 1);
    assert_true(n > 0);
    self[n] = '\0';
    assert_int_equal(nl_supervisor_spawn(self, args, log_file, &pid), NL_OK);
    h->fd = harness_connect(h);
    assert_int_equal(nl_supervisor_running(h->state_dir, &running), NL_OK);
    assert_int_equal(running, pid);
    harness_attach(h);
    assert_int_equal(h->attached->pid, pid);
    harness_shell(h, "t", "true");
    harness_finished(h, "t");
    harness_stop(h, false);
    harness_until(h, is_gone, NULL, "the supervisor is gone");
}

static void socket_paths(void **state) {
    (void)state;
    char dir[120];
    memset(dir, 'a', sizeof dir);
    dir[91] = '\0';
    assert_int_equal(nl_sup_socket_path_check(dir), NL_OK);
    dir[91] = 'a';
    dir[92] = '\0';
    assert_int_equal(nl_sup_socket_path_check(dir), NL_ETOOBIG);
    char *path = nl_sup_socket_path("/x");
    assert_string_equal(path, "/x/supervisor.sock");
    free(path);
}

int main(int argc, char **argv) {
    if (argc == 3 && strcmp(argv[1], "--supervise") == 0) {
        nl_log_init(NL_LOG_INFO, NL_LOG_TEXT, "supervisor");
        struct nl_supervisor_options options = {.state_dir = argv[2]};
        return nl_supervisor_main(&options);
    }
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames),  cmocka_unit_test(socket_paths), TEST(new_link_replaces_old),
        TEST(liars_are_dropped),   TEST(link_that_does_not_read),  TEST(bounds),
        TEST(release_is_answered), TEST(spawned_detached),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
