#include "agent/supervisor/spool.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/supervisor/core.h"
#include "common/base/err.h"
#include "common/base/fs.h"

enum { PATH_SIZE = SUP_KEY_SIZE + 16, BLOCK = 4096 };

static const char *const names[2] = {"stdout", "stderr"};

static void path_of(char out[PATH_SIZE], const char *key, unsigned stream) {
    snprintf(out, PATH_SIZE, "%s/%s", key, names[stream]);
}

int sup_spool_open(const char *state_dir, int *ret_fd) {
    char path[4096];
    int n = snprintf(path, sizeof path, "%s/spool", state_dir);
    if (n < 0 || (size_t)n >= sizeof path) {
        return NL_EINVAL;
    }
    int rv = nl_fs_mkdirs(path, 0700);
    if (rv != NL_OK) {
        return rv;
    }
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return nl_err_from_errno(errno);
    }
    *ret_fd = fd;
    return NL_OK;
}

int sup_spool_create(int spool_fd, const char *key, int ret_fds[2]) {
    int fds[2] = {-1, -1};
    sup_spool_delete(spool_fd, key);
    int rv = mkdirat(spool_fd, key, 0700) != 0 ? nl_err_from_errno(errno) : NL_OK;
    for (unsigned i = 0; i < 2 && rv == NL_OK; i++) {
        char path[PATH_SIZE];
        path_of(path, key, i);
        fds[i] = openat(spool_fd, path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
        rv = fds[i] < 0 ? nl_err_from_errno(errno) : NL_OK;
    }
    if (rv != NL_OK) {
        int kept = errno;
        if (fds[0] >= 0) {
            close(fds[0]);
        }
        sup_spool_delete(spool_fd, key);
        errno = kept;
        return rv;
    }
    memcpy(ret_fds, fds, sizeof fds);
    return NL_OK;
}

size_t sup_spool_write(int fd, uint64_t offset, const void *data, size_t len, int *ret_errno) {
    const char *at = data;
    size_t done = 0;
    *ret_errno = 0;
    while (done < len) {
        ssize_t n = pwrite(fd, at + done, len - done, (off_t)(offset + done));
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            *ret_errno = n < 0 ? errno : EIO;
            break;
        }
        done += (size_t)n;
    }
    return done;
}

int sup_spool_punch(int spool_fd, const char *key, const uint64_t base[2]) {
    int rv = NL_OK;
    for (unsigned i = 0; i < 2; i++) {
        uint64_t upto = base[i] / BLOCK * BLOCK;
        char path[PATH_SIZE];
        path_of(path, key, i);
        int fd = upto > 0 ? openat(spool_fd, path, O_RDWR | O_CLOEXEC | O_NOFOLLOW) : -1;
        if (fd < 0) {
            continue;
        }
        if (fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)upto) != 0) {
            rv = NL_EIO;
        }
        close(fd);
    }
    return rv;
}

void sup_spool_measure(int spool_fd, const char *key, uint64_t ret_end[2]) {
    for (unsigned i = 0; i < 2; i++) {
        struct stat st;
        char path[PATH_SIZE];
        path_of(path, key, i);
        bool there = fstatat(spool_fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0;
        ret_end[i] = there ? (uint64_t)st.st_size : 0;
    }
}

int sup_spool_digest(int spool_fd, const char *key, unsigned stream, uint64_t len,
                     uint8_t out[NL_SHA256_LEN]) {
    char path[PATH_SIZE], buffer[16 * 1024];
    path_of(path, key, stream);
    int fd = openat(spool_fd, path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    struct nl_sha256 *hash = nl_sha256_new();
    uint64_t done = 0;
    while (fd >= 0 && hash != NULL && done < len) {
        size_t want = len - done < sizeof buffer ? (size_t)(len - done) : sizeof buffer;
        ssize_t n = pread(fd, buffer, want, (off_t)done);
        if (n <= 0) {
            break;
        }
        nl_sha256_update(hash, buffer, (size_t)n);
        done += (uint64_t)n;
    }
    int rv = hash != NULL && (done == len) ? NL_OK : NL_EIO;
    if (rv == NL_OK) {
        nl_sha256_peek(hash, out);
    }
    if (fd >= 0) {
        close(fd);
    }
    nl_sha256_free(hash);
    return rv;
}

void sup_spool_delete(int spool_fd, const char *key) {
    for (unsigned i = 0; i < 2; i++) {
        char path[PATH_SIZE];
        path_of(path, key, i);
        unlinkat(spool_fd, path, 0);
    }
    unlinkat(spool_fd, key, AT_REMOVEDIR);
}

void sup_spool_sweep(int spool_fd, bool (*keep)(void *user, const char *key), void *user) {
    int fd = openat(spool_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (dir == NULL) {
        if (fd >= 0) {
            close(fd);
        }
        return;
    }
    for (struct dirent *entry = readdir(dir); entry != NULL; entry = readdir(dir)) {
        // Every key begins with a character of an identifier, none with a dot.
        if (entry->d_name[0] != '.' && strlen(entry->d_name) < SUP_KEY_SIZE &&
            !keep(user, entry->d_name)) {
            sup_spool_delete(spool_fd, entry->d_name);
        }
    }
    closedir(dir);
}
