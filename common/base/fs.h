// Files: whole reads with a limit, atomic durable writes (write to a temporary file in
// the same directory, fsync, rename, fsync the directory), private directories, lock files.
#ifndef NODELINK_COMMON_BASE_FS_H
#define NODELINK_COMMON_BASE_FS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

// *ret is owned, NUL-terminated beyond *ret_len. NL_ENOTFOUND, NL_ETOOBIG, NL_EIO, NL_EPERM.
int nl_fs_read(const char *path, size_t limit, char **ret, size_t *ret_len);
// The same of a file for its owner only: NL_EPERM too if group or others may do anything with it,
// and then *ret_mode is its mode (permission bits), else 0.
int nl_fs_read_private(const char *path, size_t limit, char **ret, size_t *ret_len,
                       mode_t *ret_mode);
// First line without its newline and trailing blanks: for token files. As nl_fs_read_private.
int nl_fs_read_secret(const char *path, char **ret);
int nl_fs_write_atomic(const char *path, const void *data, size_t len, mode_t mode);
// mkdir -p with this mode for the parts it makes.
int nl_fs_mkdirs(const char *path, mode_t mode);
// Takes an exclusive lock on path (made if missing) for the life of *ret_fd; NL_EBUSY if held,
// then *ret_holder is the pid written in it (0: not known).
int nl_fs_lock(const char *path, int *ret_fd, pid_t *ret_holder);
// fsync of a directory.
int nl_fs_sync_dir(const char *path);
// Free bytes for unprivileged users on the file system of path.
int nl_fs_free_bytes(const char *path, uint64_t *ret);

#endif
