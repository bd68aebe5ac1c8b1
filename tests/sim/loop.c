// Clock, chance, log and event loop as the product asks for them.

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/sim/sim.h"
#include "tests/sim/wrap.h"

#define WALL_MS_AT_START 1700000000000ULL

static void wake(uint64_t index) {
    sim_node_wake(&sim.nodes[index]);
}

// ---- common/base -------------------------------------------------------------------

uint64_t __wrap_nl_clock_mono_us(void) {
    return sim.now_us;
}

uint64_t __wrap_nl_clock_mono_ms(void) {
    return sim.now_us / SIM_MS;
}

uint64_t __wrap_nl_clock_wall_ms(void) {
    int64_t skew = sim.current != NULL ? sim.current->wall_skew_ms : 0;
    return (uint64_t)((int64_t)(WALL_MS_AT_START + sim.now_us / SIM_MS) + skew);
}

void __wrap_nl_random_bytes(void *out, size_t len) {
    uint8_t *bytes = out;
    for (size_t i = 0; i < len; i++) {
        bytes[i] = (uint8_t)sim_random();
    }
}

void __wrap_nl_log(enum nl_log_level level, const char *module, const char *event, ...) {
    (void)level;
    sim_note("node %u: %s: %s", sim.current != NULL ? sim.current->index + 1 : 0, module, event);
}

// ---- timers and the end of a turn -----------------------------------------------------

static struct sim_node *node_of(const uv_loop_t *loop) {
    return loop->data;
}

uint64_t __wrap_uv_now(const uv_loop_t *loop) {
    (void)loop;
    return sim.now_us / SIM_MS;
}

uint64_t __wrap_uv_metrics_idle_time(uv_loop_t *loop) {
    (void)loop;
    return sim.now_us * 1000;
}

int __wrap_uv_loop_configure(uv_loop_t *loop, uv_loop_option option, ...) {
    (void)loop, (void)option;
    return 0;
}

int __wrap_uv_timer_init(uv_loop_t *loop, uv_timer_t *timer) {
    struct sim_node *node = node_of(loop);
    memset(timer, 0, sizeof *timer);
    timer->loop = loop;
    timer->type = UV_TIMER;
    for (unsigned i = 0; i < SIM_TIMERS_MAX; i++) {
        if (node->timers[i].timer == NULL) {
            node->timers[i] = (struct sim_timer){.timer = timer};
            return 0;
        }
    }
    abort();
}

int __wrap_uv_timer_start(uv_timer_t *timer, uv_timer_cb cb, uint64_t timeout, uint64_t repeat) {
    struct sim_node *node = node_of(timer->loop);
    for (unsigned i = 0; i < SIM_TIMERS_MAX; i++) {
        struct sim_timer *t = &node->timers[i];
        if (t->timer == timer) {
            t->cb = cb;
            t->due_us = sim.now_us + timeout * SIM_MS;
            t->repeat_us = repeat * SIM_MS;
            sim_at_life(t->due_us, wake, node);
            return 0;
        }
    }
    abort();
}

int __wrap_uv_prepare_init(uv_loop_t *loop, uv_prepare_t *prepare) {
    memset(prepare, 0, sizeof *prepare);
    prepare->loop = loop;
    prepare->type = UV_PREPARE;
    return 0;
}

int __wrap_uv_prepare_start(uv_prepare_t *prepare, uv_prepare_cb cb) {
    struct sim_node *node = node_of(prepare->loop);
    assert(node->prepare == NULL);
    node->prepare = prepare;
    node->prepare_cb = cb;
    return 0;
}

struct closing {
    struct sim_pending pending;
    uv_handle_t *handle;
    uv_close_cb cb;
};

static void run_closing(struct sim_pending *pending, enum sim_how how) {
    struct closing *c = (struct closing *)pending;
    if (how != SIM_ABANDONED) {
        c->cb(c->handle);
    }
    free(c);
}

void __wrap_uv_close(uv_handle_t *handle, uv_close_cb cb) {
    struct sim_node *node = node_of(handle->loop);
    struct closing *c = calloc(1, sizeof *c);
    assert(c != NULL);
    for (unsigned i = 0; i < SIM_TIMERS_MAX; i++) {
        if ((uv_handle_t *)node->timers[i].timer == handle) {
            node->timers[i].timer = NULL;
        }
    }
    if ((uv_handle_t *)node->prepare == handle) {
        node->prepare = NULL;
        node->prepare_cb = NULL;
    }
    c->pending.run = run_closing;
    c->handle = handle;
    c->cb = cb;
    sim_post(node, 0, &c->pending);
}

// ---- workers -------------------------------------------------------------------------

struct work {
    struct sim_pending pending;
    uv_work_t *req;
    uv_work_cb work;
    uv_after_work_cb after;
};

// The work is done at its end: whatever its thread may not see changed has changed by then.
static void run_work(struct sim_pending *pending, enum sim_how how) {
    struct work *w = (struct work *)pending;
    if (how != SIM_ABANDONED) {
        w->work(w->req);
        w->after(w->req, 0);
    }
    free(w);
}

int __wrap_uv_queue_work(uv_loop_t *loop, uv_work_t *req, uv_work_cb work, uv_after_work_cb after) {
    struct work *w = calloc(1, sizeof *w);
    assert(w != NULL);
    w->pending.run = run_work;
    w->pending.digest = 2;
    w->req = req;
    w->work = work;
    w->after = after;
    sim_post(node_of(loop), 100 + sim_exponential(5 * SIM_MS), &w->pending);
    return 0;
}

struct statfs_request {
    struct sim_pending pending;
    uv_fs_t *req;
    uv_fs_cb cb;
    uv_statfs_t result;
};

static void run_statfs(struct sim_pending *pending, enum sim_how how) {
    struct statfs_request *r = (struct statfs_request *)pending;
    if (how != SIM_ABANDONED) {
        r->result.f_bsize = 4096;
        r->result.f_bavail = pending->node->disk.full ? 1 : 1 << 30;
        r->req->result = how == SIM_DONE ? 0 : UV_ECANCELED;
        r->req->ptr = &r->result;
        r->cb(r->req);
    }
    free(r);
}

int __wrap_uv_fs_statfs(uv_loop_t *loop, uv_fs_t *req, const char *path, uv_fs_cb cb) {
    struct statfs_request *r = calloc(1, sizeof *r);
    assert(r != NULL);
    (void)path;
    r->pending.run = run_statfs;
    r->pending.digest = 3;
    r->req = req;
    r->cb = cb;
    sim_post(node_of(loop), 200, &r->pending);
    return 0;
}

void __wrap_uv_fs_req_cleanup(uv_fs_t *req) {
    req->ptr = NULL;
}
