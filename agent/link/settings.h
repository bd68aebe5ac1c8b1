// The settings of nodelink-agent: flags beat NODELINK_AGENT_* beat the file beat the defaults.
#ifndef NODELINK_AGENT_LINK_SETTINGS_H
#define NODELINK_AGENT_LINK_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/config.h"

struct nl_link_settings {
    char *agent_id;
    char *token_file;
    struct nl_config_list servers;
    char *servers_file;
    char *state_dir;
    bool insecure;
    char *tls_ca_file, *tls_cert_file, *tls_key_file, *tls_server_name;
    struct nl_config_list labels;
    uint64_t capacity;
    uint64_t kill_grace_ms;
    uint64_t backoff_start_ms, backoff_factor_percent, backoff_cap_ms;
    uint64_t connect_timeout_ms, welcome_timeout_ms, stable_after_ms;
    char *log_level, *log_format;
    uint64_t spool_task_bytes_max, spool_total_bytes_max, spool_keep_ms;
    uint64_t tail_bytes_max;
    uint64_t tasks_max;
    uint64_t supervisor_idle_exit_ms;
    char *lost_tasks;  // "kill", "leave"
    char *spool_full;  // "wait", "drop"
    char *supervisor_log;
};

// Loads and checks. `file` NULL: --config or NODELINK_AGENT_CONFIG, if any. argv[0] is skipped.
// The struct has to be closed after a failure too.
int nl_link_settings_load(struct nl_link_settings *ret, const char *file, int argc, char **argv,
                          struct nl_config_error *error);
void nl_link_settings_close(struct nl_link_settings *settings);
void nl_link_settings_help(void);

// Servers of the setting and of servers-file (one per line, # comments) in one list; owned, close
// with nl_link_server_list_close. NL_EINVAL, NL_EIO ... with a sentence.
int nl_link_server_list(const struct nl_link_settings *settings, struct nl_config_list *ret,
                        struct nl_config_error *error);
void nl_link_server_list_close(struct nl_config_list *list);

#endif
