#include "tests/raft/cluster.h"

#include <stdlib.h>
#include <string.h>

#include "tests/raft/child.h"

static int machine_apply(struct raft_fsm *fsm, const struct raft_buffer *buf, void **result) {
    struct cluster_machine *m = fsm->data;
    uint64_t value;
    memcpy(&value, buf->base, sizeof value);
    m->sum += value;
    m->marked_applied = m->marked_applied || value == CLUSTER_MARKED;
    *result = NULL;
    return 0;
}

static int machine_snapshot(struct raft_fsm *fsm, struct raft_buffer *bufs[], unsigned *n_bufs) {
    struct cluster_machine *m = fsm->data;
    *bufs = raft_malloc(sizeof **bufs);
    REACH(*bufs != NULL);
    (*bufs)[0].len = sizeof m->sum;
    (*bufs)[0].base = raft_malloc(sizeof m->sum);
    REACH((*bufs)[0].base != NULL);
    memcpy((*bufs)[0].base, &m->sum, sizeof m->sum);
    *n_bufs = 1;
    return 0;
}

static int machine_restore(struct raft_fsm *fsm, struct raft_buffer *buf) {
    struct cluster_machine *m = fsm->data;
    memcpy(&m->sum, buf->base, sizeof m->sum);
    raft_free(buf->base);
    return 0;
}

void cluster_start(struct cluster *c) {
    memset(c, 0, sizeof *c);
    REACH(raft_fixture_init(&c->fixture) == 0);
    for (unsigned i = 0; i < CLUSTER_SERVERS; i++) {
        struct cluster_machine *m = &c->machines[i];
        m->fsm = (struct raft_fsm){.version = 1,
                                   .data = m,
                                   .apply = machine_apply,
                                   .snapshot = machine_snapshot,
                                   .restore = machine_restore};
        REACH(raft_fixture_grow(&c->fixture, &m->fsm) == 0);
        if (getenv("NL_RAFT_TRACE") == NULL) {
            cluster_raft(c, i)->tracer = NULL;
        }
    }
    struct raft_configuration conf;
    REACH(raft_fixture_configuration(&c->fixture, CLUSTER_SERVERS, &conf) == 0);
    REACH(raft_fixture_bootstrap(&c->fixture, &conf) == 0);
    raft_configuration_close(&conf);
    REACH(raft_fixture_start(&c->fixture) == 0);
    raft_fixture_elect(&c->fixture, 0);
    cluster_commit(c, 0, 1);
    raft_index index = raft_last_applied(cluster_raft(c, 0));
    REACH(raft_fixture_step_until_applied(&c->fixture, CLUSTER_SERVERS, index, 1000));
}

void cluster_close(struct cluster *c) {
    raft_fixture_close(&c->fixture);
}

struct raft *cluster_raft(struct cluster *c, unsigned server) {
    return raft_fixture_get(&c->fixture, server);
}

struct proposal {
    struct raft_apply apply;
    bool abandoned;  // frees itself when it ends
    bool done;
    int status;
};

static void proposal_done(struct raft_apply *apply, int status, void *result) {
    struct proposal *p = apply->data;
    (void)result;
    p->status = status;
    p->done = true;
    if (p->abandoned) {
        free(p);
    }
}

static struct proposal *propose(struct cluster *c, unsigned server, uint64_t value) {
    struct proposal *p = calloc(1, sizeof *p);
    struct raft_buffer buf = {.len = sizeof value, .base = raft_malloc(sizeof value)};
    REACH(p != NULL && buf.base != NULL);
    memcpy(buf.base, &value, sizeof value);
    p->apply.data = p;
    REACH(raft_apply(cluster_raft(c, server), &p->apply, &buf, 1, proposal_done) == 0);
    return p;
}

void cluster_propose(struct cluster *c, unsigned server, uint64_t value) {
    propose(c, server, value)->abandoned = true;
}

static bool is_done(struct raft_fixture *f, void *arg) {
    const struct proposal *p = arg;
    (void)f;
    return p->done;
}

unsigned cluster_commit(struct cluster *c, unsigned server, uint64_t value) {
    raft_time start = raft_fixture_time(&c->fixture);
    struct proposal *p = propose(c, server, value);
    REACH(raft_fixture_step_until(&c->fixture, is_done, p, 10000));
    REACH(p->status == 0);
    free(p);
    return (unsigned)(raft_fixture_time(&c->fixture) - start);
}

static void each_link(struct cluster *c, unsigned server,
                      void (*change)(struct raft_fixture *f, unsigned i, unsigned j)) {
    for (unsigned i = 0; i < CLUSTER_SERVERS; i++) {
        if (i != server) {
            change(&c->fixture, server, i);
            change(&c->fixture, i, server);
        }
    }
}

void cluster_cut(struct cluster *c, unsigned server) {
    each_link(c, server, raft_fixture_saturate);
}

void cluster_join(struct cluster *c, unsigned server) {
    each_link(c, server, raft_fixture_desaturate);
}
