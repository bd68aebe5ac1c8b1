#include "tests/unit/state/generate.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef Nodelink__V1__Command Command;

void generator_init(struct generator *g, uint64_t seed) {
    memset(g, 0, sizeof *g);
    g->seed = seed;
    g->time_ms = 1000;
}

// splitmix64
uint64_t generator_next(struct generator *g) {
    uint64_t z = g->seed += 0x9e3779b97f4a7c15ULL;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
    return z ^ (z >> 31);
}

uint64_t generator_below(struct generator *g, uint64_t n) {
    return generator_next(g) % n;
}

static bool chance(struct generator *g, uint64_t percent) {
    return generator_below(g, 100) < percent;
}

// ---- values ----------------------------------------------------------------------

static char *text(struct generator *g, const char *prefix, uint64_t n) {
    assert(g->n_text < 32);
    char *out = g->text[g->n_text++];
    snprintf(out, sizeof g->text[0], "%s%llu", prefix, (unsigned long long)n);
    return out;
}

static char *agent_id(struct generator *g) {
    return chance(g, 1) ? (char *)"-bad" : text(g, "agent-", generator_below(g, 6));
}

static char *task_id(struct generator *g) {
    return chance(g, 1) ? (char *)"" : text(g, "task-", generator_below(g, 40));
}

static char *words(struct generator *g) {
    static const char *const some[] = {"", "one", "two words", "\xc3\xa4", "three"};
    return chance(g, 1) ? (char *)"\xff!!" : (char *)some[generator_below(g, 5)];
}

static uint64_t node_boot(struct generator *g, const struct nl_state *state, uint64_t node) {
    const struct nl_node *n = nl_state_node(state, node);
    uint64_t boot = n == NULL ? 1 : n->boot;
    return chance(g, 85) ? boot : boot + generator_below(g, 3) - (boot > 1 ? 1 : 0);
}

static uint64_t epoch_of(struct generator *g, const struct nl_state *state, const char *agent) {
    const struct nl_agent *a = nl_state_agent(state, agent);
    uint64_t epoch = a == NULL ? 1 : a->epoch;
    return chance(g, 88) ? epoch : epoch - generator_below(g, 2) + generator_below(g, 2);
}

// A task that exists, if there is one under the names tried; its agent's id in *ret_agent.
static char *some_task(struct generator *g, const struct nl_state *state, char **ret_agent) {
    const struct nl_task *task = NULL;
    char *id = NULL;
    for (int i = 0; i < 6 && (task == NULL || nl_task_is_terminal(task->state)); i++) {
        id = task_id(g);
        task = nl_state_task(state, id);
    }
    bool right = task != NULL && chance(g, 97);
    *ret_agent = right ? task->spec->agent_id : agent_id(g);
    return id;
}

static uint32_t attempt_of(struct generator *g, const struct nl_state *state, const char *id) {
    const struct nl_task *task = nl_state_task(state, id);
    uint32_t attempt = task == NULL ? 1 : task->attempt;
    return chance(g, 92) ? attempt : (uint32_t)generator_below(g, 4);
}

static ProtobufCBinaryData token(struct generator *g) {
    memset(g->sha256, (int)generator_below(g, 3), sizeof g->sha256);
    return (ProtobufCBinaryData){chance(g, 1) ? 31 : 32, g->sha256};
}

// ---- commands ----------------------------------------------------------------------

// The bodies live until the command is encoded.
union body {
    Nodelink__V1__Noop noop;
    Nodelink__V1__NodeUp node_up;
    Nodelink__V1__NodeDown node_down;
    Nodelink__V1__AgentTokenCreate token_create;
    Nodelink__V1__AgentTokenRevoke token_revoke;
    Nodelink__V1__AgentRegister agent_register;
    Nodelink__V1__AgentDisconnect agent_disconnect;
    Nodelink__V1__AgentTimeout agent_timeout;
    Nodelink__V1__TaskSubmit submit;
    Nodelink__V1__TaskStart start;
    Nodelink__V1__TaskFinish finish;
    Nodelink__V1__TaskCancelRequest cancel;
    Nodelink__V1__TaskExpire expire;
    Nodelink__V1__TaskPrune prune;
};

struct draft {
    Command command;
    union body body;
    Nodelink__V1__TaskSpec spec;
    Nodelink__V1__TaskResult result;
    Nodelink__V1__Label label;
    Nodelink__V1__Label *labels[1];
    Nodelink__V1__TaskRef refs[16];
    Nodelink__V1__TaskRef *ref_list[16];
    char *list[2];
    Nodelink__V1__RetryOn retry_on[2];
    Nodelink__V1__OutputTail tail;
};

static void node_up(struct generator *g, const struct nl_state *state, struct draft *d) {
    nodelink__v1__node_up__init(&d->body.node_up);
    d->body.node_up.node = chance(g, 1) ? 0 : 1 + generator_below(g, 4);
    d->body.node_up.node_boot = node_boot(g, state, d->body.node_up.node);
    d->body.node_up.name = words(g);
    d->body.node_up.grpc_address = words(g);
    d->body.node_up.version = words(g);
}

static void node_down(struct generator *g, const struct nl_state *state, struct draft *d) {
    nodelink__v1__node_down__init(&d->body.node_down);
    d->body.node_down.node = 1 + generator_below(g, 4);
    d->body.node_down.node_boot = node_boot(g, state, d->body.node_down.node);
}

static void token_create(struct generator *g, const struct nl_state *state, struct draft *d) {
    (void)state;
    nodelink__v1__agent_token_create__init(&d->body.token_create);
    d->body.token_create.agent_id = agent_id(g);
    d->body.token_create.token_sha256 = token(g);
}

static void token_revoke(struct generator *g, const struct nl_state *state, struct draft *d) {
    (void)state;
    nodelink__v1__agent_token_revoke__init(&d->body.token_revoke);
    d->body.token_revoke.agent_id = agent_id(g);
}

// Lists most of the agent's active tasks, and something else now and then.
static size_t journal(struct generator *g, const struct nl_state *state, struct draft *d,
                      const char *agent) {
    const struct nl_agent *a = nl_state_agent(state, agent);
    const struct nl_task *task = NULL;
    size_t n = 0;
    while (a != NULL && n < 12 && (task = nl_state_agent_task_next(state, a, task)) != NULL) {
        if (chance(g, 35)) {
            continue;
        }
        nodelink__v1__task_ref__init(&d->refs[n]);
        d->refs[n].task_id = task->id;
        d->refs[n].attempt = chance(g, 95) ? task->attempt : 2;
        d->refs[n].phase = (Nodelink__V1__TaskRef__Phase)generator_below(g, 3);
        n++;
    }
    for (; n < 14 && chance(g, 20); n++) {
        nodelink__v1__task_ref__init(&d->refs[n]);
        d->refs[n].task_id = task_id(g);
        d->refs[n].attempt = 1;
        d->refs[n].phase = NODELINK__V1__TASK_REF__PHASE__RUNNING;
    }
    return n;
}

static void agent_register(struct generator *g, const struct nl_state *state, struct draft *d) {
    Nodelink__V1__AgentRegister *m = &d->body.agent_register;
    nodelink__v1__agent_register__init(m);
    m->agent_id = agent_id(g);
    m->node = 1 + generator_below(g, 4);
    m->node_boot = node_boot(g, state, m->node);
    m->token_sha256 = token(g);
    const struct nl_agent *a = nl_state_agent(state, m->agent_id);
    if (a != NULL && a->tokens > 0 && chance(g, 90)) {
        memcpy(g->sha256, a->token_sha256[0], sizeof g->sha256);
        m->token_sha256.len = 32;
    }
    m->version = words(g);
    m->boot_id = words(g);
    m->hostname = words(g);
    m->address = words(g);
    m->capacity = (uint32_t)generator_below(g, 3);
    m->extended = chance(g, 75);
    m->journal_id = chance(g, 85) ? (char *)"journal" : words(g);
    m->next_epoch = chance(g, 90) ? epoch_of(g, state, m->agent_id) + 1 : 0;
    m->n_tasks = journal(g, state, d, m->agent_id);
    for (size_t i = 0; i < m->n_tasks; i++) {
        d->ref_list[i] = &d->refs[i];
    }
    m->tasks = d->ref_list;
    nodelink__v1__label__init(&d->label);
    d->label.key = words(g);
    d->label.value = words(g);
    d->labels[0] = &d->label;
    m->labels = d->labels;
    m->n_labels = generator_below(g, 2);
}

static void agent_disconnect(struct generator *g, const struct nl_state *state, struct draft *d) {
    nodelink__v1__agent_disconnect__init(&d->body.agent_disconnect);
    d->body.agent_disconnect.agent_id = agent_id(g);
    d->body.agent_disconnect.epoch = epoch_of(g, state, d->body.agent_disconnect.agent_id);
    d->body.agent_disconnect.reason = words(g);
}

static void agent_timeout(struct generator *g, const struct nl_state *state, struct draft *d) {
    nodelink__v1__agent_timeout__init(&d->body.agent_timeout);
    d->body.agent_timeout.agent_id = agent_id(g);
    d->body.agent_timeout.epoch = epoch_of(g, state, d->body.agent_timeout.agent_id);
    d->body.agent_timeout.stage =
        (Nodelink__V1__AgentTimeout__Stage)(chance(g, 3) ? generator_below(g, 4)
                                                         : 1 + generator_below(g, 2));
}

static void wishes(struct generator *g, struct draft *d) {
    Nodelink__V1__TaskSpec *spec = &d->spec;
    if (chance(g, 50)) {
        spec->attempts = chance(g, 2) ? 101 : (uint32_t)generator_below(g, 4);
        d->retry_on[0] = (Nodelink__V1__RetryOn)(chance(g, 3) ? 0 : 1 + generator_below(g, 5));
        d->retry_on[1] = NODELINK__V1__RETRY_ON__RETRY_ON_EXIT;
        spec->retry_on = d->retry_on;
        spec->n_retry_on = spec->attempts < 2 && chance(g, 90) ? 0 : generator_below(g, 3);
    }
    if (chance(g, 10)) {
        spec->start_within_ms = 1 + generator_below(g, 300);
    }
    if (chance(g, 10)) {
        spec->finish_within_ms = 1 + generator_below(g, 900);
    }
    if (chance(g, 5)) {
        spec->start_by_ms = g->time_ms - 30 + generator_below(g, 300);
    }
    if (chance(g, 5)) {
        spec->finish_by_ms = g->time_ms - 30 + generator_below(g, 300);
    }
}

static void submit(struct generator *g, const struct nl_state *state, struct draft *d) {
    (void)state;
    nodelink__v1__task_submit__init(&d->body.submit);
    nodelink__v1__task_spec__init(&d->spec);
    d->spec.agent_id = agent_id(g);
    d->spec.cmd = chance(g, 2) ? (char *)"" : text(g, "run ", generator_below(g, 2));
    d->spec.wait_for_agent_ms = chance(g, 50) ? 0 : 1000;
    d->list[0] = chance(g, 97) ? (char *)"KEY=value" : (char *)"=value";
    d->spec.env = d->list;
    d->spec.n_env = generator_below(g, 2);
    wishes(g, d);
    d->body.submit.task_id = task_id(g);
    d->body.submit.spec = chance(g, 99) ? &d->spec : NULL;
}

static void start(struct generator *g, const struct nl_state *state, struct draft *d) {
    nodelink__v1__task_start__init(&d->body.start);
    d->body.start.task_id = some_task(g, state, &d->body.start.agent_id);
    d->body.start.epoch = epoch_of(g, state, d->body.start.agent_id);
    d->body.start.attempt = attempt_of(g, state, d->body.start.task_id);
    d->body.start.pid = (int32_t)generator_below(g, 1000);
}

static void finish(struct generator *g, const struct nl_state *state, struct draft *d) {
    nodelink__v1__task_finish__init(&d->body.finish);
    nodelink__v1__task_result__init(&d->result);
    d->body.finish.task_id = some_task(g, state, &d->body.finish.agent_id);
    d->body.finish.epoch = epoch_of(g, state, d->body.finish.agent_id);
    d->body.finish.attempt = attempt_of(g, state, d->body.finish.task_id);
    d->result.kind = (Nodelink__V1__TaskResult__Kind)(chance(g, 3) ? generator_below(g, 9)
                                                                   : 1 + generator_below(g, 6));
    d->result.exit_code = (int32_t)generator_below(g, 3) - 1;
    d->result.signal = chance(g, 50) ? 9 : 99;
    d->result.reason = words(g);
    d->result.stdout_bytes = generator_below(g, 2);
    d->body.finish.result = chance(g, 99) ? &d->result : NULL;
    if (chance(g, 40)) {
        nodelink__v1__output_tail__init(&d->tail);
        d->tail.stdout = (ProtobufCBinaryData){generator_below(g, 20), (uint8_t *)g->text[0]};
        d->tail.stdout_offset = generator_below(g, 2);
        d->tail.stderr = (ProtobufCBinaryData){generator_below(g, 20), (uint8_t *)g->text[0]};
        d->body.finish.tail = &d->tail;
    }
}

static void cancel(struct generator *g, const struct nl_state *state, struct draft *d) {
    char *agent;
    nodelink__v1__task_cancel_request__init(&d->body.cancel);
    d->body.cancel.task_id = some_task(g, state, &agent);
    d->body.cancel.reason = words(g);
}

static void expire(struct generator *g, const struct nl_state *state, struct draft *d) {
    char *agent;
    nodelink__v1__task_expire__init(&d->body.expire);
    d->body.expire.task_id = some_task(g, state, &agent);
    const struct nl_task *task = nl_state_task(state, d->body.expire.task_id);
    d->body.expire.version = task == NULL ? 1 : task->version - generator_below(g, 2);
    d->body.expire.reason = words(g);
}

static void prune(struct generator *g, const struct nl_state *state, struct draft *d) {
    nodelink__v1__task_prune__init(&d->body.prune);
    uint64_t oldest = nl_state_oldest_finished_ms(state);
    d->body.prune.finished_before_ms = chance(g, 50) ? 0 : oldest + generator_below(g, 200);
    d->body.prune.keep_max = generator_below(g, 12);
    d->body.prune.limit = (uint32_t)generator_below(g, 4);
}

static void noop(struct generator *g, const struct nl_state *state, struct draft *d) {
    (void)g;
    (void)state;
    nodelink__v1__noop__init(&d->body.noop);
}

#define BODY(name) NODELINK__V1__COMMAND__BODY_##name
static const struct kind {
    unsigned weight;
    Nodelink__V1__Command__BodyCase body_case;
    void (*fill)(struct generator *g, const struct nl_state *state, struct draft *d);
} kinds[] = {
    {2, BODY(NOOP), noop},
    {8, BODY(NODE_UP), node_up},
    {4, BODY(NODE_DOWN), node_down},
    {8, BODY(AGENT_TOKEN_CREATE), token_create},
    {1, BODY(AGENT_TOKEN_REVOKE), token_revoke},
    {20, BODY(AGENT_REGISTER), agent_register},
    {8, BODY(AGENT_DISCONNECT), agent_disconnect},
    {10, BODY(AGENT_TIMEOUT), agent_timeout},
    {40, BODY(TASK_SUBMIT), submit},
    {25, BODY(TASK_START), start},
    {20, BODY(TASK_FINISH), finish},
    {8, BODY(TASK_CANCEL), cancel},
    {4, BODY(TASK_EXPIRE), expire},
    {4, BODY(TASK_PRUNE), prune},
    {1, NODELINK__V1__COMMAND__BODY__NOT_SET, noop},
};

static const struct kind *pick(struct generator *g) {
    unsigned total = 0;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        total += kinds[i].weight;
    }
    uint64_t at = generator_below(g, total);
    const struct kind *kind = kinds;
    while (at >= kind->weight) {
        at -= kind->weight;
        kind++;
    }
    return kind;
}

static void fill_head(struct generator *g, Command *c) {
    uint64_t p = generator_below(g, 5);
    c->proposer = p;
    g->boot[p] += chance(g, 2);
    if (g->boot[p] == 0 || (c->boot = g->boot[p]) > 1) {
        c->boot -= chance(g, 3) && c->boot > 0;
    }
    g->sequence[p] += 1 + chance(g, 5);
    c->sequence = g->sequence[p];
    if (chance(g, 12)) {
        uint64_t back = generator_below(g, 10);
        c->sequence -= back < c->sequence ? back : 0;
    }
    uint64_t keep = generator_below(g, 12);
    c->ack_below = chance(g, 60) && c->sequence > keep ? c->sequence - keep : 0;
    g->time_ms += generator_below(g, 30);
    c->time_ms = chance(g, 10) ? g->time_ms / 2 : g->time_ms;
    c->rules = chance(g, 90) ? NL_STATE_RULES : 0;
}

uint8_t *generate(struct generator *g, const struct nl_state *state, size_t *ret_len) {
    struct draft d;
    memset(&d, 0, sizeof d);
    nodelink__v1__command__init(&d.command);
    g->n_text = 0;
    fill_head(g, &d.command);
    const struct kind *kind = pick(g);
    kind->fill(g, state, &d);
    d.command.body_case = kind->body_case;
    d.command.noop = &d.body.noop;
    *ret_len = nodelink__v1__command__get_packed_size(&d.command);
    uint8_t *data = malloc(*ret_len + 1);
    assert(data != NULL);
    nodelink__v1__command__pack(&d.command, data);
    return data;
}
