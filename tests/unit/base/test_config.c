#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
// cmocka needs the four above first
#include <cmocka.h>
#include <stdio.h>
#include <unistd.h>

#include "common/base/config.h"
#include "common/base/err.h"
#include "common/base/fs.h"

struct settings {
    char *name;
    struct nl_config_list servers;
    bool verbose;
    uint64_t count;
    uint64_t grace;
    uint64_t bytes;
    char *token;
};

#define FIELD(f) offsetof(struct settings, f)
static const struct nl_config_key keys[] = {
    {.key = "name",
     .type = NL_CONFIG_STRING,
     .offset = FIELD(name),
     .fallback = "none",
     .env = "TEST_NL_NAME",
     .help = "a name",
     .short_flag = 'n'},
    {.key = "server", .type = NL_CONFIG_LIST, .offset = FIELD(servers), .env = "TEST_NL_SERVER"},
    {.key = "verbose", .type = NL_CONFIG_BOOL, .offset = FIELD(verbose), .short_flag = 'v'},
    {.key = "count",
     .type = NL_CONFIG_U64,
     .offset = FIELD(count),
     .fallback = "3",
     .min = 1,
     .max = 10},
    {.key = "grace", .type = NL_CONFIG_DURATION, .offset = FIELD(grace), .fallback = "10s"},
    {.key = "bytes", .type = NL_CONFIG_SIZE, .offset = FIELD(bytes), .fallback = "1MiB"},
    {.key = "token", .type = NL_CONFIG_STRING, .offset = FIELD(token), .file_only = true},
    {0},
};

static char dir[] = "/tmp/nl-config-XXXXXX";
static char file[64];

static int setup(void **state) {
    (void)state;
    if (mkdtemp(dir) == NULL) {
        return -1;
    }
    snprintf(file, sizeof file, "%s/settings", dir);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    unlink(file);
    return rmdir(dir);
}

static void write_file(const char *text) {
    assert_int_equal(nl_fs_write_atomic(file, text, strlen(text), 0600), NL_OK);
}

static int load_args(struct settings *s, const char *path, char **argv, int *argi,
                     struct nl_config_error *error) {
    int argc = 0;
    while (argv[argc] != NULL) {
        argc++;
    }
    *s = (struct settings){0};
    return nl_config_load(keys, s, path, argc, argv, argi, error);
}

static void precedence(void **state) {
    (void)state;
    struct settings s;
    struct nl_config_error error;
    int argi = 0;
    write_file("# comment\nname = file # trailing\n\n server=a:1 , b:2\ncount=4\r\ntoken = x#y\n");
    char *none[] = {"prog", NULL};
    assert_int_equal(load_args(&s, NULL, none, &argi, &error), NL_OK);
    assert_string_equal(s.name, "none");
    assert_int_equal(s.grace, 10000);
    assert_int_equal(s.bytes, 1 << 20);
    nl_config_close(keys, &s);
    assert_int_equal(load_args(&s, file, none, &argi, &error), NL_OK);
    assert_string_equal(s.name, "file");
    assert_string_equal(s.token, "x#y");
    assert_int_equal(s.count, 4);
    assert_int_equal(s.servers.count, 2);
    assert_string_equal(s.servers.items[1], "b:2");
    nl_config_close(keys, &s);
    setenv("TEST_NL_NAME", "environment", 1);
    setenv("TEST_NL_SERVER", "", 1);
    assert_int_equal(load_args(&s, file, none, &argi, &error), NL_OK);
    assert_string_equal(s.name, "environment");
    assert_int_equal(s.servers.count, 2);
    nl_config_close(keys, &s);
    char *flags[] = {"prog",     "-v",      "-n",      "flag", "--server=c:3", "--server", "d:4",
                     "--config", "ignored", "--count", "9",    "run",          "--name",   NULL};
    assert_int_equal(load_args(&s, file, flags, &argi, &error), NL_OK);
    assert_string_equal(s.name, "flag");
    assert_true(s.verbose);
    assert_int_equal(s.servers.count, 2);
    assert_string_equal(s.servers.items[0], "c:3");
    assert_int_equal(argi, 11);
    nl_config_close(keys, &s);
    unsetenv("TEST_NL_NAME");
    unsetenv("TEST_NL_SERVER");
}

static void bad_flags(void **state) {
    (void)state;
    static const struct {
        char *argv[4];
        const char *text;
    } cases[] = {
        {{"p", "--nope"}, "--nope: no such flag"},
        {{"p", "-x"}, "-x: no such flag"},
        {{"p", "-nx"}, "-nx: no such flag"},
        {{"p", "--name"}, "a value is missing"},
        {{"p", "--token=secret"}, "only in the file"},
        {{"p", "--count", "0"}, "count: '0' is too small; give at least 1"},
        {{"p", "--count", "11"}, "count: '11' is too large; give at most 10"},
        {{"p", "--count=-1"}, "is not a whole number"},
        {{"p", "--verbose=perhaps"}, "is not true or false"},
        {{"p", "--grace", "10"}, "is not a duration"},
        {{"p", "--bytes", "1KB"}, "is not a size"},
        {{"p", "--server", "a,,b"}, "without empty elements"},
        {{"p", "--name", "\xFF"}, "is not UTF-8"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct settings s;
        struct nl_config_error error;
        int argi = 77;
        char *argv[5] = {0};
        memcpy(argv, cases[i].argv, sizeof cases[i].argv);
        assert_int_equal(load_args(&s, NULL, argv, &argi, &error), NL_EINVAL);
        if (strstr(error.text, cases[i].text) == NULL) {
            fail_msg("'%s' lacks '%s'", error.text, cases[i].text);
        }
        assert_int_equal(argi, 77);
        nl_config_close(keys, &s);
    }
}

static void bad_files(void **state) {
    (void)state;
    static const struct {
        const char *content;
        const char *text;
    } cases[] = {
        {"\n\nnope = 1\n", "settings:3: nope: no such setting"},
        {"name", "settings:1: 'name' is not of the form"},
        {"= x", "is not of the form"},
        {"count = 1\ncount = 2\n", "settings:2: count: given twice"},
        {"grace = fast\n", "settings:1: grace: 'fast' is not a duration"},
        {"name = \xFF\n", "not UTF-8"},
    };
    char *argv[] = {"p", NULL};
    struct settings s;
    struct nl_config_error error;
    int argi = 0;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        write_file(cases[i].content);
        assert_int_equal(load_args(&s, file, argv, &argi, &error), NL_EINVAL);
        if (strstr(error.text, cases[i].text) == NULL) {
            fail_msg("'%s' lacks '%s'", error.text, cases[i].text);
        }
        nl_config_close(keys, &s);
    }
    assert_int_equal(load_args(&s, "/nonexistent/x", argv, &argi, &error), NL_EINVAL);
    assert_non_null(strstr(error.text, "/nonexistent/x: can't read the file: not found"));
    nl_config_close(keys, &s);
}

static void parsers(void **state) {
    (void)state;
    uint64_t v = 5;
    static const char *const bad_numbers[] = {"",   " 1",  "1 ",  "+1",
                                              "-1", "0x1", "1e3", "18446744073709551616"};
    for (size_t i = 0; i < sizeof bad_numbers / sizeof bad_numbers[0]; i++) {
        assert_int_equal(nl_parse_u64(bad_numbers[i], &v), NL_EINVAL);
    }
    assert_int_equal(v, 5);
    assert_int_equal(nl_parse_u64("18446744073709551615", &v), NL_OK);
    assert_true(v == UINT64_MAX);
    assert_int_equal(nl_parse_duration_ms("2h", &v), NL_OK);
    assert_int_equal(v, 7200000);
    assert_int_equal(nl_parse_duration_ms("0", &v), NL_OK);
    assert_int_equal(v, 0);
    assert_int_equal(nl_parse_duration_ms("213503982335d", &v), NL_EINVAL);
    assert_int_equal(nl_parse_duration_ms("s", &v), NL_EINVAL);
    assert_int_equal(nl_parse_size("2GiB", &v), NL_OK);
    assert_true(v == 2ull << 30);
    assert_int_equal(nl_parse_size("16777216TiB", &v), NL_EINVAL);
    assert_int_equal(nl_parse_size("99999999999999999999999999", &v), NL_EINVAL);
}

static void addresses(void **state) {
    (void)state;
    char *host = NULL;
    uint16_t port = 0;
    assert_int_equal(nl_parse_address("node-1.example:7000", &host, &port), NL_OK);
    assert_string_equal(host, "node-1.example");
    assert_int_equal(port, 7000);
    free(host);
    assert_int_equal(nl_parse_address("[::1]:0", &host, &port), NL_OK);
    assert_string_equal(host, "::1");
    free(host);
    static const char *const bad[] = {"",      ":1",    "h",      "h:",    "h:65536",
                                      "h:-1",  "::1:7", "[::1]7", "[]:1",  "[::1]",
                                      "a b:1", "h:1 ",  "[::1",   "h/x:1", "h:1:2"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        if (nl_parse_address(bad[i], &host, &port) != NL_EINVAL) {
            fail_msg("taken: %s", bad[i]);
        }
    }
}

static void config_file_argument(void **state) {
    (void)state;
    char *two[] = {"p", "--config", "x"}, *one[] = {"p", "--config=y"};
    char *after[] = {"p", "--", "--config=z"};
    assert_string_equal(nl_config_file_arg(3, two, NULL), "x");
    assert_string_equal(nl_config_file_arg(2, one, NULL), "y");
    assert_null(nl_config_file_arg(3, after, NULL));
    setenv("TEST_NL_CONFIG", "e", 1);
    assert_string_equal(nl_config_file_arg(3, after, "TEST_NL_CONFIG"), "e");
    unsetenv("TEST_NL_CONFIG");
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(precedence), cmocka_unit_test(bad_flags),
        cmocka_unit_test(bad_files),  cmocka_unit_test(parsers),
        cmocka_unit_test(addresses),  cmocka_unit_test(config_file_argument),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
