#include "cluster/raft/push.h"

#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"

enum { HURRY_MS = 100 };

// libraft's own (src/trail.h): the term of the entry at `index`, 0 when the log doesn't hold it.
// Its header isn't installed; the version is pinned and linked statically (scripts/build-raft).
raft_term TrailTermOf(const struct raft_trail *trail, raft_index index);

static void on_sent(struct raft_io_send *req, int status) {
    (void)status;
    free(req);
}

// An empty AppendEntries behind the last entry that the peer is known to hold: the peer accepts it
// in any state, commits up to `commit` and answers with what the leader knows already. It changes
// nothing of libraft's view of the peer, so losing it or sending it twice does no harm.
static void push_to(struct raft *raft, struct nl_guard *guard, const struct raft_server *server,
                    raft_index match, raft_term term, raft_index commit) {
    struct raft_message message;
    struct raft_io_send *req = malloc(sizeof *req);
    if (req == NULL) {
        return;  // the next heartbeat tells it
    }
    memset(&message, 0, sizeof message);
    message.type = RAFT_APPEND_ENTRIES;
    message.server_id = server->id;
    message.server_address = server->address;
    message.append_entries.term = raft_current_term(raft);
    message.append_entries.prev_log_index = match;
    message.append_entries.prev_log_term = term;
    message.append_entries.leader_commit = commit;
    guard->io.send(&guard->io, req, &message, on_sent);
}

void nl_push_hurry(struct nl_guard *guard, uint64_t id) {
    struct nl_guard_peer *peer = nl_guard_peer(guard, id);
    if (peer != NULL) {
        peer->hurry_until_ms = nl_clock_mono_ms() + HURRY_MS;
    }
}

bool nl_push_commit(struct raft *raft, struct nl_guard *guard, bool all) {
    if (raft_state(raft) != RAFT_LEADER) {
        return false;
    }
    bool left_out = false;
    uint64_t now_ms = nl_clock_mono_ms();
    raft_index commit = raft_commit_index(raft);
    for (unsigned i = 0; i < raft->configuration.n; i++) {
        const struct raft_server *server = &raft->configuration.servers[i];
        struct nl_guard_peer *peer = nl_guard_peer(guard, server->id);
        raft_index match = 0;
        if (server->id == raft->id || server->role == RAFT_SPARE || peer == NULL ||
            raft_match_index(raft, server->id, &match) != 0 || match == 0) {
            continue;
        }
        raft_index news = match < commit ? match : commit;
        if (news <= peer->told_commit) {
            continue;
        }
        if (!all && now_ms >= peer->hurry_until_ms) {
            left_out = true;
            continue;
        }
        raft_term term = TrailTermOf(&raft->trail, match);
        if (term != 0) {
            push_to(raft, guard, server, match, term, news);
        }
    }
    return left_out;
}
