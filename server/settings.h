// What nodelinkd can be told: one table of keys, and the checks that need more than one key.
//
// Loop thread. Strings belong to the settings and live until nl_settings_close.
#ifndef NODELINK_SERVER_SETTINGS_H
#define NODELINK_SERVER_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cluster/cluster.h"
#include "common/base/config.h"
#include "common/base/crypto.h"

#define NL_SETTINGS_ENV_FILE "NODELINKD_CONFIG"

struct nl_settings {
    // As given; the offsets of the key table point here.
    struct nl_config_list members_text, admin_hashes_text;
    char *cluster_name, *node_name, *data_dir, *grpc_address, *raft_address;
    char *cluster_secret_file, *tls_ca_file, *tls_cert_file, *tls_key_file;
    char *log_level, *log_format, *pid_file;
    bool bootstrap, insecure, tls_client_auth, dev, help, version;
    uint64_t node_id;
    uint64_t heartbeat_ms, election_timeout_ms, snapshot_threshold, snapshot_trailing;
    uint64_t leaderless_grace_ms, node_down_after_ms, unreachable_after_ms, disconnect_grace_ms;
    bool leave_orphans;
    uint64_t reader_timeout_ms;
    uint64_t agent_ping_interval_ms, retention_time_ms, retention_count;
    uint64_t agents_max, connections_max, watches_max, drain_timeout_ms;

    // Derived by nl_settings_check.
    struct nl_cluster_member *members;  // by id, this node included; strings point into storage
    size_t n_members;
    char **member_storage;  // the split texts, one per member
    uint8_t (*admin_hashes)[NL_SHA256_LEN];
    size_t n_admin_hashes;
    const char *advertised_grpc;  // this node's address as the others and agents know it
};

extern const struct nl_config_key nl_settings_keys[];

// Defaults, file, environment, flags, in rising order. `ret` is zeroed by the caller and closed in
// every case. NL_EINVAL with a sentence naming file, line and key. Does not check across keys.
int nl_settings_load(struct nl_settings *ret, const char *file, int argc, char **argv,
                     int *ret_argi, struct nl_config_error *error);
// The checks across keys; fills the derived fields. `file` is for the error text only, or NULL.
int nl_settings_check(struct nl_settings *settings, const char *file,
                      struct nl_config_error *error);
void nl_settings_close(struct nl_settings *settings);

// Takes over from `fresh` what can change while the node runs (timeouts, limits of housekeeping,
// admin tokens, log levels). Calls restart_needed with the key of each other difference.
void nl_settings_reload(struct nl_settings *settings, struct nl_settings *fresh,
                        void (*restart_needed)(void *user, const char *key), void *user);

#endif
