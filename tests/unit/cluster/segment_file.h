// Segments of libraft's log, put together from the description of their format
// (cluster/raft/segments.h), and copies of directories that hold them.
#ifndef NODELINK_TESTS_UNIT_CLUSTER_SEGMENT_FILE_H
#define NODELINK_TESTS_UNIT_CLUSTER_SEGMENT_FILE_H

#include <stddef.h>
#include <stdint.h>

enum { SEGMENT_FILE_BYTES = 8192, SEGMENT_DATA_BYTES = 24 };

struct segment {
    uint8_t bytes[SEGMENT_FILE_BYTES];
    size_t used;
};

uint32_t segment_crc(const uint8_t *data, size_t len);
void segment_put(uint8_t *at, uint64_t v, unsigned bytes);
void segment_begin(struct segment *s);
void segment_add_batch(struct segment *s, unsigned entries, uint64_t term);

// A closed segment with entries `first` to `last` of one term.
void segment_write_closed(const char *dir, uint64_t first, uint64_t last, uint64_t term);
// The files of one folder; `to` is made. What is zero stays unwritten.
void segment_copy_dir(const char *from, const char *to);

#endif
