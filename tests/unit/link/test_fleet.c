// A thousand cores against simulated servers: no stampede, and everybody is back within a bound.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "tests/unit/link/fixture.h"

enum { AGENTS = 1000, SERVERS = 3, TICK_MS = 10, UNAVAILABLE = 14 };

struct fleet {
    struct fixture agents[AGENTS];
    int at[AGENTS];  // server of its stream, -1: none
    bool alive[SERVERS];
    int accepts_per_tick;  // beyond it a server refuses
    int attempts_in_tick, attempts_max, attempts;
};

static void make(struct fleet *f) {
    const struct nl_link_core_options options = {.version = "1",
                                                 .hostname = "h",
                                                 .os = "o",
                                                 .backoff_start_ms = 1000,
                                                 .backoff_factor_percent = 150,
                                                 .backoff_cap_ms = 60000,
                                                 .connect_ms = 3000};
    for (int i = 0; i < AGENTS; i++) {
        char id[32];
        snprintf(id, sizeof id, "agent-%d", i);
        struct nl_link_core_options o = options;
        o.agent_id = id;
        fx_init_with(&f->agents[i], "n0:1 n1:1 n2:1", &o);
        f->agents[i].quiet = true;
        f->agents[i].seed = (uint64_t)i + 1;
        f->at[i] = -1;
    }
}

// Lets an agent's attempts of this tick succeed or fail.
static void serve(struct fleet *f, int i, int accepted[SERVERS], int seen) {
    struct fixture *a = &f->agents[i];
    while (a->connects > seen) {
        seen = a->connects;
        f->attempts_in_tick++;
        int server = a->connect_to[1] - '0';
        if (!f->alive[server] || accepted[server] >= f->accepts_per_tick) {
            fx_closed(a, a->call, UNAVAILABLE, "refused");
            continue;
        }
        accepted[server]++;
        fx_headers(a, a->call, true);
        fx_welcome(a, a->call, nl_link_core_epoch(a->core) + 1);
        f->at[i] = server;
    }
}

static void keep_alive(struct fixture *a) {
    Nodelink__V1__Pong pong = NODELINK__V1__PONG__INIT;
    Nodelink__V1__TaskRequest request = NODELINK__V1__TASK_REQUEST__INIT;
    request.control_case = NODELINK__V1__TASK_REQUEST__CONTROL_PONG;
    request.pong = &pong;
    fx_request(a, a->call, &request);
}

static void tick(struct fleet *f) {
    int accepted[SERVERS] = {0};
    f->attempts_in_tick = 0;
    for (int i = 0; i < AGENTS; i++) {
        struct fixture *a = &f->agents[i];
        int seen = a->connects;
        fx_advance(a, TICK_MS);
        serve(f, i, accepted, seen);
        if (f->at[i] >= 0 && a->now_ms % 1000 == 0) {
            keep_alive(a);
        }
    }
    f->attempts += f->attempts_in_tick;
    f->attempts_max = f->attempts_in_tick > f->attempts_max ? f->attempts_in_tick : f->attempts_max;
}

static void run_ms(struct fleet *f, uint64_t ms) {
    for (uint64_t t = 0; t < ms; t += TICK_MS) {
        tick(f);
    }
}

static int connected(const struct fleet *f, int server) {
    int n = 0;
    for (int i = 0; i < AGENTS; i++) {
        n += server < 0 ? f->at[i] >= 0 : f->at[i] == server;
    }
    return n;
}

static void kill_server(struct fleet *f, int server, int accepted[SERVERS]) {
    f->alive[server] = false;
    for (int i = 0; i < AGENTS; i++) {
        if (f->at[i] == server) {
            f->at[i] = -1;
            int seen = f->agents[i].connects;
            fx_closed(&f->agents[i], f->agents[i].call, UNAVAILABLE, "gone");
            serve(f, i, accepted, seen);
        }
    }
}

static void begin(struct fleet *f, int accepts_per_tick) {
    f->accepts_per_tick = accepts_per_tick;
    for (int s = 0; s < SERVERS; s++) {
        f->alive[s] = true;
    }
    int accepted[SERVERS] = {0};
    for (int i = 0; i < AGENTS; i++) {
        int seen = f->agents[i].connects;
        fx_attach(&f->agents[i], 0);
        serve(f, i, accepted, seen);
    }
}

static void one_server_dies(void **state) {
    (void)state;
    struct fleet *f = calloc(1, sizeof *f);
    make(f);
    begin(f, AGENTS);
    assert_int_equal(connected(f, -1), AGENTS);
    run_ms(f, 15000);
    int lost = connected(f, 1);
    assert_in_range(lost, 280, 390);
    f->accepts_per_tick = 5;  // 500 a second and server, as with mutual TLS
    int accepted[SERVERS] = {0};
    kill_server(f, 1, accepted);
    run_ms(f, 6000);  // bound for the loss of one server
    assert_int_equal(connected(f, -1), AGENTS);
    assert_in_range(connected(f, 0), 450, 550);  // the dead one's share went to both
    for (int i = 0; i < AGENTS; i++) {
        fx_close(&f->agents[i]);
    }
    free(f);
}

static void whole_cluster_comes_back(void **state) {
    (void)state;
    struct fleet *f = calloc(1, sizeof *f);
    make(f);
    begin(f, AGENTS);
    run_ms(f, 15000);
    int none[SERVERS] = {0};
    for (int s = 0; s < SERVERS; s++) {
        f->alive[s] = false;
    }
    for (int s = 0; s < SERVERS; s++) {
        kill_server(f, s, none);
    }
    run_ms(f, 60000);
    assert_int_equal(connected(f, -1), 0);
    // Spread: in no 10 ms did more than a few percent of the fleet knock.
    f->attempts = f->attempts_max = 0;
    run_ms(f, 30000);
    assert_true(f->attempts_max < AGENTS * SERVERS * 3 / 100);
    assert_true(f->attempts < AGENTS * SERVERS * 6);
    for (int s = 0; s < SERVERS; s++) {
        f->alive[s] = true;
    }
    f->accepts_per_tick = 5;
    run_ms(f, 75000);  // the cap, and a second round for the unlucky
    assert_int_equal(connected(f, -1), AGENTS);
    for (int i = 0; i < AGENTS; i++) {
        fx_close(&f->agents[i]);
    }
    free(f);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_server_dies),
        cmocka_unit_test(whole_cluster_comes_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
