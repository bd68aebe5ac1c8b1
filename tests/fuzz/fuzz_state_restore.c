// Any bytes as a snapshot: restored to a sound state, or refused with the state as it was. The
// checksum is made to fit, since a fuzzer can't get behind it by chance.

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/state/frame.h"
#include "cluster/state/internal.h"
#include "common/base/err.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int ok, const char *what) {
    if (!ok) {
        fprintf(stderr, "%s\n", what);
        abort();
    }
}

static void sign(uint8_t *data, size_t size) {
    const size_t tail = NL_FRAME_HEAD + NL_STATE_HASH_LEN;
    if (size < tail) {
        return;
    }
    uint8_t *head = data + size - tail;
    memset(head, 0, NL_FRAME_HEAD);
    head[0] = NL_STATE_HASH_LEN;
    head[4] = NL_FRAME_CHECKSUM;
    nl_sum_bytes(nl_hash_bytes(data, size - tail), head + NL_FRAME_HEAD);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const struct nl_state_limits limits = {0};
    struct nl_state *state;
    char why[256] = "";
    uint8_t before[NL_STATE_HASH_LEN], after[NL_STATE_HASH_LEN];
    uint8_t *copy = malloc(size > 0 ? size : 1);
    must(copy != NULL, "memory");
    must(nl_state_new(&limits, &state) == NL_OK, "new");
    if (size > 0) {
        memcpy(copy, data, size);
    }
    sign(copy, size);
    nl_state_hash(state, before);
    int rv = nl_state_restore(state, copy, size);
    must(rv == NL_OK || rv == NL_ECORRUPT, "restore");
    if (rv == NL_OK) {
        must(nl_state_check(state, why, sizeof why) == NL_OK, why);
    } else {
        nl_state_hash(state, after);
        must(memcmp(before, after, sizeof before) == 0, "the state has changed");
    }
    nl_state_free(state);
    free(copy);
    return 0;
}
