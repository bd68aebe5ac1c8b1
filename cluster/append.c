// The leader's side of proposing: batches of commands, its own and its peers', become log entries.

#include <stdlib.h>
#include <utlist.h>

#include "cluster/internal.h"
#include "common/base/err.h"

enum {
    ENTRY_BYTES_MAX = 256 * 1024,
    ENTRIES_IN_FLIGHT_MAX = 256,
    QUEUE_BYTES_MAX = 64 * 1024 * 1024,
    COMMAND_OVERHEAD = 4,
};

// An entry on its way, with those of its batches that want a word if leadership is lost.
struct entry {
    struct nl_cluster *cluster;
    struct nl_append_batch *own;  // peers see the new term by themselves
};

static void batch_free(struct nl_append_batch *batch) {
    if (batch->peer != NULL) {
        nl_serve_unref(batch->peer);
    }
    nl_frame_close(&batch->frame);
    nl_rpc_message_free((ProtobufCMessage *)batch->request);
    free(batch);
}

static void refuse(struct nl_cluster *cluster, struct nl_append_batch *batch,
                   enum nl_core_verdict verdict) {
    if (batch->peer != NULL) {
        nl_serve_reply(batch->peer, batch->request->id,
                       verdict == NL_CORE_BUSY ? NODELINK__V1__PEER_REPLY__CODE__BUSY
                                               : NODELINK__V1__PEER_REPLY__CODE__NOT_LEADER,
                       0);
    } else {
        nl_propose_verdict(cluster, &batch->own, verdict, 0);
    }
    batch_free(batch);
}

// ---- in ----------------------------------------------------------------------

// What can't be decoded would stop every node when it applies.
static bool decodes(const ProtobufCBinaryData *command) {
    Nodelink__V1__Command *c = nodelink__v1__command__unpack(NULL, command->len, command->data);
    bool ok = c != NULL && c->proposer != 0 && c->boot != 0 && c->sequence != 0;
    nodelink__v1__command__free_unpacked(c, NULL);
    return ok;
}

static bool is_valid(const Nodelink__V1__Propose *propose, size_t *ret_bytes) {
    size_t bytes = 0;
    if (propose->n_commands == 0 || propose->n_commands > NL_FRAME_COMMANDS_MAX) {
        return false;
    }
    for (size_t i = 0; i < propose->n_commands; i++) {
        if (propose->commands[i].len == 0 || !decodes(&propose->commands[i])) {
            return false;
        }
        bytes += propose->commands[i].len + COMMAND_OVERHEAD;
    }
    *ret_bytes = bytes;
    return bytes <= NL_FRAME_BYTES_MAX - NL_FRAME_HEADER_LEN;
}

static void refuse_request(struct nl_serve *peer, Nodelink__V1__PeerRequest *request,
                           Nodelink__V1__PeerReply__Code code) {
    nl_serve_reply(peer, request->id, code, 0);
    nl_rpc_message_free((ProtobufCMessage *)request);
}

void nl_append_remote(struct nl_cluster *cluster, struct nl_serve *peer,
                      Nodelink__V1__PeerRequest *request) {
    size_t bytes = 0;
    if (cluster->info.role != NL_RAFT_LEADER) {
        refuse_request(peer, request, NODELINK__V1__PEER_REPLY__CODE__NOT_LEADER);
        return;
    }
    if (cluster->disk_full || cluster->append.queued_bytes > QUEUE_BYTES_MAX) {
        refuse_request(peer, request, NODELINK__V1__PEER_REPLY__CODE__BUSY);
        return;
    }
    if (!is_valid(request->propose, &bytes)) {
        nl_log(NL_LOG_ERROR, "cluster", "invalid commands from a peer", "node",
               nl_log_u64(peer->node_id).s, NULL);
        refuse_request(peer, request, NODELINK__V1__PEER_REPLY__CODE__INVALID);
        return;
    }
    struct nl_append_batch *batch = calloc(1, sizeof *batch);
    if (batch == NULL) {
        refuse_request(peer, request, NODELINK__V1__PEER_REPLY__CODE__BUSY);
        return;
    }
    nl_serve_ref(peer);
    batch->peer = peer;
    batch->request = request;
    batch->propose = request->propose;
    batch->bytes = bytes;
    DL_APPEND(cluster->append.queue, batch);
    cluster->append.queued_bytes += bytes;
}

static bool give_own(void *user, const uint8_t *command, size_t len) {
    struct nl_append_batch *batch = user;
    if (batch->frame.count > 0 && batch->frame.len + len > ENTRY_BYTES_MAX) {
        return false;
    }
    return nl_frame_add(&batch->frame, command, len) == NL_OK;
}

// The proposals of this node that are ready, as one batch; NULL: none.
static struct nl_append_batch *take_own(struct nl_cluster *cluster, uint64_t now_ms) {
    struct nl_append_batch *batch = NULL;
    if (cluster->disk_full || !cluster->boot_counted || now_ms < cluster->proposer.hold_until_ms ||
        !nl_core_has_ready(cluster->proposer.core)) {
        return NULL;
    }
    batch = calloc(1, sizeof *batch);
    if (batch == NULL) {
        return NULL;
    }
    nl_frame_init(&batch->frame);
    if (!nl_core_take(cluster->proposer.core, now_ms, give_own, batch, &batch->own)) {
        batch_free(batch);
        return NULL;
    }
    batch->bytes = batch->frame.len;
    return batch;
}

// ---- out ---------------------------------------------------------------------

static void on_entry_done(void *user, int result) {
    struct entry *entry = user;
    struct nl_cluster *cluster = entry->cluster;
    struct nl_append_batch *batch, *next;
    cluster->append.entries_in_flight--;
    DL_FOREACH_SAFE (entry->own, batch, next) {
        DL_DELETE(entry->own, batch);
        if (result != NL_OK) {
            nl_propose_verdict(cluster, &batch->own, NL_CORE_LOST, 0);
        }
        batch_free(batch);
    }
    free(entry);
}

static int add_to_frame(struct nl_frame *frame, const struct nl_append_batch *batch) {
    int rv = NL_OK;
    if (batch->peer == NULL) {
        struct nl_frame_reader reader = {batch->frame.data + NL_FRAME_HEADER_LEN,
                                         batch->frame.count};
        const uint8_t *command;
        size_t len;
        while (rv == NL_OK && nl_frame_next(&reader, &command, &len)) {
            rv = nl_frame_add(frame, command, len);
        }
        return rv;
    }
    for (size_t i = 0; rv == NL_OK && i < batch->propose->n_commands; i++) {
        rv = nl_frame_add(frame, batch->propose->commands[i].data, batch->propose->commands[i].len);
    }
    return rv;
}

static bool fits(const struct nl_frame *frame, const struct nl_append_batch *batch) {
    size_t commands = batch->peer == NULL ? batch->frame.count : batch->propose->n_commands;
    return frame->count == 0 || (frame->len + batch->bytes <= ENTRY_BYTES_MAX &&
                                 frame->count + commands <= NL_FRAME_COMMANDS_MAX);
}

static void refuse_all(struct nl_cluster *cluster, struct nl_append_batch *batches,
                       enum nl_core_verdict verdict) {
    struct nl_append_batch *batch, *next;
    DL_FOREACH_SAFE (batches, batch, next) {
        DL_DELETE(batches, batch);
        refuse(cluster, batch, verdict);
    }
}

// The log has them: peers hear it now, the own ones are kept for the case that leadership is lost.
static void taken_over(struct nl_append_batch *batches, struct entry *entry) {
    struct nl_append_batch *batch, *next;
    DL_FOREACH_SAFE (batches, batch, next) {
        DL_DELETE(batches, batch);
        if (batch->peer == NULL) {
            nl_frame_close(&batch->frame);
            DL_APPEND(entry->own, batch);
            continue;
        }
        nl_serve_taken_over(batch->peer, batch->request->id);
        batch_free(batch);
    }
}

// One entry of as many waiting batches as fit. false: nothing more can be done now.
static bool append_one(struct nl_cluster *cluster) {
    struct nl_append *append = &cluster->append;
    struct nl_append_batch *batches = NULL, *batch, *next;
    struct nl_frame frame;
    struct entry *entry = calloc(1, sizeof *entry);
    if (entry == NULL) {
        return false;
    }
    entry->cluster = cluster;
    nl_frame_init(&frame);
    DL_FOREACH_SAFE (append->queue, batch, next) {
        if (!fits(&frame, batch) || add_to_frame(&frame, batch) != NL_OK) {
            break;
        }
        DL_DELETE(append->queue, batch);
        DL_APPEND(batches, batch);
        append->queued_bytes -= batch->bytes;
    }
    int rv =
        frame.count > 0 ? nl_raft_append(cluster->raft, &frame, on_entry_done, entry) : NL_EAGAIN;
    nl_frame_close(&frame);
    if (rv != NL_OK) {
        refuse_all(cluster, batches, rv == NL_ENOTLEADER ? NL_CORE_REFUSED : NL_CORE_BUSY);
        free(entry);
        return false;
    }
    append->entries_in_flight++;
    taken_over(batches, entry);
    return true;
}

void nl_append_cancel(struct nl_cluster *cluster) {
    struct nl_append_batch *batches = cluster->append.queue;
    cluster->append.queue = NULL;
    cluster->append.queued_bytes = 0;
    refuse_all(cluster, batches, NL_CORE_REFUSED);
}

void nl_append_flush(struct nl_cluster *cluster) {
    struct nl_append *append = &cluster->append;
    uint64_t now_ms = uv_now(cluster->loop);
    if (cluster->info.role != NL_RAFT_LEADER) {
        if (append->queue != NULL) {
            nl_append_cancel(cluster);
        }
        return;
    }
    while (append->entries_in_flight < ENTRIES_IN_FLIGHT_MAX) {
        struct nl_append_batch *own = take_own(cluster, now_ms);
        if (own != NULL) {
            DL_APPEND(append->queue, own);
            append->queued_bytes += own->bytes;
        }
        if (append->queue == NULL || !append_one(cluster)) {
            return;
        }
    }
}
