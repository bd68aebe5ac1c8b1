// Raft's messages between the nodes: one connection each way per pair, in order, as over TCP.
//
// A message is lost with its connection only: when either end dies, when the connection is reset,
// or in a partition that drops. A partition that stalls holds messages back, up to the five
// seconds after which the kernel gives a connection up (cluster/raft/transport.c).

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <utlist.h>

#include "common/base/err.h"
#include "tests/sim/sim.h"

int entryBatchCopy(const struct raft_entry *src, struct raft_entry **dst, size_t n);
int configurationCopy(const struct raft_configuration *src, struct raft_configuration *dst);
int sim_net_send(struct raft_io *io, struct raft_io_send *req, const struct raft_message *message,
                 raft_io_send_cb cb);

enum { STALL_US_MAX = 5 * SIM_S, LATENCY_US = 200 };

void sim_net_init(void) {
    for (unsigned i = 0; i < sim.n; i++) {
        for (unsigned j = 0; j < sim.n; j++) {
            sim.links[i][j].latency_us = LATENCY_US;
        }
    }
}

// ---- messages ----------------------------------------------------------------------

struct message {
    struct sim_pending pending;
    struct raft_message content;
    unsigned from, to;
    uint32_t life;  // of the receiver when it was sent
    uint64_t sent_us;
    bool lost;  // its connection was reset on the way
};

static void copy_content(struct raft_message *to, const struct raft_message *from) {
    *to = *from;
    int rv = 0;
    if (from->type == RAFT_APPEND_ENTRIES) {
        to->append_entries.entries = NULL;
        if (from->append_entries.n_entries > 0) {
            rv = entryBatchCopy(from->append_entries.entries, &to->append_entries.entries,
                                from->append_entries.n_entries);
        }
    } else if (from->type == RAFT_INSTALL_SNAPSHOT) {
        const struct raft_buffer *data = &from->install_snapshot.data;
        rv = configurationCopy(&from->install_snapshot.conf, &to->install_snapshot.conf);
        to->install_snapshot.data.base = raft_malloc(data->len);
        assert(to->install_snapshot.data.base != NULL);
        memcpy(to->install_snapshot.data.base, data->base, data->len);
    }
    assert(rv == 0);
}

static void free_content(struct raft_message *m) {
    if (m->type == RAFT_APPEND_ENTRIES && m->append_entries.n_entries > 0) {
        raft_free(m->append_entries.entries[0].batch);
        raft_free(m->append_entries.entries);
    } else if (m->type == RAFT_INSTALL_SNAPSHOT) {
        raft_configuration_close(&m->install_snapshot.conf);
        raft_free(m->install_snapshot.data.base);
    }
}

static void run_message(struct sim_pending *pending, enum sim_how how) {
    struct message *m = (struct message *)pending;
    struct sim_node *node = pending->node;
    if (how == SIM_DONE && node->recv != NULL && !m->lost &&
        (sim.filter == NULL || sim.filter(m->from, m->to, &m->content))) {
        node->recv(node->io, &m->content);
    } else {
        sim.counts[SIM_F_DROPPED]++;
        free_content(&m->content);
    }
    free(m);
}

static void lose(struct message *m) {
    sim.counts[SIM_F_DROPPED]++;
    free_content(&m->content);
    free(m);
}

static void transmit(struct message *m) {
    struct sim_link *link = &sim.links[m->from][m->to];
    struct sim_node *to = &sim.nodes[m->to];
    if (!to->up || to->life != m->life || link->block == SIM_DROP) {
        lose(m);
        return;
    }
    if (link->block == SIM_STALL) {
        sim.counts[SIM_F_STALLED]++;
        DL_APPEND(link->held_raft, &m->pending);
        return;
    }
    uint64_t at = sim.now_us + link->latency_us / 2 + sim_exponential(link->latency_us);
    at = at > link->last_raft_us ? at : link->last_raft_us;
    link->last_raft_us = at;
    sim_post(to, at - sim.now_us, &m->pending);
}

// ---- sending -----------------------------------------------------------------------

struct sent {
    struct sim_pending pending;
    struct raft_io_send *req;
    int status;
};

static void run_sent(struct sim_pending *pending, enum sim_how how) {
    struct sent *s = (struct sent *)pending;
    if (how != SIM_ABANDONED && s->req->cb != NULL) {
        s->req->cb(s->req, how == SIM_CANCELED ? RAFT_CANCELED : s->status);
    }
    free(s);
}

static uint64_t digest(const struct raft_message *m) {
    uint64_t d = sim_mix((uint64_t)m->type, m->server_id);
    switch (m->type) {
        case RAFT_APPEND_ENTRIES:
            d = sim_mix(d, m->append_entries.term);
            d = sim_mix(d, m->append_entries.prev_log_index);
            return sim_mix(d, m->append_entries.n_entries);
        case RAFT_APPEND_ENTRIES_RESULT:
            d = sim_mix(d, m->append_entries_result.term);
            d = sim_mix(d, m->append_entries_result.last_log_index);
            return sim_mix(d, m->append_entries_result.rejected);
        case RAFT_REQUEST_VOTE:
            return sim_mix(d, m->request_vote.term);
        default:
            return d;
    }
}

// The leader's own word on how far it committed, as without the guard.
static void unbound_commit(const struct sim_node *node, struct raft_message *m) {
    if (sim.options.plant == PLANT_COMMIT_BACK && m->type == RAFT_APPEND_ENTRIES) {
        m->append_entries.leader_commit = raft_commit_index(node->raft);
    }
}

int sim_net_send(struct raft_io *io, struct raft_io_send *req, const struct raft_message *message,
                 raft_io_send_cb cb) {
    struct sim_node *node = io->impl;
    struct sent *s = calloc(1, sizeof *s);
    struct message *m = calloc(1, sizeof *m);
    assert(s != NULL && m != NULL && message->server_id >= 1 && message->server_id <= sim.n);
    req->cb = cb;
    s->pending.run = run_sent;
    s->pending.digest = 5;
    s->req = req;
    m->from = node->index;
    m->to = (unsigned)message->server_id - 1;
    s->status = sim.links[m->from][m->to].block == SIM_DROP ? RAFT_NOCONNECTION : 0;
    sim_post(node, 20 + sim_below(100), &s->pending);
    if (!node->up) {
        free(m);
        return 0;
    }
    sim_check_message(node, message);
    m->life = sim.nodes[m->to].life;
    m->sent_us = sim.now_us;
    m->pending.run = run_message;
    m->pending.digest = digest(message);
    copy_content(&m->content, message);
    unbound_commit(node, &m->content);
    m->content.server_id = node->id;
    m->content.server_address = node->address;
    transmit(m);
    return 0;
}

// ---- partitions ----------------------------------------------------------------------

void sim_rpc_release(struct sim_link *link);

static void release(struct sim_link *link) {
    struct sim_pending *held = link->held_raft;
    link->held_raft = NULL;
    while (held != NULL) {
        struct message *m = (struct message *)held;
        DL_DELETE(held, &m->pending);
        if (sim.now_us - m->sent_us > STALL_US_MAX) {
            lose(m);
        } else {
            transmit(m);
        }
    }
    sim_rpc_release(link);
}

void sim_net_block(unsigned from, unsigned to, enum sim_block block) {
    struct sim_link *link = &sim.links[from][to];
    link->block = block;
    if (block != SIM_STALL) {
        release(link);
    }
}

void sim_net_heal(void) {
    for (unsigned i = 0; i < sim.n; i++) {
        for (unsigned j = 0; j < sim.n; j++) {
            sim.links[i][j].latency_us = LATENCY_US;
            sim_net_block(i, j, SIM_OPEN);
        }
    }
}

void sim_net_reset(unsigned from, unsigned to) {
    struct sim_node *node = &sim.nodes[to];
    struct sim_pending *pending;
    sim.counts[SIM_F_RESET]++;
    DL_FOREACH (node->pending, pending) {
        struct message *m = (struct message *)pending;
        if (pending->run == run_message && m->from == from) {
            m->lost = true;
        }
    }
}

void sim_rpc_free(void);

void sim_net_free(void) {
    for (unsigned i = 0; i < sim.n; i++) {
        for (unsigned j = 0; j < sim.n; j++) {
            sim_net_block(i, j, SIM_DROP);
        }
    }
    sim_rpc_free();
}
