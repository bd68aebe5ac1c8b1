#include "tests/unit/cluster/fixture.h"

#include <arpa/inet.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/crypto.h"
#include "common/base/err.h"

enum { WAIT_MS = 30000 };

const uint8_t fixture_secret[32] = "thirty-two bytes of test secret";
const uint8_t fixture_token[32] = "token";

// ---- events ------------------------------------------------------------------

static void on_effect(void *user, const struct nl_effect *effect) {
    struct node *node = user;
    node->outcomes += effect->kind == NL_EFFECT_OUTCOME && !effect->duplicate;
}

static void on_restored(void *user) {
    ((struct node *)user)->restored++;
}

static void on_role(void *user, enum nl_cluster_role role, uint64_t term, uint64_t leader) {
    (void)term;
    (void)leader;
    ((struct node *)user)->role = role;
}

static void on_fatal(void *user, const char *why) {
    fprintf(stderr, "node %u: fatal: %s\n", ((struct node *)user)->index + 1, why);
    _exit(FIXTURE_FATAL);
}

// ---- ports and files -----------------------------------------------------------

// Below the range that the kernel gives to outgoing connections: it is free later, too. Never the
// same twice.
static uint16_t free_port(void) {
    static bool given[UINT16_MAX + 1];
    for (;;) {
        uint16_t r = 0;
        nl_random_bytes(&r, sizeof r);
        struct sockaddr_in addr = {.sin_family = AF_INET, .sin_addr = {htonl(INADDR_LOOPBACK)}};
        uint16_t port = (uint16_t)(10000 + r % 22000);
        addr.sin_port = htons(port);
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_true(fd >= 0);
        bool is_free = bind(fd, (struct sockaddr *)&addr, sizeof addr) == 0;
        close(fd);
        if (is_free && !given[port]) {
            given[port] = true;
            return port;
        }
    }
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw) {
    (void)st;
    (void)type;
    (void)ftw;
    return remove(path);
}

void fixture_remove(const char *dir) {
    assert_int_equal(nftw(dir, remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

// ---- life --------------------------------------------------------------------

void fixture_open(struct fixture *f, unsigned n) {
    memset(f, 0, sizeof *f);
    f->n = n;
    snprintf(f->dir, sizeof f->dir, "/tmp/nl-cluster-XXXXXX");
    assert_non_null(mkdtemp(f->dir));
    assert_int_equal(uv_loop_init(&f->loop), 0);
    assert_int_equal(nl_rpc_new(&f->loop, &f->rpc), NL_OK);
    for (unsigned i = 0; i < n; i++) {
        struct node *node = &f->nodes[i];
        node->fixture = f;
        node->index = i;
        snprintf(node->name, sizeof node->name, "n%u", i + 1);
        snprintf(node->dir, sizeof node->dir, "%s/%s", f->dir, node->name);
        snprintf(node->raft_address, sizeof node->raft_address, "127.0.0.1:%u", free_port());
        snprintf(node->grpc_address, sizeof node->grpc_address, "127.0.0.1:%u", free_port());
        f->members[i] = (struct nl_cluster_member){
            .id = i + 1,
            .name = node->name,
            .raft_address = node->raft_address,
            .grpc_address = node->grpc_address,
        };
    }
}

struct nl_cluster_options fixture_options(struct fixture *f, unsigned i) {
    return (struct nl_cluster_options){
        .loop = &f->loop,
        .rpc = f->rpc,
        .cluster_name = "test",
        .id = i + 1,
        .name = f->nodes[i].name,
        .version = "test",
        .data_dir = f->nodes[i].dir,
        .raft_address = f->nodes[i].raft_address,
        .members = f->members,
        .n_members = f->n,
        .bootstrap = true,
        .secret = fixture_secret,
        .secret_len = sizeof fixture_secret,
        .tls = f->tls[i],
        .snapshot_threshold = f->snapshot_threshold,
        .snapshot_trailing = f->snapshot_trailing,
        .snapshot_bytes = f->snapshot_bytes,
        .election_timeout_ms = f->election_timeout_ms,
        .disk_free_min = 1,
    };
}

static void serve_link(struct nl_rpc_call *call, void *user) {
    nl_cluster_serve_link(((struct node *)user)->cluster, call);
}

static bool authorize(struct nl_rpc_call *call, void *user) {
    struct node *node = user;
    if (node->cluster == NULL) {
        nl_rpc_call_finish(call, NL_RPC_UNAVAILABLE, "stopped");
        return false;
    }
    return nl_cluster_authorize_peer(node->cluster, call);
}

static void start_server(struct fixture *f, struct node *node) {
    static const struct nl_rpc_method methods[] = {
        {.name = "Link", .kind = NL_RPC_BIDI, .stream = serve_link}, {.name = NULL}};
    static struct nl_rpc_service services[NODES_MAX][2];
    char text[256];
    struct nl_rpc_server_options options = {.address = node->grpc_address,
                                            .tls = f->tls[node->index]};
    services[node->index][0] = (struct nl_rpc_service){
        .descriptor = &nodelink__v1__peer_service__descriptor,
        .methods = methods,
        .user = node,
        .authorize = authorize,
    };
    int rv = nl_rpc_server_new(f->rpc, &options, services[node->index], &node->server, text,
                               sizeof text);
    if (rv != NL_OK) {
        fail_msg("%s: %s", node->grpc_address, text);
    }
}

void fixture_start(struct fixture *f, unsigned i) {
    static const struct nl_cluster_events events = {.on_effect = on_effect,
                                                    .on_restored = on_restored,
                                                    .on_role = on_role,
                                                    .on_fatal = on_fatal};
    struct node *node = &f->nodes[i];
    struct nl_cluster_options options = fixture_options(f, i);
    char text[512];
    node->outcomes = 0;
    node->restored = 0;
    int rv = nl_cluster_open(&options, &events, node, &node->cluster, text, sizeof text);
    if (rv != NL_OK) {
        fail_msg("node %u: %s: %s", i + 1, nl_strerror(rv), text);
    }
    start_server(f, node);
}

static void on_cluster_closed(void *user) {
    ((struct node *)user)->cluster_closed = true;
}

static void on_server_closed(void *user) {
    ((struct node *)user)->server_closed = true;
}

static bool node_closed(struct fixture *f, void *arg) {
    struct node *node = arg;
    (void)f;
    return node->cluster_closed && node->server_closed;
}

void fixture_stop(struct fixture *f, unsigned i) {
    struct node *node = &f->nodes[i];
    node->cluster_closed = node->server_closed = false;
    nl_cluster_close(node->cluster, on_cluster_closed, node);
    nl_rpc_server_stop(node->server, 0, on_server_closed, node);
    node->cluster = NULL;
    assert_true(fixture_until(f, WAIT_MS, node_closed, node));
    node->server = NULL;
}

static void on_rpc_closed(void *user) {
    ((struct fixture *)user)->rpc_closed = true;
}

static bool rpc_closed(struct fixture *f, void *arg) {
    (void)arg;
    return f->rpc_closed;
}

void fixture_close(struct fixture *f) {
    for (unsigned i = 0; i < f->n; i++) {
        if (f->nodes[i].cluster != NULL) {
            fixture_stop(f, i);
        }
    }
    nl_rpc_close(f->rpc, on_rpc_closed, f);
    assert_true(fixture_until(f, WAIT_MS, rpc_closed, NULL));
    uv_run(&f->loop, UV_RUN_DEFAULT);
    assert_int_equal(uv_loop_close(&f->loop), 0);
    fixture_remove(f->dir);
}

// ---- waiting -----------------------------------------------------------------

static void on_timeout(uv_timer_t *timer) {
    (void)timer;
}

static void on_timer_closed(uv_handle_t *handle) {
    *(bool *)handle->data = true;
}

bool fixture_until(struct fixture *f, uint64_t timeout_ms, condition holds, void *arg) {
    uint64_t end = nl_clock_mono_ms() + timeout_ms;
    bool closed = false;
    uv_timer_t timer;
    // Wakes the loop up even if nothing else does.
    uv_timer_init(&f->loop, &timer);
    uv_timer_start(&timer, on_timeout, 5, 5);
    timer.data = &closed;
    bool ok = holds(f, arg);
    while (!ok && nl_clock_mono_ms() < end) {
        uv_run(&f->loop, UV_RUN_ONCE);
        ok = holds(f, arg);
    }
    uv_close((uv_handle_t *)&timer, on_timer_closed);
    while (!closed) {
        uv_run(&f->loop, UV_RUN_NOWAIT);
    }
    return ok;
}

static bool has_leader(struct fixture *f, void *arg) {
    int *ret = arg;
    uint64_t leader = 0;
    struct nl_cluster_status status;
    *ret = -1;
    for (unsigned i = 0; i < f->n; i++) {
        if (f->nodes[i].cluster == NULL) {
            continue;
        }
        nl_cluster_status(f->nodes[i].cluster, &status);
        if (status.leader == 0 || (leader != 0 && status.leader != leader)) {
            return false;
        }
        leader = status.leader;
        *ret = status.role == NL_ROLE_LEADER ? (int)i : *ret;
    }
    return *ret >= 0;
}

int fixture_leader(struct fixture *f) {
    int leader = -1;
    fixture_until(f, WAIT_MS, has_leader, &leader);
    return leader;
}

static bool same_index(struct fixture *f, void *arg) {
    uint64_t index = 0;
    struct nl_cluster_status status;
    (void)arg;
    for (unsigned i = 0; i < f->n; i++) {
        if (f->nodes[i].cluster == NULL) {
            continue;
        }
        nl_cluster_status(f->nodes[i].cluster, &status);
        if ((index != 0 && status.applied != index) || status.applied != status.commit) {
            return false;
        }
        index = status.applied;
    }
    return true;
}

void fixture_assert_equal(struct fixture *f) {
    uint8_t first[NL_STATE_HASH_LEN], hash[NL_STATE_HASH_LEN];
    bool has_first = false;
    char why[256];
    assert_true(fixture_until(f, WAIT_MS, same_index, NULL));
    for (unsigned i = 0; i < f->n; i++) {
        if (f->nodes[i].cluster == NULL) {
            continue;
        }
        const struct nl_state *state = nl_cluster_state(f->nodes[i].cluster);
        assert_int_equal(nl_state_check(state, why, sizeof why), NL_OK);
        nl_state_hash(state, hash);
        if (has_first) {
            assert_memory_equal(hash, first, sizeof hash);
        }
        memcpy(first, hash, sizeof hash);
        has_first = true;
    }
}

// ---- requests ----------------------------------------------------------------

void on_proposed(void *user, int result, struct nl_outcome outcome, uint64_t index, uint64_t term) {
    struct result *r = user;
    *r = (struct result){r->calls + 1, result, outcome, index, term};
}

void on_read(void *user, int result, uint64_t index, uint64_t term) {
    struct result *r = user;
    r->calls++;
    r->result = result;
    r->index = index;
    r->term = term;
}

static bool was_called(struct fixture *f, void *arg) {
    (void)f;
    return ((struct result *)arg)->calls > 0;
}

void fixture_wait(struct fixture *f, struct result *r) {
    assert_true(fixture_until(f, WAIT_MS, was_called, r));
    assert_int_equal(r->calls, 1);
}

void fixture_node_up(struct fixture *f, unsigned node) {
    Nodelink__V1__Command command = NODELINK__V1__COMMAND__INIT;
    Nodelink__V1__NodeUp up = NODELINK__V1__NODE_UP__INIT;
    struct result r = {0};
    up.node = node + 1;
    up.name = f->nodes[node].name;
    up.grpc_address = f->nodes[node].grpc_address;
    up.node_boot = nl_cluster_boot(f->nodes[node].cluster);
    up.version = (char *)(uintptr_t) "test";
    command.body_case = NODELINK__V1__COMMAND__BODY_NODE_UP;
    command.node_up = &up;
    assert_int_equal(nl_cluster_propose(f->nodes[node].cluster, &command, 0, on_proposed, &r),
                     NL_OK);
    fixture_wait(f, &r);
    assert_int_equal(r.result, NL_OK);
    assert_int_equal(r.outcome.code, NL_OUTCOME_OK);
}

int propose_token(struct fixture *f, unsigned node, const char *agent, struct result *r) {
    Nodelink__V1__Command command = NODELINK__V1__COMMAND__INIT;
    Nodelink__V1__AgentTokenCreate create = NODELINK__V1__AGENT_TOKEN_CREATE__INIT;
    create.agent_id = (char *)(uintptr_t)agent;
    create.token_sha256.data = (uint8_t *)(uintptr_t)fixture_token;
    create.token_sha256.len = sizeof fixture_token;
    command.body_case = NODELINK__V1__COMMAND__BODY_AGENT_TOKEN_CREATE;
    command.agent_token_create = &create;
    memset(r, 0, sizeof *r);
    return nl_cluster_propose(f->nodes[node].cluster, &command, 0, on_proposed, r);
}

int propose_register(struct fixture *f, unsigned node, const char *agent, uint64_t timeout_ms,
                     struct result *r) {
    Nodelink__V1__Command command = NODELINK__V1__COMMAND__INIT;
    Nodelink__V1__AgentRegister reg = NODELINK__V1__AGENT_REGISTER__INIT;
    reg.agent_id = (char *)(uintptr_t)agent;
    reg.node = node + 1;
    reg.node_boot = nl_cluster_boot(f->nodes[node].cluster);
    reg.token_sha256.data = (uint8_t *)(uintptr_t)fixture_token;
    reg.token_sha256.len = sizeof fixture_token;
    command.body_case = NODELINK__V1__COMMAND__BODY_AGENT_REGISTER;
    command.agent_register = &reg;
    memset(r, 0, sizeof *r);
    return nl_cluster_propose(f->nodes[node].cluster, &command, timeout_ms, on_proposed, r);
}

uint64_t epoch_at(struct fixture *f, unsigned node, const char *agent) {
    const struct nl_agent *a = nl_state_agent(nl_cluster_state(f->nodes[node].cluster), agent);
    return a != NULL ? a->epoch : 0;
}
