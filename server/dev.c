#include "server/dev.h"

#include <arpa/inet.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/base/crypto.h"
#include "common/base/err.h"
#include "common/base/log.h"

enum { GRPC_PORT = 7000, TREE_FDS = 16 };

// A port of loopback that is free now: `wanted`, else any. 0: none.
static uint16_t free_port(uint16_t wanted) {
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}, .sin_port = htons(wanted)};
    socklen_t len = sizeof address;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    int one = 1;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    bool ok = fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0 &&
              listen(fd, 1) == 0 && getsockname(fd, (struct sockaddr *)&address, &len) == 0;
    if (fd >= 0) {
        close(fd);
    }
    if (ok) {
        return ntohs(address.sin_port);
    }
    return wanted != 0 ? free_port(0) : 0;
}

static int set_address(char **field, uint16_t wanted) {
    uint16_t port = *field == NULL ? free_port(wanted) : 0;
    if (*field == NULL && (port == 0 || asprintf(field, "127.0.0.1:%u", port) < 0)) {
        *field = NULL;
        return NL_EIO;
    }
    return NL_OK;
}

static int set_text(char **field, const char *text) {
    if (*field == NULL) {
        *field = strdup(text);
    }
    return *field != NULL ? NL_OK : NL_ENOMEM;
}

static void make_token(char out[40], const char *prefix) {
    char id[27];
    nl_random_id(id);
    snprintf(out, 40, "%s%s", prefix, id);
}

static int add_admin_hash(struct nl_settings *settings, const char *token) {
    uint8_t hash[NL_SHA256_LEN];
    char *hex = malloc(2 * sizeof hash + 1);
    size_t n = settings->admin_hashes_text.count;
    char **items = realloc(settings->admin_hashes_text.items, (n + 1) * sizeof *items);
    if (items != NULL) {
        settings->admin_hashes_text.items = items;
    }
    if (hex == NULL || items == NULL) {
        free(hex);
        return NL_ENOMEM;
    }
    nl_sha256_of(token, strlen(token), hash);
    nl_hex_encode(hash, sizeof hash, hex);
    items[n] = hex;
    settings->admin_hashes_text.count = n + 1;
    return NL_OK;
}

int nl_dev_prepare(struct nl_dev *dev, struct nl_settings *settings) {
    const char *tmp = getenv("TMPDIR");
    snprintf(dev->directory, sizeof dev->directory, "%.32s/nodelinkd-dev-XXXXXX",
             tmp != NULL ? tmp : "/tmp");
    if (mkdtemp(dev->directory) == NULL) {
        dev->directory[0] = '\0';
        return NL_EIO;
    }
    make_token(dev->admin_token, "nl_");
    make_token(dev->agent_token, "nla_");
    make_token(dev->secret, "");
    settings->bootstrap = settings->insecure = true;
    settings->node_id = settings->node_id != 0 ? settings->node_id : 1;
    int rv = set_text(&settings->node_name, "dev");
    if (rv == NL_OK) {
        rv = set_text(&settings->data_dir, dev->directory);
    }
    if (rv == NL_OK) {
        rv = set_address(&settings->grpc_address, GRPC_PORT);
    }
    if (rv == NL_OK) {
        rv = set_address(&settings->raft_address, 0);
    }
    return rv == NL_OK ? add_admin_hash(settings, dev->admin_token) : rv;
}

// ---- ready -----------------------------------------------------------------

static void print_guide(const struct nl_dev *dev) {
    const char *address = dev->server->settings->advertised_grpc;
    printf(
        "nodelinkd --dev: one node, nothing is kept after it ends\n\n"
        "export NODELINK_ADDR=%s\n"
        "export NODELINK_TOKEN=%s\n\n"
        "# an agent on this machine:\n"
        "(umask 077; echo %s > %s/agent.token)\n"
        "nodelink-agent --agent-id %s --token-file %s/agent.token --servers %s \\\n"
        "    --state-dir %s/agent --insecure\n\n"
        "# then:\n"
        "nodelink run %s -- 'echo hello from $(hostname)'\n",
        address, dev->admin_token, dev->agent_token, dev->directory, NL_DEV_AGENT_ID,
        dev->directory, address, dev->directory, NL_DEV_AGENT_ID);
    fflush(stdout);
}

static void on_token(void *user, int result, struct nl_outcome outcome, uint64_t index,
                     uint64_t term) {
    (void)index;
    (void)term;
    struct nl_dev *dev = user;
    if (result == NL_OK && outcome.code == NL_OUTCOME_OK) {
        print_guide(dev);
    } else {
        nl_log(NL_LOG_ERROR, "dev", "no agent token", "why",
               result != NL_OK ? nl_strerror(result) : nl_outcome_name(outcome.code), NULL);
    }
}

void nl_dev_ready(struct nl_dev *dev, struct nl_server *server) {
    uint8_t hash[NL_SHA256_LEN];
    char agent_id[] = NL_DEV_AGENT_ID;
    nl_sha256_of(dev->agent_token, strlen(dev->agent_token), hash);
    Nodelink__V1__AgentTokenCreate m = NODELINK__V1__AGENT_TOKEN_CREATE__INIT;
    m.agent_id = agent_id;
    m.token_sha256 = (ProtobufCBinaryData){sizeof hash, hash};
    Nodelink__V1__Command command = NODELINK__V1__COMMAND__INIT;
    command.body_case = NODELINK__V1__COMMAND__BODY_AGENT_TOKEN_CREATE;
    command.agent_token_create = &m;
    dev->server = server;
    int rv = nl_cluster_propose(server->cluster, &command, 0, on_token, dev);
    if (rv != NL_OK) {
        nl_log(NL_LOG_ERROR, "dev", "no agent token", "why", nl_strerror(rv), NULL);
    }
}

// ---- clean -----------------------------------------------------------------

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

void nl_dev_clean(struct nl_dev *dev) {
    if (dev->directory[0] != '\0') {
        nftw(dev->directory, remove_one, TREE_FDS, FTW_DEPTH | FTW_PHYS);
    }
}
