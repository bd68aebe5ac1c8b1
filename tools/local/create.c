#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/buf.h"
#include "common/base/crypto.h"
#include "common/base/err.h"
#include "common/base/fs.h"
#include "common/base/text.h"
#include "tools/local/local.h"

// Below what the kernel gives to outgoing connections (32768 up): a node that is down for a while
// must find its ports free when it comes back.
enum {
    PORT_MIN = 10000,
    PORT_MAX = 32000,
    PORTS_PER_NODE = 3,
    PORT_TRIES = 20000,
    SOCKET_PATH_MAX = 107,
    ID_SIZE = 27,
};

// ---- ports -----------------------------------------------------------------

static bool port_is_free(uint16_t port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int on = 1;
    if (fd < 0) {
        return false;
    }
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    bool ok = bind(fd, (const struct sockaddr *)(const void *)&address, sizeof address) == 0 &&
              listen(fd, 1) == 0;
    close(fd);
    return ok;
}

static uint16_t random_port(void) {
    uint16_t r = 0;
    nl_random_bytes(&r, sizeof r);
    return (uint16_t)(PORT_MIN + r % (PORT_MAX - PORT_MIN));
}

// Free ports from `from` on, going up; 0: none.
static uint16_t next_port(uint16_t *from) {
    for (int i = 0; i < PORT_TRIES; i++) {
        uint16_t port = *from;
        *from = port + 1 < PORT_MAX ? (uint16_t)(port + 1) : PORT_MIN;
        if (port_is_free(port)) {
            return port;
        }
    }
    return 0;
}

static void set_address(char *out, uint16_t port) {
    snprintf(out, NL_LOCAL_ADDRESS, "127.0.0.1:%u", (unsigned)port);
}

static int choose_ports(const struct nl_cli *cli, uint64_t base, struct nl_local *local) {
    uint16_t from = base > 0 ? (uint16_t)base : random_port();
    for (size_t i = 0; i < local->n_nodes; i++) {
        struct nl_local_node *node = &local->nodes[i];
        char *fields[PORTS_PER_NODE] = {node->grpc, node->raft, node->http};
        for (size_t k = 0; k < PORTS_PER_NODE; k++) {
            uint16_t port = base > 0 ? (uint16_t)(base + i * PORTS_PER_NODE + k) : next_port(&from);
            if (port == 0 || (base > 0 && !port_is_free(port))) {
                nl_cli_fail(cli,
                            &(struct nl_failure){.code = "BUSY",
                                                 .outcome = "failed",
                                                 .next = "leave out --base-port, or give another"},
                            "port %u of 127.0.0.1 is in use", (unsigned)port);
                return NL_EXIT_FAILED;
            }
            set_address(fields[k], port);
        }
    }
    return NL_EXIT_OK;
}

// ---- names and directories -------------------------------------------------

static int name_all(const struct nl_cli *cli, struct nl_local *local) {
    bool ok = true;
    for (size_t i = 0; i < local->n_nodes; i++) {
        struct nl_local_node *node = &local->nodes[i];
        node->id = i + 1;
        snprintf(node->name, sizeof node->name, "n%zu", i + 1);
        ok = ok && nl_local_path(node->dir, local->dir, node->name);
    }
    for (size_t i = 0; i < local->n_agents; i++) {
        struct nl_local_agent *agent = &local->agents[i];
        snprintf(agent->id, sizeof agent->id, "a%zu", i + 1);
        ok = ok && nl_local_path(agent->dir, local->dir, agent->id) &&
             nl_local_path(agent->token_file, agent->dir, "token") &&
             strlen(agent->dir) + strlen("/supervisor.sock") <= SOCKET_PATH_MAX;
    }
    return ok ? NL_EXIT_OK
              : nl_cli_usage(cli,
                             "--dir %s: too long a path for the agents' sockets (at most 107 "
                             "characters with /aN/supervisor.sock)",
                             local->dir);
}

static int make_dir(const struct nl_cli *cli, const char *path) {
    int rc = nl_fs_mkdirs(path, 0700);
    if (rc != NL_OK) {
        nl_cli_fail(cli, &(struct nl_failure){.code = "IO", .outcome = "failed"},
                    "can't make %s: %s", path, nl_strerror(rc));
        return NL_EXIT_FAILED;
    }
    return NL_EXIT_OK;
}

static int make_dirs(const struct nl_cli *cli, const struct nl_local *local) {
    int rc = NL_EXIT_OK;
    for (size_t i = 0; i < local->n_nodes && rc == NL_EXIT_OK; i++) {
        rc = make_dir(cli, local->nodes[i].dir);
    }
    for (size_t i = 0; i < local->n_agents && rc == NL_EXIT_OK; i++) {
        rc = make_dir(cli, local->agents[i].dir);
    }
    return rc;
}

// ---- files -----------------------------------------------------------------

static int write_buf(const struct nl_cli *cli, const char *dir, const char *name,
                     struct nl_buf *text, bool ok) {
    char path[NL_LOCAL_PATH];
    int rc = NL_EXIT_FAILED;
    if (!ok || nl_buf_append(text, "", 1) != NL_OK || !nl_local_path(path, dir, name)) {
        nl_cli_usage(cli, "out of memory");
    } else {
        rc = nl_local_write(cli, path, (const char *)text->data);
    }
    if (text->data != NULL) {
        explicit_bzero(text->data, text->len);
    }
    nl_buf_close(text);
    return rc;
}

static bool add_members(struct nl_buf *text, const struct nl_local *local) {
    bool ok = nl_buf_printf(text, "members = ") == NL_OK;
    for (size_t i = 0; i < local->n_nodes; i++) {
        const struct nl_local_node *node = &local->nodes[i];
        ok = ok && nl_buf_printf(text, "%s%s/%llu/%s/%s", i > 0 ? "," : "", node->name,
                                 (unsigned long long)node->id, node->raft, node->grpc) == NL_OK;
    }
    return ok && nl_buf_printf(text, "\n") == NL_OK;
}

static bool add_setting(struct nl_buf *text, const char *key, const char *value) {
    return value == NULL || nl_buf_printf(text, "%s = %s\n", key, value) == NL_OK;
}

// KEY=VALUE is a line of the file already.
static bool add_sets(struct nl_buf *text, const struct nl_arg_list *sets) {
    bool ok = true;
    for (size_t i = 0; i < sets->count; i++) {
        const char *equals = strchr(sets->items[i], '=');
        ok = ok && nl_buf_printf(text, "%.*s = %s\n", (int)(equals - sets->items[i]),
                                 sets->items[i], equals + 1) == NL_OK;
    }
    return ok;
}

static int write_config(const struct nl_cli *cli, const struct nl_local_plan *plan,
                        const struct nl_local *local, const struct nl_local_node *node,
                        const char *token_hash) {
    struct nl_buf text;
    nl_buf_init(&text, 0);
    bool ok = nl_buf_printf(&text, "# Made by nodelink local up.\n") == NL_OK &&
              nl_buf_printf(&text, "cluster-name = local\nnode-id = %llu\nnode-name = %s\n",
                            (unsigned long long)node->id, node->name) == NL_OK &&
              nl_buf_printf(&text, "data-dir = %s/data\n", node->dir) == NL_OK &&
              add_setting(&text, "grpc-address", node->grpc) &&
              add_setting(&text, "raft-address", node->raft) && add_members(&text, local) &&
              nl_buf_printf(&text, "cluster-secret-file = %s/secret\n", local->dir) == NL_OK &&
              add_setting(&text, "admin-token-sha256", token_hash) &&
              add_setting(&text, "insecure", "true") &&
              add_setting(&text, "heartbeat", plan->heartbeat) &&
              add_setting(&text, "election-timeout", plan->election_timeout) &&
              add_sets(&text, &plan->sets);
    return write_buf(cli, node->dir, "nodelinkd.conf", &text, ok);
}

static bool add_path(struct nl_buf *text) {
    char exe[NL_LOCAL_PATH];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n <= 0) {
        return true;
    }
    exe[n] = '\0';
    char *slash = strrchr(exe, '/');
    *slash = '\0';
    char *quoted = nl_text_shell_quote(exe);
    bool ok = quoted != NULL && nl_buf_printf(text, "export PATH=%s:\"$PATH\"\n", quoted) == NL_OK;
    free(quoted);
    return ok;
}

static int write_env(const struct nl_cli *cli, const struct nl_local *local, const char *token) {
    struct nl_buf text;
    nl_buf_init(&text, 0);
    bool ok = nl_buf_printf(&text,
                            "# Source this to talk to the cluster.\n"
                            "unset NODELINK_CACERT NODELINK_CLIENT_CERT "
                            "NODELINK_CLIENT_KEY\nexport NODELINK_ADDR=") == NL_OK;
    for (size_t i = 0; i < local->n_nodes; i++) {
        ok = ok && nl_buf_printf(&text, "%s%s", i > 0 ? "," : "", local->nodes[i].grpc) == NL_OK;
    }
    ok = ok && nl_buf_printf(&text, "\nexport NODELINK_TOKEN=%s\n", token) == NL_OK &&
         add_path(&text);
    return write_buf(cli, local->dir, "env", &text, ok);
}

static int write_secret(const struct nl_cli *cli, const struct nl_local *local) {
    char path[NL_LOCAL_PATH];
    char line[2 * ID_SIZE + 1];
    nl_random_id(line);
    nl_random_id(line + ID_SIZE - 1);
    line[2 * ID_SIZE - 2] = '\n';
    line[2 * ID_SIZE - 1] = '\0';
    int rc = nl_local_path(path, local->dir, "secret") ? nl_local_write(cli, path, line)
                                                       : NL_EXIT_FAILED;
    explicit_bzero(line, sizeof line);
    return rc;
}

static int write_files(const struct nl_cli *cli, const struct nl_local_plan *plan,
                       const struct nl_local *local) {
    char token[ID_SIZE];
    uint8_t hash[NL_SHA256_LEN];
    char hex[2 * NL_SHA256_LEN + 1];
    nl_random_id(token);
    nl_sha256_of(token, strlen(token), hash);
    nl_hex_encode(hash, sizeof hash, hex);
    int rc = write_secret(cli, local);
    for (size_t i = 0; i < local->n_nodes && rc == NL_EXIT_OK; i++) {
        rc = write_config(cli, plan, local, &local->nodes[i], hex);
    }
    if (rc == NL_EXIT_OK) {
        rc = write_env(cli, local, token);
    }
    char path[NL_LOCAL_PATH];
    if (rc == NL_EXIT_OK && nl_local_path(path, local->dir, "admin-token")) {
        rc = nl_local_write(cli, path, token);
    }
    explicit_bzero(token, sizeof token);
    // Last: its presence says that the rest is complete.
    return rc == NL_EXIT_OK ? nl_local_save(cli, local) : rc;
}

static int check_sets(const struct nl_cli *cli, const struct nl_arg_list *sets, const char *flag) {
    for (size_t i = 0; i < sets->count; i++) {
        const char *equals = strchr(sets->items[i], '=');
        if (equals == NULL || equals == sets->items[i] || strpbrk(sets->items[i], "\r\n") != NULL) {
            return nl_cli_usage(cli, "--%s %s is not KEY=VALUE", flag, sets->items[i]);
        }
    }
    return NL_EXIT_OK;
}

static int keep_agent_flags(const struct nl_cli *cli, const struct nl_arg_list *sets,
                            struct nl_local *local) {
    local->agent_flags = calloc(sets->count + 1, sizeof *local->agent_flags);
    for (size_t i = 0; local->agent_flags != NULL && i < sets->count; i++) {
        if (asprintf(&local->agent_flags[i], "--%s", sets->items[i]) < 0) {
            local->agent_flags[i] = NULL;
            return nl_cli_usage(cli, "out of memory");
        }
        local->n_agent_flags++;
    }
    return local->agent_flags != NULL ? NL_EXIT_OK : nl_cli_usage(cli, "out of memory");
}

int nl_local_create(const struct nl_cli *cli, const struct nl_local_plan *plan,
                    struct nl_local *local) {
    local->n_nodes = plan->nodes;
    local->n_agents = plan->agents;
    local->nodes = calloc(plan->nodes + 1, sizeof *local->nodes);
    local->agents = calloc(plan->agents + 1, sizeof *local->agents);
    if (local->nodes == NULL || local->agents == NULL) {
        local->n_nodes = local->n_agents = 0;
        return nl_cli_usage(cli, "out of memory");
    }
    int rc = check_sets(cli, &plan->sets, "set");
    if (rc == NL_EXIT_OK) {
        rc = check_sets(cli, &plan->agent_sets, "agent-set");
    }
    if (rc == NL_EXIT_OK) {
        rc = keep_agent_flags(cli, &plan->agent_sets, local);
    }
    if (rc == NL_EXIT_OK) {
        rc = name_all(cli, local);
    }
    if (rc == NL_EXIT_OK) {
        rc = choose_ports(cli, plan->base_port, local);
    }
    if (rc == NL_EXIT_OK) {
        rc = make_dirs(cli, local);
    }
    return rc == NL_EXIT_OK ? write_files(cli, plan, local) : rc;
}
