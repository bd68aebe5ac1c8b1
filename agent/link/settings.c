#include "agent/link/settings.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "agent/link/servers.h"
#include "agent/supervisor/client.h"
#include "common/base/err.h"
#include "common/base/fs.h"
#include "common/base/text.h"
#include "common/base/tls_files.h"

enum { SERVERS_FILE_LEN_MAX = 64 * 1024, LABELS_MAX = 64, LABEL_LEN_MAX = 256 };

#define KEY(name, kind, field, def, environment, text)                             \
    .key = name, .type = kind, .offset = offsetof(struct nl_link_settings, field), \
    .fallback = def, .env = "NODELINK_AGENT_" environment, .help = text

static const struct nl_config_key KEYS[] = {
    {KEY("agent-id", NL_CONFIG_STRING, agent_id, NULL, "ID", "name of this agent in the cluster")},
    {KEY("token-file", NL_CONFIG_STRING, token_file, NULL, "TOKEN_FILE",
         "file with the agent's token, mode 0600; read again at each connect")},
    {KEY("servers", NL_CONFIG_LIST, servers, NULL, "SERVERS", "host:port of the server nodes")},
    {KEY("servers-file", NL_CONFIG_STRING, servers_file, NULL, "SERVERS_FILE",
         "file with more of them, one per line; read again on SIGHUP")},
    {KEY("state-dir", NL_CONFIG_STRING, state_dir, "/var/lib/nodelink-agent", "STATE_DIR",
         "journal, spool, socket; one agent each")},
    {KEY("insecure", NL_CONFIG_BOOL, insecure, "false", "INSECURE",
         "without TLS: token and tasks go over the network in clear")},
    {KEY("tls-ca-file", NL_CONFIG_STRING, tls_ca_file, NULL, "TLS_CA_FILE",
         "certificates (PEM) that the servers are verified with")},
    {KEY("tls-cert-file", NL_CONFIG_STRING, tls_cert_file, NULL, "TLS_CERT_FILE",
         "the agent's own certificate, for mutual TLS")},
    {KEY("tls-key-file", NL_CONFIG_STRING, tls_key_file, NULL, "TLS_KEY_FILE", "its key")},
    {KEY("tls-server-name", NL_CONFIG_STRING, tls_server_name, NULL, "TLS_SERVER_NAME",
         "name to verify instead of the host in the address")},
    {KEY("label", NL_CONFIG_LIST, labels, NULL, "LABELS", "key=value, for selecting agents")},
    {KEY("capacity", NL_CONFIG_U64, capacity, "0", "CAPACITY",
         "tasks at once that the cluster may give; 0: no limit"),
     .max = 1000000},
    {KEY("kill-grace", NL_CONFIG_DURATION, kill_grace_ms, "10s", "KILL_GRACE",
         "between SIGTERM and SIGKILL, unless a task says"),
     .max = 86400000},
    {KEY("backoff-start", NL_CONFIG_DURATION, backoff_start_ms, "1s", "BACKOFF_START",
         "first ceiling of the random pause between rounds of attempts"),
     .min = 10, .max = 3600000},
    {KEY("backoff-factor", NL_CONFIG_U64, backoff_factor_percent, "150", "BACKOFF_FACTOR",
         "growth of the ceiling, percent"),
     .min = 100, .max = 1000},
    {KEY("backoff-cap", NL_CONFIG_DURATION, backoff_cap_ms, "60s", "BACKOFF_CAP",
         "highest ceiling"),
     .min = 10, .max = 86400000},
    {KEY("connect-timeout", NL_CONFIG_DURATION, connect_timeout_ms, "3s", "CONNECT_TIMEOUT",
         "until a server's transport must be up"),
     .min = 50, .max = 600000},
    {KEY("welcome-timeout", NL_CONFIG_DURATION, welcome_timeout_ms, "10s", "WELCOME_TIMEOUT",
         "until the cluster must have registered the agent"),
     .min = 50, .max = 600000},
    {KEY("stable-after", NL_CONFIG_DURATION, stable_after_ms, "10s", "STABLE_AFTER",
         "a stream that lasts so long ends the backoff"),
     .min = 1, .max = 3600000},
    {KEY("log-level", NL_CONFIG_STRING, log_level, "info", "LOG_LEVEL",
         "debug, info, warn, error, off; or per module: info,link=debug")},
    {KEY("log-format", NL_CONFIG_STRING, log_format, "text", "LOG_FORMAT", "text or json")},
    {KEY("spool-task-max", NL_CONFIG_SIZE, spool_task_bytes_max, "1GiB", "SPOOL_TASK_MAX",
         "output kept per task"),
     .min = 65536, .max = UINT64_MAX / 2},
    {KEY("spool-total-max", NL_CONFIG_SIZE, spool_total_bytes_max, "8GiB", "SPOOL_TOTAL_MAX",
         "output kept in all"),
     .min = 65536, .max = UINT64_MAX / 2},
    {KEY("spool-full", NL_CONFIG_STRING, spool_full, "wait", "SPOOL_FULL",
         "at these bounds. wait: the task, for a reader; drop: output that nobody reads goes, "
         "oldest first, and readers are told of the gap")},
    {KEY("spool-keep", NL_CONFIG_DURATION, spool_keep_ms, "1h", "SPOOL_KEEP",
         "how long output stays after the cluster has the result"),
     .max = 30u * 86400000u},
    {KEY("tail-max", NL_CONFIG_SIZE, tail_bytes_max, "64KiB", "TAIL_MAX",
         "of its output, the last bytes go to the cluster with the result; 0: none"),
     .max = 262144},
    {KEY("tasks-max", NL_CONFIG_U64, tasks_max, "4096", "TASKS_MAX",
         "running at once; more are refused"),
     .min = 1, .max = 100000},
    {KEY("lost-tasks", NL_CONFIG_STRING, lost_tasks, "kill", "LOST_TASKS",
         "kill or leave: what still runs of tasks whose supervisor died")},
    {KEY("supervisor-idle-exit", NL_CONFIG_DURATION, supervisor_idle_exit_ms, "10m",
         "SUPERVISOR_IDLE_EXIT", "supervisor without link and tasks ends after; 0: never")},
    {KEY("supervisor-log", NL_CONFIG_STRING, supervisor_log, NULL, "SUPERVISOR_LOG",
         "file for the supervisor's log; unset: with the agent's own")},
    {.key = NULL},
};

// ---- checks ----------------------------------------------------------------

__attribute__((format(printf, 2, 3))) static int fail(struct nl_config_error *error,
                                                      const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    vsnprintf(error->text, sizeof error->text, fmt, args);
    va_end(args);
    return NL_EINVAL;
}

static int check_choices(const struct nl_link_settings *s, struct nl_config_error *error) {
    if (strcmp(s->lost_tasks, "kill") != 0 && strcmp(s->lost_tasks, "leave") != 0) {
        return fail(error, "lost-tasks: '%s' is neither kill nor leave", s->lost_tasks);
    }
    if (strcmp(s->spool_full, "wait") != 0 && strcmp(s->spool_full, "drop") != 0) {
        return fail(error, "spool-full: '%s' is neither wait nor drop", s->spool_full);
    }
    return NL_OK;
}

static int check_labels(const struct nl_link_settings *s, struct nl_config_error *error) {
    if (s->labels.count > LABELS_MAX) {
        return fail(error, "label: more than %d", LABELS_MAX);
    }
    for (size_t i = 0; i < s->labels.count; i++) {
        const char *text = s->labels.items[i];
        const char *eq = strchr(text, '=');
        if (eq == NULL || eq == text || strlen(text) > LABEL_LEN_MAX) {
            return fail(error, "label: '%s' is not key=value of at most %d bytes", text,
                        LABEL_LEN_MAX);
        }
    }
    return NL_OK;
}

static int check_tls(const struct nl_link_settings *s, struct nl_config_error *error) {
    bool tls = s->tls_ca_file != NULL || s->tls_cert_file != NULL || s->tls_key_file != NULL;
    if (s->insecure && tls) {
        return fail(error, "insecure: and tls-* files are set; take one of them out");
    }
    if (!s->insecure && s->tls_ca_file == NULL) {
        return fail(error,
                    "tls-ca-file: not set; give the cluster's CA certificate, or insecure "
                    "to run without TLS on a network that you trust");
    }
    if ((s->tls_cert_file == NULL) != (s->tls_key_file == NULL)) {
        return fail(error, "tls-cert-file, tls-key-file: only one of the two is set");
    }
    char text[sizeof error->text];
    return nl_tls_key_check(s->tls_key_file, text, sizeof text) == NL_OK
               ? NL_OK
               : fail(error, "tls-key-file: %s", text);
}

static int check_log(const struct nl_link_settings *s, struct nl_config_error *error) {
    if (strcmp(s->log_format, "text") != 0 && strcmp(s->log_format, "json") != 0) {
        return fail(error, "log-format: '%s' is neither text nor json", s->log_format);
    }
    return NL_OK;
}

static int check_servers(const struct nl_link_settings *s, struct nl_config_error *error) {
    struct nl_config_list list = {0};
    int rv = nl_link_server_list(s, &list, error);
    if (rv == NL_OK && list.count == 0) {
        rv = fail(error, "servers: not set; give host:port of the cluster's nodes");
    }
    nl_link_server_list_close(&list);
    return rv;
}

static int check(const struct nl_link_settings *s, struct nl_config_error *error) {
    if (s->agent_id == NULL || !nl_text_id_ok(s->agent_id)) {
        return fail(error, "agent-id: %s; 1 to 128 of A-Z a-z 0-9 . _ : -",
                    s->agent_id == NULL ? "not set" : "not a valid name");
    }
    if (s->token_file == NULL) {
        return fail(error, "token-file: not set; give the file with the agent's token");
    }
    if (nl_sup_socket_path_check(s->state_dir) != NL_OK) {
        return fail(error,
                    "state-dir: the path is too long for a socket in it; take a shorter one");
    }
    if (s->backoff_cap_ms < s->backoff_start_ms) {
        return fail(error, "backoff-cap: is below backoff-start");
    }
    int rv = check_choices(s, error);
    if (rv == NL_OK) {
        rv = check_labels(s, error);
    }
    if (rv == NL_OK) {
        rv = check_tls(s, error);
    }
    if (rv == NL_OK) {
        rv = check_log(s, error);
    }
    return rv == NL_OK ? check_servers(s, error) : rv;
}

// ---- load ------------------------------------------------------------------

int nl_link_settings_load(struct nl_link_settings *ret, const char *file, int argc, char **argv,
                          struct nl_config_error *error) {
    memset(ret, 0, sizeof *ret);
    int argi = 0;
    if (file == NULL) {
        file = nl_config_file_arg(argc, argv, "NODELINK_AGENT_CONFIG");
    }
    int rv = nl_config_load(KEYS, ret, file, argc, argv, &argi, error);
    if (rv != NL_OK) {
        return rv;
    }
    if (argi < argc) {
        return fail(error, "%s: not a flag; see --help", argv[argi]);
    }
    return check(ret, error);
}

void nl_link_settings_close(struct nl_link_settings *settings) {
    nl_config_close(KEYS, settings);
}

void nl_link_settings_help(void) {
    nl_config_print_help(KEYS);
}

// ---- servers ---------------------------------------------------------------

static int append(struct nl_config_list *list, const char *address, const char *where,
                  struct nl_config_error *error) {
    char *host = NULL;
    uint16_t port = 0;
    if (nl_parse_address(address, &host, &port) != NL_OK) {
        return fail(error, "%s: '%s' is not host:port", where, address);
    }
    free(host);
    if (list->count == NL_LINK_SERVERS_MAX) {
        return fail(error, "%s: more than %u servers", where, NL_LINK_SERVERS_MAX);
    }
    char **bigger = realloc(list->items, (list->count + 1) * sizeof *bigger);
    if (bigger == NULL) {
        return NL_ENOMEM;
    }
    list->items = bigger;
    list->items[list->count] = strdup(address);
    if (list->items[list->count] == NULL) {
        return NL_ENOMEM;
    }
    list->count++;
    return NL_OK;
}

static char *trim(char *line) {
    line[strcspn(line, "#\r")] = '\0';
    line += strspn(line, " \t");
    size_t len = strlen(line);
    while (len > 0 && (line[len - 1] == ' ' || line[len - 1] == '\t')) {
        line[--len] = '\0';
    }
    return line;
}

static int append_file(struct nl_config_list *list, const char *path,
                       struct nl_config_error *error) {
    char *text = NULL;
    size_t len = 0;
    int rv = nl_fs_read(path, SERVERS_FILE_LEN_MAX, &text, &len);
    if (rv != NL_OK) {
        return fail(error, "servers-file: %s: %s", path, nl_strerror(rv));
    }
    char *rest = text, *line;
    while (rv == NL_OK && (line = strsep(&rest, "\n")) != NULL) {
        line = trim(line);
        if (line[0] != '\0') {
            rv = append(list, line, path, error);
        }
    }
    free(text);
    return rv;
}

int nl_link_server_list(const struct nl_link_settings *settings, struct nl_config_list *ret,
                        struct nl_config_error *error) {
    struct nl_config_list list = {0};
    int rv = NL_OK;
    for (size_t i = 0; rv == NL_OK && i < settings->servers.count; i++) {
        rv = append(&list, settings->servers.items[i], "servers", error);
    }
    if (rv == NL_OK && settings->servers_file != NULL) {
        rv = append_file(&list, settings->servers_file, error);
    }
    if (rv != NL_OK) {
        nl_link_server_list_close(&list);
        return rv;
    }
    *ret = list;
    return NL_OK;
}

void nl_link_server_list_close(struct nl_config_list *list) {
    for (size_t i = 0; i < list->count; i++) {
        free(list->items[i]);
    }
    free(list->items);
    *list = (struct nl_config_list){0};
}
