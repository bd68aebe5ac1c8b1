// What every subcommand shares: the table of subcommands, the global flags, how results and
// failures are printed.
#ifndef NODELINK_TOOLS_CLI_H
#define NODELINK_TOOLS_CLI_H

#include <jansson.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "tools/args.h"
#include "tools/client.h"

// Exit codes; docs/cli.md lists them for users.
enum nl_exit {
    NL_EXIT_OK = 0,
    NL_EXIT_FAILED = 1,
    NL_EXIT_USAGE = 2,
    NL_EXIT_UNREACHABLE = 3,  // of `status` and `cluster verify`
    NL_EXIT_TIMED_OUT = 124,
    NL_EXIT_CLUSTER = 125,
    NL_EXIT_AGENT = 126,
    NL_EXIT_UNKNOWN = 127,
};

struct nl_cli {
    // Global flags.
    const char *address_flag;
    const char *token_file;
    const char *output;
    uint64_t timeout_ms;
    bool insecure;
    bool help;
    // Made from them and the environment.
    bool json;
    bool color;                      // stdout is a terminal and NO_COLOR is not set
    bool one_node;                   // --addr named exactly one: speak to that node only
    struct nl_client_target target;  // owned
};

struct nl_command {
    const char *name;           // "task list"
    const char *alias;          // other ways to write it, separated by commas; or NULL
    const char *operands;       // for the usage line, "ID [ID...]"; or ""
    const char *summary;        // one line
    const char *details;        // for --help: exit codes, examples; or NULL
    const struct nl_arg *args;  // ended by name NULL
    size_t options_size;        // of the struct that args describe
    size_t min, max;            // operands before `--`
    bool takes_command;         // `-- CMD` is allowed
    bool local;                 // needs no cluster: addresses and token are not looked at
    // Returns the exit code. `options` is the filled struct.
    int (*run)(struct nl_cli *cli, const struct nl_operands *operands, const void *options);
};
// All subcommands, ended by NULL (commands.c).
extern const struct nl_command *const NL_COMMANDS[];
extern const struct nl_arg NL_GLOBAL_ARGS[];

// The program without `main`: exit code. argv as main gets it.
int nl_cli_main(int argc, char **argv);

// ---- output ----------------------------------------------------------------

// Prints and takes the value; in table mode it is the caller's work not to call it.
void nl_cli_print_json(json_t *value);
// `{"error","code","outcome"}` or "nodelink: text" with a second line "next: ..." on stderr.
// code: "NOT_FOUND", "USAGE", ...; outcome: "failed" (nothing was done), "unknown" or NULL.
struct nl_failure {
    const char *code;
    const char *outcome;
    const char *next;  // what to do; or NULL
};
void nl_cli_fail(const struct nl_cli *cli, const struct nl_failure *failure, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
// The same for a failed call; `what` says what was tried to what ("submit task x to agent a1").
void nl_cli_fail_call(const struct nl_cli *cli, const struct nl_client_error *error,
                      const char *what);
// Wrong usage found by a subcommand: NL_EXIT_USAGE.
int nl_cli_usage(const struct nl_cli *cli, const char *fmt, ...)
    __attribute__((format(printf, 2, 3)));

void nl_cli_pause_ms(uint64_t ms);

// ---- calls -----------------------------------------------------------------

// A client for the global flags. NULL: no memory (said on stderr).
struct nl_client *nl_cli_client(const struct nl_cli *cli);
// One call on a fresh client. NULL: the failure was printed and *ret_exit set. The reply is freed
// with nl_rpc_message_free.
ProtobufCMessage *nl_cli_call(const struct nl_cli *cli, const struct nl_client_call *call,
                              const char *what, int *ret_exit);

#endif
