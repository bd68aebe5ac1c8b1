#include "agent/link/subs.h"

#include <stdlib.h>
#include <string.h>

void nl_link_subs_init(struct nl_link_subs *s) {
    memset(s, 0, sizeof *s);
    TAILQ_INIT(&s->ready);
}

static struct nl_link_sub *new_sub(struct nl_link_subs *s, struct nl_link_task *task, uint64_t id,
                                   const uint64_t offsets[NL_LINK_STREAMS], uint64_t credit) {
    struct nl_link_sub *sub = calloc(1, sizeof *sub);
    if (sub == NULL) {
        return NULL;
    }
    sub->task = task;
    sub->id = id;
    sub->credit = credit;
    for (int i = 0; i < NL_LINK_STREAMS; i++) {
        sub->opened[i] = sub->offset[i] = offsets[i];
    }
    LIST_INSERT_HEAD(&s->buckets[id % NL_LINK_SUB_BUCKETS], sub, in_bucket);
    TAILQ_INSERT_TAIL(&task->subs, sub, in_task);
    s->count++;
    return sub;
}

struct nl_link_sub *nl_link_subs_open(struct nl_link_subs *s, struct nl_link_task *task,
                                      uint64_t id, const uint64_t offsets[NL_LINK_STREAMS],
                                      uint64_t credit) {
    return new_sub(s, task, id, offsets, credit);
}

struct nl_link_sub *nl_link_subs_open_push(struct nl_link_subs *s, struct nl_link_task *task) {
    struct nl_link_sub *sub = new_sub(s, task, 0, task->pushed, UINT64_MAX);
    if (sub != NULL) {
        sub->push = true;
    }
    return sub;
}

static void unready(struct nl_link_subs *s, struct nl_link_sub *sub) {
    if (sub->ready) {
        TAILQ_REMOVE(&s->ready, sub, in_ready);
        sub->ready = false;
    }
}

void nl_link_subs_close(struct nl_link_subs *s, struct nl_link_sub *sub) {
    unready(s, sub);
    LIST_REMOVE(sub, in_bucket);
    TAILQ_REMOVE(&sub->task->subs, sub, in_task);
    s->count--;
    free(sub);
}

struct nl_link_sub *nl_link_subs_find(const struct nl_link_subs *s, uint64_t id) {
    struct nl_link_sub *sub;
    LIST_FOREACH(sub, &s->buckets[id % NL_LINK_SUB_BUCKETS], in_bucket) {
        if (sub->id == id && !sub->push) {
            return sub;
        }
    }
    return NULL;
}

// ---- judging ---------------------------------------------------------------

static uint64_t available(const struct nl_link_sub *sub, int stream) {
    uint64_t end = sub->task->end[stream];
    return end > sub->offset[stream] ? end - sub->offset[stream] : 0;
}

static bool has_gap(const struct nl_link_sub *sub) {
    for (int i = 0; i < NL_LINK_STREAMS; i++) {
        if (sub->offset[i] < sub->task->base[i]) {
            return true;
        }
    }
    return false;
}

static enum nl_link_sub_state judge(const struct nl_link_sub *sub) {
    if (sub->fenced) {
        return NL_LINK_SUB_PARKED;
    }
    if (has_gap(sub)) {
        return NL_LINK_SUB_GAP;
    }
    if (available(sub, NL_LINK_OUT) == 0 && available(sub, NL_LINK_ERR) == 0) {
        return sub->task->phase >= NL_LINK_FINISHED ? NL_LINK_SUB_COMPLETE : NL_LINK_SUB_PARKED;
    }
    return sub->credit > 0 ? NL_LINK_SUB_READY : NL_LINK_SUB_PARKED;
}

enum nl_link_sub_state nl_link_subs_settle(struct nl_link_subs *s, struct nl_link_sub *sub) {
    enum nl_link_sub_state state = judge(sub);
    if (state != NL_LINK_SUB_READY) {
        unready(s, sub);
    } else if (!sub->ready) {
        TAILQ_INSERT_TAIL(&s->ready, sub, in_ready);
        sub->ready = true;
    }
    return state;
}

void nl_link_subs_credit(struct nl_link_sub *sub, uint64_t bytes) {
    uint64_t room = UINT64_MAX - sub->credit;
    sub->credit += bytes > room ? room : bytes;
    room = sub->sent - sub->returned;
    sub->returned += bytes > room ? room : bytes;
}

// ---- sending ---------------------------------------------------------------

bool nl_link_subs_next(const struct nl_link_subs *s, struct nl_link_chunk *ret) {
    struct nl_link_sub *sub = TAILQ_FIRST(&s->ready);
    if (sub == NULL) {
        return false;
    }
    int stream = (int)sub->turn;
    if (available(sub, stream) == 0) {
        stream = !stream;
    }
    uint64_t len = available(sub, stream);
    len = len > sub->credit ? sub->credit : len;
    len = len > NL_LINK_CHUNK_BYTES_MAX ? NL_LINK_CHUNK_BYTES_MAX : len;
    *ret = (struct nl_link_chunk){
        .sub = sub, .stream = stream, .offset = sub->offset[stream], .len = (uint32_t)len};
    return true;
}

void nl_link_subs_sent(struct nl_link_subs *s, const struct nl_link_chunk *chunk) {
    struct nl_link_sub *sub = chunk->sub;
    sub->offset[chunk->stream] += chunk->len;
    sub->sent += chunk->len;
    sub->turn = (unsigned)!chunk->stream;
    if (sub->push) {
        sub->task->pushed[chunk->stream] = sub->offset[chunk->stream];
        sub->returned = sub->sent;
    } else {
        sub->credit -= chunk->len;
    }
    unready(s, sub);
}

uint64_t nl_link_subs_needed(const struct nl_link_sub *sub, int stream) {
    uint64_t unconfirmed = sub->sent - sub->returned;
    uint64_t offset = sub->offset[stream];
    uint64_t low = offset > unconfirmed ? offset - unconfirmed : 0;
    return low > sub->opened[stream] ? low : sub->opened[stream];
}
