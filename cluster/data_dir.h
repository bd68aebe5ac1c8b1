// A node's directory: who it belongs to, its lock, its boot counter.
//
//   lock      held while a process uses the directory
//   identity  cluster, node id, format; "state bootstrapping" until the first log is complete
//   boot      how often the node was started and had the cluster's word that it may go on
//   raft/     libraft's files
//
// Blocking; used at open, and in a worker.
#ifndef NODELINK_CLUSTER_DATA_DIR_H
#define NODELINK_CLUSTER_DATA_DIR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct nl_data_dir {
    char *path;
    char *raft_path;
    int lock_fd;  // -1: not locked
    bool is_new;  // the first log must be written, then nl_data_dir_ready
};

// Locks the directory (making it 0700 if missing) and checks that it belongs to this node of this
// cluster. Changes nothing else but, with `bootstrap` in an empty directory, the identity and an
// empty raft/. NL_EBUSY, NL_EINVAL, NL_EVERSION, NL_ECORRUPT, NL_EIO, NL_ENOMEM with a sentence in
// error_text.
int nl_data_dir_open(const char *path, const char *cluster_name, uint64_t id, bool bootstrap,
                     struct nl_data_dir *ret, char *error_text, size_t error_size);
// The first log is complete. NL_EIO.
int nl_data_dir_ready(struct nl_data_dir *dir, const char *cluster_name, uint64_t id);
// The number of the latest start that was counted; 0: none. NL_EIO, NL_ECORRUPT.
int nl_data_dir_boot(const struct nl_data_dir *dir, uint64_t *ret);
// Counts a start, durably. NL_EIO, NL_ENOMEM.
int nl_data_dir_count_boot(const struct nl_data_dir *dir, uint64_t boot);
void nl_data_dir_close(struct nl_data_dir *dir);  // also of a zeroed or failed one

#endif
