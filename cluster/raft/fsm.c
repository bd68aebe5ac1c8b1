#include "cluster/raft/fsm.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/raft/frame.h"
#include "common/base/err.h"

static void fatal(struct nl_fsm *fsm, const char *what, uint64_t index, int rv) {
    char text[160];
    snprintf(text, sizeof text, "%s at index %llu: %s", what, (unsigned long long)index,
             nl_strerror(rv));
    fsm->on_fatal(fsm->user, text);
}

// libraft moves last_applied after each entry, for barriers and configurations too, and calls
// this before it does: the entry at hand is the next one.
static int fsm_apply(struct raft_fsm *raft, const struct raft_buffer *buf, void **result) {
    struct nl_fsm *fsm = raft->data;
    uint64_t index = raft_last_applied(fsm->instance) + 1;
    struct nl_frame_reader reader;
    const uint8_t *command;
    size_t len;
    *result = NULL;
    int rv = nl_frame_open(&reader, buf->base, buf->len);
    if (rv != NL_OK) {
        fatal(fsm, "log entry can't be read", index, rv);
        return RAFT_MALFORMED;
    }
    while (nl_frame_next(&reader, &command, &len)) {
        rv = nl_state_apply(fsm->state, index, command, len, fsm->on_effect, fsm->user);
        if (rv != NL_OK) {
            fatal(fsm, "command can't be applied", index, rv);
            return RAFT_MALFORMED;
        }
    }
    return 0;
}

static int fsm_snapshot(struct raft_fsm *raft, struct raft_buffer *bufs[], unsigned *n_bufs) {
    struct nl_fsm *fsm = raft->data;
    assert(fsm->snapshot == NULL);
    struct raft_buffer *buf = raft_calloc(1, sizeof *buf);
    if (buf == NULL) {
        return RAFT_NOMEM;
    }
    nl_state_set_index(fsm->state, raft_last_applied(fsm->instance));
    if (nl_state_snapshot_begin(fsm->state, &fsm->snapshot) != NL_OK) {
        fsm->snapshot = NULL;
        raft_free(buf);
        return RAFT_NOMEM;
    }
    *bufs = buf;
    *n_bufs = 1;
    return 0;
}

// libraft 0.22 calls this on the loop thread, right after `snapshot`. The encoding is therefore
// left to the guard, which does it in a worker before the backend gets the buffers.
static int fsm_snapshot_async(struct raft_fsm *raft, struct raft_buffer *bufs[], unsigned *n_bufs) {
    (void)raft;
    (void)bufs;
    (void)n_bufs;
    return 0;
}

// What is not needed any more, and may be large.
struct waste {
    struct nl_state *state;
    struct nl_state_snapshot *snapshot;
    void *bytes;
    size_t len;
};

static void waste_free(void *item) {
    struct waste *waste = item;
    nl_state_free(waste->state);
    if (waste->snapshot != NULL) {
        nl_state_snapshot_free(waste->snapshot);
    }
    nl_free_large(waste->bytes, waste->len);
    free(waste);
}

static void throw_away(struct nl_fsm *fsm, struct waste what) {
    struct waste *waste = malloc(sizeof *waste);
    if (waste != NULL && fsm->reaper != NULL) {
        *waste = what;
        nl_reap(fsm->reaper, waste_free, waste);
        return;
    }
    free(waste);
    nl_state_free(what.state);
    if (what.snapshot != NULL) {
        nl_state_snapshot_free(what.snapshot);
    }
    free(what.bytes);
}

static int fsm_snapshot_finalize(struct raft_fsm *raft, struct raft_buffer *bufs[],
                                 unsigned *n_bufs) {
    struct nl_fsm *fsm = raft->data;
    struct waste waste = {.snapshot = fsm->snapshot};
    if (*bufs != NULL) {
        waste.bytes = (*bufs)[0].base;
        waste.len = (*bufs)[0].len;
        raft_free(*bufs);
    }
    *bufs = NULL;
    *n_bufs = 0;
    if (fsm->snapshot != NULL) {
        nl_state_snapshot_detach(fsm->state, fsm->snapshot);
        fsm->snapshot = NULL;
    }
    throw_away(fsm, waste);
    return 0;
}

// The state of these bytes, made before or now.
static int load(struct nl_fsm *fsm, const struct raft_buffer *buf, struct nl_state **ret) {
    if (fsm->loaded == NULL || fsm->loaded_of != buf->base) {
        return nl_state_load(fsm->state, buf->base, buf->len, ret);
    }
    *ret = fsm->loaded;
    fsm->loaded = NULL;
    return NL_OK;
}

static int fsm_restore(struct raft_fsm *raft, struct raft_buffer *buf) {
    struct nl_fsm *fsm = raft->data;
    struct nl_state *loaded;
    int rv = load(fsm, buf, &loaded);
    if (rv != NL_OK) {
        if (fsm->started) {
            fatal(fsm, "the leader's snapshot can't be read", raft_last_applied(fsm->instance), rv);
        }
        return rv == NL_ENOMEM ? RAFT_NOMEM : RAFT_CORRUPT;
    }
    nl_state_swap(fsm->state, loaded);
    // raft_free is free: no other heap is set.
    throw_away(fsm, (struct waste){.state = loaded, .bytes = buf->base, .len = buf->len});
    if (fsm->started) {
        fsm->on_restored(fsm->user);
    }
    return 0;
}

int nl_fsm_snapshot_write(struct nl_fsm *fsm, uint8_t **ret, size_t *ret_len) {
    return nl_state_snapshot_write(fsm->snapshot, ret, ret_len);
}

void nl_fsm_snapshot_load(struct nl_fsm *fsm, const uint8_t *data, size_t len) {
    nl_state_free(fsm->loaded);
    fsm->loaded = NULL;
    fsm->loaded_of = data;
    if (nl_state_load(fsm->state, data, len, &fsm->loaded) != NL_OK) {
        fsm->loaded = NULL;
    }
}

void nl_fsm_close(struct nl_fsm *fsm) {
    nl_state_free(fsm->loaded);
    fsm->loaded = NULL;
}

void nl_fsm_init(struct nl_fsm *fsm) {
    memset(&fsm->raft, 0, sizeof fsm->raft);
    fsm->snapshot = NULL;
    fsm->loaded = NULL;
    fsm->raft.version = 3;
    fsm->raft.data = fsm;
    fsm->raft.apply = fsm_apply;
    fsm->raft.snapshot = fsm_snapshot;
    fsm->raft.restore = fsm_restore;
    fsm->raft.snapshot_finalize = fsm_snapshot_finalize;
    fsm->raft.snapshot_async = fsm_snapshot_async;
}
