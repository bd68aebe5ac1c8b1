// The spool: STATE_DIR/spool/ID.ATTEMPT/{stdout,stderr}, one pair of files per task. The link
// reads them; only the supervisor writes. An offset in a file is the offset in the stream, so
// dropped bytes are a hole at the front. Single-threaded.
#ifndef NODELINK_AGENT_SUPERVISOR_SPOOL_H
#define NODELINK_AGENT_SUPERVISOR_SPOOL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/base/crypto.h"

// Makes STATE_DIR/spool if missing. *ret_fd is its descriptor. NL_E* of the system.
int sup_spool_open(const char *state_dir, int *ret_fd);
// A new pair of empty files; what was there under this key goes. ret_fds: stdout, stderr.
int sup_spool_create(int spool_fd, const char *key, int ret_fds[2]);
// Bytes written may be fewer than len: *ret_errno then says why (0: all written).
size_t sup_spool_write(int fd, uint64_t offset, const void *data, size_t len, int *ret_errno);
// Frees the blocks wholly below the bases. NL_EIO: the file system can't.
int sup_spool_punch(int spool_fd, const char *key, const uint64_t base[2]);
// Sizes of the files; 0 for one that is not there.
void sup_spool_measure(int spool_fd, const char *key, uint64_t ret_end[2]);
// SHA-256 of the first `len` bytes. NL_EIO when they can't be read.
int sup_spool_digest(int spool_fd, const char *key, unsigned stream, uint64_t len,
                     uint8_t out[NL_SHA256_LEN]);
void sup_spool_delete(int spool_fd, const char *key);
// Deletes every entry that `keep` does not want.
void sup_spool_sweep(int spool_fd, bool (*keep)(void *user, const char *key), void *user);

#endif
