#include "tools/run.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/buf.h"
#include "common/base/crypto.h"
#include "common/base/err.h"
#include "common/base/text.h"
#include "tools/commands.h"
#include "tools/interrupt.h"

enum {
    SCRIPT_BYTES_MAX = 120 << 10,  // Linux takes no argument over 128 KiB
    READ_BYTES = 16 << 10,
    PARALLEL_MAX = 1000,
    SUBMIT_MS_MAX = 10000,
};

#define ARG(f) offsetof(struct nl_run_options, f)
static const struct nl_arg ARGS[] = {
    {"detach", 'd', NL_ARG_BOOL, ARG(detach), NULL, NULL, "print the task id, don't follow"},
    {"task-id", 0, NL_ARG_STRING, ARG(task_id), "ID", NULL,
     "the same id and request again is the same task"},
    {"idempotency-key", 0, NL_ARG_STRING, ARG(idempotency_key), "KEY", NULL,
     "the same key on the same agent is the same task"},
    {"timeout", 0, NL_ARG_DURATION, ARG(timeout_ms), "DURATION", NULL,
     "kill the command after this long (exit code 124)"},
    {"env", 'e', NL_ARG_LIST, ARG(env), "KEY=VALUE", NULL, "environment of the command"},
    {"cwd", 0, NL_ARG_STRING, ARG(cwd), "DIR", NULL, "directory it runs in"},
    {"kill-grace", 0, NL_ARG_DURATION, ARG(kill_grace_ms), "DURATION", NULL,
     "between SIGTERM and SIGKILL (default: the agent's)"},
    {"wait-for-agent", 0, NL_ARG_DURATION, ARG(wait_for_agent_ms), "DURATION", NULL,
     "wait for an agent that is offline"},
    {"attempts", 0, NL_ARG_U64, ARG(attempts), "N", "1",
     "start it at most so often, until it succeeds"},
    {"retry-on", 0, NL_ARG_STRING, ARG(retry_on), "LIST", NULL,
     "with --attempts: after exit,signal,timeout,not-started,lost (default: all)"},
    {"start-by", 0, NL_ARG_STRING, ARG(start_by), "WHEN", NULL,
     "a duration or a time: no attempt starts later"},
    {"finish-by", 0, NL_ARG_STRING, ARG(finish_by), "WHEN", NULL,
     "the same: what still runs then is killed (exit code 124)"},
    {"label", 'l', NL_ARG_LIST, ARG(labels), "KEY=VALUE", NULL,
     "without AGENT: run on all agents with it; with AGENT: label of the task"},
    {"all", 0, NL_ARG_BOOL, ARG(all), NULL, NULL, "run on every agent"},
    {"parallel", 0, NL_ARG_U64, ARG(parallel), "N", "50", "agents at once, with --label or --all"},
    {"no-prefix", 0, NL_ARG_BOOL, ARG(no_prefix), NULL, NULL,
     "no agent name before each line, with --label or --all"},
    {"patience", 0, NL_ARG_DURATION, ARG(patience_ms), "DURATION", "30s",
     "of a task that runs: give up after this long without an answer of any node"},
    {0},
};

// ---- shared with run_one and run_many --------------------------------------

const char *nl_run_task_id(const struct nl_run_options *options, const char *agent, char *out) {
    if (options->task_id != NULL) {
        return options->task_id;
    }
    if (options->idempotency_key == NULL) {
        nl_random_id(out);
        return out;
    }
    struct nl_sha256 *hash = nl_sha256_new();
    if (hash == NULL) {
        abort();
    }
    uint8_t digest[NL_SHA256_LEN];
    char hex[2 * NL_SHA256_LEN + 1];
    nl_sha256_update(hash, agent, strlen(agent) + 1);
    nl_sha256_update(hash, options->idempotency_key, strlen(options->idempotency_key));
    nl_sha256_peek(hash, digest);
    nl_sha256_free(hash);
    nl_hex_encode(digest, sizeof digest, hex);
    snprintf(out, NL_TASK_ID_SIZE, "key-%.40s", hex);
    return out;
}

uint64_t nl_run_submit_ms(const struct nl_run_options *options) {
    return options->patience_ms < SUBMIT_MS_MAX ? options->patience_ms : SUBMIT_MS_MAX;
}

int nl_run_write(int fd, const void *data, size_t len) {
    const char *at = data;
    while (len > 0) {
        ssize_t n = write(fd, at, len);
        if (n >= 0) {
            at += n;
            len -= (size_t)n;
        } else if (errno == EINTR) {
            if (nl_interrupt_count() >= 2) {
                return NL_ECANCELED;
            }
        } else if (errno == EAGAIN) {
            poll(&(struct pollfd){.fd = fd, .events = POLLOUT}, 1, -1);
        } else {
            return errno == EPIPE ? NL_ECLOSED : NL_EIO;
        }
    }
    return NL_OK;
}

// ---- the command -----------------------------------------------------------

// Reads standard input to its end. NULL: said on stderr.
static char *read_script(const struct nl_cli *cli) {
    struct nl_buf text;
    char chunk[READ_BYTES];
    nl_buf_init(&text, SCRIPT_BYTES_MAX + 1);
    for (;;) {
        ssize_t n = read(STDIN_FILENO, chunk, sizeof chunk);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            break;
        }
        if (nl_buf_append(&text, chunk, (size_t)n) != NL_OK || text.len > SCRIPT_BYTES_MAX) {
            nl_cli_usage(cli,
                         "the script on standard input is longer than 120 KiB; copy it to "
                         "the host and run it there");
            nl_buf_close(&text);
            return NULL;
        }
    }
    if (text.len == 0 || nl_buf_append(&text, "", 1) != NL_OK) {
        nl_cli_usage(cli, "standard input holds no script");
        nl_buf_close(&text);
        return NULL;
    }
    return (char *)text.data;
}

static int check_text(const struct nl_cli *cli, const char *what, const char *text) {
    if (text != NULL && !nl_text_utf8_ok(text, strlen(text))) {
        return nl_cli_usage(cli, "%s is not UTF-8", what);
    }
    return NL_EXIT_OK;
}

static int set_command(struct nl_cli *cli, struct nl_run_plan *plan,
                       const struct nl_operands *operands, size_t script_operand) {
    bool bare_dash =
        operands->count > script_operand && strcmp(operands->items[script_operand], "-") == 0;
    bool script = bare_dash || (operands->n_command == 1 && strcmp(operands->command[0], "-") == 0);
    if (operands->count > script_operand && !bare_dash) {
        return nl_cli_usage(cli, "unexpected '%s'; put -- before the command to run",
                            operands->items[script_operand]);
    }
    if (script) {
        plan->cmd = read_script(cli);
    } else if (operands->n_command == 0 || *operands->command[0] == '\0') {
        return nl_cli_usage(cli, "no command; put it behind --: nodelink run a1 -- uptime");
    } else if (operands->n_command == 1) {
        plan->cmd = strdup(operands->command[0]);
    } else {
        plan->cmd = nl_text_shell_join(operands->command, operands->n_command);
        plan->spec.argv = operands->command;
        plan->spec.n_argv = operands->n_command;
    }
    if (plan->cmd == NULL) {
        return script ? NL_EXIT_USAGE : nl_cli_usage(cli, "out of memory");
    }
    plan->spec.cmd = plan->cmd;
    return check_text(cli, "the command", plan->cmd);
}

static int check_env(const struct nl_cli *cli, const struct nl_arg_list *env) {
    for (size_t i = 0; i < env->count; i++) {
        const char *equals = strchr(env->items[i], '=');
        if (equals == NULL || equals == env->items[i]) {
            return nl_cli_usage(cli, "--env %s is not KEY=VALUE", env->items[i]);
        }
        if (check_text(cli, "--env", env->items[i]) != NL_EXIT_OK) {
            return NL_EXIT_USAGE;
        }
    }
    return NL_EXIT_OK;
}

static int make_plan(struct nl_cli *cli, struct nl_run_plan *plan, bool many) {
    const struct nl_run_options *o = plan->options;
    const char *bad = "";
    if (nl_labels_parse(o->labels.items, o->labels.count, &plan->labels, &bad) != NL_OK) {
        return nl_cli_usage(cli, "--label %s is not KEY=VALUE", bad);
    }
    if (check_env(cli, &o->env) != NL_EXIT_OK || check_text(cli, "--cwd", o->cwd) != NL_EXIT_OK) {
        return NL_EXIT_USAGE;
    }
    plan->spec.env = (char **)o->env.items;
    plan->spec.n_env = o->env.count;
    plan->spec.working_dir = o->cwd != NULL ? (char *)o->cwd : (char *)"";
    plan->spec.timeout_ms = o->timeout_ms;
    plan->spec.kill_grace_ms = o->kill_grace_ms;
    plan->spec.wait_for_agent_ms = o->wait_for_agent_ms;
    if (nl_run_limits(cli, plan) != NL_EXIT_OK) {
        return NL_EXIT_USAGE;
    }
    if (!many) {
        plan->spec.labels = plan->labels.pointers;
        plan->spec.n_labels = plan->labels.count;
    }
    return NL_EXIT_OK;
}

static int check_options(const struct nl_cli *cli, const struct nl_run_options *o, bool many) {
    if (o->task_id != NULL && o->idempotency_key != NULL) {
        return nl_cli_usage(cli, "--task-id and --idempotency-key exclude each other");
    }
    if (o->task_id != NULL && !nl_text_id_ok(o->task_id)) {
        return nl_cli_usage(cli, "--task-id %s: letters, digits, . _ : - only, at most 128",
                            o->task_id);
    }
    if (many && o->task_id != NULL) {
        return nl_cli_usage(cli,
                            "--task-id is for one task; with several agents use "
                            "--idempotency-key");
    }
    if (o->parallel == 0 || o->parallel > PARALLEL_MAX) {
        return nl_cli_usage(cli, "--parallel has to be 1 to %d", PARALLEL_MAX);
    }
    return NL_EXIT_OK;
}

static int run(struct nl_cli *cli, const struct nl_operands *operands, const void *options) {
    struct nl_run_plan plan = {.options = options, .spec = NODELINK__V1__TASK_SPEC__INIT};
    const struct nl_run_options *o = options;
    bool dash_only = operands->count == 1 && strcmp(operands->items[0], "-") == 0;
    bool many = o->all || (o->labels.count > 0 && (operands->count == 0 || dash_only));
    if (!many && (operands->count == 0 || dash_only)) {
        return nl_cli_usage(cli,
                            "run on which agent? nodelink run AGENT -- CMD, or --label, or "
                            "--all");
    }
    if (!many && !nl_text_id_ok(operands->items[0])) {
        return nl_cli_usage(cli, "'%s' is no agent id; put -- before the command to run",
                            operands->items[0]);
    }
    if (cli->timeout_ms != 0) {
        return nl_cli_usage(cli, "--timeout of run is the task's and goes behind run");
    }
    int rc = check_options(cli, o, many);
    if (rc == NL_EXIT_OK) {
        rc = make_plan(cli, &plan, many);
    }
    if (rc == NL_EXIT_OK) {
        rc = set_command(cli, &plan, operands, many ? 0 : 1);
    }
    if (rc == NL_EXIT_OK) {
        rc = many ? nl_run_many(cli, &plan) : nl_run_one(cli, &plan, operands->items[0]);
    }
    nl_labels_close(&plan.labels);
    free(plan.cmd);
    return rc;
}

const struct nl_command NL_CMD_RUN = {
    .name = "run",
    .operands = "AGENT",
    .summary = "run a command on an agent, or on many (--label, --all), and follow it",
    .details =
        "One argument after -- is given to /bin/sh -c, several are executed as they are;\n"
        "- reads a script from standard input. Ctrl-C cancels the task and waits for its end,\n"
        "a second one leaves.\n"
        "\n"
        "Exit code: the command's own (128+N after signal N), else\n"
        "  124  the task ran into its timeout\n"
        "  125  cluster error; nothing was run\n"
        "  126  agent unknown, offline or unreachable; nothing was run\n"
        "  127  outcome not known: it may have run\n"
        "  130  cancelled with Ctrl-C; 143: cancelled by somebody else\n"
        "With --label or --all: 0 if all succeeded, else 1.\n"
        "-o json prints one object at the end; its `outcome` tells these apart from the\n"
        "command's own exit codes.\n",
    .args = ARGS,
    .options_size = sizeof(struct nl_run_options),
    .max = 2,
    .takes_command = true,
    .run = run,
};
