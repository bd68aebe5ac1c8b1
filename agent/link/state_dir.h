// What the link keeps in its state directory, beside what the supervisor keeps there:
//   link.pid       pid of the link that runs; locked by it
//   epoch          highest epoch seen, decimal; written durably before it is acted on
//   servers.cache  servers learned from the cluster and the last good one
// Blocking calls of bounded size. Threads: any, one at a time.
#ifndef NODELINK_AGENT_LINK_STATE_DIR_H
#define NODELINK_AGENT_LINK_STATE_DIR_H

#include <stddef.h>
#include <stdint.h>

#include "agent/link/servers.h"

struct nl_link_dir {
    char *path;   // owned
    int lock_fd;  // -1: none
};

// Makes the directory (0700) and takes the lock. error_text gets a sentence. NL_EBUSY: another
// link has it, the sentence names its pid.
int nl_link_dir_open(const char *path, struct nl_link_dir *ret, char *error_text,
                     size_t error_size);
void nl_link_dir_close(struct nl_link_dir *dir);  // also of a zeroed one with lock_fd -1

// NL_OK with 0 if there is none. NL_ECORRUPT: the file is not a number.
int nl_link_dir_load_epoch(const struct nl_link_dir *dir, uint64_t *ret);
int nl_link_dir_save_epoch(const struct nl_link_dir *dir, uint64_t epoch);

struct nl_link_cache {
    char *servers[NL_LINK_SERVERS_MAX];  // owned
    size_t count;
    char *last_good;  // owned; or NULL
};
// A missing or unreadable cache is an empty one: it is a hint.
void nl_link_dir_load_cache(const struct nl_link_dir *dir, struct nl_link_cache *ret);
void nl_link_cache_close(struct nl_link_cache *cache);
int nl_link_dir_save_cache(const struct nl_link_dir *dir, const struct nl_link_servers *servers);

#endif
