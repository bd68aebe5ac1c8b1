#include "tools/args.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/err.h"

struct options {
    bool flag;
    const char *text;
    const char *choice;
    struct nl_arg_list list;
    uint64_t number;
    uint64_t duration;
    uint64_t seconds;
};

struct globals {
    const char *addr;
    uint64_t timeout;
};

#define ARG(f) offsetof(struct options, f)
static const struct nl_arg ARGS[] = {
    {"flag", 'f', NL_ARG_BOOL, ARG(flag), NULL, NULL, "help"},
    {"text", 't', NL_ARG_STRING, ARG(text), "TEXT", NULL, "help"},
    {"choice", 0, NL_ARG_STRING, ARG(choice), "table|json", NULL, "help"},
    {"list", 'l', NL_ARG_LIST, ARG(list), "K=V", NULL, "help"},
    {"number", 'n', NL_ARG_U64, ARG(number), "N", "100", "help"},
    {"timeout", 0, NL_ARG_DURATION, ARG(duration), "DURATION", NULL, "help"},
    {"for", 0, NL_ARG_SECONDS, ARG(seconds), "S", "2", "help"},
    {0},
};
static const struct nl_arg GLOBALS[] = {
    {"addr", 0, NL_ARG_STRING, offsetof(struct globals, addr), "ADDR", NULL, "help"},
    {"timeout", 0, NL_ARG_DURATION, offsetof(struct globals, timeout), "DURATION", NULL, "help"},
    {0},
};

struct fixture {
    struct options options;
    struct globals globals;
    struct nl_operands operands;
    char error[256];
    int rc;
};

static int count(char **argv) {
    int n = 0;
    while (argv[n] != NULL) {
        n++;
    }
    return n;
}

static void parse(struct fixture *f, char **argv) {
    *f = (struct fixture){0};
    const struct nl_arg_set sets[] = {{ARGS, &f->options}, {GLOBALS, &f->globals}, {0}};
    assert_int_equal(nl_args_init(&sets[0]), NL_OK);
    f->rc = nl_args_parse(sets, count(argv), argv, &f->operands, f->error, sizeof f->error);
}

static void close_fixture(struct fixture *f) {
    nl_operands_close(&f->operands);
    nl_args_close(&(struct nl_arg_set){ARGS, &f->options});
}

#define ARGV(...) ((char *[]){__VA_ARGS__, NULL})

static void test_flags_stand_anywhere(void **state) {
    (void)state;
    struct fixture f;
    parse(&f, ARGV("one", "-f", "--text=a=b", "two", "-l", "x=1", "--list", "y=2", "-n7", "-",
                   "--addr", "h:1"));
    assert_int_equal(f.rc, NL_OK);
    assert_true(f.options.flag);
    assert_string_equal(f.options.text, "a=b");
    assert_int_equal(f.options.number, 7);
    assert_int_equal(f.options.list.count, 2);
    assert_string_equal(f.options.list.items[1], "y=2");
    assert_int_equal(f.operands.count, 3);
    assert_string_equal(f.operands.items[2], "-");
    assert_null(f.operands.command);
    assert_string_equal(f.globals.addr, "h:1");
    close_fixture(&f);
}

static void test_nothing_behind_dashes_is_touched(void **state) {
    (void)state;
    struct fixture f;
    parse(&f, ARGV("a1", "--", "ls", "--flag", "--", "-x"));
    assert_int_equal(f.rc, NL_OK);
    assert_false(f.options.flag);
    assert_int_equal(f.operands.count, 1);
    assert_int_equal(f.operands.n_command, 4);
    assert_string_equal(f.operands.command[2], "--");
    close_fixture(&f);
}

static void test_seconds(void **state) {
    (void)state;
    struct fixture f;
    parse(&f, ARGV("one"));
    assert_int_equal(f.options.seconds, 2000);
    close_fixture(&f);
    parse(&f, ARGV("--for", "90"));
    assert_int_equal(f.options.seconds, 90000);
    close_fixture(&f);
    parse(&f, ARGV("--for=250ms"));
    assert_int_equal(f.options.seconds, 250);
    close_fixture(&f);
    parse(&f, ARGV("--for", "soon"));
    assert_int_equal(f.rc, NL_EINVAL);
    assert_non_null(strstr(f.error, "seconds"));
    close_fixture(&f);
    parse(&f, ARGV("--for", "18446744073709551615"));
    assert_int_equal(f.rc, NL_EINVAL);
    close_fixture(&f);
}

static void test_defaults_and_own_flags_first(void **state) {
    (void)state;
    struct fixture f;
    parse(&f, ARGV("--timeout", "1500ms"));
    assert_int_equal(f.rc, NL_OK);
    assert_int_equal(f.options.number, 100);
    assert_int_equal(f.options.duration, 1500);
    assert_int_equal(f.globals.timeout, 0);
    close_fixture(&f);
}

static void expect_error(char **argv, const char *part) {
    struct fixture f;
    parse(&f, argv);
    assert_int_equal(f.rc, NL_EINVAL);
    if (strstr(f.error, part) == NULL) {
        fail_msg("'%s' does not say '%s'", f.error, part);
    }
    close_fixture(&f);
}

static void test_errors_say_what_was_meant(void **state) {
    (void)state;
    expect_error(ARGV("--txet", "x"), "did you mean --text?");
    expect_error(ARGV("--adr", "x"), "did you mean --addr?");
    expect_error(ARGV("--qqqqqqqq"), "unknown flag --qqqqqqqq");
    expect_error(ARGV("-q"), "unknown flag -q");
    expect_error(ARGV("--text"), "--text needs a value");
    expect_error(ARGV("--text", "--", "x"), "--text needs a value");
    expect_error(ARGV("--flag=1"), "takes no value");
    expect_error(ARGV("--number", "x"), "a number");
    expect_error(ARGV("--timeout", "5x"), "a duration");
    expect_error(ARGV("--choice", "xml"), "table|json");
    expect_error(ARGV("--choice", ""), "table|json");
    expect_error(ARGV("--choice", "tab"), "table|json");
}

static void test_leading_flags_end_at_the_command(void **state) {
    (void)state;
    struct globals globals = {0};
    const struct nl_arg_set sets[] = {{GLOBALS, &globals}, {0}};
    char error[128];
    int index = 0;
    char *argv[] = {"--addr", "h:1", "run", "--addr", "h:2", NULL};
    assert_int_equal(nl_args_parse_leading(sets, 5, argv, &index, error, sizeof error), NL_OK);
    assert_int_equal(index, 2);
    assert_string_equal(globals.addr, "h:1");
}

static void test_nearest(void **state) {
    (void)state;
    static const char *const NAMES[] = {"run", "status", "task list", "agent list", NULL};
    assert_string_equal(nl_args_nearest("rnu", NAMES), "run");
    assert_string_equal(nl_args_nearest("stat", NAMES), "status");
    assert_string_equal(nl_args_nearest("taks list", NAMES), "task list");
    assert_null(nl_args_nearest("frobnicate", NAMES));
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flags_stand_anywhere),
        cmocka_unit_test(test_nothing_behind_dashes_is_touched),
        cmocka_unit_test(test_seconds),
        cmocka_unit_test(test_defaults_and_own_flags_first),
        cmocka_unit_test(test_errors_say_what_was_meant),
        cmocka_unit_test(test_leading_flags_end_at_the_command),
        cmocka_unit_test(test_nearest),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
