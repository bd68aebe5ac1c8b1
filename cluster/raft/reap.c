#include "cluster/raft/reap.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define PIECE ((size_t)4 << 20)

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

// Only whole pages inside the block: its ends are the heap's business.
void nl_free_large(void *block, size_t len) {
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    uintptr_t from = ((uintptr_t)block + page - 1) / page * page;
    uintptr_t to = ((uintptr_t)block + len) / page * page;
    while (len > PIECE && from < to) {
        size_t n = to - from < PIECE ? to - from : PIECE;
        (void)madvise((void *)from, n, MADV_DONTNEED);
        from += n;
    }
    free(block);
}

struct large {
    void *block;
    size_t len;
};

static void release_large(void *item) {
    struct large *large = item;
    nl_free_large(large->block, large->len);
    free(large);
}

void nl_reap_large(struct nl_reaper *reaper, void *block, size_t len) {
    struct large *large = malloc(sizeof *large);
    if (large == NULL) {
        free(block);
        return;
    }
    *large = (struct large){block, len};
    nl_reap(reaper, release_large, large);
}
