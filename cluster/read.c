// Linearizable reads, and waiting for an index.
//
// A round asks the leader for a read index. The leader finds it with a barrier of its own term: an
// entry that commits only if it still leads, behind everything that was committed when the round
// began. One round is under way at a time; what is asked for meanwhile shares the next one.

#include <stdlib.h>
#include <string.h>

#include "cluster/internal.h"
#include "common/base/clock.h"
#include "common/base/err.h"

enum {
    TIMEOUT_MS = 10000,
    WAITERS_MAX = 65536,
    RETRY_MS = 10,
    ROUND_MS = 1000,
};

// ---- lists -------------------------------------------------------------------

static bool push(struct nl_waiter **list, size_t *n, size_t *cap, const struct nl_waiter *w) {
    if (*n == *cap) {
        size_t more = *cap > 0 ? 2 * *cap : 64;
        struct nl_waiter *grown = realloc(*list, more * sizeof *grown);
        if (grown == NULL) {
            return false;
        }
        *list = grown;
        *cap = more;
    }
    (*list)[(*n)++] = *w;
    return true;
}

static void swap(struct nl_waiter *a, struct nl_waiter *b) {
    struct nl_waiter t = *a;
    *a = *b;
    *b = t;
}

static void sift_up(struct nl_waiter *heap, size_t i) {
    while (i > 0 && heap[i].index < heap[(i - 1) / 2].index) {
        swap(&heap[i], &heap[(i - 1) / 2]);
        i = (i - 1) / 2;
    }
}

static void sift_down(struct nl_waiter *heap, size_t n, size_t i) {
    for (;;) {
        size_t least = i;
        for (size_t child = 2 * i + 1; child <= 2 * i + 2 && child < n; child++) {
            least = heap[child].index < heap[least].index ? child : least;
        }
        if (least == i) {
            return;
        }
        swap(&heap[i], &heap[least]);
        i = least;
    }
}

static bool heap_push(struct nl_reader *r, const struct nl_waiter *w) {
    if (!push(&r->heap, &r->n_heap, &r->cap_heap, w)) {
        return false;
    }
    sift_up(r->heap, r->n_heap - 1);
    return true;
}

static struct nl_waiter heap_remove(struct nl_reader *r, size_t i) {
    struct nl_waiter w = r->heap[i];
    r->n_heap--;
    if (i < r->n_heap) {
        r->heap[i] = r->heap[r->n_heap];
        sift_down(r->heap, r->n_heap, i);
        sift_up(r->heap, i);
    }
    return w;
}

// ---- asking --------------------------------------------------------------------

static bool is_full(const struct nl_reader *r) {
    return r->n_next + r->n_round + r->n_heap >= WAITERS_MAX;
}

static struct nl_waiter waiter(uint64_t index, uint64_t timeout_ms, nl_read_cb done, void *user) {
    return (struct nl_waiter){
        .index = index,
        .deadline_ms = nl_clock_mono_ms() + (timeout_ms > 0 ? timeout_ms : TIMEOUT_MS),
        .done = done,
        .user = user,
    };
}

int nl_cluster_read(struct nl_cluster *cluster, uint64_t timeout_ms, nl_read_cb done, void *user) {
    struct nl_reader *r = &cluster->reader;
    struct nl_waiter w = waiter(0, timeout_ms, done, user);
    if (cluster->closing) {
        return NL_ECANCELED;
    }
    if (is_full(r)) {
        return NL_EFULL;
    }
    return push(&r->next, &r->n_next, &r->cap_next, &w) ? NL_OK : NL_ENOMEM;
}

int nl_cluster_wait_applied(struct nl_cluster *cluster, uint64_t min_index, uint64_t timeout_ms,
                            nl_read_cb done, void *user) {
    struct nl_reader *r = &cluster->reader;
    struct nl_waiter w = waiter(min_index, timeout_ms, done, user);
    if (cluster->closing) {
        return NL_ECANCELED;
    }
    if (is_full(r)) {
        return NL_EFULL;
    }
    return heap_push(r, &w) ? NL_OK : NL_ENOMEM;
}

// ---- rounds --------------------------------------------------------------------

struct barrier {
    struct nl_cluster *cluster;
    uint64_t round_id;
};

static void on_barrier(void *user, int result) {
    struct barrier *barrier = user;
    struct nl_cluster *cluster = barrier->cluster;
    uint64_t round_id = barrier->round_id;
    struct nl_raft_info info;
    free(barrier);
    nl_raft_info(cluster->raft, &info);
    nl_read_round_done(cluster, round_id, result, info.applied);
}

static bool ask_here(struct nl_cluster *cluster) {
    struct barrier *barrier = malloc(sizeof *barrier);
    if (barrier == NULL) {
        return false;
    }
    barrier->cluster = cluster;
    barrier->round_id = cluster->reader.round_id;
    if (nl_raft_barrier(cluster->raft, on_barrier, barrier) != NL_OK) {
        free(barrier);
        return false;
    }
    return true;
}

static bool ask(struct nl_cluster *cluster, uint64_t now_ms) {
    uint64_t target = nl_propose_target(cluster, now_ms);
    if (target == cluster->id) {
        return ask_here(cluster);
    }
    struct nl_link *link = target != 0 ? nl_link_of(cluster, target) : NULL;
    return link != NULL && nl_link_usable(link, now_ms) &&
           nl_link_read_index(link, cluster->reader.round_id);
}

void nl_read_flush(struct nl_cluster *cluster) {
    struct nl_reader *r = &cluster->reader;
    uint64_t now_ms = nl_clock_mono_ms();
    if (r->under_way || r->n_next == 0 || now_ms < r->retry_at_ms) {
        return;
    }
    r->round_id++;
    if (!ask(cluster, now_ms)) {
        r->retry_at_ms = now_ms + RETRY_MS;
        return;
    }
    // The round's list is empty between rounds.
    struct nl_waiter *list = r->round;
    size_t cap = r->cap_round;
    r->round = r->next;
    r->n_round = r->n_next;
    r->cap_round = r->cap_next;
    r->next = list;
    r->n_next = 0;
    r->cap_next = cap;
    r->under_way = true;
    r->round_until_ms = now_ms + ROUND_MS;
}

// Its requests wait for the next round; without memory to say so they are told now.
static void abandon_round(struct nl_cluster *cluster, uint64_t pause_ms) {
    struct nl_reader *r = &cluster->reader;
    r->under_way = false;
    r->round_id++;
    r->retry_at_ms = nl_clock_mono_ms() + pause_ms;
    while (r->n_round > 0) {
        struct nl_waiter w = r->round[--r->n_round];
        if (!push(&r->next, &r->n_next, &r->cap_next, &w)) {
            w.done(w.user, NL_ENOMEM, 0, 0);
        }
    }
}

void nl_read_round_done(struct nl_cluster *cluster, uint64_t round_id, int result, uint64_t index) {
    struct nl_reader *r = &cluster->reader;
    if (cluster->closing || !r->under_way || round_id != r->round_id) {
        return;
    }
    if (result != NL_OK) {
        abandon_round(cluster, RETRY_MS);
        return;
    }
    r->under_way = false;
    while (r->n_round > 0) {
        struct nl_waiter w = r->round[--r->n_round];
        w.index = index;
        if (!heap_push(r, &w)) {
            w.done(w.user, NL_ENOMEM, 0, 0);
        }
    }
    nl_read_applied(cluster);
}

void nl_read_leader_changed(struct nl_cluster *cluster) {
    if (cluster->reader.under_way) {
        abandon_round(cluster, 0);
    }
}

// ---- ends ----------------------------------------------------------------------

void nl_read_applied(struct nl_cluster *cluster) {
    struct nl_reader *r = &cluster->reader;
    uint64_t applied = nl_state_index(cluster->state);
    while (r->n_heap > 0 && r->heap[0].index <= applied) {
        struct nl_waiter w = heap_remove(r, 0);
        w.done(w.user, NL_OK, applied, cluster->info.term);
    }
}

// A callback may ask again and so move the list: it is looked at anew for each element.
static void expire(struct nl_waiter **list, size_t *n, uint64_t now_ms, int why) {
    for (size_t i = 0; i < *n;) {
        struct nl_waiter w = (*list)[i];
        if (w.deadline_ms > now_ms) {
            i++;
            continue;
        }
        (*list)[i] = (*list)[--*n];
        w.done(w.user, why, 0, 0);
    }
}

static void expire_heap(struct nl_reader *r, uint64_t now_ms) {
    for (size_t i = 0; i < r->n_heap;) {
        if (r->heap[i].deadline_ms > now_ms) {
            i++;
            continue;
        }
        struct nl_waiter w = heap_remove(r, i);
        w.done(w.user, NL_ETIMEOUT, 0, 0);
    }
}

void nl_read_tick(struct nl_cluster *cluster, uint64_t now_ms) {
    struct nl_reader *r = &cluster->reader;
    int why = nl_propose_target(cluster, now_ms) == 0 ? NL_ENOQUORUM : NL_ETIMEOUT;
    expire(&r->next, &r->n_next, now_ms, why);
    expire(&r->round, &r->n_round, now_ms, why);
    expire_heap(r, now_ms);
    if (r->under_way && now_ms >= r->round_until_ms) {
        abandon_round(cluster, 0);
    }
}

void nl_read_close(struct nl_cluster *cluster) {
    struct nl_reader *r = &cluster->reader;
    expire(&r->next, &r->n_next, UINT64_MAX, NL_ECANCELED);
    expire(&r->round, &r->n_round, UINT64_MAX, NL_ECANCELED);
    while (r->n_heap > 0) {
        struct nl_waiter w = heap_remove(r, 0);
        w.done(w.user, NL_ECANCELED, 0, 0);
    }
    free(r->next);
    free(r->round);
    free(r->heap);
    memset(r, 0, sizeof *r);
}
