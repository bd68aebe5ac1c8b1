// The number of this start.
//
// Every command carries it, so it is on the disk before the first one is sent. It is written only
// when the cluster has told, by a linearizable read, that it knows of no later start. A start that
// is refused so leaves the directory as it was: an old copy, or one made anew, is refused however
// often it is started, and no start that the cluster has heard of is ever missing in the directory.

#include <stdio.h>
#include <string.h>

#include "cluster/internal.h"
#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/failpoint.h"

enum { READ_MS = 1000, RETRY_MS = 100 };

// The directory was lost and made anew, or is an old copy: the node may have forgotten votes and
// entries.
static const char not_the_last_directory[] =
    "the cluster knows a later start of this node than its data directory does: the directory is "
    "not the node's last one. Remove it and let the node join under a new id";

// The latest start that the directory holds.
static uint64_t counted(const struct nl_cluster *cluster) {
    return cluster->boot_counted ? cluster->boot : cluster->boot - 1;
}

void nl_cluster_check_boot(struct nl_cluster *cluster, uint64_t boot) {
    if (cluster->boot != 0 && boot > counted(cluster)) {  // 0: still opening, see nl_boot_open
        nl_cluster_fatal(cluster, not_the_last_directory);
    }
}

int nl_boot_open(struct nl_cluster *cluster, char *error_text, size_t error_size) {
    uint64_t last = 0;
    const struct nl_node *self = nl_state_node(cluster->state, cluster->id);
    int rv = NL_FAILPOINT("start.boot") ? NL_EIO : nl_data_dir_boot(&cluster->dir, &last);
    if (rv != NL_OK) {
        snprintf(error_text, error_size, "%s: can't read the number of the last start: %s",
                 cluster->dir.path, nl_strerror(rv));
    } else if (self != NULL && self->boot > last) {
        snprintf(error_text, error_size, "%s: %s", cluster->dir.path, not_the_last_directory);
        rv = NL_ECORRUPT;
    }
    cluster->boot = last + 1;
    return rv;
}

// ---- counting --------------------------------------------------------------------

// In a worker: it waits for the disk.
static void count_work(uv_work_t *work) {
    struct nl_cluster *cluster = work->data;
    cluster->boot_result = nl_data_dir_count_boot(&cluster->dir, cluster->boot);
}

static void after_count(uv_work_t *work, int status) {
    struct nl_cluster *cluster = work->data;
    cluster->boot_under_way = false;
    if (cluster->closing || status != 0) {
        nl_cluster_maybe_closed(cluster);
        return;
    }
    if (cluster->boot_result != NL_OK) {
        nl_cluster_fatal(cluster, "the number of this start can't be written");
    }
    cluster->boot_counted = true;
}

static void on_read(void *user, int result, uint64_t index, uint64_t term) {
    struct nl_cluster *cluster = user;
    (void)index, (void)term;
    cluster->boot_under_way = false;
    if (result != NL_OK || cluster->closing) {
        return;
    }
    const struct nl_node *self = nl_state_node(cluster->state, cluster->id);
    nl_cluster_check_boot(cluster, self != NULL ? self->boot : 0);
    cluster->boot_work.data = cluster;
    cluster->boot_under_way =
        uv_queue_work(cluster->loop, &cluster->boot_work, count_work, after_count) == 0;
}

void nl_boot_tick(struct nl_cluster *cluster, uint64_t now_ms) {
    if (cluster->boot_counted || cluster->boot_under_way || cluster->info.leader == 0 ||
        now_ms < cluster->boot_at_ms) {
        return;
    }
    cluster->boot_at_ms = now_ms + RETRY_MS;
    cluster->boot_under_way = nl_cluster_read(cluster, READ_MS, on_read, cluster) == NL_OK;
}
