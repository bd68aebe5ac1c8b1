// nodelink-agent: the link in the foreground, or the supervisor that it starts.
#include <stdio.h>
#include <string.h>

#include "agent/link/link.h"
#include "agent/supervisor/supervisor.h"
#include "common/base/err.h"
#include "common/base/failpoint.h"
#include "common/base/log.h"

enum { EXIT_USAGE = 2 };

static void usage(void) {
    printf(
        "usage: nodelink-agent --agent-id ID --token-file FILE --servers ADDR,ADDR [flags]\n"
        "       nodelink-agent validate FILE\n"
        "       nodelink-agent --version | --help\n"
        "\n"
        "Runs the agent in the foreground. Flags beat the environment beats the file given with\n"
        "--config or NODELINK_AGENT_CONFIG.\n"
        "  SIGTERM, SIGINT  leave; running tasks go on and are found again by the next start\n"
        "  SIGQUIT          kill the tasks, report them, leave\n"
        "  SIGHUP           read servers, labels, TLS and token files and log level again\n"
        "\n");
    nl_link_settings_help();
}

static int usage_error(const char *text) {
    fprintf(stderr, "nodelink-agent: %s\n", text);
    return EXIT_USAGE;
}

static void start_log(const char *level, const char *format, const char *program) {
    bool json = format != NULL && strcmp(format, "json") == 0;
    nl_log_init(NL_LOG_INFO, json ? NL_LOG_JSON : NL_LOG_TEXT, program);
    if (level != NULL && nl_log_set_levels(level) != NL_OK) {
        nl_log(NL_LOG_WARN, "agent", "log-level not understood, info is used", "value", level,
               NULL);
    }
}

// ---- link ------------------------------------------------------------------

static int run_link(int argc, char **argv) {
    struct nl_link_settings settings;
    struct nl_config_error error;
    int rv = nl_link_settings_load(&settings, NULL, argc, argv, &error);
    if (rv == NL_OK && NL_FAILPOINT("link.start.settings")) {
        snprintf(error.text, sizeof error.text, "fail point");
        rv = NL_EINVAL;
    }
    if (rv != NL_OK) {
        nl_link_settings_close(&settings);
        return usage_error(error.text);
    }
    start_log(settings.log_level, settings.log_format, "nodelink-agent");
    rv = nl_link_run(&settings, argc, argv);
    (void)NL_FAILPOINT("link.start.ended");  // what is open now nobody has closed
    return rv;
}

static int run_validate(int argc, char **argv) {
    if (argc != 3) {
        return usage_error("validate: give one file");
    }
    struct nl_link_settings settings;
    struct nl_config_error error;
    char *no_flags[] = {argv[0], NULL};
    int rv = nl_link_settings_load(&settings, argv[2], 1, no_flags, &error);
    nl_link_settings_close(&settings);
    if (rv != NL_OK) {
        return usage_error(error.text);
    }
    printf("%s: ok\n", argv[2]);
    return 0;
}

// ---- supervisor ------------------------------------------------------------

// What nl_link_supervisor_args gives, and no more.
struct supervisor_settings {
    char *state_dir, *agent_id, *lost_tasks, *spool_full, *log_level, *log_format;
    uint64_t kill_grace_ms, spool_task_bytes_max, spool_total_bytes_max, spool_keep_ms, tasks_max,
        idle_exit_ms;
};

#define KEY(name, kind, field, def)                                                   \
    .key = name, .type = kind, .offset = offsetof(struct supervisor_settings, field), \
    .fallback = def

static const struct nl_config_key SUPERVISOR_KEYS[] = {
    {KEY("state-dir", NL_CONFIG_STRING, state_dir, NULL)},
    {KEY("agent-id", NL_CONFIG_STRING, agent_id, NULL)},
    {KEY("kill-grace", NL_CONFIG_DURATION, kill_grace_ms, "0")},
    {KEY("spool-task-max", NL_CONFIG_SIZE, spool_task_bytes_max, "0")},
    {KEY("spool-total-max", NL_CONFIG_SIZE, spool_total_bytes_max, "0")},
    {KEY("spool-keep", NL_CONFIG_DURATION, spool_keep_ms, "0")},
    {KEY("tasks-max", NL_CONFIG_U64, tasks_max, "0"), .max = UINT32_MAX},
    {KEY("supervisor-idle-exit", NL_CONFIG_DURATION, idle_exit_ms, "0")},
    {KEY("lost-tasks", NL_CONFIG_STRING, lost_tasks, "kill")},
    {KEY("spool-full", NL_CONFIG_STRING, spool_full, "wait")},
    {KEY("log-level", NL_CONFIG_STRING, log_level, "info")},
    {KEY("log-format", NL_CONFIG_STRING, log_format, "text")},
    {.key = NULL},
};

static int run_supervisor(int argc, char **argv) {
    struct supervisor_settings s = {0};
    struct nl_config_error error;
    int argi = 0;
    int rv = nl_config_load(SUPERVISOR_KEYS, &s, NULL, argc, argv, &argi, &error);
    if (rv == NL_OK &&
        (s.state_dir == NULL || argi < argc || NL_FAILPOINT("supervisor.start.settings"))) {
        snprintf(error.text, sizeof error.text, "supervisor: --state-dir DIR, and flags only");
        rv = NL_EINVAL;
    }
    if (rv != NL_OK) {
        nl_config_close(SUPERVISOR_KEYS, &s);
        return usage_error(error.text);
    }
    start_log(s.log_level, s.log_format, "nodelink-supervisor");
    const struct nl_supervisor_options options = {
        .state_dir = s.state_dir,
        .agent_id = s.agent_id,
        .kill_grace_ms = s.kill_grace_ms,
        .spool_task_bytes_max = s.spool_task_bytes_max,
        .spool_total_bytes_max = s.spool_total_bytes_max,
        .spool_keep_ms = s.spool_keep_ms,
        .idle_exit_ms = s.idle_exit_ms,
        .tasks_max = (uint32_t)s.tasks_max,
        .leave_lost_running = strcmp(s.lost_tasks, "leave") == 0,
        .drop_unread = strcmp(s.spool_full, "drop") == 0,
    };
    int status = nl_supervisor_main(&options);
    nl_config_close(SUPERVISOR_KEYS, &s);
    (void)NL_FAILPOINT("supervisor.start.ended");
    return status;
}

// ---- dispatch --------------------------------------------------------------

int main(int argc, char **argv) {
    const char *first = argc > 1 ? argv[1] : "";
    if (strcmp(first, "--help") == 0 || strcmp(first, "-h") == 0 || strcmp(first, "help") == 0) {
        usage();
        return 0;
    }
    if (strcmp(first, "--version") == 0 || strcmp(first, "version") == 0) {
        printf("nodelink-agent %s\n", NODELINK_AGENT_VERSION);
        return 0;
    }
    if (strcmp(first, "supervisor") == 0) {
        return run_supervisor(argc - 1, argv + 1);
    }
    if (strcmp(first, "validate") == 0) {
        return run_validate(argc, argv);
    }
    return run_link(argc, argv);
}
