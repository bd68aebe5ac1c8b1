// A log entry is read from the disk or from a peer that is trusted, but must never be read beyond
// its end: what is accepted is walked to the end and must come out the same when written again.

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/raft/frame.h"
#include "common/base/err.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct nl_frame_reader reader;
    struct nl_frame copy;
    const uint8_t *command;
    uint8_t *again;
    size_t len;
    if (nl_frame_open(&reader, data, size) != NL_OK) {
        return 0;
    }
    nl_frame_init(&copy);
    while (nl_frame_next(&reader, &command, &len)) {
        assert(command >= data && len <= size - (size_t)(command - data));
        int rv = nl_frame_add(&copy, command, len);
        assert(rv == NL_OK);
    }
    nl_frame_finish(&copy, &again, &len);
    assert(len == size && memcmp(again, data, len) == 0);
    free(again);
    return 0;
}
