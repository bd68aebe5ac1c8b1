// An overview as JSON and for people.
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "common/base/crypto.h"
#include "tools/format.h"
#include "tools/overview.h"

typedef Nodelink__V1__GetStatusReply Reply;

static const char *state_name(enum nl_node_state state) {
    static const char *const NAMES[] = {"ok", "down", "unreachable", "isolated"};
    return NAMES[state];
}

static size_t tolerated(const struct nl_overview *o) {
    size_t needed = o->voters / 2 + 1;
    return o->health != NL_NO_QUORUM && o->voters_ok > needed ? o->voters_ok - needed : 0;
}

static uint64_t lag(const struct nl_overview *o, const Reply *reply) {
    uint64_t commit = o->leader != NULL ? o->leader->commit : reply->commit;
    return commit > reply->applied ? commit - reply->applied : 0;
}

// ---- JSON ------------------------------------------------------------------

static json_t *number(bool known, uint64_t value) {
    return known ? json_integer((json_int_t)value) : json_null();
}

static json_t *hash_json(const Reply *reply) {
    char hex[2 * NL_SHA256_LEN + 1];
    if (reply == NULL || reply->state_hash.len > NL_SHA256_LEN || reply->state_hash.len == 0) {
        return json_null();
    }
    nl_hex_encode(reply->state_hash.data, reply->state_hash.len, hex);
    return json_string(hex);
}

static json_t *node_json(const struct nl_overview *o, const struct nl_node_view *node) {
    const Reply *r = node->reply;
    json_t *object = json_object();
    json_object_set_new(object, "name", json_string(node->name));
    json_object_set_new(object, "id", json_integer((json_int_t)node->id));
    json_object_set_new(object, "address", json_string(node->address));
    json_object_set_new(object, "role", json_string(node->role));
    json_object_set_new(object, "state", json_string(state_name(node->state)));
    json_object_set_new(object, "term", number(r != NULL, r != NULL ? r->term : 0));
    json_object_set_new(object, "commit", number(r != NULL, r != NULL ? r->commit : 0));
    json_object_set_new(object, "applied", number(r != NULL, r != NULL ? r->applied : 0));
    json_object_set_new(object, "match_index", number(node->match_index > 0, node->match_index));
    json_object_set_new(object, "lag", number(r != NULL, r != NULL ? lag(o, r) : 0));
    json_object_set_new(object, "agents", number(true, r != NULL ? r->agents : 0));
    json_object_set_new(object, "tasks", number(true, r != NULL ? r->tasks_active : 0));
    json_object_set_new(object, "leader_id", number(r != NULL, r != NULL ? r->leader_id : 0));
    json_object_set_new(object, "quorum", r != NULL ? json_boolean(r->quorum) : json_null());
    json_object_set_new(object, "fsync_p99_us", number(r != NULL, r != NULL ? r->fsync_p99_us : 0));
    json_object_set_new(object, "loop_lag_us",
                        number(r != NULL, r != NULL ? r->loop_lag_minute_us : 0));
    json_object_set_new(object, "loop_lag_max_us",
                        number(r != NULL, r != NULL ? r->loop_lag_max_us : 0));
    json_object_set_new(object, "rss_bytes", number(r != NULL, r != NULL ? r->rss_bytes : 0));
    json_object_set_new(object, "uptime_ms", number(r != NULL, r != NULL ? r->uptime_ms : 0));
    json_object_set_new(object, "boot", number(r != NULL, r != NULL ? r->boot : 0));
    json_object_set_new(object, "last_seen_ms",
                        number(node->last_seen_ms != UINT64_MAX, node->last_seen_ms));
    json_object_set_new(object, "version", r != NULL ? json_string(r->version) : json_null());
    json_object_set_new(object, "state_hash", hash_json(r));
    json_object_set_new(object, "error",
                        node->error != NULL ? json_string(node->error) : json_null());
    return object;
}

static json_t *fleet_json(const Nodelink__V1__FleetStatus *f) {
    return json_pack(
        "{s:{s:I, s:I, s:I, s:I, s:I}, s:{s:I, s:I, s:I, s:I, s:I, s:I}}", "agents", "total",
        (json_int_t)f->agents_total, "connected", (json_int_t)f->agents_connected, "disconnected",
        (json_int_t)f->agents_disconnected, "unreachable", (json_int_t)f->agents_unreachable,
        "lost", (json_int_t)f->agents_lost, "tasks", "total", (json_int_t)f->tasks_total, "pending",
        (json_int_t)f->tasks_pending, "dispatched", (json_int_t)f->tasks_dispatched, "running",
        (json_int_t)f->tasks_running, "unknown", (json_int_t)f->tasks_unknown, "terminal",
        (json_int_t)f->tasks_terminal);
}

json_t *nl_overview_json(const struct nl_overview *o) {
    json_t *nodes = json_array();
    json_t *notes = json_array();
    for (size_t i = 0; i < o->n_nodes; i++) {
        json_array_append_new(nodes, node_json(o, &o->nodes[i]));
    }
    for (size_t i = 0; i < o->n_notes; i++) {
        json_array_append_new(notes, json_string(o->notes[i]));
    }
    json_t *object = json_pack(
        "{s:s, s:s, s:s?, s:o, s:{s:I, s:I, s:I}, s:o, s:o, s:{s:s, s:b, s:I}}", "cluster",
        o->cluster, "health", nl_health_name(o->health), "leader", o->leader_name, "term",
        number(o->leader != NULL, o->leader != NULL ? o->leader->term : 0), "quorum", "voters",
        (json_int_t)o->voters, "ok", (json_int_t)o->voters_ok, "tolerates",
        (json_int_t)tolerated(o), "nodes", nodes, "notes", notes, "view", "node",
        o->view != NULL ? o->view->name : "", "linearizable", (int)o->linearizable, "as_of_ms",
        (json_int_t)o->now_ms);
    if (o->view != NULL && o->view->fleet != NULL) {
        json_t *fleet = fleet_json(o->view->fleet);
        json_object_update(object, fleet);
        json_decref(fleet);
    }
    return object;
}

// ---- for people ------------------------------------------------------------

static const char *color_of(enum nl_health health) {
    static const char *const COLORS[] = {"\033[32m", "\033[33m", "\033[31m", "\033[31m"};
    return COLORS[health];
}

static void print_head(const struct nl_overview *o, bool color, FILE *out) {
    char age[32];
    static const char *const WORDS[] = {"HEALTHY", "DEGRADED", "NO QUORUM", "UNREACHABLE"};
    fprintf(out, "CLUSTER %s  %s%s%s  quorum %zu/%zu", *o->cluster != '\0' ? o->cluster : "?",
            color ? color_of(o->health) : "", WORDS[o->health], color ? "\033[0m" : "",
            o->voters_ok, o->voters);
    if (o->health == NL_NO_QUORUM) {
        fprintf(out, "  %zu needed  no leader\n", o->voters / 2 + 1);
        return;
    }
    fprintf(out, "  tolerates %zu more failure%s  leader %s", tolerated(o),
            tolerated(o) == 1 ? "" : "s", o->leader_name);
    if (o->leader != NULL) {
        fprintf(out, " (term %" PRIu64 ", for %s)", o->leader->term,
                nl_format_age(age, o->leader->leader_since_ms));
    }
    fputc('\n', out);
}

static void add_known(struct nl_table *table, bool known, uint64_t value) {
    if (known) {
        nl_table_add(table, "%" PRIu64, value);
    } else {
        nl_table_add(table, "-");
    }
}

static void add_node(const struct nl_overview *o, struct nl_table *table,
                     const struct nl_node_view *node) {
    static const char *const STATES[] = {"ok", "DOWN", "UNREACHABLE", "ISOLATED"};
    static const Reply NONE = NODELINK__V1__GET_STATUS_REPLY__INIT;
    const Reply *r = node->reply != NULL ? node->reply : &NONE;
    bool known = node->reply != NULL;
    bool self = node->reply != NULL && node->reply == o->leader;
    char text[32];
    nl_table_add(table, "%s", node->name);
    nl_table_add(table, "%s", node->address);
    nl_table_add(table, "%s", node->role);
    nl_table_add(table, "%s", STATES[node->state]);
    nl_table_add(table, "%s", self ? "-" : nl_format_age(text, node->last_seen_ms));
    add_known(table, known, r->term);
    add_known(table, known, r->commit);
    add_known(table, known, r->applied);
    add_known(table, node->match_index > 0, node->match_index);
    add_known(table, known, known ? lag(o, r) : 0);
    nl_table_add(table, "%s", nl_format_us(text, r->fsync_p99_us));
    add_known(table, known, r->agents);
    add_known(table, known, r->tasks_active);
    nl_table_add(table, "%s", r->version);
    nl_table_add(table, "-");  // certificates come with TLS between the nodes
}

// How far the fullest node is above the emptiest, in percent of the mean.
static void print_skew(const struct nl_overview *o, FILE *out) {
    uint64_t least = UINT64_MAX, most = 0, sum = 0, n = 0;
    for (size_t i = 0; i < o->n_nodes; i++) {
        const Reply *r = o->nodes[i].reply;
        if (r != NULL) {
            least = r->agents < least ? r->agents : least;
            most = r->agents > most ? r->agents : most;
            sum += r->agents;
            n++;
        }
    }
    if (n > 1 && sum > 0) {
        uint64_t permille = (most - least) * n * 1000 / sum;
        fprintf(out, "   skew %" PRIu64 ".%" PRIu64 "%%", permille / 10, permille % 10);
    }
}

static void print_fleet(const struct nl_overview *o, FILE *out) {
    const Nodelink__V1__FleetStatus *f = o->view->fleet;
    if (f == NULL) {
        return;
    }
    fprintf(out, "AGENTS %u connected / %u reconnecting / %u unreachable / %u lost",
            f->agents_connected, f->agents_disconnected, f->agents_unreachable, f->agents_lost);
    print_skew(o, out);
    fprintf(out,
            "\nTASKS  %" PRIu64 " running / %" PRIu64 " waiting / %" PRIu64 " unknown / %" PRIu64
            " ended\n",
            f->tasks_running, f->tasks_pending + f->tasks_dispatched, f->tasks_unknown,
            f->tasks_terminal);
}

static void print_view(const struct nl_overview *o, FILE *out) {
    char clock[16] = "?";
    time_t seconds = (time_t)(o->now_ms / 1000);
    struct tm tm;
    if (gmtime_r(&seconds, &tm) != NULL) {
        strftime(clock, sizeof clock, "%H:%M:%S", &tm);
    }
    fprintf(out, "view: %s, %s, as of %sZ\n", o->view->name,
            o->linearizable ? "linearizable" : "stale (this node's own)", clock);
}

void nl_overview_print(const struct nl_overview *o, bool color, FILE *out) {
    static const char *const TITLES[] = {
        "NODE",  "ADDR", "ROLE",      "STATE",  "LAST-SEEN", "TERM",    "COMMIT", "APPLIED",
        "MATCH", "LAG",  "FSYNC-p99", "AGENTS", "TASKS",     "VERSION", "CERT",   NULL};
    struct nl_table table;
    if (o->view == NULL) {
        return;
    }
    print_head(o, color, out);
    nl_table_init(&table, TITLES);
    for (size_t i = 0; i < o->n_nodes; i++) {
        add_node(o, &table, &o->nodes[i]);
    }
    nl_table_print(&table, out);
    nl_table_close(&table);
    print_fleet(o, out);
    for (size_t i = 0; i < o->n_notes; i++) {
        fprintf(out, "! %s\n", o->notes[i]);
    }
    print_view(o, out);
}
