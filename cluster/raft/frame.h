// The content of a log entry: several encoded Commands.
//
//   u32 payload length, u16 version, u16 count, then per command u32 length and its bytes,
//   then zeros up to a multiple of 8. Little endian. The payload length counts the commands with
//   their lengths, not this header and not the padding.
//
// libraft wants lengths that are multiples of 8; its own CRC covers the bytes on disk. Pure; any
// thread.
#ifndef NODELINK_CLUSTER_RAFT_FRAME_H
#define NODELINK_CLUSTER_RAFT_FRAME_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NL_FRAME_VERSION 1
#define NL_FRAME_HEADER_LEN 8
#define NL_FRAME_COMMANDS_MAX UINT16_MAX
#define NL_FRAME_BYTES_MAX (16u * 1024 * 1024)

struct nl_frame {
    uint8_t *data;  // owned
    size_t len;
    size_t cap;
    uint32_t count;
};

void nl_frame_init(struct nl_frame *frame);
void nl_frame_close(struct nl_frame *frame);
// Copies the command. NL_OK; NL_ENOMEM; NL_ETOOBIG (too many or too large); NL_EINVAL (empty).
// On failure the frame is unchanged.
int nl_frame_add(struct nl_frame *frame, const void *command, size_t len);
// Gives the finished bytes away (malloc) and leaves the frame empty. At least one command.
// NL_ENOMEM leaves the frame as it is.
int nl_frame_finish(struct nl_frame *frame, uint8_t **ret, size_t *ret_len);

struct nl_frame_reader {
    const uint8_t *at;
    uint32_t left;
};

// Checks the whole frame; what this build can't have written is NL_ECORRUPT, a newer version is
// NL_EVERSION. The reader borrows `data`.
int nl_frame_open(struct nl_frame_reader *ret, const void *data, size_t len);
// The next command, borrowed; false at the end.
bool nl_frame_next(struct nl_frame_reader *reader, const uint8_t **ret, size_t *ret_len);

#endif
