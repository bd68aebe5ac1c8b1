#include "tools/cli.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

enum { ARGS_MAX = 12, TEXT_MAX = 32 << 10 };

// Runs the command line with stdout and stderr going to `text`.
static int run(const char *line, char text[TEXT_MAX]) {
    char copy[512];
    char *argv[ARGS_MAX + 2] = {(char *)"nodelink"};
    int argc = 1;
    snprintf(copy, sizeof copy, "%s", line);
    char *rest = copy;
    for (char *word = strsep(&rest, " "); word != NULL && argc <= ARGS_MAX;
         word = strsep(&rest, " ")) {
        if (*word != '\0') {
            argv[argc++] = word;
        }
    }
    FILE *capture = tmpfile();
    assert_non_null(capture);
    fflush(stdout);
    fflush(stderr);
    int out = dup(STDOUT_FILENO), err = dup(STDERR_FILENO);
    dup2(fileno(capture), STDOUT_FILENO);
    dup2(fileno(capture), STDERR_FILENO);
    int rc = nl_cli_main(argc, argv);
    fflush(stdout);
    fflush(stderr);
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    close(out);
    close(err);
    rewind(capture);
    size_t n = fread(text, 1, TEXT_MAX - 1, capture);
    text[n] = '\0';
    fclose(capture);
    return rc;
}

struct row {
    const char *line;
    int exit_code;
    const char *says;
};

static const struct row ROWS[] = {
    {"", 2, "usage: nodelink"},
    {"--help", 0, "  task list "},
    {"help", 0, "  task list "},
    {"--version", 0, "nodelink "},
    {"task", 2, "'task' needs a verb"},
    {"task --help", 0, "  task cancel "},
    {"agent token", 2, "did you mean 'agent token create'"},
    {"run --help", 0, "  124  the task ran into its timeout"},
    {"help run", 0, "  124  the task ran into its timeout"},
    {"tasl list", 2, "unknown command 'tasl list'; did you mean 'task list'?"},
    {"stauts", 2, "did you mean 'status'?"},
    {"frobnicate", 2, "unknown command 'frobnicate'"},
    {"status --wat healthy", 2, "did you mean --wait?"},
    {"status --wait never", 2, "healthy|quorum"},
    {"status extra", 2, "unexpected 'extra'"},
    {"task show", 2, "usage: nodelink task show ID"},
    {"task show a b", 2, "unexpected 'b'"},
    {"status -- true", 2, "takes no command after --"},
    {"run", 2, "run on which agent?"},
    {"run a1", 2, "no command"},
    {"run a1 ls", 2, "put -- before the command to run"},
    {"run a1 --env X -- true", 2, "--env X is not KEY=VALUE"},
    {"run a1 --task-id -x -- true", 2, "--task-id -x"},
    {"run a1 --task-id x --idempotency-key y -- true", 2, "exclude each other"},
    {"run --all --task-id x -- true", 2, "--task-id is for one task"},
    {"run --all --parallel 0 -- true", 2, "--parallel"},
    {"run --label x -- true", 2, "--label x is not KEY=VALUE"},
    {"--timeout 5s run a1 -- true", 2, "goes behind the command"},
    {"status --addr nonsense:x", 2, "--addr: 'nonsense:x'"},
    {"status --token-file /nonexistent/file", 2, "token file /nonexistent/file"},
    {"task list --state nonsense", 2, "--state nonsense"},
    {"local up", 2, "which cluster? --dir DIR"},
    {"local up --dir /nonexistent --nodes 0", 2, "--nodes has to be 1 to 9"},
    {"local kill", 2, "usage: nodelink local kill NAME"},
    {"local status --dir /nonexistent/dir", 1, "no cluster in /nonexistent/dir"},
    {"local down --dir /nonexistent/dir", 0, ""},
    {"status --addr 127.0.0.1:1", 3, "can't connect to 127.0.0.1:1"},
    {"cluster verify --addr 127.0.0.1:1 --timeout 100ms", 3, "not compared"},
    {"task show x --addr 127.0.0.1:1 --timeout 100ms", 3, "can't connect to 127.0.0.1:1"},
    {"run a1 --addr 127.0.0.1:1 --patience 100ms -- true", 125, "failed: submit task"},
    {"-o json status --addr 127.0.0.1:1", 3, "\"code\": \"UNAVAILABLE\", \"outcome\": \"failed\""},
    {"task show -o json", 2, "{\"error\": \"usage: nodelink task show ID\", \"code\": \"USAGE\""},
};

static void test_command_lines(void **state) {
    (void)state;
    char *text = malloc(TEXT_MAX);
    assert_non_null(text);
    for (size_t i = 0; i < sizeof ROWS / sizeof ROWS[0]; i++) {
        int rc = run(ROWS[i].line, text);
        if (rc != ROWS[i].exit_code || strstr(text, ROWS[i].says) == NULL) {
            fail_msg("nodelink %s: exit code %d, not %d, or does not say '%s':\n%s", ROWS[i].line,
                     rc, ROWS[i].exit_code, ROWS[i].says, text);
        }
    }
    free(text);
}

int main(void) {
    unsetenv("NODELINK_ADDR");
    unsetenv("NODELINK_TOKEN");
    unsetenv("NODELINK_CACERT");
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_command_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
