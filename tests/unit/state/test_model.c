// Random command sequences against the naive model: outcome, every record and every effect after
// each command; snapshots held over some of them; restores at random places.
//
// NODELINK_STATE_SEEDS=N runs N seeds, NODELINK_STATE_SEED=S begins with S (both for long runs and
// for replaying a failure).

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/err.h"
#include "tests/unit/state/fixture.h"
#include "tests/unit/state/generate.h"
#include "tests/unit/state/model.h"

#define COMMANDS 1500

static const struct nl_state_limits limits = {.tasks_per_agent_active_max = 8,
                                              .agents_max = 5,
                                              .outcomes_per_proposer_max = 10,
                                              .tails_bytes_max = 60};

struct run {
    struct fx fx;
    struct generator g;
    struct model model, before;
    struct {
        uint8_t *data;
        size_t len;
    } log[COMMANDS];
    size_t at;
    // A snapshot held while commands are applied, and what it has to come to.
    struct nl_state_snapshot *held;
    uint8_t *expected;
    size_t expected_len;
    size_t codes[16];
};
static struct run run;
static uint64_t current_seed;

#define SAME(condition)                                                                      \
    do {                                                                                     \
        if (!(condition)) {                                                                  \
            fail_msg("seed %llu, command %zu: not so: %s", (unsigned long long)current_seed, \
                     run.at, #condition);                                                    \
        }                                                                                    \
    } while (0)

static bool same_text(const char *text, const char *expected) {
    // A text that isn't there is NULL, never "".
    return expected[0] == '\0' ? text == NULL : text != NULL && strcmp(text, expected) == 0;
}

// ---- records ------------------------------------------------------------------------

// len 0: there is none.
static bool same_message(const void *message, const uint8_t *expected, size_t len) {
    uint8_t packed[MODEL_BYTES];
    if (message == NULL || len == 0) {
        return (message == NULL) == (len == 0);
    }
    const ProtobufCMessage *m = message;
    return protobuf_c_message_get_packed_size(m) == len &&
           protobuf_c_message_pack(m, packed) == len && memcmp(packed, expected, len) == 0;
}

static void compare_attempts(const struct nl_task *t, const struct model_task *m) {
    SAME((t->earlier == NULL ? 0 : t->earlier->n_attempts) == m->attempt - 1);
    for (uint32_t i = 0; i + 1 < m->attempt; i++) {
        const Nodelink__V1__AttemptRecord *a = t->earlier->attempts[i];
        const struct model_attempt *e = &m->earlier[i];
        SAME(a->attempt == i + 1);
        SAME((int)a->state == e->state);
        SAME(strcmp(a->reason, e->reason) == 0);
        SAME(same_message(a->result, e->result, e->has_result ? e->result_len : 0));
        SAME(a->dispatched_ms == e->dispatched_ms);
        SAME(a->started_ms == e->started_ms);
        SAME(a->finished_ms == e->finished_ms);
    }
}

static void compare_task(const struct nl_task *t, const struct model_task *m) {
    uint8_t packed[MODEL_BYTES];
    SAME(t != NULL);
    SAME(nodelink__v1__task_spec__pack(t->spec, packed) == m->spec_len);
    SAME(memcmp(packed, m->spec, m->spec_len) == 0);
    SAME((t->result != NULL) == m->has_result);
    if (t->result != NULL) {
        SAME(nodelink__v1__task_result__pack(t->result, packed) == m->result_len);
        SAME(memcmp(packed, m->result, m->result_len) == 0);
    }
    SAME((int)t->state == m->state);
    SAME(t->attempt == m->attempt);
    SAME(t->order == m->order);
    SAME(t->epoch == m->epoch);
    SAME(t->version == m->version);
    SAME(t->created_ms == m->created_ms);
    SAME(t->dispatched_ms == m->dispatched_ms);
    SAME(t->started_ms == m->started_ms);
    SAME(t->finished_ms == m->finished_ms);
    SAME(t->cancel_requested == m->cancel_requested);
    SAME(same_text(t->cancel_reason, m->cancel_reason));
    SAME(same_text(t->reason, m->reason));
    SAME(t->late_results == m->late_results);
    SAME(t->late_attempt == m->late_attempt);
    SAME(same_message(t->late_result, m->late, m->late_len));
    SAME(same_message(t->tail, m->tail, m->tail_len));
    SAME(t->pid == m->pid);
    compare_attempts(t, m);
}

static void compare_labels(const struct nl_agent *a, const struct model_agent *m) {
    char labels[MODEL_TEXT] = "";
    for (size_t i = 0; i < a->n_labels; i++) {
        size_t at = strlen(labels);
        snprintf(labels + at, sizeof labels - at, "%s=%s;", a->labels[i]->key, a->labels[i]->value);
    }
    SAME(strcmp(labels, m->labels) == 0);
}

static void compare_agent(const struct nl_agent *a, const struct model_agent *m) {
    SAME(a != NULL);
    SAME(a->tokens == (uint32_t)m->n_tokens);
    SAME(memcmp(a->token_sha256, m->tokens, a->tokens * (size_t)32) == 0);
    SAME((int)a->connection == m->connection);
    SAME(a->epoch == m->epoch);
    SAME(a->owner == m->owner);
    SAME(a->owner_boot == m->owner_boot);
    SAME(same_text(a->version, m->version));
    SAME(same_text(a->boot_id, m->boot_id));
    SAME(same_text(a->journal_id, m->journal_id));
    SAME(same_text(a->address, m->address));
    SAME(same_text(a->hostname, m->hostname));
    SAME(same_text(a->disconnect_reason, m->disconnect_reason));
    SAME(a->capacity == m->capacity);
    SAME(a->extended == m->extended);
    SAME(a->created_ms == m->created_ms);
    SAME(a->connected_ms == m->connected_ms);
    SAME(a->disconnected_ms == m->disconnected_ms);
    SAME(a->next_order == m->next_order);
    SAME(a->tasks_submitted == m->tasks_submitted);
    SAME(a->tasks_finished == m->tasks_finished);
    SAME(a->tasks_active == model_active(&run.model, m->id));
    compare_labels(a, m);
}

static void compare_node(const struct nl_node *n, const struct model_node *m) {
    SAME(n != NULL);
    SAME(n->boot == m->boot);
    SAME(n->up == m->up);
    SAME(n->changed_ms == m->changed_ms);
    SAME(same_text(n->name, m->name));
    SAME(same_text(n->grpc_address, m->grpc_address));
    SAME(same_text(n->version, m->version));
}

// ---- orders ----------------------------------------------------------------------------

static void compare_orders(void) {
    const struct nl_state *state = run.fx.state;
    struct nl_state_counts counts;
    size_t n = 0;
    nl_state_counts(state, &counts);
    const struct nl_task *last = NULL;
    for (const struct nl_task *t = NULL; (t = nl_state_task_next_older(state, t)) != NULL; n++) {
        SAME(model_task(&run.model, t->id) != NULL);
        SAME(last == NULL || t->created_ms < last->created_ms ||
             (t->created_ms == last->created_ms && strcmp(t->id, last->id) < 0));
        SAME(last == NULL || nl_state_task_older(state, last->created_ms, last->id) == t);
        last = t;
    }
    SAME(n == counts.tasks_total);
    n = 0;
    const char *after = NULL;
    for (const struct nl_agent *a; (a = nl_state_agent_next(state, after)) != NULL; n++) {
        SAME(after == NULL || strcmp(after, a->id) < 0);
        after = a->id;
        uint64_t order = 0;
        uint32_t active = 0;
        for (const struct nl_task *t = NULL; (t = nl_state_agent_task_next(state, a, t)) != NULL;
             active++) {
            SAME(strcmp(t->spec->agent_id, a->id) == 0 && !nl_task_is_terminal(t->state));
            SAME(active == 0 || t->order > order);
            order = t->order;
        }
        SAME(active == a->tasks_active);
    }
    SAME(n == counts.agents_total);
}

static void compare_all(void) {
    struct model *m = &run.model;
    const struct nl_state *state = run.fx.state;
    struct nl_state_counts counts, expected;
    memset(&expected, 0, sizeof expected);
    SAME(nl_state_clock_ms(state) == m->clock_ms);
    for (int i = 0; i < MODEL_NODES; i++) {
        if (m->nodes[i].used) {
            compare_node(nl_state_node(state, m->nodes[i].id), &m->nodes[i]);
        }
    }
    for (int i = 0; i < MODEL_AGENTS; i++) {
        if (m->agents[i].used) {
            compare_agent(nl_state_agent(state, m->agents[i].id), &m->agents[i]);
            expected.agents[m->agents[i].connection]++;
            expected.agents_total++;
        }
    }
    for (int i = 0; i < MODEL_TASKS; i++) {
        if (m->tasks[i].used) {
            compare_task(nl_state_task(state, m->tasks[i].id), &m->tasks[i]);
            expected.tasks[m->tasks[i].state]++;
            expected.tasks_total++;
            expected.tasks_terminal += m->tasks[i].state >= NL_TASK_COMPLETED;
            expected.tails_bytes += m->tasks[i].tail_len > 0 ? m->tasks[i].tail_bytes : 0;
        }
    }
    nl_state_counts(state, &counts);
    SAME(memcmp(&counts, &expected, sizeof counts) == 0);
    compare_orders();
}

// ---- effects ----------------------------------------------------------------------------

static const struct fx_effect *find_effect(enum nl_effect_kind kind, const char *id,
                                           size_t *ret_count) {
    const struct fx_effect *found = NULL;
    *ret_count = 0;
    for (size_t i = 0; i < run.fx.n_effects; i++) {
        const struct fx_effect *e = &run.fx.effects[i];
        if (e->kind == kind && strcmp(e->id, id) == 0) {
            found = found == NULL ? e : found;
            ++*ret_count;
        }
    }
    return found;
}

static void compare_task_effects(const char *id) {
    const struct model_task *old = model_task(&run.before, id);
    const struct model_task *now = model_task(&run.model, id);
    size_t changed, pruned;
    const struct fx_effect *effect = find_effect(NL_EFFECT_TASK, id, &changed);
    find_effect(NL_EFFECT_TASK_PRUNED, id, &pruned);
    SAME(pruned == (old != NULL && now == NULL));
    bool touched = now != NULL && (old == NULL || old->version != now->version);
    // One change per command; losing its tail to the bound of all is another one.
    uint64_t changes = !touched ? 0 : old == NULL ? 1 : now->version - old->version;
    SAME(changed == changes && changes <= 2);
    if (touched) {
        SAME((int)effect->old_state == (old == NULL ? 0 : old->state));
        SAME((int)effect->state == now->state);
        SAME(effect->epoch == now->epoch);
    }
}

static void compare_agent_effects(const char *id) {
    const struct model_agent *old = model_agent(&run.before, id);
    const struct model_agent *now = model_agent(&run.model, id);
    size_t n;
    const struct fx_effect *effect = find_effect(NL_EFFECT_AGENT, id, &n);
    bool touched = now != NULL && (old == NULL || memcmp(old, now, sizeof *now) != 0);
    SAME((n > 0) == touched);
    SAME(!touched || (int)effect->old_connection == (old == NULL ? 0 : old->connection));
    SAME(!touched || (int)effect->connection == now->connection);
}

static void compare_effects(void) {
    char id[40];
    for (int i = 0; i < 40; i++) {
        snprintf(id, sizeof id, "task-%d", i);
        compare_task_effects(id);
    }
    for (int i = 0; i < 6; i++) {
        snprintf(id, sizeof id, "agent-%d", i);
        compare_agent_effects(id);
    }
}

// ---- running -------------------------------------------------------------------------------

static void hold_snapshot(void) {
    if (run.held == NULL && generator_below(&run.g, 40) == 0) {
        run.expected = fx_snapshot(run.fx.state, &run.expected_len);
        assert_int_equal(nl_state_snapshot_begin(run.fx.state, &run.held), NL_OK);
    } else if (run.held != NULL && generator_below(&run.g, 30) == 0) {
        uint8_t *data;
        size_t len;
        assert_int_equal(nl_state_snapshot_write(run.held, &data, &len), NL_OK);
        SAME(len == run.expected_len && memcmp(data, run.expected, len) == 0);
        nl_state_snapshot_end(run.fx.state, run.held);
        run.held = NULL;
        free(data);
        free(run.expected);
    }
}

static void step(void) {
    size_t len;
    uint8_t *data = generate(&run.g, run.fx.state, &len);
    run.log[run.at].data = data;
    run.log[run.at].len = len;
    run.before = run.model;
    Nodelink__V1__Command *command = nodelink__v1__command__unpack(NULL, len, data);
    assert_non_null(command);
    model_apply(&run.model, command);
    struct nl_outcome outcome = fx_apply_bytes(&run.fx, data, len);
    SAME(outcome.code == run.model.outcome.code);
    SAME(outcome.value == run.model.outcome.value);
    SAME(run.fx.duplicate == run.model.duplicate);
    run.codes[outcome.code]++;
    nodelink__v1__command__free_unpacked(command, NULL);
    compare_all();
    compare_effects();
    hold_snapshot();
}

// A restored state goes on exactly like the one that was never stopped.
static void replay_from(size_t cut) {
    static struct fx other;
    size_t len, whole_len;
    fx_open(&other, &limits);
    for (size_t i = 0; i < COMMANDS; i++) {
        if (i == cut) {
            uint8_t *data = fx_snapshot(other.state, &len);
            fx_close(&other);
            fx_open(&other, &limits);
            assert_int_equal(nl_state_restore(other.state, data, len), NL_OK);
            free(data);
        }
        assert_int_equal(
            nl_state_apply(other.state, i + 1, run.log[i].data, run.log[i].len, NULL, NULL), NL_OK);
    }
    uint8_t *data = fx_snapshot(other.state, &len);
    uint8_t *whole = fx_snapshot(run.fx.state, &whole_len);
    SAME(len == whole_len && memcmp(data, whole, len) == 0);
    free(data);
    free(whole);
    fx_close(&other);
}

static void run_seed(uint64_t seed) {
    current_seed = seed;
    memset(run.codes, 0, sizeof run.codes);
    fx_open(&run.fx, &limits);
    generator_init(&run.g, seed);
    model_init(&run.model, &limits);
    for (run.at = 0; run.at < COMMANDS; run.at++) {
        step();
    }
    if (run.held != NULL) {
        nl_state_snapshot_end(run.fx.state, run.held);
        run.held = NULL;
        free(run.expected);
    }
    replay_from(generator_below(&run.g, COMMANDS));
    replay_from(generator_below(&run.g, COMMANDS));
    for (size_t i = 0; i < COMMANDS; i++) {
        free(run.log[i].data);
    }
    fx_close(&run.fx);
}

static uint64_t setting(const char *name, uint64_t fallback) {
    const char *text = getenv(name);
    return text == NULL ? fallback : strtoull(text, NULL, 10);
}

static void test_equals_the_model(void **unused) {
    (void)unused;
    size_t codes[16] = {0};
    uint64_t first = setting("NODELINK_STATE_SEED", 1);
    uint64_t seeds = setting("NODELINK_STATE_SEEDS", 12);
    for (uint64_t seed = first; seed < first + seeds; seed++) {
        run_seed(seed);
        for (size_t i = 0; i < 16; i++) {
            codes[i] += run.codes[i];
        }
    }
    // A generator that no longer reaches an outcome would test nothing of it.
    for (int code = NL_OUTCOME_OK; seeds >= 12 && code <= NL_OUTCOME_STALE_BOOT; code++) {
        if (codes[code] == 0) {
            fail_msg("never met: %s", nl_outcome_name((enum nl_outcome_code)code));
        }
    }
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_equals_the_model),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
