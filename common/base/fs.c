#include "common/base/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "common/base/err.h"

enum { SECRET_LEN_MAX = 64 * 1024, PATH_LEN_MAX = 4096 };

static int errno_err(void) {
    return nl_err_from_errno(errno);
}

// Reads to the end; the file may be larger or smaller than what fstat said.
static int read_all(int fd, size_t limit, char **ret, size_t *ret_len) {
    size_t cap = 4096, len = 0;
    char *data = malloc(cap);
    int rv = data == NULL ? NL_ENOMEM : NL_OK;
    while (rv == NL_OK) {
        if (len + 1 == cap) {
            char *bigger = realloc(data, cap * 2);
            if (bigger == NULL) {
                rv = NL_ENOMEM;
                break;
            }
            data = bigger;
            cap *= 2;
        }
        ssize_t n = read(fd, data + len, cap - len - 1);
        if (n == 0) {
            break;
        }
        if (n < 0) {
            rv = errno == EINTR ? NL_OK : errno_err();
            continue;
        }
        len += (size_t)n;
        rv = len > limit ? NL_ETOOBIG : NL_OK;
    }
    if (rv != NL_OK) {
        free(data);
        return rv;
    }
    data[len] = '\0';
    *ret = data;
    *ret_len = len;
    return NL_OK;
}

int nl_fs_read(const char *path, size_t limit, char **ret, size_t *ret_len) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (fd < 0) {
        return errno_err();
    }
    int rv = read_all(fd, limit, ret, ret_len);
    close(fd);
    return rv;
}

int nl_fs_read_private(const char *path, size_t limit, char **ret, size_t *ret_len,
                       mode_t *ret_mode) {
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    struct stat st;
    *ret_mode = 0;
    if (fd < 0) {
        return errno_err();
    }
    int rv = fstat(fd, &st) != 0 ? errno_err() : NL_OK;
    if (rv == NL_OK && (st.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
        *ret_mode = st.st_mode & 07777;
        rv = NL_EPERM;
    }
    if (rv == NL_OK) {
        rv = read_all(fd, limit, ret, ret_len);
    }
    close(fd);
    return rv;
}

int nl_fs_read_secret(const char *path, char **ret) {
    char *data = NULL;
    size_t len = 0;
    mode_t mode;
    int rv = nl_fs_read_private(path, SECRET_LEN_MAX, &data, &len, &mode);
    if (rv != NL_OK) {
        return rv;
    }
    size_t end = strcspn(data, "\r\n");
    while (end > 0 && (data[end - 1] == ' ' || data[end - 1] == '\t')) {
        end--;
    }
    char *line = end > 0 ? strndup(data, end) : NULL;
    explicit_bzero(data, len);
    free(data);
    if (line == NULL) {
        return end > 0 ? NL_ENOMEM : NL_EINVAL;
    }
    *ret = line;
    return NL_OK;
}

static int write_all(int fd, const char *data, size_t len) {
    while (len > 0) {
        ssize_t n = write(fd, data, len);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            return n < 0 ? errno_err() : NL_EIO;
        }
        data += n;
        len -= (size_t)n;
    }
    return NL_OK;
}

static int parent_of(const char *path, char out[PATH_LEN_MAX]) {
    const char *slash = strrchr(path, '/');
    size_t len = slash == NULL ? 0 : slash == path ? 1 : (size_t)(slash - path);
    if (len >= PATH_LEN_MAX) {
        return NL_EINVAL;
    }
    memcpy(out, len == 0 ? "." : path, len == 0 ? 1 : len);
    out[len == 0 ? 1 : len] = '\0';
    return NL_OK;
}

// fsync before close: a close that reports no error does not mean that the data is down.
static int write_synced(int fd, const void *data, size_t len, mode_t mode) {
    int rv = write_all(fd, data, len);
    if (rv == NL_OK && (fchmod(fd, mode) != 0 || fsync(fd) != 0)) {
        rv = errno_err();
    }
    if (close(fd) != 0 && rv == NL_OK) {
        rv = errno_err();
    }
    return rv;
}

int nl_fs_write_atomic(const char *path, const void *data, size_t len, mode_t mode) {
    char dir[PATH_LEN_MAX], temporary[PATH_LEN_MAX];
    int rv = parent_of(path, dir);
    int n = snprintf(temporary, sizeof temporary, "%s.XXXXXX", path);
    if (rv != NL_OK || n < 0 || (size_t)n >= sizeof temporary) {
        return NL_EINVAL;
    }
    int fd = mkostemp(temporary, O_CLOEXEC);
    if (fd < 0) {
        return errno_err();
    }
    rv = write_synced(fd, data, len, mode);
    if (rv == NL_OK && rename(temporary, path) != 0) {
        rv = errno_err();
    }
    if (rv != NL_OK) {
        unlink(temporary);
        return rv;
    }
    return nl_fs_sync_dir(dir);
}

int nl_fs_mkdirs(const char *path, mode_t mode) {
    char part[PATH_LEN_MAX];
    size_t len = strlen(path);
    if (len == 0 || len >= sizeof part) {
        return NL_EINVAL;
    }
    memcpy(part, path, len + 1);
    for (char *p = part + 1;; p++) {
        if (*p != '/' && *p != '\0') {
            continue;
        }
        char kept = *p;
        *p = '\0';
        if (mkdir(part, mode) != 0 && errno != EEXIST) {
            return errno_err();
        }
        if (kept == '\0') {
            break;
        }
        *p = kept;
    }
    struct stat st;
    if (stat(path, &st) != 0) {
        return errno_err();
    }
    return S_ISDIR(st.st_mode) ? NL_OK : NL_EEXIST;
}

static pid_t read_pid(int fd) {
    char text[32] = {0};
    ssize_t n = pread(fd, text, sizeof text - 1, 0);
    long pid = n > 0 ? strtol(text, NULL, 10) : 0;
    return pid > 0 && pid <= INT32_MAX ? (pid_t)pid : 0;
}

static int write_pid(int fd) {
    char text[32];
    int len = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    if (ftruncate(fd, 0) != 0 || pwrite(fd, text, (size_t)len, 0) != len) {
        return NL_EIO;
    }
    return NL_OK;
}

int nl_fs_lock(const char *path, int *ret_fd, pid_t *ret_holder) {
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOCTTY, 0600);
    if (fd < 0) {
        return errno_err();
    }
    // flock, not fcntl: a fcntl lock is lost when anything in the process closes the file.
    if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
        int rv = errno == EWOULDBLOCK ? NL_EBUSY : errno_err();
        if (rv == NL_EBUSY && ret_holder != NULL) {
            *ret_holder = read_pid(fd);
        }
        close(fd);
        return rv;
    }
    int rv = write_pid(fd);
    if (rv != NL_OK) {
        close(fd);
        return rv;
    }
    *ret_fd = fd;
    return NL_OK;
}

int nl_fs_sync_dir(const char *path) {
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0) {
        return errno_err();
    }
    int rv = fsync(fd) != 0 ? errno_err() : NL_OK;
    close(fd);
    return rv;
}

int nl_fs_free_bytes(const char *path, uint64_t *ret) {
    struct statvfs st;
    if (statvfs(path, &st) != 0) {
        return errno_err();
    }
    *ret = (uint64_t)st.f_bavail * (uint64_t)st.f_frsize;
    return NL_OK;
}
