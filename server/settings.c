#include "server/settings.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "common/base/fs.h"
#include "common/base/log.h"
#include "common/base/text.h"
#include "common/base/tls_files.h"

#define AT(field) offsetof(struct nl_settings, field)
#define MAX_MEMBERS 9
#define RANGE(key, type, field, fallback, env, help, min, max) \
    { key, NL_CONFIG_##type, AT(field), fallback, "NODELINKD_" env, help, min, max, 0, false }
#define PLAIN(key, type, field, fallback, env, help) \
    RANGE(key, type, field, fallback, env, help, 0, 0)

// clang-format off
const struct nl_config_key nl_settings_keys[] = {
    PLAIN("cluster-name", STRING, cluster_name, "nodelink", "CLUSTER_NAME",
          "name that all nodes of the cluster share"),
    RANGE("node-id", U64, node_id, NULL, "NODE_ID",
          "number of this node, never used for another one", 1, 0),
    PLAIN("node-name", STRING, node_name, NULL, "NODE_NAME",
          "name of this node; default: its name in members"),
    PLAIN("data-dir", STRING, data_dir, NULL, "DATA_DIR",
          "log, snapshots, identity"),
    PLAIN("grpc-address", STRING, grpc_address, NULL, "GRPC_ADDRESS",
          "HOST:PORT to listen on for agents, clients, nodes; default: as in members"),
    PLAIN("raft-address", STRING, raft_address, NULL, "RAFT_ADDRESS",
          "HOST:PORT to listen on for Raft; default: as in members"),
    PLAIN("members", LIST, members_text, NULL, "MEMBERS",
          "NAME/ID/RAFT_ADDRESS/GRPC_ADDRESS of each node of the first configuration"),
    PLAIN("bootstrap", BOOL, bootstrap, "false", "BOOTSTRAP",
          "an empty data-dir may become a node of a new cluster"),
    PLAIN("cluster-secret-file", STRING, cluster_secret_file, NULL, "CLUSTER_SECRET_FILE",
          "file (0600) with the secret that nodes share"),
    PLAIN("admin-token-sha256", LIST, admin_hashes_text, NULL, "ADMIN_TOKEN_SHA256",
          "SHA-256 in hex of each token that clients may use"),
    PLAIN("tls-ca-file", STRING, tls_ca_file, NULL, "TLS_CA_FILE",
          "certificates that verify the other nodes"),
    PLAIN("tls-cert-file", STRING, tls_cert_file, NULL, "TLS_CERT_FILE",
          "this node's certificate"),
    PLAIN("tls-key-file", STRING, tls_key_file, NULL, "TLS_KEY_FILE",
          "its key (0600)"),
    PLAIN("tls-client-auth", BOOL, tls_client_auth, "false", "TLS_CLIENT_AUTH",
          "agents and clients must have a certificate, too"),
    PLAIN("insecure", BOOL, insecure, "false", "INSECURE",
          "serve without TLS"),
    RANGE("heartbeat", DURATION, heartbeat_ms, "50ms", "HEARTBEAT",
          "leader's heartbeat", 5, 10000),
    RANGE("election-timeout", DURATION, election_timeout_ms, "300ms", "ELECTION_TIMEOUT",
          "a leader not heard for so long is replaced", 50, 60000),
    RANGE("snapshot-threshold", U64, snapshot_threshold, "8192", "SNAPSHOT_THRESHOLD",
          "log entries between snapshots", 16, 10000000),
    RANGE("snapshot-trailing", U64, snapshot_trailing, "4096", "SNAPSHOT_TRAILING",
          "log entries kept behind a snapshot", 1, 10000000),
    PLAIN("leaderless-grace", DURATION, leaderless_grace_ms, "3s", "LEADERLESS_GRACE",
          "agents are sent away without a leader for so long"),
    RANGE("node-down-after", DURATION, node_down_after_ms, "2s", "NODE_DOWN_AFTER",
          "a node silent for so long loses its agents", 100, 0),
    PLAIN("unreachable-after", DURATION, unreachable_after_ms, "5s", "UNREACHABLE_AFTER",
          "tasks of an agent away for so long are unknown"),
    PLAIN("disconnect-grace", DURATION, disconnect_grace_ms, "60s", "DISCONNECT_GRACE",
          "tasks of an agent away for so long have failed"),
    PLAIN("leave-orphans", BOOL, leave_orphans, "false", "LEAVE_ORPHANS",
          "what still runs of a task that has failed meanwhile is not killed"),
    RANGE("agent-ping-interval", DURATION, agent_ping_interval_ms, "5s", "AGENT_PING_INTERVAL",
          "agents ping so often; silent for three: closed", 100, 600000),
    RANGE("retention-time", DURATION, retention_time_ms, "24h", "RETENTION_TIME",
          "ended tasks are kept for so long", 1000, 0),
    RANGE("retention-count", U64, retention_count, "100000", "RETENTION_COUNT",
          "and at most so many of them", 1, 10000000),
    RANGE("agents-max", U64, agents_max, "20000", "AGENTS_MAX",
          "agents connected to this node at once", 1, 1000000),
    RANGE("connections-max", U64, connections_max, "30000", "CONNECTIONS_MAX",
          "connections to this node at once", 16, 1000000),
    RANGE("watches-max", U64, watches_max, "4096", "WATCHES_MAX",
          "readers of task output at this node at once", 1, 1000000),
    RANGE("reader-timeout", DURATION, reader_timeout_ms, "30s", "READER_TIMEOUT",
          "a reader of output that takes nothing for so long is cut off", 100, 0),
    RANGE("drain-timeout", DURATION, drain_timeout_ms, "10s", "DRAIN_TIMEOUT",
          "how long a stop may take", 100, 600000),
    PLAIN("log-level", STRING, log_level, "info", "LOG_LEVEL",
          "debug, info, warn, error, off; per part: info,session=debug"),
    PLAIN("log-format", STRING, log_format, "text", "LOG_FORMAT",
          "text or json"),
    PLAIN("pid-file", STRING, pid_file, NULL, "PID_FILE",
          "gets the process id"),
    {"dev", NL_CONFIG_BOOL, AT(dev), "false", NULL,
          "one node on loopback with a temporary directory, for trying out", 0, 0, 0, false},
    {"help", NL_CONFIG_BOOL, AT(help), "false", NULL,
          "this text", 0, 0, 'h', false},
    {"version", NL_CONFIG_BOOL, AT(version), "false", NULL,
          "the version", 0, 0, 'V', false},
    {NULL, NL_CONFIG_STRING, 0, NULL, NULL, NULL, 0, 0, 0, false},
};

static const char *const reloadable[] = {
    "admin-token-sha256", "leaderless-grace", "node-down-after", "unreachable-after",
    "disconnect-grace", "leave-orphans", "agent-ping-interval", "retention-time",
    "retention-count", "agents-max", "watches-max", "reader-timeout", "drain-timeout", "log-level",
    NULL,
};
// clang-format on

int nl_settings_load(struct nl_settings *ret, const char *file, int argc, char **argv,
                     int *ret_argi, struct nl_config_error *error) {
    return nl_config_load(nl_settings_keys, ret, file, argc, argv, ret_argi, error);
}

// ---- checks across keys ----------------------------------------------------

// Line of `key` in the file, 0 if it is not there: the value came from elsewhere.
static unsigned line_of(const char *file, const char *key) {
    char *text = NULL;
    size_t len = 0;
    if (file == NULL || nl_fs_read(file, 1024 * 1024, &text, &len) != NL_OK) {
        return 0;
    }
    unsigned found = 0, number = 0;
    char *rest = text;
    for (char *line = strsep(&rest, "\n"); line != NULL && found == 0; line = strsep(&rest, "\n")) {
        number++;
        line += strspn(line, " \t");
        size_t key_len = strlen(key);
        if (strncmp(line, key, key_len) == 0 && strchr(" \t=", line[key_len]) != NULL) {
            found = number;
        }
    }
    free(text);
    return found;
}

__attribute__((format(printf, 4, 5))) static int refuse(struct nl_config_error *error,
                                                        const char *file, const char *key,
                                                        const char *fmt, ...) {
    unsigned line = line_of(file, key);
    size_t size = sizeof error->text;
    int n = line > 0       ? snprintf(error->text, size, "%.200s:%u: %s: ", file, line, key)
            : file != NULL ? snprintf(error->text, size, "%.200s: %s: ", file, key)
                           : snprintf(error->text, size, "%s: ", key);
    va_list args;
    va_start(args, fmt);
    if (n > 0 && (size_t)n < size) {
        vsnprintf(error->text + n, size - (size_t)n, fmt, args);
    }
    va_end(args);
    return NL_EINVAL;
}

static bool address_ok(const char *text) {
    char *host = NULL;
    uint16_t port = 0;
    bool ok = nl_parse_address(text, &host, &port) == NL_OK;
    free(host);
    return ok;
}

// NAME/ID/RAFT_ADDRESS/GRPC_ADDRESS; text is cut at the slashes.
static bool split_member(char *text, struct nl_cluster_member *ret) {
    char *rest = text;
    const char *name = strsep(&rest, "/");
    const char *id = strsep(&rest, "/");
    const char *raft = strsep(&rest, "/");
    if (rest == NULL || strchr(rest, '/') != NULL || !nl_text_id_ok(name)) {
        return false;
    }
    *ret = (struct nl_cluster_member){.name = name, .raft_address = raft, .grpc_address = rest};
    return nl_parse_u64(id, &ret->id) == NL_OK && ret->id > 0 && address_ok(raft) &&
           address_ok(rest);
}

static int by_id(const void *a, const void *b) {
    const struct nl_cluster_member *x = a, *y = b;
    return x->id < y->id ? -1 : x->id > y->id;
}

// Two nodes of one address would be one node that is counted twice.
static const char *shared_address(const struct nl_settings *s, size_t n) {
    for (size_t i = 0; i < 2 * n; i++) {
        const struct nl_cluster_member *a = &s->members[i / 2];
        const char *x = i % 2 == 0 ? a->raft_address : a->grpc_address;
        for (size_t j = 0; j < i; j++) {
            const struct nl_cluster_member *b = &s->members[j / 2];
            if (strcmp(x, j % 2 == 0 ? b->raft_address : b->grpc_address) == 0) {
                return x;
            }
        }
    }
    return NULL;
}

static int parse_members(struct nl_settings *s, const char *file, struct nl_config_error *error) {
    size_t n = s->members_text.count;
    if (n > MAX_MEMBERS) {
        return refuse(error, file, "members", "%zu nodes; at most %d", n, MAX_MEMBERS);
    }
    s->members = calloc(n + 1, sizeof *s->members);
    s->member_storage = calloc(n + 1, sizeof *s->member_storage);
    if (s->members == NULL || s->member_storage == NULL) {
        return refuse(error, file, "members", "out of memory");
    }
    for (size_t i = 0; i < n; i++) {
        const char *text = s->members_text.items[i];
        s->member_storage[i] = strdup(text);
        if (s->member_storage[i] == NULL || !split_member(s->member_storage[i], &s->members[i])) {
            return refuse(error, file, "members",
                          "'%s' is not of the form NAME/ID/RAFT_ADDRESS/GRPC_ADDRESS", text);
        }
        s->n_members++;
    }
    qsort(s->members, n, sizeof *s->members, by_id);
    for (size_t i = 1; i < n; i++) {
        if (s->members[i].id == s->members[i - 1].id) {
            return refuse(error, file, "members", "two nodes with the id %llu",
                          (unsigned long long)s->members[i].id);
        }
    }
    const char *shared = shared_address(s, n);
    if (shared != NULL) {
        return refuse(error, file, "members", "%s stands there twice; each address is one's own",
                      shared);
    }
    return NL_OK;
}

static char **default_from(char **field, const char *value) {
    if (*field == NULL && value != NULL) {
        *field = strdup(value);
    }
    return field;
}

static int check_addresses(const struct nl_settings *s, const char *file,
                           struct nl_config_error *error) {
    if (s->grpc_address != NULL && !address_ok(s->grpc_address)) {
        return refuse(error, file, "grpc-address", "'%s' is not HOST:PORT", s->grpc_address);
    }
    if (s->raft_address != NULL && !address_ok(s->raft_address)) {
        return refuse(error, file, "raft-address", "'%s' is not HOST:PORT", s->raft_address);
    }
    return NL_OK;
}

// This node's entry of members fills what was not given; without members it is its own.
static int complete_self(struct nl_settings *s, const char *file, struct nl_config_error *error) {
    if (s->node_id == 0) {
        return refuse(error, file, "node-id", "is missing; give this node's number in members");
    }
    const struct nl_cluster_member *self = NULL;
    for (size_t i = 0; i < s->n_members; i++) {
        self = s->members[i].id == s->node_id ? &s->members[i] : self;
    }
    if (self == NULL && s->n_members > 0) {
        return refuse(error, file, "members", "has no node with this node's id %llu",
                      (unsigned long long)s->node_id);
    }
    if (self != NULL) {
        default_from(&s->node_name, self->name);
        default_from(&s->raft_address, self->raft_address);
        default_from(&s->grpc_address, self->grpc_address);
    }
    if (!nl_text_id_ok(s->node_name)) {
        return refuse(error, file, "node-name", "is missing or not a name ([A-Za-z0-9._:-])");
    }
    if (self != NULL && strcmp(self->name, s->node_name) != 0) {
        return refuse(error, file, "node-name", "'%s', but members calls node %llu '%s'",
                      s->node_name, (unsigned long long)s->node_id, self->name);
    }
    if (s->grpc_address == NULL || s->raft_address == NULL) {
        return refuse(error, file, s->grpc_address == NULL ? "grpc-address" : "raft-address",
                      "is missing; give it, or this node's entry in members");
    }
    if (self == NULL) {  // parse_members left room for one
        s->members[s->n_members++] =
            (struct nl_cluster_member){s->node_id, s->node_name, s->raft_address, s->grpc_address};
    }
    s->advertised_grpc = self != NULL ? self->grpc_address : s->grpc_address;
    return NL_OK;
}

static int parse_hashes(struct nl_settings *s, const char *file, struct nl_config_error *error) {
    size_t n = s->admin_hashes_text.count;
    s->admin_hashes = calloc(n + 1, sizeof *s->admin_hashes);
    if (s->admin_hashes == NULL) {
        return refuse(error, file, "admin-token-sha256", "out of memory");
    }
    for (size_t i = 0; i < n; i++) {
        if (nl_hex_decode(s->admin_hashes_text.items[i], s->admin_hashes[i], NL_SHA256_LEN) !=
            NL_OK) {
            return refuse(error, file, "admin-token-sha256",
                          "'%s' is not 64 hex digits; make it with: printf %%s TOKEN | sha256sum",
                          s->admin_hashes_text.items[i]);
        }
        s->n_admin_hashes++;
    }
    if (n == 0) {
        return refuse(error, file, "admin-token-sha256",
                      "is missing: no client could do anything; give the SHA-256 of a token");
    }
    return NL_OK;
}

static int check_tls(const struct nl_settings *s, const char *file, struct nl_config_error *error) {
    bool cert = s->tls_cert_file != NULL, key = s->tls_key_file != NULL,
         ca = s->tls_ca_file != NULL;
    if (!cert && !key && !ca) {
        return s->insecure ? NL_OK
                           : refuse(error, file, "tls-cert-file",
                                    "no TLS files are given; give tls-ca-file, tls-cert-file and "
                                    "tls-key-file, or say insecure = true to serve without TLS");
    }
    if (!cert || !key || !ca) {
        return refuse(error, file,
                      !ca     ? "tls-ca-file"
                      : !cert ? "tls-cert-file"
                              : "tls-key-file",
                      "is missing; TLS needs tls-ca-file, tls-cert-file and tls-key-file");
    }
    char text[sizeof error->text];
    return nl_tls_key_check(s->tls_key_file, text, sizeof text) == NL_OK
               ? NL_OK
               : refuse(error, file, "tls-key-file", "%s", text);
}

static int check_values(const struct nl_settings *s, const char *file,
                        struct nl_config_error *error) {
    if (!nl_text_id_ok(s->cluster_name)) {
        return refuse(error, file, "cluster-name", "'%s' is not a name ([A-Za-z0-9._:-])",
                      s->cluster_name);
    }
    if (s->data_dir == NULL) {
        return refuse(error, file, "data-dir", "is missing");
    }
    if (s->cluster_secret_file == NULL && !s->dev) {
        return refuse(error, file, "cluster-secret-file",
                      "is missing; give a file (0600) with a secret that all nodes share");
    }
    if (s->election_timeout_ms < 3 * s->heartbeat_ms) {
        return refuse(error, file, "election-timeout", "must be at least three heartbeats");
    }
    if (s->disconnect_grace_ms != 0 && s->disconnect_grace_ms < s->unreachable_after_ms) {
        return refuse(error, file, "disconnect-grace", "must not be less than unreachable-after");
    }
    if (strcmp(s->log_format, "text") != 0 && strcmp(s->log_format, "json") != 0) {
        return refuse(error, file, "log-format", "'%s' is neither text nor json", s->log_format);
    }
    if (nl_log_set_levels(s->log_level) != NL_OK) {
        return refuse(error, file, "log-level", "'%s': say for example info or info,session=debug",
                      s->log_level);
    }
    return check_tls(s, file, error);
}

int nl_settings_check(struct nl_settings *s, const char *file, struct nl_config_error *error) {
    int rv = check_addresses(s, file, error);
    if (rv == NL_OK) {
        rv = parse_members(s, file, error);
    }
    if (rv == NL_OK) {
        rv = complete_self(s, file, error);
    }
    if (rv == NL_OK) {
        rv = check_values(s, file, error);
    }
    if (rv == NL_OK) {
        rv = parse_hashes(s, file, error);
    }
    return rv;
}

void nl_settings_close(struct nl_settings *s) {
    for (size_t i = 0; s->member_storage != NULL && s->member_storage[i] != NULL; i++) {
        free(s->member_storage[i]);
    }
    free(s->member_storage);
    free(s->members);
    free(s->admin_hashes);
    nl_config_close(nl_settings_keys, s);
    *s = (struct nl_settings){0};
}

// ---- reload ----------------------------------------------------------------

static bool is_reloadable(const char *key) {
    for (size_t i = 0; reloadable[i] != NULL; i++) {
        if (strcmp(reloadable[i], key) == 0) {
            return true;
        }
    }
    return false;
}

static bool text_equal(const char *a, const char *b) {
    return a == NULL || b == NULL ? a == b : strcmp(a, b) == 0;
}

static bool list_equal(const struct nl_config_list *a, const struct nl_config_list *b) {
    bool equal = a->count == b->count;
    for (size_t i = 0; equal && i < a->count; i++) {
        equal = strcmp(a->items[i], b->items[i]) == 0;
    }
    return equal;
}

static bool field_equal(enum nl_config_type type, const void *a, const void *b) {
    switch (type) {
        case NL_CONFIG_STRING:
            return text_equal(*(char *const *)a, *(char *const *)b);
        case NL_CONFIG_LIST:
            return list_equal(a, b);
        case NL_CONFIG_BOOL:
            return *(const bool *)a == *(const bool *)b;
        case NL_CONFIG_U64:
        case NL_CONFIG_DURATION:
        case NL_CONFIG_SIZE:
            return *(const uint64_t *)a == *(const uint64_t *)b;
    }
    return true;
}

static void swap(void *a, void *b, size_t len) {
    char tmp[sizeof(struct nl_config_list)];
    memcpy(tmp, a, len);
    memcpy(a, b, len);
    memcpy(b, tmp, len);
}

static void swap_field(enum nl_config_type type, void *a, void *b) {
    swap(a, b,
         type == NL_CONFIG_LIST     ? sizeof(struct nl_config_list)
         : type == NL_CONFIG_STRING ? sizeof(char *)
         : type == NL_CONFIG_BOOL   ? sizeof(bool)
                                    : sizeof(uint64_t));
}

void nl_settings_reload(struct nl_settings *s, struct nl_settings *fresh,
                        void (*restart_needed)(void *user, const char *key), void *user) {
    for (const struct nl_config_key *key = nl_settings_keys; key->key != NULL; key++) {
        void *ours = (char *)s + key->offset, *theirs = (char *)fresh + key->offset;
        if (field_equal(key->type, ours, theirs)) {
            continue;
        }
        if (is_reloadable(key->key)) {
            swap_field(key->type, ours, theirs);
        } else {
            restart_needed(user, key->key);
        }
    }
    swap(&s->admin_hashes, &fresh->admin_hashes, sizeof s->admin_hashes);
    swap(&s->n_admin_hashes, &fresh->n_admin_hashes, sizeof s->n_admin_hashes);
}
