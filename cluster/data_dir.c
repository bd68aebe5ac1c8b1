#include "cluster/data_dir.h"

#include <dirent.h>
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/config.h"
#include "common/base/err.h"
#include "common/base/fs.h"

enum { IDENTITY_BYTES_MAX = 1024, BOOT_BYTES_MAX = 32 };
#define FORMAT 1

struct identity {
    uint64_t format;
    uint64_t node;
    bool ready;
    char cluster[256];
};

struct report {
    char *text;
    size_t size;
};

static int fail(struct report *report, int rv, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static int fail(struct report *report, int rv, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    vsnprintf(report->text, report->size, fmt, args);
    va_end(args);
    return rv;
}

static char *join(const char *dir, const char *name) {
    char *path = NULL;
    return asprintf(&path, "%s/%s", dir, name) < 0 ? NULL : path;
}

// Entries of a directory that are not `.`, `..` or `ignored`; -1: it can't be read.
static int count_entries(const char *path, const char *ignored) {
    DIR *dir = opendir(path);
    int n = 0;
    if (dir == NULL) {
        return errno == ENOENT ? 0 : -1;
    }
    for (struct dirent *e = readdir(dir); e != NULL; e = readdir(dir)) {
        n += strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 &&
             strcmp(e->d_name, ignored) != 0;
    }
    closedir(dir);
    return n;
}

static int remove_files(const char *path) {
    DIR *dir = opendir(path);
    int rv = NL_OK;
    if (dir == NULL) {
        return errno == ENOENT ? NL_OK : NL_EIO;
    }
    for (struct dirent *e = readdir(dir); e != NULL; e = readdir(dir)) {
        if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 &&
            unlinkat(dirfd(dir), e->d_name, 0) != 0) {
            rv = NL_EIO;
        }
    }
    closedir(dir);
    return rv;
}

// ---- identity ----------------------------------------------------------------

static int write_identity(const struct nl_data_dir *dir, const char *cluster_name, uint64_t id,
                          bool ready) {
    char text[IDENTITY_BYTES_MAX];
    char *path = join(dir->path, "identity");
    if (path == NULL) {
        return NL_ENOMEM;
    }
    int n = snprintf(text, sizeof text, "format %d\ncluster %s\nnode %llu\nstate %s\n", FORMAT,
                     cluster_name, (unsigned long long)id, ready ? "ready" : "bootstrapping");
    int rv = n < 0 || (size_t)n >= sizeof text ? NL_EINVAL
                                               : nl_fs_write_atomic(path, text, (size_t)n, 0600);
    free(path);
    return rv;
}

static int parse_identity(char *text, struct identity *ret) {
    unsigned seen = 0;
    char *save = NULL;
    memset(ret, 0, sizeof *ret);
    for (char *line = strtok_r(text, "\n", &save); line != NULL;
         line = strtok_r(NULL, "\n", &save)) {
        char *value = strchr(line, ' ');
        if (value == NULL) {
            return NL_ECORRUPT;
        }
        *value++ = '\0';
        if (strcmp(line, "format") == 0 && nl_parse_u64(value, &ret->format) == NL_OK) {
            seen |= 1;
        } else if (strcmp(line, "node") == 0 && nl_parse_u64(value, &ret->node) == NL_OK) {
            seen |= 2;
        } else if (strcmp(line, "cluster") == 0 && strlen(value) < sizeof ret->cluster) {
            snprintf(ret->cluster, sizeof ret->cluster, "%s", value);
            seen |= 4;
        } else if (strcmp(line, "state") == 0) {
            ret->ready = strcmp(value, "ready") == 0;
            seen |= 8;
        }
    }
    return seen == 15 ? NL_OK : NL_ECORRUPT;
}

static int read_identity(const struct nl_data_dir *dir, struct identity *ret) {
    char *text = NULL;
    size_t len;
    char *path = join(dir->path, "identity");
    if (path == NULL) {
        return NL_ENOMEM;
    }
    int rv = nl_fs_read(path, IDENTITY_BYTES_MAX, &text, &len);
    if (rv == NL_OK) {
        rv = parse_identity(text, ret);
        free(text);
    }
    free(path);
    return rv == NL_ETOOBIG ? NL_ECORRUPT : rv;
}

static int check_identity(const struct nl_data_dir *dir, const struct identity *have,
                          const char *cluster_name, uint64_t id, struct report *report) {
    if (have->format != FORMAT) {
        return fail(report, NL_EVERSION,
                    "%s: written in format %llu, this program knows format %d only", dir->path,
                    (unsigned long long)have->format, FORMAT);
    }
    if (strcmp(have->cluster, cluster_name) != 0) {
        return fail(report, NL_EINVAL,
                    "%s belongs to cluster \"%s\", not \"%s\": set the right data directory or "
                    "cluster name",
                    dir->path, have->cluster, cluster_name);
    }
    if (have->node != id) {
        return fail(report, NL_EINVAL,
                    "%s belongs to node %llu, not %llu: set the right data directory or node id",
                    dir->path, (unsigned long long)have->node, (unsigned long long)id);
    }
    if (have->ready && count_entries(dir->raft_path, "") <= 0) {
        return fail(report, NL_ECORRUPT,
                    "%s: the log is gone, and with it what this node has promised the others; "
                    "remove the directory and let the node join under a new id",
                    dir->raft_path);
    }
    return NL_OK;
}

static int make_new(struct nl_data_dir *dir, const char *cluster_name, uint64_t id, bool bootstrap,
                    struct report *report) {
    int n = count_entries(dir->path, "lock");
    if (n != 0) {
        return fail(report, n < 0 ? NL_EIO : NL_ECORRUPT,
                    "%s holds files but no identity: not the directory of a node", dir->path);
    }
    if (!bootstrap) {
        return fail(report, NL_EINVAL,
                    "%s is empty. At the first start of a new cluster, start every node with "
                    "bootstrap set. To replace a node that lost its directory, give the new one "
                    "a new id: under the old id it could vote twice",
                    dir->path);
    }
    if (write_identity(dir, cluster_name, id, false) != NL_OK) {
        return fail(report, NL_EIO, "%s: can't write the identity", dir->path);
    }
    dir->is_new = true;
    return NL_OK;
}

// A bootstrap that was cut off never took part in anything, so it may begin again.
static int begin_raft_dir(struct nl_data_dir *dir, struct report *report) {
    if (remove_files(dir->raft_path) != NL_OK || nl_fs_mkdirs(dir->raft_path, 0700) != NL_OK) {
        return fail(report, NL_EIO, "%s: can't be made: %s", dir->raft_path, strerror(errno));
    }
    return NL_OK;
}

static int lock(struct nl_data_dir *dir, struct report *report) {
    pid_t holder = 0;
    char *path = join(dir->path, "lock");
    if (path == NULL) {
        return fail(report, NL_ENOMEM, "no memory");
    }
    int rv = nl_fs_lock(path, &dir->lock_fd, &holder);
    free(path);
    if (rv == NL_EBUSY) {
        return fail(report, rv, "%s is in use by process %lld", dir->path, (long long)holder);
    }
    if (rv != NL_OK) {
        dir->lock_fd = -1;
        return fail(report, rv, "%s: can't be locked: %s", dir->path, nl_strerror(rv));
    }
    return NL_OK;
}

static int check(struct nl_data_dir *dir, const char *cluster_name, uint64_t id, bool bootstrap,
                 struct report *report) {
    struct identity have;
    int rv = read_identity(dir, &have);
    if (rv == NL_ENOTFOUND) {
        rv = make_new(dir, cluster_name, id, bootstrap, report);
    } else if (rv == NL_OK) {
        rv = check_identity(dir, &have, cluster_name, id, report);
        dir->is_new = !have.ready;
    } else {
        rv = fail(report, rv, "%s/identity: %s", dir->path, nl_strerror(rv));
    }
    if (rv == NL_OK && dir->is_new) {
        rv = begin_raft_dir(dir, report);
    }
    return rv;
}

int nl_data_dir_open(const char *path, const char *cluster_name, uint64_t id, bool bootstrap,
                     struct nl_data_dir *ret, char *error_text, size_t error_size) {
    struct report report = {error_text, error_size};
    struct nl_data_dir dir = {.lock_fd = -1};
    int rv = nl_fs_mkdirs(path, 0700);
    if (rv != NL_OK) {
        return fail(&report, rv, "%s: can't be made: %s", path, strerror(errno));
    }
    dir.path = strdup(path);
    dir.raft_path = join(path, "raft");
    if (dir.path == NULL || dir.raft_path == NULL) {
        rv = fail(&report, NL_ENOMEM, "no memory");
    }
    rv = rv == NL_OK ? lock(&dir, &report) : rv;
    rv = rv == NL_OK ? check(&dir, cluster_name, id, bootstrap, &report) : rv;
    if (rv != NL_OK) {
        nl_data_dir_close(&dir);
        return rv;
    }
    *ret = dir;
    return NL_OK;
}

int nl_data_dir_ready(struct nl_data_dir *dir, const char *cluster_name, uint64_t id) {
    int rv = write_identity(dir, cluster_name, id, true);
    if (rv == NL_OK) {
        dir->is_new = false;
    }
    return rv;
}

int nl_data_dir_boot(const struct nl_data_dir *dir, uint64_t *ret) {
    char *text = NULL;
    size_t len;
    uint64_t boot = 0;
    char *path = join(dir->path, "boot");
    if (path == NULL) {
        return NL_ENOMEM;
    }
    int rv = nl_fs_read(path, BOOT_BYTES_MAX, &text, &len);
    free(path);
    if (rv == NL_OK) {
        text[strcspn(text, "\n")] = '\0';
        rv = nl_parse_u64(text, &boot) == NL_OK ? NL_OK : NL_ECORRUPT;
        free(text);
    }
    rv = rv == NL_ENOTFOUND ? NL_OK : rv;
    if (rv == NL_OK) {
        *ret = boot;
    }
    return rv;
}

int nl_data_dir_count_boot(const struct nl_data_dir *dir, uint64_t boot) {
    char number[BOOT_BYTES_MAX];
    char *path = join(dir->path, "boot");
    if (path == NULL) {
        return NL_ENOMEM;
    }
    int n = snprintf(number, sizeof number, "%llu\n", (unsigned long long)boot);
    int rv = nl_fs_write_atomic(path, number, (size_t)n, 0600);
    free(path);
    return rv;
}

void nl_data_dir_close(struct nl_data_dir *dir) {
    if (dir->path != NULL && dir->lock_fd >= 0) {
        close(dir->lock_fd);
    }
    free(dir->path);
    free(dir->raft_path);
    memset(dir, 0, sizeof *dir);
    dir->lock_fd = -1;
}
