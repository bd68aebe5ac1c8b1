// What the files of the log hold, read before libraft touches them.
//
// libraft takes the first bad batch of an open segment for a write that a crash cut off, renames
// the segment to what is left of it, or removes it, and goes on with the next one. If it was
// damage, the entries are gone by then and later ones stand at the wrong index. So the files are
// counted first, and nothing is opened if the count can't be right.
//
// The format is libraft 0.22.1's (src/uv_segment.c, src/uv_encoding.c); all numbers are
// little-endian. Segment: 8 bytes of version (1), then batches. Batch: CRC of the header, CRC of
// the data (4 bytes each), header (8 bytes of count, then per entry 8 term, 1 type, 3 unused,
// 4 length), data. Closed segments are named FIRST-LAST, snapshots snapshot-TERM-INDEX-TIME.
#ifndef NODELINK_CLUSTER_RAFT_SEGMENTS_H
#define NODELINK_CLUSTER_RAFT_SEGMENTS_H

#include <stddef.h>
#include <stdint.h>

// The last entry that libraft can find at most, 0 if there is none. Reads only.
// NL_ECORRUPT: an open segment is damaged in the middle of the log, or the closed ones don't join
// the newest snapshot. NL_EIO, NL_ENOMEM.
int nl_segments_last(const char *dir, uint64_t *ret, char *error_text, size_t error_size);

// Finishes what a crash interrupted: if the snapshot that was to replace the log is complete, the
// log's segments are removed, durably. Else nothing is done: the old log still counts.
// NL_EIO, NL_ENOMEM.
int nl_segments_finish_install(const char *dir, uint64_t index, uint64_t term, char *error_text,
                               size_t error_size);

#endif
