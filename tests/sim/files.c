// The files beside the log, and the parts of the product that have no place here: the data
// directory, the mark, free space, the transport's sockets.

#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "tests/sim/sim.h"
#include "tests/sim/wrap.h"

// ---- mark ----------------------------------------------------------------------

int __wrap_nl_mark_open(struct nl_mark *mark, const char *dir) {
    (void)dir;
    mark->fd = 0;
    mark->index = sim.current->disk.mark;
    mark->install_index = sim.current->disk.install_index;
    mark->install_term = sim.current->disk.install_term;
    return NL_OK;
}

void __wrap_nl_mark_close(struct nl_mark *mark) {
    mark->fd = -1;
}

void __wrap_nl_mark_raise(struct nl_mark *mark, uint64_t index) {
    if (sim.current->up && mark->fd >= 0 && index > mark->index) {
        mark->index = sim.current->disk.mark = index;
    }
}

int __wrap_nl_mark_lower(struct nl_mark *mark, uint64_t index) {
    if (sim.current->up && mark->fd >= 0 && index < mark->index) {
        mark->index = sim.current->disk.mark = sim.current->disk.mark_synced = index;
    }
    return NL_OK;
}

static void set_install(struct nl_mark *mark, uint64_t index, uint64_t term) {
    struct sim_disk *disk = &sim.current->disk;
    if (mark->fd >= 0) {
        mark->install_index = index;
        mark->install_term = term;
    }
    // While the node opens it is up, too; after a crash nothing is written any more.
    if (sim.current->up && mark->fd >= 0) {
        disk->install_index = index;
        disk->install_term = term;
    }
}

int __wrap_nl_mark_install_begin(struct nl_mark *mark, uint64_t index, uint64_t term) {
    set_install(mark, index, term);
    return __wrap_nl_mark_lower(mark, index);
}

int __wrap_nl_mark_install_end(struct nl_mark *mark) {
    set_install(mark, 0, 0);
    return NL_OK;
}

int __wrap_nl_segments_finish_install(const char *dir, uint64_t index, uint64_t term,
                                      char *error_text, size_t error_size) {
    struct sim_disk *disk = &sim.current->disk;
    (void)dir, (void)error_text, (void)error_size;
    if (disk->snapshot.index == index && disk->snapshot.term == term) {
        sim_disk_clear_log(disk);
    }
    return NL_OK;
}

int __wrap_nl_segments_last(const char *dir, uint64_t *ret, char *error_text, size_t error_size) {
    const struct sim_disk *disk = &sim.current->disk;
    (void)dir, (void)error_text, (void)error_size;
    uint64_t last = sim_disk_last(disk);
    *ret = last > disk->snapshot.index ? last : disk->snapshot.index;
    return NL_OK;
}

// ---- data directory --------------------------------------------------------------

int __wrap_nl_data_dir_open(const char *path, const char *cluster_name, uint64_t id, bool bootstrap,
                            struct nl_data_dir *ret, char *error_text, size_t error_size) {
    (void)cluster_name, (void)id, (void)bootstrap, (void)error_text, (void)error_size;
    ret->path = strdup(path);
    ret->raft_path = strdup(path);
    ret->lock_fd = -1;
    ret->is_new = !sim.current->disk.ready;
    return NL_OK;
}

int __wrap_nl_data_dir_ready(struct nl_data_dir *dir, const char *cluster_name, uint64_t id) {
    (void)cluster_name, (void)id;
    dir->is_new = false;
    sim.current->disk.ready = true;
    return NL_OK;
}

int __wrap_nl_data_dir_boot(const struct nl_data_dir *dir, uint64_t *ret) {
    (void)dir;
    *ret = sim.current->disk.boot;
    return NL_OK;
}

int __wrap_nl_data_dir_count_boot(const struct nl_data_dir *dir, uint64_t boot) {
    (void)dir;
    if (sim.current->up) {
        sim.current->disk.boot = boot;
    }
    return NL_OK;
}

void __wrap_nl_data_dir_close(struct nl_data_dir *dir) {
    free(dir->path);
    free(dir->raft_path);
    dir->path = dir->raft_path = NULL;
}

int __wrap_nl_fs_free_bytes(const char *path, uint64_t *ret) {
    (void)path;
    *ret = sim.current->disk.full ? 4096 : (uint64_t)1 << 40;
    return NL_OK;
}

// ---- transport -------------------------------------------------------------------

static char transport;  // only its address is used

int __wrap_nl_transport_new(const struct nl_transport_options *options, struct nl_transport **ret,
                            char *error_text, size_t error_size) {
    (void)options, (void)error_text, (void)error_size;
    *ret = (struct nl_transport *)(void *)&transport;
    return NL_OK;
}

struct raft_uv_transport *__wrap_nl_transport_raft(struct nl_transport *t) {
    (void)t;
    return NULL;
}

void __wrap_nl_transport_free(struct nl_transport *t) {
    (void)t;
}

void __wrap_nl_transport_abandon(struct nl_transport *t, void (*done)(void *user), void *user) {
    (void)t;
    done(user);
}
