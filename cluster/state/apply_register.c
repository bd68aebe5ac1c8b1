// AgentRegister: a new epoch for the agent (P7), and what becomes of the tasks it had (P2).

#include "cluster/state/internal.h"

// What the agent's journal holds, sorted by (task id, attempt), first mention first.
struct journal {
    struct entry {
        const Nodelink__V1__TaskRef *ref;
        size_t at;
    } * entries;
    size_t count;
};

static int compare_refs(const Nodelink__V1__TaskRef *a, const Nodelink__V1__TaskRef *b) {
    int c = strcmp(a->task_id, b->task_id);
    return c != 0 ? c : (a->attempt > b->attempt) - (a->attempt < b->attempt);
}

static int compare_entries(const void *x, const void *y) {
    const struct entry *a = x, *b = y;
    int c = compare_refs(a->ref, b->ref);
    return c != 0 ? c : (a->at > b->at) - (a->at < b->at);
}

static int journal_init(struct journal *journal, const Nodelink__V1__AgentRegister *m) {
    journal->count = m->n_tasks;
    journal->entries = malloc((m->n_tasks + 1) * sizeof *journal->entries);
    if (journal->entries == NULL) {
        return NL_ENOMEM;
    }
    for (size_t i = 0; i < m->n_tasks; i++) {
        journal->entries[i] = (struct entry){m->tasks[i], i};
    }
    qsort(journal->entries, journal->count, sizeof *journal->entries, compare_entries);
    return NL_OK;
}

static const Nodelink__V1__TaskRef *journal_find(const struct journal *journal,
                                                 const struct nl_task *task) {
    Nodelink__V1__TaskRef wanted = NODELINK__V1__TASK_REF__INIT;
    wanted.task_id = task->id;
    wanted.attempt = task->attempt;
    size_t low = 0, high = journal->count;
    while (low < high) {
        size_t mid = low + (high - low) / 2;
        if (compare_refs(journal->entries[mid].ref, &wanted) < 0) {
            low = mid + 1;
        } else {
            high = mid;
        }
    }
    bool found = low < journal->count && compare_refs(journal->entries[low].ref, &wanted) == 0;
    return found ? journal->entries[low].ref : NULL;
}

// What the registration means for one active task.
enum fate {
    FATE_KEEP,      // as it is
    FATE_DISPATCH,  // may be sent under the new epoch
    FATE_RUNNING,   // the journal says so
    FATE_ADOPT,     // only the epoch changes
    FATE_CANCEL,
    FATE_UNKNOWN,
    FATE_NO_RECORD,
    FATE_NO_JOURNAL,
};

static enum fate fate_of_listed(const struct nl_task *task, const Nodelink__V1__TaskRef *ref) {
    bool finished = ref->phase == NODELINK__V1__TASK_REF__PHASE__FINISHED;
    return finished && task->state != NL_TASK_UNKNOWN ? FATE_ADOPT : FATE_RUNNING;
}

// The same journal without the task: it never got there, because the journal is written before
// the fork. Only then is sending it again no second start.
static enum fate fate_of_unlisted(const struct nl_task *task, const Nodelink__V1__AgentRegister *m,
                                  bool same_journal) {
    bool too_early = m->next_epoch != 0 && task->epoch >= m->next_epoch;
    if (task->started_ms != 0 && same_journal && too_early) {
        // A registration that was long on its way: the agent has been with another node since it
        // said this, and got the task there. It will register again.
        return task->state == NL_TASK_UNKNOWN ? FATE_KEEP : FATE_ADOPT;
    }
    if (task->started_ms != 0) {
        return FATE_NO_RECORD;
    }
    if (!same_journal) {
        return FATE_NO_JOURNAL;
    }
    return task->cancel_requested ? FATE_CANCEL : FATE_DISPATCH;
}

static enum fate fate_of(const struct nl_task *task, const struct journal *journal,
                         const Nodelink__V1__AgentRegister *m, bool same_journal) {
    if (task->state == NL_TASK_PENDING) {
        return FATE_DISPATCH;
    }
    if (!m->extended) {
        // It can't say what it knows, so nothing sent to it is ever sent again.
        return task->state == NL_TASK_UNKNOWN ? FATE_KEEP : FATE_UNKNOWN;
    }
    const Nodelink__V1__TaskRef *ref = journal_find(journal, task);
    return ref != NULL ? fate_of_listed(task, ref) : fate_of_unlisted(task, m, same_journal);
}

// Moves the task to `to` under `epoch`.
static int reassign(struct nl_apply *a, uint32_t slot, enum nl_task_state to, uint64_t epoch) {
    struct nl_task_rec *rec;
    int rv = nl_task_edit(a->state, slot, &rec);
    if (rv == NL_OK && to != rec->task.state) {
        rv = nl_text_replace(a->state, &rec->task.reason, NULL);
    }
    if (rv != NL_OK) {
        return rv;
    }
    struct nl_task *task = &rec->task;
    enum nl_task_state old = task->state;
    task->state = to;
    task->epoch = epoch;
    if (to == NL_TASK_DISPATCHED && (old != to || task->dispatched_ms == 0)) {
        task->dispatched_ms = a->state->clock_ms;
    }
    if (to == NL_TASK_RUNNING && task->started_ms == 0) {
        task->started_ms = a->state->clock_ms;
    }
    return nl_task_commit(a, rec, old);
}

// Nobody knows how it ended.
static int lose(struct nl_apply *a, uint32_t slot, const char *reason) {
    return nl_attempt_over(
        a, slot,
        &(struct nl_attempt_end){.state = NL_TASK_FAILED,
                                 .reason = reason,
                                 .retry_on = NODELINK__V1__RETRY_ON__RETRY_ON_LOST});
}

static int settle(struct nl_apply *a, uint32_t slot, enum fate fate, uint64_t epoch) {
    const struct nl_task *task = &nl_task_at(a->state, slot)->task;
    switch (fate) {
        case FATE_KEEP:
            return NL_OK;
        case FATE_DISPATCH:
            return reassign(a, slot, NL_TASK_DISPATCHED, epoch);
        case FATE_RUNNING:
            return reassign(a, slot, NL_TASK_RUNNING, epoch);
        case FATE_ADOPT:
            return reassign(a, slot, task->state, epoch);
        case FATE_CANCEL:
            return nl_task_move(a, slot, NL_TASK_CANCELLED, task->cancel_reason);
        case FATE_UNKNOWN:
            return nl_task_move(a, slot, NL_TASK_UNKNOWN,
                                "the agent came back and can't say what became of it");
        case FATE_NO_RECORD:
            return lose(a, slot, "the agent has no record of this task any more");
        case FATE_NO_JOURNAL:
            return lose(a, slot,
                        "the agent's journal was replaced: whether the command ran is not known");
    }
    return NL_OK;
}

static int settle_tasks(struct nl_apply *a, uint32_t agent_slot, uint64_t epoch,
                        const Nodelink__V1__AgentRegister *m, bool same_journal) {
    struct journal journal;
    int rv = journal_init(&journal, m);
    if (rv != NL_OK) {
        return rv;
    }
    // A task that begins its next attempt moves behind these: it is not judged again.
    uint64_t end = nl_agent_get(a->state, m->agent_id)->agent.next_order;
    uint32_t slot = nl_task_active_first(a->state, agent_slot);
    while (rv == NL_OK && slot != NL_SLOT_NONE && nl_task_at(a->state, slot)->task.order < end) {
        uint32_t next = nl_task_active_next(a->state, slot);
        const struct nl_task *task = &nl_task_at(a->state, slot)->task;
        rv = settle(a, slot, fate_of(task, &journal, m, same_journal), epoch);
        slot = next;
    }
    free(journal.entries);
    return rv;
}

static int replace_texts(struct nl_state *state, struct nl_agent *agent,
                         const Nodelink__V1__AgentRegister *m) {
    Nodelink__V1__Label **labels;
    int rv = nl_labels_compact(m->labels, m->n_labels, &labels);
    if (rv != NL_OK) {
        return rv;
    }
    nl_release(state, agent->labels);
    agent->labels = labels;
    agent->n_labels = m->n_labels;
    if ((rv = nl_text_replace(state, &agent->version, m->version)) != NL_OK ||
        (rv = nl_text_replace(state, &agent->boot_id, m->boot_id)) != NL_OK ||
        (rv = nl_text_replace(state, &agent->journal_id, m->journal_id)) != NL_OK ||
        (rv = nl_text_replace(state, &agent->address, m->address)) != NL_OK ||
        (rv = nl_text_replace(state, &agent->hostname, m->hostname)) != NL_OK) {
        return rv;
    }
    return nl_text_replace(state, &agent->disconnect_reason, NULL);
}

static int connect_agent(struct nl_apply *a, uint32_t slot, const Nodelink__V1__AgentRegister *m,
                         uint64_t *ret_epoch) {
    struct nl_agent_rec *rec;
    int rv = nl_agent_edit(a->state, slot, &rec);
    if (rv == NL_OK) {
        rv = replace_texts(a->state, &rec->agent, m);
    }
    if (rv != NL_OK) {
        return rv;
    }
    struct nl_agent *agent = &rec->agent;
    enum nl_agent_connection old = agent->connection;
    agent->epoch++;
    agent->connection = NL_AGENT_CONNECTED;
    agent->owner = m->node;
    agent->owner_boot = m->node_boot;
    agent->capacity = m->capacity;
    agent->extended = m->extended;
    agent->connected_ms = a->state->clock_ms;
    agent->disconnected_ms = 0;
    nl_agent_commit(a, rec, old);
    *ret_epoch = agent->epoch;
    return NL_OK;
}

static bool token_ok(const struct nl_agent *agent, const ProtobufCBinaryData *sha256) {
    for (uint32_t i = 0; i < agent->tokens && sha256->len == 32; i++) {
        if (memcmp(agent->token_sha256[i], sha256->data, 32) == 0) {
            return true;
        }
    }
    return false;
}

int nl_apply_register(struct nl_apply *a, const Nodelink__V1__AgentRegister *m) {
    struct nl_agent_rec *rec = nl_agent_get(a->state, m->agent_id);
    if (rec == NULL) {
        return nl_apply_done(a, NL_OUTCOME_NO_AGENT, 0);
    }
    if (!token_ok(&rec->agent, &m->token_sha256)) {
        return nl_apply_done(a, NL_OUTCOME_BAD_TOKEN, 0);
    }
    const struct nl_node *node = nl_state_node(a->state, m->node);
    if (node == NULL || node->boot != m->node_boot) {
        return nl_apply_done(a, NL_OUTCOME_STALE, 0);
    }
    const char *journal_id = rec->agent.journal_id;
    bool same_journal = journal_id != NULL && strcmp(journal_id, m->journal_id) == 0;
    uint32_t slot = rec->head.slot;
    uint64_t epoch;
    int rv = connect_agent(a, slot, m, &epoch);
    if (rv == NL_OK) {
        rv = settle_tasks(a, slot, epoch, m, same_journal);
    }
    return rv == NL_OK ? nl_apply_done(a, NL_OUTCOME_OK, epoch) : rv;
}
