#include "tools/overview.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

enum { NODES = 3 };

// A cluster of three as the nodes themselves tell it; tests spoil it.
struct cluster {
    Nodelink__V1__GetStatusReply replies[NODES];
    Nodelink__V1__Member members[NODES][NODES];  // by teller
    Nodelink__V1__Member *pointers[NODES][NODES];
    Nodelink__V1__FleetStatus fleet;
    uint8_t hash[NODES][32];
    struct nl_probe probes[NODES];
    struct nl_probes all;
    struct nl_overview overview;
    char *text;
};

static char *NAMES[] = {"n1", "n2", "n3"};
static char *ADDRESSES[] = {"10.0.0.1:7000", "10.0.0.2:7000", "10.0.0.3:7000"};

static void init_member(Nodelink__V1__Member *m, size_t teller, size_t i) {
    nodelink__v1__member__init(m);
    m->id = i + 1;
    m->name = NAMES[i];
    m->grpc_address = ADDRESSES[i];
    m->role = (char *)"voter";
    m->up = true;
    m->last_seen_ms = i == teller ? 0 : 40;
    m->match_index = teller == 1 ? 90211 : 0;
}

static void init_reply(struct cluster *c, size_t i) {
    Nodelink__V1__GetStatusReply *r = &c->replies[i];
    nodelink__v1__get_status_reply__init(r);
    r->cluster = (char *)"prod";
    r->node_id = i + 1;
    r->name = NAMES[i];
    r->version = (char *)"1.2.0";
    r->role = (char *)(i == 1 ? "leader" : "follower");
    r->term = 41;
    r->commit = r->applied = 90211;
    r->leader_id = 2;
    r->state_hash = (ProtobufCBinaryData){32, c->hash[i]};
    r->agents = i == 1 ? 5012 : 2493;
    r->tasks_active = 37;
    r->fsync_p99_us = 1800;
    r->grpc_address = ADDRESSES[i];
    r->quorum = true;
    r->leader_since_ms = 192000;
    for (size_t k = 0; k < NODES; k++) {
        init_member(&c->members[i][k], i, k);
        c->pointers[i][k] = &c->members[i][k];
    }
    r->n_members = NODES;
    r->members = c->pointers[i];
    r->fleet = &c->fleet;
    c->probes[i] = (struct nl_probe){.address = ADDRESSES[i], .reply = r};
}

static void init_cluster(struct cluster *c) {
    *c = (struct cluster){0};
    nodelink__v1__fleet_status__init(&c->fleet);
    c->fleet.agents_total = 10000;
    c->fleet.agents_connected = 9998;
    c->fleet.agents_disconnected = 2;
    c->fleet.tasks_running = 78;
    for (size_t i = 0; i < NODES; i++) {
        init_reply(c, i);
    }
    c->all = (struct nl_probes){c->probes, NODES};
}

// The node doesn't answer.
static void silence(struct cluster *c, size_t i, bool refused) {
    c->probes[i].reply = NULL;
    c->probes[i].error.unreachable = refused;
    snprintf(c->probes[i].error.text, sizeof c->probes[i].error.text,
             refused ? "can't connect to 10.0.0.1:7000" : "no answer from 10.0.0.1:7000 in time");
}

static void look(struct cluster *c) {
    size_t len = 0;
    nl_overview_make(&c->all, false, &c->overview);
    c->overview.linearizable = c->overview.health != NL_NO_QUORUM;
    c->overview.now_ms = 43471000;  // 12:04:31
    FILE *out = open_memstream(&c->text, &len);
    nl_overview_print(&c->overview, false, out);
    fclose(out);
}

static void expect_text(const struct cluster *c, const char *part) {
    if (strstr(c->text, part) == NULL) {
        fail_msg("not in it: %s\n%s", part, c->text);
    }
}

static void test_healthy(void **state) {
    (void)state;
    struct cluster c;
    init_cluster(&c);
    c.replies[2].applied = 90209;
    c.members[1][2].match_index = 90210;
    look(&c);
    assert_int_equal(c.overview.health, NL_HEALTHY);
    assert_int_equal(nl_health_exit(c.overview.health), 0);
    assert_string_equal(
        c.text,
        "CLUSTER prod  HEALTHY  quorum 3/3  tolerates 1 more failure  leader n2 (term 41, for "
        "3m12s)\n"
        "NODE  ADDR           ROLE      STATE  LAST-SEEN  TERM  COMMIT  APPLIED  MATCH  LAG  "
        "FSYNC-p99  AGENTS  TASKS  VERSION  CERT\n"
        "n1    10.0.0.1:7000  follower  ok     40ms       41    90211   90211    90211  0    "
        "1.8ms      2493    37     1.2.0    -\n"
        "n2    10.0.0.2:7000  leader    ok     -          41    90211   90211    90211  0    "
        "1.8ms      5012    37     1.2.0    -\n"
        "n3    10.0.0.3:7000  follower  ok     40ms       41    90211   90209    90210  2    "
        "1.8ms      2493    37     1.2.0    -\n"
        "AGENTS 9998 connected / 2 reconnecting / 0 unreachable / 0 lost   skew 75.5%\n"
        "TASKS  78 running / 0 waiting / 0 unknown / 0 ended\n"
        "view: n2, linearizable, as of 12:04:31Z\n");
    free(c.text);
}

static void test_degraded(void **state) {
    (void)state;
    struct cluster c;
    init_cluster(&c);
    silence(&c, 0, true);
    c.members[1][0].last_seen_ms = 42000;
    c.members[1][0].match_index = 88101;
    look(&c);
    assert_int_equal(c.overview.health, NL_DEGRADED);
    assert_int_equal(nl_health_exit(c.overview.health), 1);
    expect_text(&c, "CLUSTER prod  DEGRADED  quorum 2/3  tolerates 0 more failures  leader n2 ");
    expect_text(
        &c, "n1    10.0.0.1:7000  voter     DOWN   42s        -     -       -        88101  -  ");
    expect_text(&c,
                "! n1 down, last heard of 42s ago: can't connect to 10.0.0.1:7000. Next: start "
                "nodelinkd there (10.0.0.1:7000)");
    free(c.text);
}

static void test_unreachable_from_here_only(void **state) {
    (void)state;
    struct cluster c;
    init_cluster(&c);
    silence(&c, 0, false);
    look(&c);
    assert_int_equal(c.overview.health, NL_DEGRADED);
    assert_int_equal(c.overview.nodes[0].state, NL_NODE_UNREACHABLE);
    expect_text(&c,
                "! n1 can't be reached from here (no answer from 10.0.0.1:7000 in time), the "
                "leader hears it");
    free(c.text);
}

static void test_no_quorum(void **state) {
    (void)state;
    struct cluster c;
    init_cluster(&c);
    silence(&c, 0, true);
    silence(&c, 1, true);
    c.replies[2].role = (char *)"candidate";
    c.replies[2].quorum = false;
    c.replies[2].leader_id = 0;
    look(&c);
    assert_int_equal(c.overview.health, NL_NO_QUORUM);
    assert_int_equal(nl_health_exit(c.overview.health), 2);
    expect_text(&c, "NO QUORUM  quorum 1/3  2 needed  no leader\n");
    expect_text(&c,
                "! no quorum: 1 of 3 voters answer, 2 are needed; nothing can be written, tasks "
                "go on running. Next: start 1 of the nodes that are down");
    expect_text(&c, "view: n3, stale (this node's own)");
    free(c.text);
}

// A follower that has not noticed yet is not believed against a dead leader.
static void test_leader_just_died(void **state) {
    (void)state;
    struct cluster c;
    init_cluster(&c);
    silence(&c, 1, true);
    look(&c);
    assert_int_equal(c.overview.health, NL_NO_QUORUM);
    expect_text(&c, "no leader, though 2 of 3 voters answer: an election is under way");
    free(c.text);
}

static void test_two_leaders(void **state) {
    (void)state;
    struct cluster c;
    init_cluster(&c);
    c.replies[0].role = (char *)"leader";
    c.replies[0].term = 40;
    c.replies[0].quorum = false;
    look(&c);
    assert_int_equal(c.overview.health, NL_DEGRADED);
    assert_string_equal(c.overview.leader_name, "n2");
    assert_int_equal(c.overview.nodes[0].state, NL_NODE_ISOLATED);
    expect_text(&c, "! n1 (term 40) and n2 (term 41) both say that they lead");
    expect_text(&c, "! n1 is in term 40, the leader n2 in 41");
    free(c.text);
}

static void test_different_states(void **state) {
    (void)state;
    struct cluster c;
    init_cluster(&c);
    c.hash[2][0] = 1;
    look(&c);
    assert_int_equal(c.overview.health, NL_DEGRADED);
    expect_text(&c,
                "! n1 and n3 hold different states at index 90211. Next: nodelink cluster verify");
    free(c.text);
}

// --addr with one node: the others are what it says of them.
static void test_one_node(void **state) {
    (void)state;
    struct cluster c;
    init_cluster(&c);
    c.members[0][2].up = false;
    c.members[0][2].last_seen_ms = 9000;
    c.all.count = 1;
    nl_overview_make(&c.all, true, &c.overview);
    assert_int_equal(c.overview.health, NL_DEGRADED);
    assert_string_equal(c.overview.leader_name, "n2");
    assert_int_equal(c.overview.nodes[1].state, NL_NODE_OK);
    assert_int_equal(c.overview.nodes[2].state, NL_NODE_DOWN);
    // Only a leader knows what the others have stored.
    json_t *json = nl_overview_json(&c.overview);
    json_t *node = json_array_get(json_object_get(json, "nodes"), 0);
    assert_true(json_is_null(json_object_get(node, "match_index")));
    json_decref(json);
}

static void test_nobody_answers(void **state) {
    (void)state;
    struct cluster c;
    init_cluster(&c);
    for (size_t i = 0; i < NODES; i++) {
        silence(&c, i, true);
    }
    nl_overview_make(&c.all, false, &c.overview);
    assert_int_equal(c.overview.health, NL_UNREACHABLE);
    assert_int_equal(nl_health_exit(c.overview.health), 3);
}

static void test_read_failed(void **state) {
    (void)state;
    struct cluster c;
    init_cluster(&c);
    nl_overview_make(&c.all, false, &c.overview);
    nl_overview_read_failed(&c.overview, "no answer");
    assert_int_equal(c.overview.health, NL_NO_QUORUM);
    assert_non_null(strstr(c.overview.notes[0], "n2 leads but serves no linearizable read"));
}

// A leader that has not noticed yet that the others are gone.
static void test_read_failed_without_voters(void **state) {
    (void)state;
    struct cluster c;
    init_cluster(&c);
    silence(&c, 0, true);
    silence(&c, 2, true);
    nl_overview_make(&c.all, false, &c.overview);
    nl_overview_read_failed(&c.overview, "no quorum");
    assert_int_equal(c.overview.health, NL_NO_QUORUM);
    assert_non_null(strstr(c.overview.notes[2], "no quorum: 1 of 3 voters answer, 2 are needed"));
}

static void test_json(void **state) {
    (void)state;
    struct cluster c;
    init_cluster(&c);
    silence(&c, 0, true);
    look(&c);
    json_t *o = nl_overview_json(&c.overview);
    json_t *nodes = json_object_get(o, "nodes");
    assert_string_equal(json_string_value(json_object_get(o, "cluster")), "prod");
    assert_string_equal(json_string_value(json_object_get(o, "health")), "degraded");
    assert_string_equal(json_string_value(json_object_get(o, "leader")), "n2");
    assert_int_equal(json_array_size(nodes), NODES);
    static const char *const FIELDS[] = {"name", "id",     "role",    "state",
                                         "term", "commit", "applied", "agents"};
    for (size_t i = 0; i < NODES; i++) {
        for (size_t k = 0; k < sizeof FIELDS / sizeof FIELDS[0]; k++) {
            assert_non_null(json_object_get(json_array_get(nodes, i), FIELDS[k]));
        }
    }
    assert_string_equal(json_string_value(json_object_get(json_array_get(nodes, 0), "state")),
                        "down");
    assert_string_equal(json_string_value(json_object_get(json_array_get(nodes, 1), "role")),
                        "leader");
    assert_int_equal(json_integer_value(json_object_get(json_array_get(nodes, 0), "match_index")),
                     90211);
    assert_true(json_is_null(json_object_get(json_array_get(nodes, 0), "commit")));
    assert_non_null(json_object_get(json_object_get(o, "agents"), "connected"));
    json_decref(o);
    free(c.text);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_healthy),
        cmocka_unit_test(test_degraded),
        cmocka_unit_test(test_unreachable_from_here_only),
        cmocka_unit_test(test_no_quorum),
        cmocka_unit_test(test_leader_just_died),
        cmocka_unit_test(test_two_leaders),
        cmocka_unit_test(test_different_states),
        cmocka_unit_test(test_one_node),
        cmocka_unit_test(test_nobody_answers),
        cmocka_unit_test(test_read_failed),
        cmocka_unit_test(test_read_failed_without_voters),
        cmocka_unit_test(test_json),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
