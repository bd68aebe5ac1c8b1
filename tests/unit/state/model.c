#include "tests/unit/state/model.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef Nodelink__V1__Command Command;
typedef Nodelink__V1__TaskResult Result;

void model_init(struct model *model, const struct nl_state_limits *limits) {
    memset(model, 0, sizeof *model);
    model->limits = *limits;
    model->clock_ms = 1;
}

// ---- finding -------------------------------------------------------------------

struct model_task *model_task(struct model *model, const char *id) {
    for (int i = 0; i < MODEL_TASKS; i++) {
        if (model->tasks[i].used && strcmp(model->tasks[i].id, id) == 0) {
            return &model->tasks[i];
        }
    }
    return NULL;
}

struct model_agent *model_agent(struct model *model, const char *id) {
    for (int i = 0; i < MODEL_AGENTS; i++) {
        if (model->agents[i].used && strcmp(model->agents[i].id, id) == 0) {
            return &model->agents[i];
        }
    }
    return NULL;
}

static struct model_node *node_of(struct model *model, uint64_t id) {
    for (int i = 0; i < MODEL_NODES; i++) {
        if (model->nodes[i].used && model->nodes[i].id == id) {
            return &model->nodes[i];
        }
    }
    return NULL;
}

uint32_t model_active(const struct model *model, const char *agent) {
    uint32_t n = 0;
    for (int i = 0; i < MODEL_TASKS; i++) {
        const struct model_task *t = &model->tasks[i];
        n += t->used && t->state < NL_TASK_COMPLETED && strcmp(t->agent, agent) == 0;
    }
    return n;
}

static void set_text(char *field, const char *text) {
    if (field != text) {
        snprintf(field, MODEL_TEXT, "%s", text);
    }
}

static bool id_ok(const char *id) {
    size_t len = strlen(id);
    static const char ok[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-";
    return len >= 1 && len <= 128 && strspn(id, ok) == len && id[0] != '-' && id[0] != '.';
}

static void answer(struct model *model, enum nl_outcome_code code, uint64_t value) {
    model->outcome = (struct nl_outcome){code, value};
}

// ---- tasks' changes ---------------------------------------------------------------

static void change(struct model *model, struct model_task *t, int state, const char *reason) {
    t->version++;
    t->state = state;
    set_text(t->reason, reason);
    if (state >= NL_TASK_COMPLETED) {
        t->finished_ms = model->clock_ms;
        model_agent(model, t->agent)->tasks_finished++;
    }
}

// An attempt is over. `why`: what a retry must have been asked for; 0: there is none.
static void attempt_over(struct model *model, struct model_task *t, int state, const char *reason,
                         int why, const uint8_t *result, size_t result_len) {
    struct model_agent *a = model_agent(model, t->agent);
    bool again = why != 0 && t->retry_on[why] && t->attempt < t->attempts_max &&
                 !t->cancel_requested && a->extended && a->n_tokens > 0;
    again = again && (t->start_deadline == 0 || model->clock_ms < t->start_deadline);
    again = again && (t->finish_deadline == 0 || model->clock_ms < t->finish_deadline);
    again = again && (a->connection != NL_AGENT_LOST || t->wait_ms > 0);
    if (!again) {
        t->has_result = result != NULL;
        t->result_len = result_len;
        memcpy(t->result, result != NULL ? result : t->result, result_len);
        change(model, t, state, reason);
        return;
    }
    struct model_attempt *over = &t->earlier[t->attempt - 1];
    memset(over, 0, sizeof *over);
    over->state = state;
    set_text(over->reason, reason);
    over->has_result = result != NULL;
    over->result_len = result_len;
    memcpy(over->result, result != NULL ? result : over->result, result_len);
    over->dispatched_ms = t->dispatched_ms;
    over->started_ms = t->started_ms;
    over->finished_ms = model->clock_ms;
    bool now = a->connection == NL_AGENT_CONNECTED;
    t->attempt++;
    t->order = a->next_order++;
    t->epoch = now ? a->epoch : 0;
    t->dispatched_ms = now ? model->clock_ms : 0;
    t->started_ms = 0;
    t->pid = 0;
    change(model, t, now ? NL_TASK_DISPATCHED : NL_TASK_PENDING, "");
}

static void lose(struct model *model, struct model_task *t, const char *reason) {
    attempt_over(model, t, NL_TASK_FAILED, reason, NODELINK__V1__RETRY_ON__RETRY_ON_LOST, NULL, 0);
}

// The agent's active task with the lowest order from `from` up to `end`.
static struct model_task *next_active(struct model *model, const char *agent, uint64_t from,
                                      uint64_t end) {
    struct model_task *least = NULL;
    for (int i = 0; i < MODEL_TASKS; i++) {
        struct model_task *t = &model->tasks[i];
        if (t->used && strcmp(t->agent, agent) == 0 && t->state < NL_TASK_COMPLETED &&
            t->order >= from && t->order < end && (least == NULL || t->order < least->order)) {
            least = t;
        }
    }
    return least;
}

static void run(struct model *model, struct model_task *t, uint64_t epoch) {
    if (t->started_ms == 0) {
        t->started_ms = model->clock_ms;
    }
    t->epoch = epoch;
    change(model, t, NL_TASK_RUNNING, t->state == NL_TASK_RUNNING ? t->reason : "");
}

static void dispatch(struct model *model, struct model_task *t, uint64_t epoch) {
    if (t->state != NL_TASK_DISPATCHED) {
        t->dispatched_ms = model->clock_ms;
    }
    t->epoch = epoch;
    change(model, t, NL_TASK_DISPATCHED, "");
}

// ---- nodes -------------------------------------------------------------------------

static void disconnect(struct model *model, struct model_agent *a, const char *reason) {
    a->connection = NL_AGENT_DISCONNECTED;
    a->owner = a->owner_boot = 0;
    a->disconnected_ms = model->clock_ms;
    set_text(a->disconnect_reason, reason);
}

static void node_up(struct model *model, const Nodelink__V1__NodeUp *m) {
    struct model_node *n = node_of(model, m->node);
    if (m->node == 0) {
        answer(model, NL_OUTCOME_INVALID, 0);
        return;
    }
    if (n != NULL && m->node_boot < n->boot) {
        answer(model, NL_OUTCOME_STALE, 0);
        return;
    }
    for (int i = 0; n == NULL; i++) {
        assert(i < MODEL_NODES);
        n = model->nodes[i].used ? NULL : &model->nodes[i];
    }
    n->used = true;
    n->id = m->node;
    n->boot = m->node_boot;
    n->up = true;
    n->changed_ms = model->clock_ms;
    set_text(n->name, m->name);
    set_text(n->grpc_address, m->grpc_address);
    set_text(n->version, m->version);
    for (int i = 0; i < MODEL_AGENTS; i++) {
        struct model_agent *a = &model->agents[i];
        if (a->used && a->connection == NL_AGENT_CONNECTED && a->owner == m->node &&
            a->owner_boot < m->node_boot) {
            disconnect(model, a, "the node restarted");
        }
    }
    answer(model, NL_OUTCOME_OK, 0);
}

static void node_down(struct model *model, const Nodelink__V1__NodeDown *m) {
    struct model_node *n = node_of(model, m->node);
    if (n == NULL || n->boot != m->node_boot || !n->up) {
        answer(model, NL_OUTCOME_NOTHING, 0);
        return;
    }
    n->up = false;
    n->changed_ms = model->clock_ms;
    for (int i = 0; i < MODEL_AGENTS; i++) {
        struct model_agent *a = &model->agents[i];
        if (a->used && a->connection == NL_AGENT_CONNECTED && a->owner == m->node) {
            disconnect(model, a, "the node is down");
        }
    }
    answer(model, NL_OUTCOME_OK, 0);
}

// ---- agents ---------------------------------------------------------------------------

static bool token_known(const struct model_agent *a, const ProtobufCBinaryData *token) {
    for (int i = 0; i < a->n_tokens; i++) {
        if (token->len == 32 && memcmp(a->tokens[i], token->data, 32) == 0) {
            return true;
        }
    }
    return false;
}

static struct model_agent *agent_new(struct model *model, const char *id) {
    uint32_t n = 0;
    struct model_agent *free_one = NULL;
    for (int i = 0; i < MODEL_AGENTS; i++) {
        n += model->agents[i].used;
        free_one = model->agents[i].used ? free_one : &model->agents[i];
    }
    if (n >= model->limits.agents_max) {
        return NULL;
    }
    assert(free_one != NULL);
    memset(free_one, 0, sizeof *free_one);
    free_one->used = true;
    snprintf(free_one->id, sizeof free_one->id, "%s", id);
    free_one->connection = NL_AGENT_NEVER_CONNECTED;
    free_one->created_ms = model->clock_ms;
    return free_one;
}

static void token_create(struct model *model, const Nodelink__V1__AgentTokenCreate *m) {
    if (!id_ok(m->agent_id) || m->token_sha256.len != 32) {
        answer(model, NL_OUTCOME_INVALID, 0);
        return;
    }
    struct model_agent *a = model_agent(model, m->agent_id);
    if (a != NULL && token_known(a, &m->token_sha256)) {
        answer(model, NL_OUTCOME_EXISTED, 0);
        return;
    }
    if (a == NULL && (a = agent_new(model, m->agent_id)) == NULL) {
        answer(model, NL_OUTCOME_LIMIT, 0);
        return;
    }
    if (a->n_tokens == 2) {
        memcpy(a->tokens[0], a->tokens[1], 32);
        a->n_tokens = 1;
    }
    memcpy(a->tokens[a->n_tokens++], m->token_sha256.data, 32);
    answer(model, NL_OUTCOME_OK, 0);
}

static void token_revoke(struct model *model, const Nodelink__V1__AgentTokenRevoke *m) {
    struct model_agent *a = model_agent(model, m->agent_id);
    if (a == NULL) {
        answer(model, NL_OUTCOME_NO_AGENT, 0);
    } else if (a->n_tokens == 0) {
        answer(model, NL_OUTCOME_NOTHING, 0);
    } else {
        a->n_tokens = 0;
        answer(model, NL_OUTCOME_OK, 0);
    }
}

static const Nodelink__V1__TaskRef *listed(const Nodelink__V1__AgentRegister *m,
                                           const struct model_task *t) {
    for (size_t i = 0; i < m->n_tasks; i++) {
        if (strcmp(m->tasks[i]->task_id, t->id) == 0 && m->tasks[i]->attempt == t->attempt) {
            return m->tasks[i];
        }
    }
    return NULL;
}

static void reconcile_extended(struct model *model, struct model_task *t, uint64_t epoch,
                               const Nodelink__V1__AgentRegister *m, bool same_journal) {
    const Nodelink__V1__TaskRef *ref = listed(m, t);
    if (ref != NULL) {
        bool finished = ref->phase == NODELINK__V1__TASK_REF__PHASE__FINISHED;
        if (!finished || t->state == NL_TASK_UNKNOWN) {
            run(model, t, epoch);
        } else {
            t->epoch = epoch;
            change(model, t, t->state, t->reason);
        }
    } else if (t->started_ms != 0 && same_journal && m->next_epoch != 0 &&
               t->epoch >= m->next_epoch) {
        if (t->state != NL_TASK_UNKNOWN) {
            t->epoch = epoch;
            change(model, t, t->state, t->reason);
        }
    } else if (t->started_ms != 0) {
        lose(model, t, "the agent has no record of this task any more");
    } else if (!same_journal) {
        lose(model, t, "the agent's journal was replaced: whether the command ran is not known");
    } else if (t->cancel_requested) {
        change(model, t, NL_TASK_CANCELLED, t->cancel_reason);
    } else {
        dispatch(model, t, epoch);
    }
}

static void reconcile(struct model *model, struct model_agent *a, bool same_journal,
                      const Nodelink__V1__AgentRegister *m) {
    uint64_t end = a->next_order;
    struct model_task *t;
    for (uint64_t at = 0; (t = next_active(model, a->id, at, end)) != NULL;) {
        at = t->order + 1;
        if (t->state == NL_TASK_PENDING) {
            dispatch(model, t, a->epoch);
        } else if (a->extended) {
            reconcile_extended(model, t, a->epoch, m, same_journal);
        } else if (t->state != NL_TASK_UNKNOWN) {
            change(model, t, NL_TASK_UNKNOWN,
                   "the agent came back and can't say what became of it");
        }
    }
}

static void fill_agent(struct model *model, struct model_agent *a,
                       const Nodelink__V1__AgentRegister *m) {
    a->epoch++;
    a->connection = NL_AGENT_CONNECTED;
    a->owner = m->node;
    a->owner_boot = m->node_boot;
    a->connected_ms = model->clock_ms;
    a->disconnected_ms = 0;
    a->capacity = m->capacity;
    a->extended = m->extended;
    set_text(a->version, m->version);
    set_text(a->boot_id, m->boot_id);
    set_text(a->journal_id, m->journal_id);
    set_text(a->address, m->address);
    set_text(a->hostname, m->hostname);
    set_text(a->disconnect_reason, "");
    a->labels[0] = '\0';
    for (size_t i = 0; i < m->n_labels; i++) {
        size_t at = strlen(a->labels);
        snprintf(a->labels + at, sizeof a->labels - at, "%s=%s;", m->labels[i]->key,
                 m->labels[i]->value);
    }
}

static void agent_register(struct model *model, const Nodelink__V1__AgentRegister *m) {
    struct model_agent *a = model_agent(model, m->agent_id);
    const struct model_node *n = node_of(model, m->node);
    if (a == NULL) {
        answer(model, NL_OUTCOME_NO_AGENT, 0);
    } else if (!token_known(a, &m->token_sha256)) {
        answer(model, NL_OUTCOME_BAD_TOKEN, 0);
    } else if (n == NULL || n->boot != m->node_boot) {
        answer(model, NL_OUTCOME_STALE, 0);
    } else {
        bool same_journal = a->journal_id[0] != '\0' && strcmp(a->journal_id, m->journal_id) == 0;
        fill_agent(model, a, m);
        reconcile(model, a, same_journal, m);
        answer(model, NL_OUTCOME_OK, a->epoch);
    }
}

static void agent_disconnect(struct model *model, const Nodelink__V1__AgentDisconnect *m) {
    struct model_agent *a = model_agent(model, m->agent_id);
    if (a != NULL && a->connection == NL_AGENT_CONNECTED && a->epoch == m->epoch) {
        disconnect(model, a, m->reason);
        answer(model, NL_OUTCOME_OK, 0);
    } else {
        answer(model, NL_OUTCOME_NOTHING, 0);
    }
}

static void lose_tasks(struct model *model, const struct model_agent *a, bool lost) {
    uint64_t end = a->next_order;
    struct model_task *t;
    for (uint64_t at = 0; (t = next_active(model, a->id, at, end)) != NULL;) {
        at = t->order + 1;
        bool sent = t->state == NL_TASK_DISPATCHED || t->state == NL_TASK_RUNNING;
        if (!lost && sent) {
            change(model, t, NL_TASK_UNKNOWN, "agent unreachable");
        } else if (lost && t->state != NL_TASK_PENDING) {
            lose(model, t, "agent disconnected");
        } else if (lost && t->wait_ms == 0) {
            change(model, t, NL_TASK_FAILED, "agent disconnected before the command was sent");
        }
    }
}

static void agent_timeout(struct model *model, const Nodelink__V1__AgentTimeout *m) {
    struct model_agent *a = model_agent(model, m->agent_id);
    bool lost = m->stage == NODELINK__V1__AGENT_TIMEOUT__STAGE__LOST;
    if (!lost && m->stage != NODELINK__V1__AGENT_TIMEOUT__STAGE__UNREACHABLE) {
        answer(model, NL_OUTCOME_INVALID, 0);
        return;
    }
    bool due =
        a != NULL && a->epoch == m->epoch &&
        (a->connection == NL_AGENT_DISCONNECTED || (lost && a->connection == NL_AGENT_UNREACHABLE));
    if (!due) {
        answer(model, NL_OUTCOME_NOTHING, 0);
        return;
    }
    a->connection = lost ? NL_AGENT_LOST : NL_AGENT_UNREACHABLE;
    lose_tasks(model, a, lost);
    answer(model, NL_OUTCOME_OK, 0);
}

// ---- tasks ----------------------------------------------------------------------------

static bool submit_ok(const Nodelink__V1__TaskSubmit *m) {
    const Nodelink__V1__TaskSpec *s = m->spec;
    if (!id_ok(m->task_id) || s == NULL || !id_ok(s->agent_id) ||
        (strlen(s->cmd) == 0 && s->n_argv == 0)) {
        return false;
    }
    for (size_t i = 0; i < s->n_env; i++) {
        if (s->env[i][0] == '=' || strchr(s->env[i], '=') == NULL) {
            return false;
        }
    }
    if (s->attempts > 100 || (s->attempts < 2 && s->n_retry_on != 0)) {
        return false;
    }
    for (size_t i = 0; i < s->n_retry_on; i++) {
        if (s->retry_on[i] < 1 || s->retry_on[i] > 5) {
            return false;
        }
    }
    return true;
}

static uint64_t earlier_of(uint64_t a, uint64_t b) {
    return a == 0 || (b != 0 && b < a) ? b : a;
}

static void set_wishes(struct model_task *t, const Nodelink__V1__TaskSpec *s) {
    t->wait_ms = s->wait_for_agent_ms;
    t->attempts_max = s->attempts < 1 ? 1 : s->attempts;
    assert(t->attempts_max <= MODEL_ATTEMPTS);
    for (int i = 1; i <= 5; i++) {
        t->retry_on[i] = s->n_retry_on == 0;
    }
    for (size_t i = 0; i < s->n_retry_on; i++) {
        t->retry_on[s->retry_on[i]] = true;
    }
    uint64_t start = s->start_within_ms == 0 ? 0 : t->created_ms + s->start_within_ms;
    uint64_t finish = s->finish_within_ms == 0 ? 0 : t->created_ms + s->finish_within_ms;
    t->start_deadline = earlier_of(s->start_by_ms, start);
    t->finish_deadline = earlier_of(s->finish_by_ms, finish);
}

static void task_create(struct model *model, const Nodelink__V1__TaskSubmit *m,
                        struct model_agent *a, int state, const uint8_t *spec, size_t len) {
    struct model_task *t = NULL;
    for (int i = 0; t == NULL; i++) {
        assert(i < MODEL_TASKS);
        t = model->tasks[i].used ? NULL : &model->tasks[i];
    }
    memset(t, 0, sizeof *t);
    t->used = true;
    snprintf(t->id, sizeof t->id, "%s", m->task_id);
    snprintf(t->agent, sizeof t->agent, "%s", a->id);
    memcpy(t->spec, spec, len);
    t->spec_len = len;
    t->state = state;
    t->attempt = 1;
    t->version = 1;
    t->order = a->next_order++;
    t->created_ms = model->clock_ms;
    set_wishes(t, m->spec);
    a->tasks_submitted++;
    if (state == NL_TASK_DISPATCHED) {
        t->epoch = a->epoch;
        t->dispatched_ms = model->clock_ms;
    }
    answer(model, NL_OUTCOME_OK, (uint64_t)state);
}

static void task_submit(struct model *model, const Nodelink__V1__TaskSubmit *m) {
    uint8_t spec[MODEL_BYTES];
    if (!submit_ok(m)) {
        answer(model, NL_OUTCOME_INVALID, 0);
        return;
    }
    assert(nodelink__v1__task_spec__get_packed_size(m->spec) <= sizeof spec);
    size_t len = nodelink__v1__task_spec__pack(m->spec, spec);
    struct model_task *t = model_task(model, m->task_id);
    struct model_agent *a = model_agent(model, m->spec->agent_id);
    if (t != NULL) {
        bool same = t->spec_len == len && memcmp(t->spec, spec, len) == 0;
        answer(model, same ? NL_OUTCOME_EXISTED : NL_OUTCOME_CONFLICT,
               same ? (uint64_t)t->state : 0);
        return;
    }
    if (a == NULL) {
        answer(model, NL_OUTCOME_NO_AGENT, 0);
        return;
    }
    uint64_t by = earlier_of(m->spec->start_by_ms, m->spec->finish_by_ms);
    if (by != 0 && by <= model->clock_ms) {
        answer(model, NL_OUTCOME_TOO_LATE, 0);
        return;
    }
    bool gone = a->connection == NL_AGENT_NEVER_CONNECTED || a->connection == NL_AGENT_LOST ||
                a->n_tokens == 0;
    if (gone && m->spec->wait_for_agent_ms == 0) {
        answer(model, NL_OUTCOME_AGENT_OFFLINE, 0);
    } else if (model_active(model, a->id) >= model->limits.tasks_per_agent_active_max) {
        answer(model, NL_OUTCOME_LIMIT, 0);
    } else {
        bool now = !gone && a->connection == NL_AGENT_CONNECTED;
        task_create(model, m, a, now ? NL_TASK_DISPATCHED : NL_TASK_PENDING, spec, len);
    }
}

static void task_start(struct model *model, const Nodelink__V1__TaskStart *m) {
    struct model_task *t = model_task(model, m->task_id);
    if (t == NULL) {
        answer(model, NL_OUTCOME_NO_TASK, 0);
    } else if (strcmp(t->agent, m->agent_id) != 0) {
        answer(model, NL_OUTCOME_INVALID, 0);
    } else if (m->epoch != model_agent(model, t->agent)->epoch || m->attempt != t->attempt) {
        answer(model, NL_OUTCOME_STALE, 0);
    } else if (t->state >= NL_TASK_COMPLETED) {
        answer(model, NL_OUTCOME_TOO_LATE, (uint64_t)t->state);
    } else if (t->state == NL_TASK_RUNNING) {
        answer(model, NL_OUTCOME_NOTHING, 0);
    } else if (t->state == NL_TASK_PENDING) {
        answer(model, NL_OUTCOME_INVALID, 0);
    } else {
        t->pid = m->pid;
        run(model, t, m->epoch);
        answer(model, NL_OUTCOME_OK, 0);
    }
}

static void finish_as(struct model *model, struct model_task *t, const Result *r,
                      const uint8_t *packed, size_t len) {
    char text[MODEL_TEXT] = "";
    const char *said = r->reason;
    int state = NL_TASK_FAILED, why = 0;
    switch (r->kind) {
        case NODELINK__V1__TASK_RESULT__KIND__EXITED:
            if (r->exit_code == 0) {
                state = NL_TASK_COMPLETED;
                break;
            }
            snprintf(text, sizeof text, "exit code %d", (int)r->exit_code);
            why = NODELINK__V1__RETRY_ON__RETRY_ON_EXIT;
            break;
        case NODELINK__V1__TASK_RESULT__KIND__SIGNALLED:
            snprintf(text, sizeof text, "killed by signal %d%s", (int)r->signal,
                     r->signal == 9 ? " (SIGKILL)" : "");
            why = NODELINK__V1__RETRY_ON__RETRY_ON_SIGNAL;
            break;
        case NODELINK__V1__TASK_RESULT__KIND__TIMED_OUT:
            snprintf(text, sizeof text, "exceeded its timeout%s",
                     t->finish_deadline != 0 ? " or its time to finish" : "");
            state = NL_TASK_TIMED_OUT;
            why = NODELINK__V1__RETRY_ON__RETRY_ON_TIMEOUT;
            break;
        case NODELINK__V1__TASK_RESULT__KIND__CANCELLED:
            set_text(text, t->cancel_reason[0] != '\0' ? t->cancel_reason : said);
            state = NL_TASK_CANCELLED;
            break;
        case NODELINK__V1__TASK_RESULT__KIND__NOT_STARTED:
            set_text(text, said[0] != '\0' ? said : "the agent could not start the command");
            why = NODELINK__V1__RETRY_ON__RETRY_ON_NOT_STARTED;
            break;
        case NODELINK__V1__TASK_RESULT__KIND__LOST:
            set_text(text, said[0] != '\0' ? said : "the agent lost the command");
            why = NODELINK__V1__RETRY_ON__RETRY_ON_LOST;
            break;
        default:
            answer(model, NL_OUTCOME_INVALID, 0);
            return;
    }
    attempt_over(model, t, state, text, why, packed, len);
    answer(model, NL_OUTCOME_OK, 0);
}

static bool same_bytes(const uint8_t *a, size_t a_len, const uint8_t *b, size_t b_len) {
    return a_len == b_len && memcmp(a, b, a_len) == 0;
}

static void finish_late(struct model *model, struct model_task *t, uint32_t attempt, bool known,
                        const uint8_t *packed, size_t len) {
    known = known || (t->late_len > 0 && t->late_attempt == attempt &&
                      same_bytes(t->late, t->late_len, packed, len));
    answer(model, known ? NL_OUTCOME_EXISTED : NL_OUTCOME_LATE, (uint64_t)t->state);
    if (known) {
        return;
    }
    t->late_results++;
    t->version++;
    if (t->late_len == 0 && model->rules > 0) {
        memcpy(t->late, packed, len);
        t->late_len = len;
        t->late_attempt = attempt;
    }
}

// Beyond the bound tails go, of the tasks that ended first.
static void trim_tails(struct model *model) {
    for (;;) {
        struct model_task *first = NULL;
        uint64_t total = 0;
        for (int i = 0; i < MODEL_TASKS; i++) {
            struct model_task *t = &model->tasks[i];
            if (!t->used || t->tail_len == 0) {
                continue;
            }
            total += t->tail_bytes;
            if (first == NULL || t->finished_ms < first->finished_ms ||
                (t->finished_ms == first->finished_ms && strcmp(t->id, first->id) < 0)) {
                first = t;
            }
        }
        if (total <= model->limits.tails_bytes_max) {
            return;
        }
        first->tail_len = 0;
        first->version++;
    }
}

static void keep_tail(struct model *model, struct model_task *t,
                      const Nodelink__V1__OutputTail *tail) {
    size_t bytes = tail == NULL ? 0 : tail->stdout.len + tail->stderr.len;
    if (t->state < NL_TASK_COMPLETED || bytes == 0) {
        return;
    }
    assert(nodelink__v1__output_tail__get_packed_size(tail) <= sizeof t->tail);
    t->tail_len = nodelink__v1__output_tail__pack(tail, t->tail);
    t->tail_bytes = bytes;
    trim_tails(model);
}

static void finish_checked(struct model *model, struct model_task *t,
                           const Nodelink__V1__TaskFinish *m) {
    uint8_t packed[MODEL_BYTES];
    assert(nodelink__v1__task_result__get_packed_size(m->result) <= sizeof packed);
    size_t len = nodelink__v1__task_result__pack(m->result, packed);
    if (m->attempt > 0 && m->attempt < t->attempt) {
        const struct model_attempt *e = &t->earlier[m->attempt - 1];
        finish_late(model, t, m->attempt,
                    e->has_result && same_bytes(e->result, e->result_len, packed, len), packed,
                    len);
    } else if (m->attempt != t->attempt) {
        answer(model, NL_OUTCOME_STALE, 0);
    } else if (t->state == NL_TASK_PENDING) {
        answer(model, NL_OUTCOME_INVALID, 0);
    } else if (t->state >= NL_TASK_COMPLETED) {
        finish_late(model, t, m->attempt,
                    t->has_result && same_bytes(t->result, t->result_len, packed, len), packed,
                    len);
    } else {
        finish_as(model, t, m->result, packed, len);
        if (model->outcome.code == NL_OUTCOME_OK) {
            keep_tail(model, t, m->tail);
        }
    }
}

static void task_finish(struct model *model, const Nodelink__V1__TaskFinish *m) {
    struct model_task *t = model_task(model, m->task_id);
    if (t == NULL) {
        answer(model, NL_OUTCOME_NO_TASK, 0);
    } else if (m->result == NULL || strcmp(t->agent, m->agent_id) != 0) {
        answer(model, NL_OUTCOME_INVALID, 0);
    } else if (m->epoch != model_agent(model, t->agent)->epoch) {
        answer(model, NL_OUTCOME_STALE, 0);
    } else {
        finish_checked(model, t, m);
    }
}

static void task_cancel(struct model *model, const Nodelink__V1__TaskCancelRequest *m) {
    struct model_task *t = model_task(model, m->task_id);
    if (t == NULL) {
        answer(model, NL_OUTCOME_NO_TASK, 0);
    } else if (t->state >= NL_TASK_COMPLETED) {
        answer(model, NL_OUTCOME_TOO_LATE, (uint64_t)t->state);
    } else if (t->cancel_requested) {
        answer(model, NL_OUTCOME_CANCEL_REQUESTED, (uint64_t)t->state);
    } else {
        t->cancel_requested = true;
        set_text(t->cancel_reason, m->reason);
        bool pending = t->state == NL_TASK_PENDING;
        change(model, t, pending ? NL_TASK_CANCELLED : t->state, pending ? m->reason : t->reason);
        answer(model, pending ? NL_OUTCOME_OK : NL_OUTCOME_CANCEL_REQUESTED, (uint64_t)t->state);
    }
}

static void task_expire(struct model *model, const Nodelink__V1__TaskExpire *m) {
    struct model_task *t = model_task(model, m->task_id);
    if (t == NULL || t->state >= NL_TASK_COMPLETED || t->version != m->version) {
        answer(model, NL_OUTCOME_NOTHING, 0);
        return;
    }
    change(model, t, NL_TASK_FAILED, m->reason);
    answer(model, NL_OUTCOME_OK, 0);
}

static struct model_task *oldest_finished(struct model *model, uint64_t *ret_terminal) {
    struct model_task *oldest = NULL;
    *ret_terminal = 0;
    for (int i = 0; i < MODEL_TASKS; i++) {
        struct model_task *t = &model->tasks[i];
        if (!t->used || t->state < NL_TASK_COMPLETED) {
            continue;
        }
        ++*ret_terminal;
        if (oldest == NULL || t->finished_ms < oldest->finished_ms ||
            (t->finished_ms == oldest->finished_ms && strcmp(t->id, oldest->id) < 0)) {
            oldest = t;
        }
    }
    return oldest;
}

static void task_prune(struct model *model, const Nodelink__V1__TaskPrune *m) {
    uint32_t limit = m->limit == 0 ? 1000 : m->limit;
    uint32_t n = 0;
    while (n < limit) {
        uint64_t terminal;
        struct model_task *t = oldest_finished(model, &terminal);
        if (t == NULL || !(t->finished_ms < m->finished_before_ms ||
                           (m->keep_max != 0 && terminal > m->keep_max))) {
            break;
        }
        memset(t, 0, sizeof *t);
        n++;
    }
    answer(model, NL_OUTCOME_OK, n);
}

// ---- commands ---------------------------------------------------------------------------

// Whether the generator put bytes that are not UTF-8 into a text: it only uses 0xff for that.
static bool has_bad_text(const Command *c) {
    size_t len = nodelink__v1__command__get_packed_size(c);
    uint8_t *packed = malloc(len + 1);
    assert(packed != NULL);
    nodelink__v1__command__pack(c, packed);
    bool bad = false;
    for (size_t i = 0; i + 2 < len; i++) {
        bad = bad || memcmp(packed + i, "\xff!!", 3) == 0;
    }
    free(packed);
    return bad;
}

static void execute(struct model *model, const Command *c) {
    switch (c->body_case) {
        case NODELINK__V1__COMMAND__BODY_NOOP:
            answer(model, NL_OUTCOME_OK, 0);
            return;
        case NODELINK__V1__COMMAND__BODY_NODE_UP:
            node_up(model, c->node_up);
            return;
        case NODELINK__V1__COMMAND__BODY_NODE_DOWN:
            node_down(model, c->node_down);
            return;
        case NODELINK__V1__COMMAND__BODY_AGENT_TOKEN_CREATE:
            token_create(model, c->agent_token_create);
            return;
        case NODELINK__V1__COMMAND__BODY_AGENT_TOKEN_REVOKE:
            token_revoke(model, c->agent_token_revoke);
            return;
        case NODELINK__V1__COMMAND__BODY_AGENT_REGISTER:
            agent_register(model, c->agent_register);
            return;
        case NODELINK__V1__COMMAND__BODY_AGENT_DISCONNECT:
            agent_disconnect(model, c->agent_disconnect);
            return;
        case NODELINK__V1__COMMAND__BODY_AGENT_TIMEOUT:
            agent_timeout(model, c->agent_timeout);
            return;
        case NODELINK__V1__COMMAND__BODY_TASK_SUBMIT:
            task_submit(model, c->task_submit);
            return;
        case NODELINK__V1__COMMAND__BODY_TASK_START:
            task_start(model, c->task_start);
            return;
        case NODELINK__V1__COMMAND__BODY_TASK_FINISH:
            task_finish(model, c->task_finish);
            return;
        case NODELINK__V1__COMMAND__BODY_TASK_CANCEL:
            task_cancel(model, c->task_cancel);
            return;
        case NODELINK__V1__COMMAND__BODY_TASK_EXPIRE:
            task_expire(model, c->task_expire);
            return;
        case NODELINK__V1__COMMAND__BODY_TASK_PRUNE:
            task_prune(model, c->task_prune);
            return;
        default:
            answer(model, NL_OUTCOME_INVALID, 0);
    }
}

static struct model_proposer *proposer_of(struct model *model, const Command *c) {
    for (int i = 0; i < MODEL_PROPOSERS; i++) {
        struct model_proposer *p = &model->proposers[i];
        if (!p->used) {
            p->used = true;
            p->id = c->proposer;
            p->boot = c->boot;
        }
        if (p->id == c->proposer) {
            return p;
        }
    }
    abort();
}

static uint32_t forget_below(struct model_proposer *p, uint64_t below) {
    uint32_t left = 0;
    p->done_below = below > p->done_below ? below : p->done_below;
    for (int i = 0; i <= MODEL_OUTCOMES; i++) {
        struct model_outcome *o = &p->outcomes[i];
        o->used = o->used && o->sequence >= p->done_below;
        left += o->used;
    }
    return left;
}

// Whether the command is answered without being applied.
static bool answered(struct model *model, struct model_proposer *p, const Command *c) {
    if (c->boot < p->boot) {
        answer(model, NL_OUTCOME_STALE_BOOT, 0);
        return true;
    }
    if (c->boot > p->boot) {
        memset(p->outcomes, 0, sizeof p->outcomes);
        p->boot = c->boot;
        p->done_below = 0;
    }
    if (c->sequence < p->done_below) {
        answer(model, NL_OUTCOME_STALE, 0);
        model->duplicate = true;
        return true;
    }
    uint32_t n = 0;
    for (int i = 0; i <= MODEL_OUTCOMES; i++) {
        const struct model_outcome *o = &p->outcomes[i];
        n += o->used;
        if (o->used && o->sequence == c->sequence) {
            model->outcome = o->outcome;
            model->duplicate = true;
            return true;
        }
    }
    if (n >= model->limits.outcomes_per_proposer_max &&
        forget_below(p, c->ack_below) >= model->limits.outcomes_per_proposer_max) {
        answer(model, NL_OUTCOME_INVALID, 0);
        return true;
    }
    return false;
}

static void remember(struct model *model, struct model_proposer *p, const Command *c) {
    for (int i = 0; i <= MODEL_OUTCOMES; i++) {
        if (!p->outcomes[i].used) {
            p->outcomes[i] = (struct model_outcome){true, c->sequence, model->outcome};
            break;
        }
    }
    forget_below(p, c->ack_below);
}

void model_apply(struct model *model, const Command *c) {
    model->duplicate = false;
    struct model_proposer *p = c->proposer == 0 ? NULL : proposer_of(model, c);
    if (p != NULL && answered(model, p, c)) {
        return;
    }
    model->clock_ms = c->time_ms > model->clock_ms ? c->time_ms : model->clock_ms;
    model->rules = c->rules;
    if (has_bad_text(c)) {
        answer(model, NL_OUTCOME_INVALID, 0);
    } else {
        execute(model, c);
    }
    if (p != NULL) {
        remember(model, p, c);
    }
}
