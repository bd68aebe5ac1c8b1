#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
// cmocka needs the four above first
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/failpoint.h"
#include "common/base/log.h"
#include "common/base/text.h"

static int saved_stderr;
static FILE *captured;

static void capture(void) {
    captured = tmpfile();
    assert_non_null(captured);
    saved_stderr = dup(STDERR_FILENO);
    dup2(fileno(captured), STDERR_FILENO);
}

// What was written since capture(); borrowed until the next call.
static const char *captured_text(void) {
    static char text[200 * 1024];
    dup2(saved_stderr, STDERR_FILENO);
    close(saved_stderr);
    rewind(captured);
    size_t n = fread(text, 1, sizeof text - 1, captured);
    text[n] = '\0';
    fclose(captured);
    return text;
}

static void text_line(void **state) {
    (void)state;
    nl_log_init(NL_LOG_INFO, NL_LOG_TEXT, "prog");
    capture();
    errno = 77;
    nl_log(NL_LOG_DEBUG, "m", "hidden", NULL);
    nl_log(NL_LOG_INFO, "m", "two words", "id", "a1", "n", nl_log_i64(-5).s, "q", "x\n\"=\x1b[0m",
           "empty", "", NULL);
    assert_int_equal(errno, 77);
    const char *text = captured_text();
    const char *want =
        "Z info  prog m: two words id=a1 n=-5 q=\"x\\u000a\\\"=\\u001b[0m\" empty=\"\"\n";
    assert_non_null(strstr(text, want));
    assert_null(strstr(text, "hidden"));
}

static void json_line(void **state) {
    (void)state;
    nl_log_init(NL_LOG_INFO, NL_LOG_JSON, "prog");
    capture();
    nl_log(NL_LOG_ERROR, "m", "e", "bad", "a\xFF\xC3\xA4", "missing", NULL);
    const char *text = captured_text();
    const char *want =
        "\"level\":\"error\",\"program\":\"prog\",\"module\":\"m\",\"event\":\"e\","
        "\"bad\":\"a\xEF\xBF\xBD\xC3\xA4\",\"missing\":\"(null)\"}\n";
    assert_non_null(strstr(text, want));
    nl_log_init(NL_LOG_INFO, NL_LOG_TEXT, "prog");
}

static void too_long_is_cut_whole(void **state) {
    (void)state;
    static char big[3000];
    memset(big, 'b', sizeof big - 1);
    nl_log_init(NL_LOG_INFO, NL_LOG_JSON, "prog");
    capture();
    nl_log(NL_LOG_INFO, "m", "e", "k1", big, "k2", big, "k3", big, "k4", big, "k5", big, NULL);
    const char *text = captured_text();
    size_t len = strlen(text);
    assert_true(len < 8192);
    assert_string_equal(text + len - strlen("\",\"truncated\":\"true\"}\n"),
                        "\",\"truncated\":\"true\"}\n");
    nl_log_init(NL_LOG_INFO, NL_LOG_TEXT, "prog");
}

static void levels(void **state) {
    (void)state;
    assert_int_equal(nl_log_set_levels("warn,session=debug,raft=off"), NL_OK);
    assert_false(nl_log_enabled(NL_LOG_INFO, "other"));
    assert_true(nl_log_enabled(NL_LOG_DEBUG, "session"));
    assert_false(nl_log_enabled(NL_LOG_ERROR, "raft"));
    static const char *const bad[] = {
        "",      "loud",     "info,",
        "=info", "session=", ",",
        "a=b=c", "info,x",   "module-name-that-is-far-too-long-x=info"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(nl_log_set_levels(bad[i]), NL_EINVAL);
    }
    assert_int_equal(nl_log_set_levels(NULL), NL_EINVAL);
    assert_false(nl_log_enabled(NL_LOG_ERROR, "raft"));  // unchanged
    assert_int_equal(nl_log_set_levels("info"), NL_OK);
    assert_false(nl_log_enabled(NL_LOG_DEBUG, "session"));
    assert_true(nl_log_enabled(NL_LOG_ERROR, "raft"));
}

static void rate_limit(void **state) {
    (void)state;
    struct nl_log_limit limit = {0};
    uint32_t suppressed = 99;
    assert_true(nl_log_allow(&limit, 1000, 2, 100, &suppressed));
    assert_int_equal(suppressed, 0);
    assert_true(nl_log_allow(&limit, 1001, 2, 100, &suppressed));
    assert_false(nl_log_allow(&limit, 1002, 2, 100, &suppressed));
    assert_false(nl_log_allow(&limit, 1099, 2, 100, &suppressed));
    assert_true(nl_log_allow(&limit, 1100, 2, 100, &suppressed));
    assert_int_equal(suppressed, 2);
}

static void *log_lines(void *arg) {
    for (int i = 0; i < 200; i++) {
        nl_log(NL_LOG_INFO, "thread", "line", "name", arg, NULL);
        nl_log_set_levels("info,thread=info");
    }
    return NULL;
}

static void threads_keep_lines_whole(void **state) {
    (void)state;
    pthread_t threads[4];
    char *names[] = {"aaaa", "bbbb", "cccc", "dddd"};
    capture();
    // Appending, so that writes of several threads do not overwrite each other.
    fcntl(STDERR_FILENO, F_SETFL, O_APPEND);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(pthread_create(&threads[i], NULL, log_lines, names[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
    }
    size_t lines = 0;
    for (const char *at = captured_text(); *at != '\0'; at = strchr(at, '\n') + 1) {
        assert_non_null(strstr(at, " thread: line name="));
        lines++;
    }
    assert_int_equal(lines, 800);
}

static void errors_have_texts(void **state) {
    (void)state;
    for (int e = 0; e >= NL_EGAP; e--) {
        assert_string_not_equal(nl_strerror(e), "unknown error");
    }
    assert_string_equal(nl_strerror(NL_EGAP - 1), "unknown error");
    assert_string_equal(nl_strerror(5), "unknown error");
    assert_int_equal(nl_err_from_errno(ENOSPC), NL_EFULL);
    assert_int_equal(nl_err_from_errno(0), NL_OK);
    assert_int_equal(nl_err_from_errno(123456), NL_EIO);
}

static void clocks_advance(void **state) {
    (void)state;
    uint64_t a = nl_clock_mono_ns(), b = nl_clock_mono_ns();
    assert_true(b >= a);
    assert_true(nl_clock_mono_us() >= a / 1000);
    assert_true(nl_clock_mono_ms() >= a / 1000000);
    assert_true(nl_clock_wall_ms() > 1600000000000u);
}

#ifdef NL_FAILPOINTS
static void failpoints(void **state) {
    (void)state;
    static const char *const bad[] = {"x",         "=kill",      "a=explode", "a=stall",
                                      "a=stall:x", "a=kill%101", "a=kill@0",  "a=error@x"};
    nl_log_set_levels("off");
    assert_int_equal(nl_failpoint_set("a=error@3,b=stall:0,c=error%0,d=error%100"), NL_OK);
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(nl_failpoint_set(bad[i]), NL_EINVAL);
    }
    assert_false(NL_FAILPOINT("a"));
    assert_false(NL_FAILPOINT("a"));
    assert_true(NL_FAILPOINT("a"));
    assert_false(NL_FAILPOINT("a"));
    assert_false(NL_FAILPOINT("b"));
    assert_false(NL_FAILPOINT("c"));
    assert_true(NL_FAILPOINT("d"));
    assert_false(NL_FAILPOINT("unknown"));
    assert_int_equal(nl_failpoint_set(""), NL_OK);
    assert_false(NL_FAILPOINT("d"));
    nl_log_set_levels("info");
}

struct armed {
    char dir[64], armed[128], taken[160];
};

static void arm(const struct armed *a, const char *action) {
    FILE *f = fopen(a->armed, "w");
    assert_non_null(f);
    fputs(action, f);
    fclose(f);
}

static void *remove_when_taken(void *arg) {
    const struct armed *a = arg;
    while (access(a->taken, F_OK) != 0) {
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    unlink(a->taken);
    return NULL;
}

static void failpoint_armed_by_a_file(void **state) {
    (void)state;
    struct armed a = {.dir = "/tmp/nl-failpoint-XXXXXX"};
    assert_non_null(mkdtemp(a.dir));
    snprintf(a.armed, sizeof a.armed, "%s/x.y", a.dir);
    snprintf(a.taken, sizeof a.taken, "%s.%d", a.armed, (int)getpid());
    nl_log_set_levels("off");
    setenv("NODELINK_FAILPOINT_DIR", a.dir, 1);
    assert_int_equal(nl_failpoint_set(""), NL_OK);
    assert_false(NL_FAILPOINT("x.y"));
    arm(&a, "error");
    assert_false(NL_FAILPOINT("x"));
    assert_true(NL_FAILPOINT("x.y"));
    assert_int_equal(access(a.taken, F_OK), 0);  // who took it
    assert_false(NL_FAILPOINT("x.y"));           // once
    unlink(a.taken);

    pthread_t other;
    arm(&a, "stop");
    assert_int_equal(pthread_create(&other, NULL, remove_when_taken, &a), 0);
    assert_false(NL_FAILPOINT("x.y"));  // comes back only when the file is gone
    pthread_join(other, NULL);
    assert_int_not_equal(access(a.taken, F_OK), 0);

    unsetenv("NODELINK_FAILPOINT_DIR");
    assert_int_equal(nl_failpoint_set(""), NL_OK);
    assert_int_equal(rmdir(a.dir), 0);
    nl_log_set_levels("info");
}
#endif

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_line),
        cmocka_unit_test(json_line),
        cmocka_unit_test(too_long_is_cut_whole),
        cmocka_unit_test(levels),
        cmocka_unit_test(rate_limit),
        cmocka_unit_test(threads_keep_lines_whole),
        cmocka_unit_test(errors_have_texts),
        cmocka_unit_test(clocks_advance),
#ifdef NL_FAILPOINTS
        cmocka_unit_test(failpoints),
        cmocka_unit_test(failpoint_armed_by_a_file),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
