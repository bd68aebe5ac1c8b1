#include "agent/link/state_dir.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/buf.h"
#include "common/base/config.h"
#include "common/base/err.h"
#include "common/base/failpoint.h"
#include "common/base/fs.h"

enum { FILE_LEN_MAX = 64 * 1024, PATH_LEN = 4096 };

static int path_of(const struct nl_link_dir *dir, const char *name, char out[PATH_LEN]) {
    int n = snprintf(out, PATH_LEN, "%s/%s", dir->path, name);
    return n < 0 || n >= PATH_LEN ? NL_ETOOBIG : NL_OK;
}

// ---- the directory ---------------------------------------------------------

// Others could put a journal or a socket of their own there.
static int check_private(const char *path, char *error_text, size_t error_size) {
    struct stat st;
    if (stat(path, &st) != 0 || !S_ISDIR(st.st_mode)) {
        snprintf(error_text, error_size, "%s is not a directory", path);
        return NL_EINVAL;
    }
    if (st.st_uid != geteuid()) {
        snprintf(error_text, error_size, "%s belongs to another user (uid %u)", path, st.st_uid);
        return NL_EPERM;
    }
    if ((st.st_mode & 077) != 0 && chmod(path, 0700) != 0) {
        snprintf(error_text, error_size, "%s is open to others and can't be closed", path);
        return NL_EPERM;
    }
    return NL_OK;
}

static int take_lock(struct nl_link_dir *dir, char *error_text, size_t error_size) {
    char path[PATH_LEN];
    pid_t holder = 0;
    int rv = path_of(dir, "link.pid", path);
    if (rv == NL_OK) {
        rv = nl_fs_lock(path, &dir->lock_fd, &holder);
    }
    if (rv == NL_EBUSY) {
        snprintf(error_text, error_size, "another agent (pid %ld) runs on %s", (long)holder,
                 dir->path);
    } else if (rv != NL_OK) {
        snprintf(error_text, error_size, "%s/link.pid: %s", dir->path, nl_strerror(rv));
    }
    return rv;
}

int nl_link_dir_open(const char *path, struct nl_link_dir *ret, char *error_text,
                     size_t error_size) {
    struct nl_link_dir dir = {.lock_fd = -1};
    int rv = nl_fs_mkdirs(path, 0700);
    if (rv != NL_OK) {
        snprintf(error_text, error_size, "%s can't be made: %s", path, nl_strerror(rv));
        return rv;
    }
    rv = check_private(path, error_text, error_size);
    if (rv != NL_OK) {
        return rv;
    }
    dir.path = strdup(path);
    rv = dir.path == NULL ? NL_ENOMEM : take_lock(&dir, error_text, error_size);
    if (rv != NL_OK) {
        nl_link_dir_close(&dir);
        return rv;
    }
    *ret = dir;
    return NL_OK;
}

void nl_link_dir_close(struct nl_link_dir *dir) {
    if (dir->lock_fd >= 0) {
        close(dir->lock_fd);
    }
    free(dir->path);
    *dir = (struct nl_link_dir){.lock_fd = -1};
}

// ---- epoch -----------------------------------------------------------------

int nl_link_dir_load_epoch(const struct nl_link_dir *dir, uint64_t *ret) {
    char path[PATH_LEN];
    char *text = NULL;
    size_t len = 0;
    int rv = path_of(dir, "epoch", path);
    if (rv == NL_OK) {
        rv = nl_fs_read(path, FILE_LEN_MAX, &text, &len);
    }
    if (rv == NL_ENOTFOUND) {
        *ret = 0;
        return NL_OK;
    }
    if (rv != NL_OK) {
        return rv;
    }
    text[strcspn(text, "\n")] = '\0';
    rv = nl_parse_u64(text, ret) == NL_OK ? NL_OK : NL_ECORRUPT;
    free(text);
    return rv;
}

int nl_link_dir_save_epoch(const struct nl_link_dir *dir, uint64_t epoch) {
    char path[PATH_LEN], text[32];
    int rv = path_of(dir, "epoch", path);
    if (rv != NL_OK) {
        return rv;
    }
    if (NL_FAILPOINT("link.epoch")) {
        return NL_EIO;
    }
    int len = snprintf(text, sizeof text, "%" PRIu64 "\n", epoch);
    return nl_fs_write_atomic(path, text, (size_t)len, 0600);
}

// ---- cache -----------------------------------------------------------------

static void take_line(struct nl_link_cache *cache, const char *line) {
    if (strncmp(line, "server ", 7) == 0 && cache->count < NL_LINK_SERVERS_MAX) {
        char *copy = strdup(line + 7);
        if (copy != NULL) {
            cache->servers[cache->count++] = copy;
        }
    } else if (strncmp(line, "good ", 5) == 0 && cache->last_good == NULL) {
        cache->last_good = strdup(line + 5);
    }
}

void nl_link_dir_load_cache(const struct nl_link_dir *dir, struct nl_link_cache *ret) {
    memset(ret, 0, sizeof *ret);
    char path[PATH_LEN];
    char *text = NULL;
    size_t len = 0;
    if (path_of(dir, "servers.cache", path) != NL_OK ||
        nl_fs_read(path, FILE_LEN_MAX, &text, &len) != NL_OK) {
        return;
    }
    char *rest = text, *line;
    while ((line = strsep(&rest, "\n")) != NULL) {
        take_line(ret, line);
    }
    free(text);
}

void nl_link_cache_close(struct nl_link_cache *cache) {
    for (size_t i = 0; i < cache->count; i++) {
        free(cache->servers[i]);
    }
    free(cache->last_good);
    memset(cache, 0, sizeof *cache);
}

int nl_link_dir_save_cache(const struct nl_link_dir *dir, const struct nl_link_servers *servers) {
    struct nl_buf text;
    nl_buf_init(&text, FILE_LEN_MAX);
    int rv = NL_OK;
    for (size_t i = 0; rv == NL_OK && i < servers->count; i++) {
        if (servers->items[i].learned) {
            rv = nl_buf_printf(&text, "server %s\n", servers->items[i].address);
        }
    }
    if (rv == NL_OK && servers->last_good != NULL) {
        rv = nl_buf_printf(&text, "good %s\n", servers->last_good);
    }
    char path[PATH_LEN];
    if (rv == NL_OK) {
        rv = path_of(dir, "servers.cache", path);
    }
    if (rv == NL_OK) {
        rv = nl_fs_write_atomic(path, text.data, text.len, 0600);
    }
    nl_buf_close(&text);
    return rv;
}
