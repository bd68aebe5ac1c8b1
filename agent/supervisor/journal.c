#include "agent/supervisor/journal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "agent/supervisor/journal_format.h"
#include "common/base/buf.h"
#include "common/base/err.h"
#include "common/base/failpoint.h"
#include "common/base/fs.h"

struct sup_journal {
    char *dir;
    char *path;
    int fd;
    uint64_t nonce;
    uint64_t size;     // of the file
    uint64_t durable;  // of it, known to be on disk
    bool broken;
    struct nl_buf scratch;
};

static struct sup_journal *journal_new(const char *dir, const char *name) {
    struct sup_journal *j = calloc(1, sizeof *j);
    if (j == NULL) {
        return NULL;
    }
    j->fd = -1;
    nl_buf_init(&j->scratch, 0);
    j->dir = strdup(dir);
    if (j->dir == NULL || asprintf(&j->path, "%s/%s", dir, name) < 0) {
        j->path = NULL;
        sup_journal_close(j);
        return NULL;
    }
    return j;
}

void sup_journal_close(struct sup_journal *j) {
    if (j == NULL) {
        return;
    }
    if (j->fd >= 0) {
        close(j->fd);
    }
    nl_buf_close(&j->scratch);
    free(j->dir);
    free(j->path);
    free(j);
}

static int write_at(int fd, const uint8_t *data, size_t len, uint64_t offset) {
    while (len > 0) {
        ssize_t n = pwrite(fd, data, len, (off_t)offset);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? nl_err_from_errno(errno) : NL_EIO;
        }
        data += n;
        len -= (size_t)n;
        offset += (uint64_t)n;
    }
    return NL_OK;
}

static int make_file(struct sup_journal *j) {
    uint8_t header[SUP_JOURNAL_HEADER];
    nl_random_bytes(&j->nonce, sizeof j->nonce);
    sup_journal_encode_header(j->nonce, header);
    int rv = nl_fs_write_atomic(j->path, header, sizeof header, 0600);
    j->size = j->durable = sizeof header;
    return rv;
}

static int judge(struct sup_journal *j, const struct sup_journal_scan *scan, char why[512]) {
    snprintf(why, 512, "%.350s: offset %llu: %s", j->path, (unsigned long long)scan->good,
             scan->why != NULL ? scan->why : "");
    switch (scan->verdict) {
        case SUP_JOURNAL_WHOLE:
        case SUP_JOURNAL_TORN:
            return NL_OK;
        case SUP_JOURNAL_VERSION_UNKNOWN:
            return NL_EVERSION;
        case SUP_JOURNAL_CORRUPT:
        case SUP_JOURNAL_REJECTED:
            break;
    }
    return NL_ECORRUPT;
}

// The torn tail goes for good: a later append must not complete it to something valid.
static int cut_tail(struct sup_journal *j, const struct sup_journal_scan *scan) {
    j->nonce = scan->nonce;
    j->size = j->durable = scan->good;
    int fd = open(j->path, O_RDWR | O_CLOEXEC);
    if (fd < 0) {
        return nl_err_from_errno(errno);
    }
    int rv = NL_OK;
    if (ftruncate(fd, (off_t)scan->good) != 0 || fsync(fd) != 0) {
        rv = nl_err_from_errno(errno);
    }
    close(fd);
    return rv;
}

static int replay(struct sup_journal *j, sup_journal_take take, void *user, char why[512]) {
    char *data = NULL;
    size_t len = 0;
    int rv = nl_fs_read(j->path, SUP_JOURNAL_BYTES_MAX, &data, &len);
    if (rv == NL_ENOTFOUND) {
        rv = make_file(j);
    } else if (rv == NL_OK) {
        struct sup_journal_scan scan;
        sup_journal_scan((const uint8_t *)data, len, take, user, &scan);
        rv = judge(j, &scan, why);
        if (rv == NL_OK) {
            rv = cut_tail(j, &scan);
        }
        free(data);
        if (rv == NL_ECORRUPT || rv == NL_EVERSION) {
            return rv;
        }
    }
    if (rv != NL_OK) {
        snprintf(why, 512, "%.400s: %s", j->path, nl_strerror(rv));
    }
    return rv;
}

int sup_journal_open(const char *dir, sup_journal_take take, void *user, char why[512],
                     struct sup_journal **ret) {
    struct sup_journal *j = journal_new(dir, "journal");
    if (j == NULL) {
        snprintf(why, 512, "%.400s: out of memory", dir);
        return NL_ENOMEM;
    }
    int rv = replay(j, take, user, why);
    if (rv == NL_OK) {
        j->fd = open(j->path, O_RDWR | O_CLOEXEC);
        rv = j->fd < 0 ? nl_err_from_errno(errno) : NL_OK;
        if (rv != NL_OK) {
            snprintf(why, 512, "%.400s: %s", j->path, nl_strerror(rv));
        }
    }
    if (rv != NL_OK) {
        sup_journal_close(j);
        return rv;
    }
    *ret = j;
    return NL_OK;
}

int sup_journal_append(struct sup_journal *j, const struct sup_record *r) {
    if (j->broken) {
        return NL_EIO;
    }
    nl_buf_clear(&j->scratch);
    int rv = sup_journal_encode(&j->scratch, r, j->nonce, j->durable);
    if (rv == NL_OK && NL_FAILPOINT("journal.append")) {
        rv = NL_EIO;
    }
    if (rv != NL_OK) {
        return rv;
    }
    rv = write_at(j->fd, j->scratch.data, j->scratch.len, j->size);
    if (rv != NL_OK) {
        // A part of a record in the middle would make everything after it unreadable.
        j->broken = ftruncate(j->fd, (off_t)j->size) != 0;
        return rv;
    }
    j->size += j->scratch.len;
    return NL_OK;
}

int sup_journal_sync(struct sup_journal *j) {
    if (j->broken) {
        return NL_EIO;
    }
    if (j->durable == j->size) {
        return NL_OK;
    }
    if (fdatasync(j->fd) != 0 || NL_FAILPOINT("journal.sync")) {
        j->broken = true;
        return NL_EIO;
    }
    j->durable = j->size;
    return NL_OK;
}

bool sup_journal_broken(const struct sup_journal *j) {
    return j->broken;
}

bool sup_journal_dirty(const struct sup_journal *j) {
    return j->durable != j->size;
}

uint64_t sup_journal_size(const struct sup_journal *j) {
    return j->size;
}

static int fill(struct sup_journal *fresh, int (*emit)(void *, struct sup_journal *), void *user) {
    uint8_t header[SUP_JOURNAL_HEADER];
    fresh->fd = open(fresh->path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fresh->fd < 0) {
        return nl_err_from_errno(errno);
    }
    nl_random_bytes(&fresh->nonce, sizeof fresh->nonce);
    sup_journal_encode_header(fresh->nonce, header);
    int rv = write_at(fresh->fd, header, sizeof header, 0);
    fresh->size = sizeof header;
    if (rv == NL_OK) {
        rv = emit(user, fresh);
    }
    return rv == NL_OK ? sup_journal_sync(fresh) : rv;
}

int sup_journal_rewrite(struct sup_journal *j, int (*emit)(void *user, struct sup_journal *fresh),
                        void *user) {
    struct sup_journal *fresh = journal_new(j->dir, "journal.new");
    if (fresh == NULL) {
        return NL_ENOMEM;
    }
    int rv = fill(fresh, emit, user);
    if (rv == NL_OK && rename(fresh->path, j->path) != 0) {
        rv = nl_err_from_errno(errno);
    }
    if (rv != NL_OK) {
        unlink(fresh->path);
        sup_journal_close(fresh);
        return rv;
    }
    close(j->fd);
    j->fd = fresh->fd;
    j->nonce = fresh->nonce;
    j->size = fresh->size;
    j->durable = fresh->durable;
    // The name is not durable yet: until it is, nothing may be said to be.
    j->broken = nl_fs_sync_dir(j->dir) != NL_OK;
    fresh->fd = -1;
    sup_journal_close(fresh);
    return j->broken ? NL_EIO : NL_OK;
}
