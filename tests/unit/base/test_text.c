#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
// cmocka needs the four above first
#include <cmocka.h>
#include <spawn.h>
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/text.h"

static void utf8(void **state) {
    (void)state;
    static const struct {
        const char *bytes;
        size_t len;
        bool ok;
    } cases[] = {
        {"", 0, true},
        {"plain", 5, true},
        {"a\0b", 3, false},
        {"\xC3\xA4", 2, true},
        {"\xC3", 1, false},
        {"\x80", 1, false},
        {"\xC0\xAF", 2, false},  // overlong
        {"\xC1\xBF", 2, false},
        {"\xE0\x80\xAF", 3, false},  // overlong
        {"\xE0\xA0\x80", 3, true},
        {"\xED\x9F\xBF", 3, true},
        {"\xED\xA0\x80", 3, false},  // surrogate
        {"\xEF\xBF\xBD", 3, true},
        {"\xF0\x80\x80\xAF", 4, false},  // overlong
        {"\xF0\x9F\x98\x80", 4, true},
        {"\xF4\x8F\xBF\xBF", 4, true},
        {"\xF4\x90\x80\x80", 4, false},  // above U+10FFFF
        {"\xF5\x80\x80\x80", 4, false},
        {"\xE2\x82", 2, false},
        {"\xE2\x82x", 3, false},
        {"\xFF", 1, false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        if (nl_text_utf8_ok(cases[i].bytes, cases[i].len) != cases[i].ok) {
            fail_msg("case %zu", i);
        }
    }
}

static void ids(void **state) {
    (void)state;
    char longest[130];
    memset(longest, 'a', 129);
    longest[129] = '\0';
    assert_false(nl_text_id_ok(longest));
    longest[128] = '\0';
    assert_true(nl_text_id_ok(longest));
    assert_true(nl_text_id_ok("Agent_7.example:8080-b"));
    static const char *const bad[] = {"",    "-rf", ".",        "..",   "../x", "a/b",  "a b",
                                      "a\n", "a*",  "\xC3\xA4", "a\\b", "~",    ".hid", "a%b"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (nl_text_id_ok(bad[i])) {
            fail_msg("taken: %s", bad[i]);
        }
    }
    assert_false(nl_text_id_ok(NULL));
}

static void read_shell(char *command, char *got, size_t size) {
    int fds[2];
    pid_t pid;
    posix_spawn_file_actions_t actions;
    char *const argv[] = {"sh", "-c", command, NULL};
    assert_int_equal(pipe(fds), 0);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, fds[1], STDOUT_FILENO);
    posix_spawn_file_actions_addclose(&actions, fds[0]);
    posix_spawn_file_actions_addclose(&actions, fds[1]);
    assert_int_equal(posix_spawn(&pid, "/bin/sh", &actions, NULL, argv, environ), 0);
    posix_spawn_file_actions_destroy(&actions);
    close(fds[1]);
    size_t len = 0;
    for (ssize_t n = 1; n > 0 && len < size - 1; len += (size_t)n) {
        n = read(fds[0], got + len, size - 1 - len);
        assert_true(n >= 0);
    }
    got[len] = '\0';
    close(fds[0]);
    assert_int_equal(waitpid(pid, NULL, 0), pid);
}

// What a shell makes of the joined text is the argv again.
static void join_through_a_shell(void **state) {
    (void)state;
    char *const argv[] = {"two words", "it's", "",    "$HOME `id` \\", "a\nb",
                          "*",         "A=b",  "-x;", "\"q\"",         "plain/path-1.txt"};
    size_t n = sizeof argv / sizeof argv[0];
    char *joined = nl_text_shell_join(argv, n);
    assert_non_null(joined);
    char command[1024], got[1024];
    snprintf(command, sizeof command, "for a in %s; do printf '%%s\\001' \"$a\"; done", joined);
    read_shell(command, got, sizeof got);
    char want[1024];
    size_t at = 0;
    for (size_t i = 0; i < n; i++) {
        at += (size_t)snprintf(want + at, sizeof want - at, "%s\001", argv[i]);
    }
    assert_string_equal(got, want);
    free(joined);
    char *quoted = nl_text_shell_quote("it's");
    assert_string_equal(quoted, "'it'\\''s'");
    free(quoted);
    char *none = nl_text_shell_join(NULL, 0);
    assert_string_equal(none, "");
    free(none);
}

static void durations(void **state) {
    (void)state;
    static const struct {
        unsigned long long ms;
        const char *text;
    } cases[] = {{0, "0ms"},         {999, "999ms"},      {1000, "1s"},
                 {1500, "1.5s"},     {1099, "1s"},        {192000, "3m12s"},
                 {7500000, "2h05m"}, {90000000, "1d01h"}, {~0ull, "213503982334d14h"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char out[32];
        nl_text_duration(out, cases[i].ms);
        assert_string_equal(out, cases[i].text);
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(utf8),
        cmocka_unit_test(ids),
        cmocka_unit_test(join_through_a_shell),
        cmocka_unit_test(durations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
