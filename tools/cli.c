#include "tools/cli.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/fs.h"
#include "common/base/log.h"
#include "common/base/tls_files.h"

#ifndef NL_VERSION
#define NL_VERSION "unknown"
#endif

enum { ERROR_MAX = 512, NAME_MAX_LEN = 64, WORDS_MAX = 3, NAMES_MAX = 64 };

#define ARG(f) offsetof(struct nl_cli, f)
const struct nl_arg NL_GLOBAL_ARGS[] = {
    {"addr", 0, NL_ARG_STRING, ARG(address_flag), "HOST:PORT,...", NULL,
     "nodes to try in order (NODELINK_ADDR, else 127.0.0.1:7000); one node: that one only"},
    {"token-file", 0, NL_ARG_STRING, ARG(token_file), "FILE", NULL,
     "file with the token (else NODELINK_TOKEN); mode 0600"},
    {"output", 'o', NL_ARG_STRING, ARG(output), "table|json", NULL, "how results are printed"},
    {"timeout", 0, NL_ARG_DURATION, ARG(timeout_ms), "DURATION", NULL,
     "how long a call may take, all nodes together (default 10s)"},
    {"insecure", 0, NL_ARG_BOOL, ARG(insecure), NULL, NULL,
     "plain connections, even with NODELINK_CACERT set"},
    {"help", 'h', NL_ARG_BOOL, ARG(help), NULL, NULL, "this text"},
    {0},
};

// ---- printing --------------------------------------------------------------

void nl_cli_print_json(json_t *value) {
    json_dumpf(value, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER | JSON_ENSURE_ASCII);
    fputc('\n', stdout);
    json_decref(value);
}

static void print_failure(const struct nl_cli *cli, const struct nl_failure *failure,
                          const char *text) {
    fflush(stdout);
    if (cli->json) {
        json_t *value = json_pack("{s:s, s:s, s:s?}", "error", text, "code", failure->code,
                                  "outcome", failure->outcome);
        if (value != NULL && failure->next != NULL) {
            json_object_set_new(value, "next", json_string(failure->next));
        }
        json_dumpf(value, stderr, JSON_PRESERVE_ORDER | JSON_ENSURE_ASCII);
        fputc('\n', stderr);
        json_decref(value);
        return;
    }
    fprintf(stderr, "nodelink: %s\n", text);
    if (failure->next != NULL) {
        fprintf(stderr, "next: %s\n", failure->next);
    }
}

void nl_cli_fail(const struct nl_cli *cli, const struct nl_failure *failure, const char *fmt, ...) {
    char text[ERROR_MAX * 2];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    print_failure(cli, failure, text);
}

int nl_cli_usage(const struct nl_cli *cli, const char *fmt, ...) {
    char text[ERROR_MAX * 2];
    va_list args;
    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    print_failure(cli, &(struct nl_failure){.code = "USAGE", .outcome = "failed"}, text);
    return NL_EXIT_USAGE;
}

void nl_cli_pause_ms(uint64_t ms) {
    struct timespec t = {.tv_sec = (time_t)(ms / 1000), .tv_nsec = (long)(ms % 1000) * 1000000};
    nanosleep(&t, NULL);
}

static const char *advice(const struct nl_client_error *error) {
    if (error->unreachable) {
        return "is nodelinkd running there? name other nodes with --addr or NODELINK_ADDR";
    }
    if (error->outcome == NL_CLIENT_UNKNOWN) {
        return "it may have happened: look before you do it again";
    }
    switch (error->code) {
        case NL_RPC_UNAUTHENTICATED:
            return "give the token with NODELINK_TOKEN or --token-file";
        case NL_RPC_UNAVAILABLE:
        case NL_RPC_DEADLINE_EXCEEDED:
            return "nodelink status shows which nodes are up";
        case NL_RPC_RESOURCE_EXHAUSTED:
            return "wait a moment and try again";
        default:
            return NULL;
    }
}

void nl_cli_fail_call(const struct nl_cli *cli, const struct nl_client_error *error,
                      const char *what) {
    bool unknown = error->outcome == NL_CLIENT_UNKNOWN;
    struct nl_failure failure = {
        .code = nl_rpc_code_name(error->code),
        .outcome = unknown ? "unknown" : "failed",
        .next = advice(error),
    };
    nl_cli_fail(cli, &failure, "%s: %s: %s", unknown ? "unknown" : "failed", what, error->text);
}

// ---- addresses and token ---------------------------------------------------

static const char *environment(const char *name) {
    const char *value = getenv(name);
    return value != NULL && *value != '\0' ? value : NULL;
}

static int load_token(struct nl_cli *cli) {
    if (cli->token_file == NULL) {
        const char *token = environment("NODELINK_TOKEN");
        cli->target.token = token != NULL ? strdup(token) : NULL;
        return NL_EXIT_OK;
    }
    int rc = nl_fs_read_secret(cli->token_file, &cli->target.token);
    if (rc == NL_EPERM) {
        return nl_cli_usage(cli, "token file %s: not readable, or others may read it: chmod 600",
                            cli->token_file);
    }
    return rc == NL_OK ? NL_EXIT_OK
                       : nl_cli_usage(cli, "token file %s: %s", cli->token_file, nl_strerror(rc));
}

static int load_target(struct nl_cli *cli) {
    char error[ERROR_MAX];
    const char *list = cli->address_flag != NULL ? cli->address_flag : environment("NODELINK_ADDR");
    if (nl_client_parse_addresses(list != NULL ? list : "127.0.0.1:7000", &cli->target, error,
                                  sizeof error) != NL_OK) {
        return nl_cli_usage(cli, "%s: %s", cli->address_flag != NULL ? "--addr" : "NODELINK_ADDR",
                            error);
    }
    cli->one_node = cli->address_flag != NULL && cli->target.n_addresses == 1;
    if (!cli->insecure) {
        cli->target.tls = (struct nl_rpc_tls){
            .ca_file = environment("NODELINK_CACERT"),
            .cert_file = environment("NODELINK_CLIENT_CERT"),
            .key_file = environment("NODELINK_CLIENT_KEY"),
        };
        if (nl_tls_key_check(cli->target.tls.key_file, error, sizeof error) != NL_OK) {
            return nl_cli_usage(cli, "NODELINK_CLIENT_KEY: %s", error);
        }
    }
    return load_token(cli);
}

struct nl_client *nl_cli_client(const struct nl_cli *cli) {
    struct nl_client *client = nl_client_new(&cli->target);
    if (client == NULL) {
        nl_cli_fail(cli, &(struct nl_failure){.code = "INTERNAL", .outcome = "failed"},
                    "can't start gRPC: out of memory or descriptors");
    }
    return client;
}

static int exit_of(const struct nl_client_error *error) {
    return error->unreachable ? NL_EXIT_UNREACHABLE : NL_EXIT_FAILED;
}

ProtobufCMessage *nl_cli_call(const struct nl_cli *cli, const struct nl_client_call *call,
                              const char *what, int *ret_exit) {
    struct nl_client *client = nl_cli_client(cli);
    if (client == NULL) {
        *ret_exit = NL_EXIT_FAILED;
        return NULL;
    }
    struct nl_client_call timed = *call;
    if (timed.timeout_ms == 0) {
        timed.timeout_ms = cli->timeout_ms;
    }
    ProtobufCMessage *reply = NULL;
    struct nl_client_error error;
    if (!nl_client_wait(client, &timed, &reply, &error)) {
        nl_cli_fail_call(cli, &error, what);
        *ret_exit = exit_of(&error);
        reply = NULL;
    }
    nl_client_free(client);
    return reply;
}

// ---- finding the subcommand ------------------------------------------------

// Length of the words of argv that spell `name` ("task list"), counted in arguments; 0: they
// don't.
static int spelled(const char *name, size_t len, int argc, char **argv) {
    int words = 0;
    while (len > 0) {
        const char *blank = memchr(name, ' ', len);
        size_t word = blank != NULL ? (size_t)(blank - name) : len;
        if (words >= argc || strlen(argv[words]) != word || strncmp(argv[words], name, word) != 0) {
            return 0;
        }
        words++;
        name += word + (blank != NULL);
        len -= word + (blank != NULL);
    }
    return words;
}

static int spelled_command(const struct nl_command *command, int argc, char **argv) {
    int words = spelled(command->name, strlen(command->name), argc, argv);
    for (const char *at = command->alias; words == 0 && at != NULL;) {
        const char *comma = strchr(at, ',');
        words = spelled(at, comma != NULL ? (size_t)(comma - at) : strlen(at), argc, argv);
        at = comma != NULL ? comma + 1 : NULL;
    }
    return words;
}

// The command that the most words of argv spell.
static const struct nl_command *find_command(int argc, char **argv, int *ret_words) {
    const struct nl_command *found = NULL;
    *ret_words = 0;
    for (const struct nl_command *const *c = NL_COMMANDS; *c != NULL; c++) {
        int words = spelled_command(*c, argc, argv);
        if (words > *ret_words) {
            *ret_words = words;
            found = *c;
        }
    }
    return found;
}

// Is `word` the first of longer commands, like "task"?
static bool is_group(const char *word) {
    size_t len = strlen(word);
    for (const struct nl_command *const *c = NL_COMMANDS; *c != NULL; c++) {
        if (strncmp((*c)->name, word, len) == 0 && (*c)->name[len] == ' ') {
            return true;
        }
    }
    return false;
}

static void print_command_list(FILE *out, const char *group) {
    size_t len = group != NULL ? strlen(group) : 0;
    for (const struct nl_command *const *c = NL_COMMANDS; *c != NULL; c++) {
        if (group == NULL || (strncmp((*c)->name, group, len) == 0 && (*c)->name[len] == ' ')) {
            fprintf(out, "  %-20s %s\n", (*c)->name, (*c)->summary);
        }
    }
}

static void print_help(FILE *out, const char *group) {
    fprintf(out, "usage: nodelink [flags] %s [flags]\n\n", group != NULL ? group : "COMMAND");
    if (group == NULL) {
        fputs("Runs commands on a fleet, through a cluster.\n\n", out);
    }
    print_command_list(out, group);
    fputs("\nflags of every command:\n", out);
    nl_args_print_help(out, NL_GLOBAL_ARGS, NULL);
    fputs("\nnodelink COMMAND --help tells more. docs/cli.md has exit codes and examples.\n", out);
}

static void print_command_help(const struct nl_command *command) {
    printf("usage: nodelink %s%s%s [flags]%s\n\n%s\n", command->name,
           *command->operands != '\0' ? " " : "", command->operands,
           command->takes_command ? " -- CMD [ARGS]" : "", command->summary);
    if (command->details != NULL) {
        printf("\n%s", command->details);
    }
    if (command->alias != NULL) {
        printf("\nshort: nodelink %s\n", command->alias);
    }
    if (command->args->name != NULL) {
        puts("\nflags:");
        nl_args_print_help(stdout, command->args, NULL);
    }
    puts("\nflags of every command:");
    nl_args_print_help(stdout, NL_GLOBAL_ARGS, command->args);
}

static bool owns_flag(const struct nl_command *command, const char *name) {
    for (const struct nl_arg *arg = command->args; arg->name != NULL; arg++) {
        if (strcmp(arg->name, name) == 0) {
            return true;
        }
    }
    return false;
}

// What was probably meant: of the names of one word or of two that begin with a typed one.
static const char *nearest_command(const char *typed) {
    const char *names[NAMES_MAX + 1] = {0};
    size_t n = 0;
    for (const struct nl_command *const *c = NL_COMMANDS; *c != NULL && n < NAMES_MAX - 1; c++) {
        names[n++] = (*c)->name;
        if ((*c)->alias != NULL && strchr((*c)->alias, ',') == NULL) {
            names[n++] = (*c)->alias;
        }
    }
    return nl_args_nearest(typed, names);
}

static int unknown_command(const struct nl_cli *cli, int argc, char **argv) {
    char typed[NAME_MAX_LEN * 2];
    bool two = argc > 1 && argv[1][0] != '-';
    if (is_group(argv[0]) && !two) {
        return nl_cli_usage(cli, "'%s' needs a verb; nodelink %s --help lists them", argv[0],
                            argv[0]);
    }
    snprintf(typed, sizeof typed, "%s%s%s", argv[0], two ? " " : "", two ? argv[1] : "");
    const char *nearest = nearest_command(typed);
    if (nearest == NULL && two && !is_group(argv[0])) {
        nearest = nearest_command(argv[0]);
    }
    return nearest != NULL
               ? nl_cli_usage(cli, "unknown command '%s'; did you mean '%s'?", typed, nearest)
               : nl_cli_usage(cli, "unknown command '%s'; nodelink --help lists them", typed);
}

// ---- running it ------------------------------------------------------------

static int check_operands(const struct nl_cli *cli, const struct nl_command *command,
                          const struct nl_operands *operands) {
    if (operands->command != NULL && !command->takes_command) {
        return nl_cli_usage(cli, "nodelink %s takes no command after --", command->name);
    }
    if (operands->count < command->min) {
        return nl_cli_usage(cli, "usage: nodelink %s %s%s", command->name, command->operands,
                            command->takes_command ? " -- CMD [ARGS]" : "");
    }
    if (operands->count > command->max) {
        return nl_cli_usage(cli, "nodelink %s: unexpected '%s'%s", command->name,
                            operands->items[command->max],
                            command->takes_command ? "; put -- before the command to run" : "");
    }
    return NL_EXIT_OK;
}

static void settle_globals(struct nl_cli *cli) {
    cli->json = cli->output != NULL && strcmp(cli->output, "json") == 0;
    cli->color = isatty(STDOUT_FILENO) == 1 && environment("NO_COLOR") == NULL;
}

static int run_parsed(struct nl_cli *cli, const struct nl_command *command,
                      const struct nl_operands *operands, void *options) {
    if (cli->help) {
        print_command_help(command);
        return NL_EXIT_OK;
    }
    int rc = check_operands(cli, command, operands);
    if (rc == NL_EXIT_OK && !command->local) {
        rc = load_target(cli);
    }
    return rc != NL_EXIT_OK ? rc : command->run(cli, operands, options);
}

static int run_command(struct nl_cli *cli, const struct nl_command *command, int argc,
                       char **argv) {
    void *options = calloc(1, command->options_size + 1);
    if (options == NULL) {
        return nl_cli_usage(cli, "out of memory");
    }
    // The command's own flags come first: `run --timeout` is the task's.
    const struct nl_arg_set sets[] = {{command->args, options}, {NL_GLOBAL_ARGS, cli}, {0}};
    struct nl_operands operands = {0};
    char error[ERROR_MAX];
    int rc = NL_EXIT_USAGE;
    if (nl_args_init(&sets[0]) != NL_OK) {
        rc = nl_cli_usage(cli, "out of memory");
    } else if (nl_args_parse(sets, argc, argv, &operands, error, sizeof error) != NL_OK) {
        settle_globals(cli);
        rc = nl_cli_usage(cli, "%s (nodelink %s --help)", error, command->name);
    } else {
        settle_globals(cli);
        rc = run_parsed(cli, command, &operands, options);
    }
    nl_operands_close(&operands);
    nl_args_close(&sets[0]);
    free(options);
    return rc;
}

static int dispatch(struct nl_cli *cli, int argc, char **argv) {
    const struct nl_arg_set sets[] = {{NL_GLOBAL_ARGS, cli}, {0}};
    char error[ERROR_MAX];
    int first = 0;
    if (argc > 0 && strcmp(argv[0], "--version") == 0) {
        puts("nodelink " NL_VERSION);
        return NL_EXIT_OK;
    }
    if (nl_args_parse_leading(sets, argc, argv, &first, error, sizeof error) != NL_OK) {
        settle_globals(cli);
        return nl_cli_usage(cli, "%s (nodelink --help)", error);
    }
    settle_globals(cli);
    argc -= first;
    argv += first;
    if (argc == 0 || (argc == 1 && strcmp(argv[0], "help") == 0)) {
        bool asked = cli->help || argc == 1;
        print_help(asked ? stdout : stderr, NULL);
        return asked ? NL_EXIT_OK : NL_EXIT_USAGE;
    }
    if (strcmp(argv[0], "help") == 0) {
        cli->help = true;
        argc--;
        argv++;
    }
    int words = 0;
    const struct nl_command *command = find_command(argc, argv, &words);
    bool help_next = argc > 1 && (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0);
    if (command == NULL && is_group(argv[0]) && (help_next || (cli->help && argc == 1))) {
        print_help(stdout, argv[0]);
        return NL_EXIT_OK;
    }
    if (command == NULL) {
        return unknown_command(cli, argc, argv);
    }
    if (cli->timeout_ms != 0 && owns_flag(command, "timeout")) {
        return nl_cli_usage(cli, "--timeout of %s goes behind the command", command->name);
    }
    return run_command(cli, command, argc - words, argv + words);
}

int nl_cli_main(int argc, char **argv) {
    struct nl_cli cli = {0};
    signal(SIGPIPE, SIG_IGN);
    nl_log_init(NL_LOG_OFF, NL_LOG_TEXT, "nodelink");
    int rc = dispatch(&cli, argc > 0 ? argc - 1 : 0, argv + 1);
    if (fflush(stdout) != 0 && rc == NL_EXIT_OK) {
        rc = NL_EXIT_FAILED;
    }
    nl_client_target_close(&cli.target);
    return rc;
}
