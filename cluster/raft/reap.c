#include "cluster/raft/reap.h"

#include <stdlib.h>

struct errand {
    uv_work_t work;
    struct nl_reaper *reaper;
    void (*release)(void *item);
    void *item;
};

static void release_work(uv_work_t *work) {
    struct errand *errand = work->data;
    errand->release(errand->item);
}

static void after_release(uv_work_t *work, int status) {
    struct errand *errand = work->data;
    struct nl_reaper *reaper = errand->reaper;
    if (status != 0) {
        errand->release(errand->item);  // cancelled before it began
    }
    free(errand);
    reaper->pending--;
    if (reaper->pending == 0 && reaper->idle != NULL) {
        reaper->idle(reaper->user);
    }
}

void nl_reap(struct nl_reaper *reaper, void (*release)(void *item), void *item) {
    struct errand *errand = calloc(1, sizeof *errand);
    if (errand != NULL) {
        *errand = (struct errand){.reaper = reaper, .release = release, .item = item};
        errand->work.data = errand;
    }
    if (errand == NULL ||
        uv_queue_work(reaper->loop, &errand->work, release_work, after_release) != 0) {
        free(errand);
        release(item);
        return;
    }
    reaper->pending++;
}
