// Any bytes as commands: applied or refused as corrupt, never a broken invariant. The input is a
// list of commands, each behind its length (u16, little endian).

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cluster/state/state.h"
#include "common/base/err.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void must(int ok, const char *what) {
    if (!ok) {
        fprintf(stderr, "%s\n", what);
        abort();
    }
}

static void check(const struct nl_state *state) {
    char why[256] = "";
    int rv = nl_state_check(state, why, sizeof why);
    must(rv == NL_OK, why);
}

// Whatever a state has come to, its snapshot gives it again.
static void check_snapshot(struct nl_state *state, const struct nl_state_limits *limits) {
    struct nl_state_snapshot *snapshot;
    struct nl_state *other;
    uint8_t *data, a[NL_STATE_HASH_LEN], b[NL_STATE_HASH_LEN];
    size_t len;
    must(nl_state_snapshot_begin(state, &snapshot) == NL_OK, "begin");
    must(nl_state_snapshot_write(snapshot, &data, &len) == NL_OK, "write");
    nl_state_snapshot_end(state, snapshot);
    must(nl_state_new(limits, &other) == NL_OK, "new");
    must(nl_state_restore(other, data, len) == NL_OK, "restore");
    nl_state_hash(state, a);
    nl_state_hash(other, b);
    must(memcmp(a, b, sizeof a) == 0, "hash");
    nl_state_free(other);
    free(data);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const struct nl_state_limits limits = {
        .tasks_per_agent_active_max = 8, .agents_max = 4, .outcomes_per_proposer_max = 8};
    struct nl_state *state;
    must(nl_state_new(&limits, &state) == NL_OK, "new");
    uint64_t index = 0;
    while (size >= 2) {
        size_t len = (size_t)data[0] | (size_t)data[1] << 8;
        data += 2;
        size -= 2;
        len = len < size ? len : size;
        int rv = nl_state_apply(state, ++index, data, len, NULL, NULL);
        must(rv == NL_OK || rv == NL_ECORRUPT, "apply");
        must(nl_state_command_check(data, len) == rv, "command check");
        check(state);
        data += len;
        size -= len;
    }
    check_snapshot(state, &limits);
    nl_state_free(state);
    return 0;
}
