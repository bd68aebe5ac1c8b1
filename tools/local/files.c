#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/fs.h"
#include "tools/local/local.h"

enum { LOCK_TRIES = 300, LOCK_PAUSE_MS = 100, FILE_BYTES_MAX = 4 << 20 };

static int io_error(const struct nl_cli *cli, const char *what, const char *path, int rc) {
    nl_cli_fail(cli, &(struct nl_failure){.code = "IO", .outcome = "failed"}, "can't %s %s: %s",
                what, path, nl_strerror(rc));
    return NL_EXIT_FAILED;
}

bool nl_local_path(char *out, const char *dir, const char *name) {
    int n = snprintf(out, NL_LOCAL_PATH, "%s/%s", dir, name);
    return n > 0 && n < NL_LOCAL_PATH;
}

int nl_local_write(const struct nl_cli *cli, const char *path, const char *text) {
    int rc = nl_fs_write_atomic(path, text, strlen(text), 0600);
    return rc == NL_OK ? NL_EXIT_OK : io_error(cli, "write", path, rc);
}

// ---- open ------------------------------------------------------------------

static int take_lock(const struct nl_cli *cli, struct nl_local *local) {
    char path[NL_LOCAL_PATH];
    pid_t holder = 0;
    int rc = NL_EBUSY;
    if (!nl_local_path(path, local->dir, "lock")) {
        return nl_cli_usage(cli, "--dir %s: the path is too long", local->dir);
    }
    for (int i = 0; i < LOCK_TRIES && rc == NL_EBUSY; i++) {
        rc = nl_fs_lock(path, &local->lock_fd, &holder);
        if (rc == NL_EBUSY) {
            nl_cli_pause_ms(LOCK_PAUSE_MS);
        }
    }
    if (rc == NL_OK) {
        return NL_EXIT_OK;
    }
    local->lock_fd = -1;
    if (rc == NL_EBUSY) {
        nl_cli_fail(cli, &(struct nl_failure){.code = "BUSY", .outcome = "failed"},
                    "another `nodelink local` (pid %d) works on %s", (int)holder, local->dir);
        return NL_EXIT_FAILED;
    }
    return io_error(cli, "lock", path, rc);
}

int nl_local_open(const struct nl_cli *cli, const char *dir, bool make, struct nl_local *ret) {
    *ret = (struct nl_local){.lock_fd = -1};
    char path[PATH_MAX];
    if (dir == NULL) {
        return nl_cli_usage(cli, "which cluster? --dir DIR");
    }
    if (make) {
        int rc = nl_fs_mkdirs(dir, 0700);
        if (rc != NL_OK) {
            return io_error(cli, "make", dir, rc);
        }
    }
    if (realpath(dir, path) == NULL) {
        nl_cli_fail(cli, &(struct nl_failure){.code = "NOT_FOUND", .outcome = "failed"},
                    "no cluster in %s: %s", dir, strerror(errno));
        return NL_EXIT_FAILED;
    }
    if (strlen(path) >= NL_LOCAL_PATH - NL_LOCAL_NAME - 32) {
        return nl_cli_usage(cli, "--dir %s: the path is too long", path);
    }
    snprintf(ret->dir, sizeof ret->dir, "%.*s", NL_LOCAL_PATH - 1, path);
    return take_lock(cli, ret);
}

void nl_local_close(struct nl_local *local) {
    if (local->lock_fd >= 0) {
        close(local->lock_fd);
    }
    for (size_t i = 0; i < local->n_agent_flags; i++) {
        free(local->agent_flags[i]);
    }
    free(local->agent_flags);
    free(local->nodes);
    free(local->agents);
    *local = (struct nl_local){.lock_fd = -1};
}

bool nl_local_exists(const struct nl_local *local) {
    char path[NL_LOCAL_PATH];
    return nl_local_path(path, local->dir, "cluster.json") && access(path, F_OK) == 0;
}

// ---- cluster.json ----------------------------------------------------------

static json_t *pid_json(const struct nl_process *process) {
    return process->pid > 0 ? json_integer(process->pid) : json_null();
}

static json_t *node_json(const struct nl_local_node *node) {
    return json_pack("{s:s, s:I, s:s, s:s, s:s, s:o, s:I, s:s}", "name", node->name, "id",
                     (json_int_t)node->id, "grpc", node->grpc, "raft", node->raft, "http",
                     node->http, "pid", pid_json(&node->process), "started",
                     (json_int_t)node->process.start, "dir", node->dir);
}

static json_t *agent_json(const struct nl_local_agent *agent) {
    return json_pack("{s:s, s:o, s:I, s:o, s:I, s:s, s:s}", "id", agent->id, "pid",
                     pid_json(&agent->link), "started", (json_int_t)agent->link.start,
                     "supervisor_pid", pid_json(&agent->supervisor), "supervisor_started",
                     (json_int_t)agent->supervisor.start, "token_file", agent->token_file, "dir",
                     agent->dir);
}

json_t *nl_local_json(const struct nl_local *local) {
    json_t *nodes = json_array(), *agents = json_array(), *flags = json_array();
    for (size_t i = 0; i < local->n_nodes; i++) {
        json_array_append_new(nodes, node_json(&local->nodes[i]));
    }
    for (size_t i = 0; i < local->n_agents; i++) {
        json_array_append_new(agents, agent_json(&local->agents[i]));
    }
    for (size_t i = 0; i < local->n_agent_flags; i++) {
        json_array_append_new(flags, json_string(local->agent_flags[i]));
    }
    return json_pack("{s:o, s:o, s:o, s:b}", "nodes", nodes, "agents", agents, "agent_flags", flags,
                     "bootstrapped", (int)local->bootstrapped);
}

int nl_local_save(const struct nl_cli *cli, const struct nl_local *local) {
    char path[NL_LOCAL_PATH];
    json_t *value = nl_local_json(local);
    char *text = value != NULL ? json_dumps(value, JSON_INDENT(2) | JSON_PRESERVE_ORDER) : NULL;
    json_decref(value);
    if (text == NULL || !nl_local_path(path, local->dir, "cluster.json")) {
        free(text);
        return io_error(cli, "write", "cluster.json", NL_ENOMEM);
    }
    int rc = nl_local_write(cli, path, text);
    free(text);
    return rc;
}

static void copy_text(char *out, size_t size, const json_t *object, const char *key) {
    const char *text = json_string_value(json_object_get(object, key));
    snprintf(out, size, "%s", text != NULL ? text : "");
}

static struct nl_process process_of(const json_t *object, const char *pid, const char *started) {
    return (struct nl_process){
        .pid = (pid_t)json_integer_value(json_object_get(object, pid)),
        .start = (uint64_t)json_integer_value(json_object_get(object, started)),
    };
}

static void read_node(const json_t *object, struct nl_local_node *node) {
    copy_text(node->name, sizeof node->name, object, "name");
    node->id = (uint64_t)json_integer_value(json_object_get(object, "id"));
    copy_text(node->grpc, sizeof node->grpc, object, "grpc");
    copy_text(node->raft, sizeof node->raft, object, "raft");
    copy_text(node->http, sizeof node->http, object, "http");
    copy_text(node->dir, sizeof node->dir, object, "dir");
    node->process = process_of(object, "pid", "started");
}

static void read_agent(const json_t *object, struct nl_local_agent *agent) {
    copy_text(agent->id, sizeof agent->id, object, "id");
    copy_text(agent->dir, sizeof agent->dir, object, "dir");
    copy_text(agent->token_file, sizeof agent->token_file, object, "token_file");
    agent->link = process_of(object, "pid", "started");
    agent->supervisor = process_of(object, "supervisor_pid", "supervisor_started");
}

static int read_lists(struct nl_local *local, const json_t *root) {
    const json_t *nodes = json_object_get(root, "nodes");
    const json_t *agents = json_object_get(root, "agents");
    const json_t *flags = json_object_get(root, "agent_flags");
    local->n_nodes = json_array_size(nodes);
    local->n_agents = json_array_size(agents);
    local->nodes = calloc(local->n_nodes + 1, sizeof *local->nodes);
    local->agents = calloc(local->n_agents + 1, sizeof *local->agents);
    local->agent_flags = calloc(json_array_size(flags) + 1, sizeof *local->agent_flags);
    if (local->nodes == NULL || local->agents == NULL || local->agent_flags == NULL) {
        return NL_ENOMEM;
    }
    for (size_t i = 0; i < local->n_nodes; i++) {
        read_node(json_array_get(nodes, i), &local->nodes[i]);
    }
    for (size_t i = 0; i < local->n_agents; i++) {
        read_agent(json_array_get(agents, i), &local->agents[i]);
    }
    for (size_t i = 0; i < json_array_size(flags); i++) {
        const char *flag = json_string_value(json_array_get(flags, i));
        local->agent_flags[local->n_agent_flags] = strdup(flag != NULL ? flag : "");
        if (local->agent_flags[local->n_agent_flags++] == NULL) {
            return NL_ENOMEM;
        }
    }
    local->bootstrapped = json_is_true(json_object_get(root, "bootstrapped"));
    return local->n_nodes > 0 ? NL_OK : NL_ECORRUPT;
}

int nl_local_load(const struct nl_cli *cli, struct nl_local *local) {
    char path[NL_LOCAL_PATH];
    char *text = NULL;
    size_t len = 0;
    json_error_t error;
    if (!nl_local_path(path, local->dir, "cluster.json")) {
        return io_error(cli, "read", "cluster.json", NL_ETOOBIG);
    }
    int rc = nl_fs_read(path, FILE_BYTES_MAX, &text, &len);
    if (rc != NL_OK) {
        return io_error(cli, "read", path, rc);
    }
    json_t *root = json_loadb(text, len, 0, &error);
    free(text);
    rc = root != NULL ? read_lists(local, root) : NL_ECORRUPT;
    json_decref(root);
    return rc == NL_OK ? NL_EXIT_OK : io_error(cli, "understand", path, rc);
}

int nl_local_open_existing(const struct nl_cli *cli, const char *dir, struct nl_local *ret) {
    int rc = nl_local_open(cli, dir, false, ret);
    if (rc == NL_EXIT_OK && !nl_local_exists(ret)) {
        nl_cli_fail(cli,
                    &(struct nl_failure){.code = "NOT_FOUND",
                                         .outcome = "failed",
                                         .next = "nodelink local up --dir DIR makes one"},
                    "no cluster in %s", ret->dir);
        rc = NL_EXIT_FAILED;
    }
    if (rc == NL_EXIT_OK) {
        rc = nl_local_load(cli, ret);
    }
    if (rc == NL_EXIT_OK) {
        nl_local_refresh(ret);
    }
    return rc;
}

struct nl_local_node *nl_local_node_by_name(struct nl_local *local, const char *name) {
    for (size_t i = 0; i < local->n_nodes; i++) {
        if (strcmp(local->nodes[i].name, name) == 0) {
            return &local->nodes[i];
        }
    }
    return NULL;
}

struct nl_local_agent *nl_local_agent_by_id(struct nl_local *local, const char *id) {
    for (size_t i = 0; i < local->n_agents; i++) {
        if (strcmp(local->agents[i].id, id) == 0) {
            return &local->agents[i];
        }
    }
    return NULL;
}
