// Bounds of the spool: what may be read now, what is dropped, who waits. Part of the core.
#include <stdio.h>

#include "agent/supervisor/core_internal.h"

uint64_t sup_held_by(const struct sup_task *t) {
    return t->out[0].end - t->out[0].base + t->out[1].end - t->out[1].base;
}

static uint64_t room_for(const struct sup_core *c, const struct sup_task *t, unsigned stream) {
    const struct sup_stream *s = &t->out[stream];
    uint64_t held = sup_held_by(t);
    uint64_t own = held < c->limits.task_bytes_max ? c->limits.task_bytes_max - held : 0;
    uint64_t all = c->held < c->limits.total_bytes_max ? c->limits.total_bytes_max - c->held : 0;
    uint64_t room = own < all ? own : all;
    uint64_t overshoot = s->overshoot_end > s->end ? s->overshoot_end - s->end : 0;
    room = room > overshoot ? room : overshoot;
    return room < SUP_READ_BYTES_MAX ? room : SUP_READ_BYTES_MAX;
}

void sup_resume(struct sup_core *c, struct sup_task *t, unsigned stream) {
    struct sup_stream *s = &t->out[stream];
    if (s->paused && !s->eof && s->stuck_since_ms == 0) {
        s->paused = false;
        sup_push_stream(c, SUP_DO_RESUME, t, stream, 0);
    }
}

void sup_resume_all(struct sup_core *c) {
    struct sup_task *t;
    TAILQ_FOREACH(t, &c->tasks, order) {
        for (unsigned i = 0; i < 2; i++) {
            if (t->out[i].paused && room_for(c, t, i) > 0) {
                sup_resume(c, t, i);
            }
        }
    }
}

// Raises the bases of t by what may go, at most `want` bytes. Larger pieces than asked for:
// each costs a durable journal record.
static uint64_t drop_oldest(struct sup_core *c, struct sup_task *t, uint64_t want) {
    uint64_t piece = c->limits.task_bytes_max / 8;
    want = want > piece ? want : piece;
    uint64_t dropped = 0;
    for (unsigned i = 0; i < 2 && dropped < want; i++) {
        struct sup_stream *s = &t->out[i];
        bool unread = t->no_reader && c->limits.drop_unread;
        uint64_t upto = unread || s->released > s->end ? s->end : s->released;
        uint64_t can = upto > s->base ? upto - s->base : 0;
        uint64_t n = can < want - dropped ? can : want - dropped;
        s->base += n;
        dropped += n;
    }
    c->held -= dropped;
    if (dropped > 0) {
        sup_push(c, SUP_DO_DROP, t);
    }
    return dropped;
}

void sup_shelve(struct sup_core *c, struct sup_task *t) {
    if (t->phase == SUP_SPENT) {
        TAILQ_INSERT_TAIL(&c->spent, t, shelf);
        c->spent_count++;
    } else {
        TAILQ_INSERT_TAIL(&c->forgotten, t, shelf);
        c->forgotten_count++;
    }
}

void sup_unshelve(struct sup_core *c, struct sup_task *t) {
    if (t->phase == SUP_SPENT) {
        TAILQ_REMOVE(&c->spent, t, shelf);
        c->spent_count--;
    } else if (t->phase == SUP_FORGOTTEN) {
        TAILQ_REMOVE(&c->forgotten, t, shelf);
        c->forgotten_count--;
    }
}

void sup_spend(struct sup_core *c, struct sup_task *t) {
    c->held -= sup_held_by(t);
    t->out[0].base = t->out[0].end;
    t->out[1].base = t->out[1].end;
    sup_unshelve(c, t);
    t->phase = SUP_SPENT;
    sup_shelve(c, t);
    sup_push(c, SUP_DO_DELETE_SPOOL, t);
    sup_set_timer(c, &t->timers.keep_at, c->limits.spent_ms);
}

// Oldest first: spools that are kept only for late readers.
static bool spend_oldest(struct sup_core *c) {
    struct sup_task *t;
    TAILQ_FOREACH(t, &c->forgotten, shelf) {
        if (sup_held_by(t) > 0) {
            sup_spend(c, t);
            return true;
        }
    }
    return false;
}

static void make_room(struct sup_core *c, struct sup_task *t) {
    while (c->held >= c->limits.total_bytes_max && spend_oldest(c)) {
    }
    if (sup_held_by(t) >= c->limits.task_bytes_max || c->held >= c->limits.total_bytes_max) {
        drop_oldest(c, t, SUP_READ_BYTES_MAX);
    }
    struct sup_task *other;
    TAILQ_FOREACH(other, &c->tasks, order) {
        if (c->held < c->limits.total_bytes_max) {
            return;
        }
        drop_oldest(c, other, SUP_READ_BYTES_MAX);
    }
}

void sup_on_readable(struct sup_core *c, const struct sup_event *e) {
    struct sup_task *t = e->task;
    struct sup_stream *s = &t->out[e->stream];
    if (s->eof || s->paused) {
        return;
    }
    if (s->cut) {
        sup_push_stream(c, SUP_DO_READ, t, e->stream, SUP_READ_BYTES_MAX);
        return;
    }
    if (room_for(c, t, e->stream) == 0) {
        make_room(c, t);
    }
    uint64_t room = room_for(c, t, e->stream);
    if (room == 0) {
        s->paused = true;
        sup_push_stream(c, SUP_DO_PAUSE, t, e->stream, 0);
        return;
    }
    sup_push_stream(c, SUP_DO_READ, t, e->stream, room);
}

void sup_on_output(struct sup_core *c, const struct sup_event *e) {
    struct sup_stream *s = &e->task->out[e->stream];
    s->end += e->bytes;
    c->held += e->bytes;
    if (s->stuck_since_ms != 0) {
        s->stuck_since_ms = 0;
        sup_resume(c, e->task, e->stream);
        sup_maybe_record(c, e->task);
    }
}

static void cut(struct sup_core *c, struct sup_task *t, unsigned stream, const char *why) {
    struct sup_stream *s = &t->out[stream];
    char text[256];
    snprintf(text, sizeof text, "%s cut at byte %llu: %s", stream == 0 ? "stdout" : "stderr",
             (unsigned long long)s->end, why);
    sup_note(&t->result, text);
    s->cut = true;
    s->stuck_since_ms = 0;
    sup_push_stream(c, SUP_DO_CUT, t, stream, 0);
    sup_resume(c, t, stream);
    sup_maybe_record(c, t);
}

// The task goes on; its output waits in the pipe and in one read buffer.
void sup_on_spool_failed(struct sup_core *c, const struct sup_event *e) {
    struct sup_task *t = e->task;
    struct sup_stream *s = &t->out[e->stream];
    if (s->stuck_since_ms == 0) {
        s->stuck_since_ms = c->now > 0 ? c->now : 1;
    }
    if (!s->paused && !s->eof) {
        s->paused = true;
        sup_push_stream(c, SUP_DO_PAUSE, t, e->stream, 0);
    }
    if (c->now - s->stuck_since_ms >= c->limits.stuck_ms) {
        cut(c, t, e->stream, e->text);
        return;
    }
    sup_set_timer(c, &t->timers.retry_at, RETRY_MS);
}

void sup_retry_spool(struct sup_core *c, struct sup_task *t) {
    for (unsigned i = 0; i < 2; i++) {
        if (t->out[i].stuck_since_ms != 0) {
            sup_push_stream(c, SUP_DO_RETRY, t, i, 0);
        }
    }
}

void sup_on_release(struct sup_core *c, const struct sup_event *e) {
    struct sup_task *t = sup_core_find(c, e->id, e->attempt);
    if (t == NULL) {
        return;
    }
    t->no_reader = e->flag;
    for (unsigned i = 0; i < 2; i++) {
        t->out[i].released = e->offsets[i];
    }
    // Let those try again that wait for room; on_readable drops what may go.
    sup_resume(c, t, 0);
    sup_resume(c, t, 1);
    struct sup_task *other = c->held >= c->limits.total_bytes_max ? TAILQ_FIRST(&c->tasks) : NULL;
    for (; other != NULL; other = TAILQ_NEXT(other, order)) {
        sup_resume(c, other, 0);
        sup_resume(c, other, 1);
    }
}
