// ControlService: this node's own view. Asks nobody, so it answers without a quorum.
#include <string.h>

#include <fcntl.h>
#include <stdio.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "server/control.h"
#include "server/messages.h"
#include "server/sessions.h"
#include "server/version.h"

enum { MEMBERS_MAX = 16 };

// The kernel answers from memory, so this blocks nobody. 0: not known.
static uint64_t resident_bytes(void) {
    char text[64] = "";
    unsigned long long total = 0, resident = 0;
    long page = sysconf(_SC_PAGESIZE);
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        return 0;
    }
    ssize_t n = read(fd, text, sizeof text - 1);
    close(fd);
    bool ok = n > 0 && page > 0 && sscanf(text, "%llu %llu", &total, &resident) == 2;
    return ok ? (uint64_t)resident * (uint64_t)page : 0;
}

static size_t fill_members(struct nl_server *server, Nodelink__V1__Member *records,
                           Nodelink__V1__Member **pointers) {
    const struct nl_state *state = nl_cluster_state(server->cluster);
    const struct nl_cluster_peer_status *peer = nl_cluster_peer_next(server->cluster, 0);
    size_t n = 0;
    for (; peer != NULL && n < MEMBERS_MAX;
         peer = nl_cluster_peer_next(server->cluster, peer->id)) {
        const struct nl_node *node = nl_state_node(state, peer->id);
        Nodelink__V1__Member *m = &records[n];
        nodelink__v1__member__init(m);
        m->id = peer->id;
        m->name = nl_message_text(peer->name);
        m->raft_address = nl_message_text(peer->raft_address);
        m->grpc_address = nl_message_text(peer->grpc_address);
        m->role = nl_message_text(peer->role);
        m->up = node != NULL && node->up;
        m->last_seen_ms = peer->id == nl_cluster_id(server->cluster) ? 0 : peer->last_seen_ms;
        m->match_index = peer->match_index;
        pointers[n++] = m;
    }
    return n;
}

static void fill_fleet(const struct nl_state *state, Nodelink__V1__FleetStatus *ret) {
    struct nl_state_counts counts;
    nl_state_counts(state, &counts);
    nodelink__v1__fleet_status__init(ret);
    ret->agents_total = (uint32_t)counts.agents_total;
    ret->agents_connected = (uint32_t)counts.agents[NL_AGENT_CONNECTED];
    ret->agents_disconnected = (uint32_t)counts.agents[NL_AGENT_DISCONNECTED];
    ret->agents_unreachable = (uint32_t)counts.agents[NL_AGENT_UNREACHABLE];
    ret->agents_lost = (uint32_t)counts.agents[NL_AGENT_LOST];
    ret->tasks_total = counts.tasks_total;
    ret->tasks_pending = counts.tasks[NL_TASK_PENDING];
    ret->tasks_dispatched = counts.tasks[NL_TASK_DISPATCHED];
    ret->tasks_running = counts.tasks[NL_TASK_RUNNING];
    ret->tasks_unknown = counts.tasks[NL_TASK_UNKNOWN];
    ret->tasks_terminal = counts.tasks_terminal;
}

static void fill_node(struct nl_server *server, Nodelink__V1__GetStatusReply *ret) {
    struct nl_cluster_status status;
    const struct nl_settings *settings = server->settings;
    nl_cluster_status(server->cluster, &status);
    ret->cluster = settings->cluster_name;
    ret->node_id = settings->node_id;
    ret->name = settings->node_name;
    ret->version = nl_message_text(NL_VERSION);
    ret->role = nl_message_text(nl_cluster_role_name(status.role));
    ret->term = status.term;
    ret->commit = status.commit;
    ret->applied = nl_state_index(nl_cluster_state(server->cluster));
    ret->leader_id = status.leader;
    ret->agents = nl_sessions_count(server->sessions);
    ret->tasks_active = nl_sessions_tasks_active(server->sessions);
    ret->uptime_ms = nl_clock_mono_ms() - server->started_ms;
    ret->fsync_p99_us = status.fsync_p99_us;
    ret->boot = nl_cluster_boot(server->cluster);
    ret->leader_since_ms = status.leader_known_ms;
    ret->grpc_address = nl_message_text(settings->advertised_grpc);
    ret->quorum = status.quorum;
    ret->loop_lag_us = status.loop_lag_us;
    ret->loop_lag_minute_us = status.loop_lag_minute_us;
    ret->loop_lag_max_us = status.loop_lag_max_us;
    ret->rss_bytes = resident_bytes();
}

void nl_control_status(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    struct nl_server *server = user;
    const struct nl_state *state = nl_cluster_state(server->cluster);
    uint8_t hash[NL_STATE_HASH_LEN];
    Nodelink__V1__ReplyHeader header;
    Nodelink__V1__FleetStatus fleet;
    Nodelink__V1__Member records[MEMBERS_MAX], *pointers[MEMBERS_MAX];
    Nodelink__V1__GetStatusReply reply = NODELINK__V1__GET_STATUS_REPLY__INIT;
    nl_rpc_message_free(message);
    nl_state_hash(state, hash);
    nl_control_header(server, &header);
    header.stale = true;
    fill_node(server, &reply);
    fill_fleet(state, &fleet);
    reply.header = &header;
    reply.state_hash = (ProtobufCBinaryData){sizeof hash, hash};
    reply.fleet = &fleet;
    reply.n_members = fill_members(server, records, pointers);
    reply.members = pointers;
    nl_rpc_call_reply(call, &reply.base);
}
