#include "server/watch_core.h"

#include <stdio.h>
#include <string.h>

#include "common/base/err.h"

enum {
    RETRY_MS_MIN = 50,
    RETRY_MS_MAX = 1000,
    FAILURES_MAX = 30,  // in a row, of an ended task whose agent is there: about half a minute
    QUIET_MS = 300,     // no_follow: nothing for so long means that this is all there is now
};

void nl_watch_core_init(struct nl_watch_core *w, bool output, bool no_follow,
                        const uint64_t offset[2]) {
    *w = (struct nl_watch_core){.output = output,
                                .no_follow = no_follow,
                                .next = {offset[0], offset[1]},
                                .quiet_at_ms = UINT64_MAX};
}

static void set_gone(struct nl_watch_core *w, const char *why) {
    w->gone = true;
    snprintf(w->why, sizeof w->why, "%s", why);
}

// Totals are promised with a digest, or when nothing was started; a stock agent that came back
// with a bare result knows neither.
static bool has_totals(const Nodelink__V1__TaskResult *result) {
    return result != NULL && (result->kind == NODELINK__V1__TASK_RESULT__KIND__NOT_STARTED ||
                              (result->stdout_sha256.len == 32 && result->stderr_sha256.len == 32));
}

static void look_at_result(struct nl_watch_core *w, const Nodelink__V1__TaskResult *result) {
    w->totals_known = has_totals(result);
    if (w->totals_known) {
        w->total[NL_STDOUT] = result->stdout_bytes;
        w->total[NL_STDERR] = result->stderr_bytes;
    }
}

static void look_at_tail(struct nl_watch_core *w, const Nodelink__V1__OutputTail *tail) {
    w->has_tail = w->totals_known && tail != NULL && !w->tail_bad;
    if (w->has_tail) {
        w->tail[NL_STDOUT] = tail->stdout_offset;
        w->tail[NL_STDERR] = tail->stderr_offset;
    }
}

// The attempt being read is the task's current one, or one that has not begun.
static void look_at_current(struct nl_watch_core *w, const struct nl_task *task) {
    bool begun = w->attempt == task->attempt;
    w->started = begun && task->state != NL_TASK_PENDING && task->state != NL_TASK_DISPATCHED;
    w->terminal = nl_task_is_terminal(task->state);
    w->never_sent = w->terminal && (!begun || task->dispatched_ms == 0);
    look_at_result(w, begun ? task->result : NULL);
    look_at_tail(w, begun ? task->tail : NULL);
}

void nl_watch_core_task(struct nl_watch_core *w, const struct nl_task *task, bool agent_lost) {
    bool was_terminal = w->terminal;
    w->attempt = w->attempt != 0 ? w->attempt : task->attempt;
    const Nodelink__V1__AttemptRecord *earlier = nl_task_earlier(task, w->attempt);
    if (earlier != NULL) {
        w->started = w->terminal = true;
        w->never_sent = false;
        look_at_result(w, earlier->result);
        look_at_tail(w, NULL);
    } else {
        look_at_current(w, task);
    }
    w->followed = earlier != NULL && !w->only_attempt;
    if (!was_terminal && w->terminal) {
        w->complete = false;  // of what there was before; the totals decide now
        w->retry_at_ms = 0;
    }
    w->lost = agent_lost;
}

enum nl_watch_chunk nl_watch_core_chunk(struct nl_watch_core *w, uint64_t now_ms, int stream,
                                        uint64_t *offset, const uint8_t **data, size_t *len) {
    uint64_t next = w->next[stream];
    w->quiet_at_ms = now_ms + QUIET_MS;
    if (*offset > next) {
        return NL_WATCH_HOLE;
    }
    if (*offset + *len <= next) {
        return NL_WATCH_OLD;
    }
    size_t known = (size_t)(next - *offset);
    *offset = next;
    *data += known;
    *len -= known;
    w->next[stream] += *len;
    w->failures = 0;
    return NL_WATCH_NEW;
}

void nl_watch_core_opened(struct nl_watch_core *w, uint64_t now_ms) {
    w->open = true;
    w->away = w->complete = false;
    w->quiet_at_ms = now_ms + QUIET_MS;
}

static void back_off(struct nl_watch_core *w, uint64_t now_ms) {
    uint32_t shift = w->failures < 5 ? w->failures : 5;
    uint64_t delay = (uint64_t)RETRY_MS_MIN << shift;
    w->failures++;
    w->retry_at_ms = now_ms + (delay < RETRY_MS_MAX ? delay : RETRY_MS_MAX);
}

static void broken(struct nl_watch_core *w, uint64_t now_ms, const char *why) {
    back_off(w, now_ms);
    snprintf(w->why, sizeof w->why, "%s", why);
    if (w->terminal && w->failures >= FAILURES_MAX) {
        w->gone = true;
    }
}

void nl_watch_core_not_opened(struct nl_watch_core *w, uint64_t now_ms, int result) {
    if (result == NL_EGAP) {
        set_gone(w, "no node keeps this output of a stock agent");
    } else if (result == NL_EAGAIN) {
        // Its agent comes back with an event; a node that is a moment behind needs a second look.
        w->away = true;
        w->retry_at_ms = now_ms + RETRY_MS_MAX;
        snprintf(
            w->why, sizeof w->why, "%s",
            w->lost ? "the agent is lost, and its output with it" : "the agent is not connected");
    } else {
        broken(w, now_ms, nl_strerror(result));
    }
}

static bool gap_to(struct nl_watch_core *w, const uint64_t base[2], struct nl_watch_gap *ret) {
    bool any = false;
    for (int i = 0; i < 2; i++) {
        ret->from[i] = w->next[i];
        ret->to[i] = base[i] > w->next[i] ? base[i] : w->next[i];
        any = any || ret->to[i] > ret->from[i];
        w->next[i] = ret->to[i];
    }
    return any;
}

static bool tail_follows(const struct nl_watch_core *w) {
    return w->terminal && w->has_tail && w->next[0] >= w->tail[0] && w->next[1] >= w->tail[1];
}

// The source has nothing below its base; the tail may.
static bool gap_of_source(struct nl_watch_core *w, const uint64_t base[2],
                          struct nl_watch_gap *ret) {
    uint64_t to[2];
    for (int i = 0; i < 2; i++) {
        bool kept = w->terminal && w->has_tail && w->tail[i] < base[i];
        to[i] = kept ? w->tail[i] : base[i];
    }
    return gap_to(w, to, ret);
}

bool nl_watch_core_ended(struct nl_watch_core *w, uint64_t now_ms, const struct nl_output_end *end,
                         struct nl_watch_gap *ret_gap) {
    w->open = false;
    switch (end->why) {
        case NL_OUTPUT_COMPLETE:
            w->complete = true;
            back_off(w, now_ms);  // should it not be all after all
            return false;
        case NL_OUTPUT_GONE:
            set_gone(w, end->message[0] != '\0' ? end->message : "the agent has no more of it");
            return false;
        case NL_OUTPUT_GAP:
            w->retry_at_ms = now_ms;
            if (gap_of_source(w, end->base, ret_gap)) {
                snprintf(w->why, sizeof w->why, "%s",
                         end->message[0] != '\0' ? end->message : "older output was dropped");
                return true;
            }
            if (!tail_follows(w)) {
                broken(w, now_ms, "the source said gap where there is none");
            }
            return false;
        case NL_OUTPUT_BROKEN:
            broken(w, now_ms, end->message);
            return false;
    }
    return false;
}

void nl_watch_core_agent_changed(struct nl_watch_core *w) {
    w->away = false;
    if (!w->gone) {
        w->retry_at_ms = 0;
    }
}

static bool all_delivered(const struct nl_watch_core *w) {
    return w->totals_known && w->next[0] >= w->total[0] && w->next[1] >= w->total[1];
}

static enum nl_watch_todo next_closed(const struct nl_watch_core *w, uint64_t now_ms) {
    if (w->terminal && w->complete && !w->totals_known) {
        return NL_WATCH_END;
    }
    if (w->gone || (w->away && w->lost && w->terminal)) {
        return w->terminal || w->no_follow ? NL_WATCH_GAP_END : NL_WATCH_WAIT;
    }
    if (!w->started || (w->complete && !w->terminal)) {
        return w->no_follow ? NL_WATCH_END : NL_WATCH_WAIT;
    }
    if (w->away && w->no_follow) {
        return NL_WATCH_UNAVAILABLE;
    }
    return now_ms >= w->retry_at_ms ? NL_WATCH_OPEN : NL_WATCH_WAIT;
}

static enum nl_watch_todo next_of_attempt(const struct nl_watch_core *w, uint64_t now_ms) {
    if (!w->output) {
        return w->terminal || w->no_follow ? NL_WATCH_END : NL_WATCH_WAIT;
    }
    if (w->terminal && (w->never_sent || all_delivered(w))) {
        return NL_WATCH_END;
    }
    if (w->open) {
        bool quiet = w->no_follow && !w->terminal && now_ms >= w->quiet_at_ms;
        return quiet ? NL_WATCH_END : NL_WATCH_WAIT;
    }
    if (tail_follows(w)) {
        return NL_WATCH_TAIL;  // no need to ask the agent
    }
    enum nl_watch_todo todo = next_closed(w, now_ms);
    return todo == NL_WATCH_GAP_END && w->terminal && w->has_tail ? NL_WATCH_TAIL_GAP : todo;
}

enum nl_watch_todo nl_watch_core_next(const struct nl_watch_core *w, uint64_t now_ms) {
    enum nl_watch_todo todo = next_of_attempt(w, now_ms);
    return todo == NL_WATCH_END && w->followed ? NL_WATCH_NEXT : todo;
}

void nl_watch_core_advance(struct nl_watch_core *w) {
    const uint64_t begin[2] = {0, 0};
    uint32_t attempt = w->attempt + 1;
    nl_watch_core_init(w, w->output, w->no_follow, begin);
    w->attempt = attempt;
}

void nl_watch_core_no_tail(struct nl_watch_core *w) {
    w->tail_bad = true;
    w->has_tail = false;
}

void nl_watch_core_to_tail(struct nl_watch_core *w, struct nl_watch_gap *ret) {
    gap_to(w, w->tail, ret);
}

void nl_watch_core_rest(const struct nl_watch_core *w, struct nl_watch_gap *ret) {
    for (int i = 0; i < 2; i++) {
        bool more = w->totals_known && w->total[i] > w->next[i];
        ret->from[i] = w->next[i];
        ret->to[i] = more ? w->total[i] : w->next[i];
    }
}

uint64_t nl_watch_core_deadline(const struct nl_watch_core *w) {
    if (!w->output || w->gone) {
        return UINT64_MAX;
    }
    if (w->open) {
        return w->no_follow && !w->terminal ? w->quiet_at_ms : UINT64_MAX;
    }
    return w->started && !(w->complete && !w->terminal) ? w->retry_at_ms : UINT64_MAX;
}
