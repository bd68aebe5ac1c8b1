// The peer's side of scripts/bench-peers: puts to etcd, through the same gRPC wrapping and with the
// same counting as `nodelink bench submit`, so that the client's cost is the same on both sides.
//
//   etcd_put CLIENTS SECONDS VALUE_BYTES ADDRESS...
//
// Prints the JSON of `nodelink bench`. Clients are spread over the addresses, each has one put in
// flight, all of them to an address share one connection.
#include <bench/etcd.pb-c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/rpc/rpc.h"
#include "tools/bench/stats.h"

enum { WARMUP_US = 1000000, CALL_MS = 10000, ADDRESSES_MAX = 16, CLIENTS_MAX = 4096 };

static struct {
    uv_loop_t loop;
    struct nl_rpc *rpc;
    struct nl_rpc_channel *channels[ADDRESSES_MAX];
    size_t n_channels, in_flight;
    uint64_t until_us;
    uint8_t *value;
    size_t value_len;
    struct nl_bench_stats stats;
} run;

struct client {
    size_t index;
    uint64_t n, began_us;
};

static void put(struct client *c);

static void on_reply(void *user, const struct nl_rpc_status *status, ProtobufCMessage *reply) {
    struct client *c = user;
    uint64_t now = nl_clock_mono_us();
    run.in_flight--;
    if (status->code == NL_RPC_OK && reply != NULL) {
        nl_bench_stats_ok(&run.stats, c->began_us, now);
    } else {
        nl_bench_stats_error(&run.stats, now, status->code, status->message);
    }
    nl_rpc_message_free(reply);
    if (now < run.until_us) {
        put(c);
    }
}

static void put(struct client *c) {
    char key[64];
    Etcdserverpb__PutRequest request = ETCDSERVERPB__PUT_REQUEST__INIT;
    struct nl_rpc_call_options options = {.timeout_ms = CALL_MS};
    int n = snprintf(key, sizeof key, "bench-%d-%zu-%llu", (int)getpid(), c->index,
                     (unsigned long long)c->n++);
    request.key = (ProtobufCBinaryData){(size_t)n, (uint8_t *)key};
    request.value = (ProtobufCBinaryData){run.value_len, run.value};
    c->began_us = nl_clock_mono_us();
    if (nl_rpc_unary(run.channels[c->index % run.n_channels], &etcdserverpb__kv__descriptor, "Put",
                     &options, &request.base, on_reply, c, NULL) == NL_OK) {
        run.in_flight++;
    }
}

static void on_closed(void *user) {
    *(bool *)user = true;
}

static bool open_all(char **addresses, int n) {
    struct nl_rpc_channel_options options = {0};
    if (uv_loop_init(&run.loop) != 0 || nl_rpc_new(&run.loop, &run.rpc) != NL_OK) {
        return false;
    }
    for (int i = 0; i < n; i++) {
        if (nl_rpc_channel_new(run.rpc, addresses[i], &options, &run.channels[i]) != NL_OK) {
            return false;
        }
        run.n_channels++;
    }
    return true;
}

static void close_all(void) {
    bool closed = false;
    for (size_t i = 0; i < run.n_channels; i++) {
        nl_rpc_channel_free(run.channels[i]);
    }
    nl_rpc_close(run.rpc, on_closed, &closed);
    while (!closed) {
        uv_run(&run.loop, UV_RUN_ONCE);
    }
    uv_run(&run.loop, UV_RUN_DEFAULT);
    uv_loop_close(&run.loop);
}

int main(int argc, char **argv) {
    long clients = argc > 4 ? strtol(argv[1], NULL, 10) : 0;
    long seconds = argc > 4 ? strtol(argv[2], NULL, 10) : 0;
    long bytes = argc > 4 ? strtol(argv[3], NULL, 10) : 0;
    struct client *list = calloc(CLIENTS_MAX, sizeof *list);
    if (list == NULL || clients < 1 || clients > CLIENTS_MAX || seconds < 1 || bytes < 1 ||
        bytes > 1 << 20 || argc - 4 > ADDRESSES_MAX || !open_all(argv + 4, argc - 4)) {
        fprintf(stderr, "usage: etcd_put CLIENTS SECONDS VALUE_BYTES ADDRESS...\n");
        return 2;
    }
    run.value_len = (size_t)bytes;
    run.value = malloc(run.value_len);
    if (run.value == NULL) {
        return 1;
    }
    memset(run.value, 'v', run.value_len);
    uint64_t from = nl_clock_mono_us() + WARMUP_US;
    run.until_us = from + (uint64_t)seconds * 1000000;
    nl_bench_stats_init(&run.stats, from, run.until_us);
    for (long i = 0; i < clients; i++) {
        list[i].index = (size_t)i;
        put(&list[i]);
    }
    while (run.in_flight > 0) {
        uv_run(&run.loop, UV_RUN_ONCE);
    }
    nl_bench_stats_stop(&run.stats, nl_clock_mono_us());
    json_t *result = nl_bench_stats_json(&run.stats);
    json_dumpf(result, stdout, JSON_INDENT(2));
    putchar('\n');
    json_decref(result);
    close_all();
    free(run.value);
    free(list);
    return run.stats.errors == 0 ? 0 : 1;
}
