#include "agent/supervisor/convert.h"

#include <stdio.h>
#include <string.h>

#include "common/base/err.h"

static void set_digest(ProtobufCBinaryData *out, const struct sup_result *r, unsigned stream) {
    if (r->sha256_known[stream]) {
        out->data = (uint8_t *)(uintptr_t)r->sha256[stream];  // packing only reads
        out->len = NL_SHA256_LEN;
    }
}

void sup_result_to_message(const struct sup_result *r, struct sup_result_message *ret) {
    Nodelink__V1__TaskResult *m = &ret->message;
    nodelink__v1__task_result__init(m);
    m->kind = (Nodelink__V1__TaskResult__Kind)r->kind;
    m->exit_code = r->exit_code;
    m->signal = r->signal;
    m->stdout_bytes = r->bytes[0];
    m->stderr_bytes = r->bytes[1];
    set_digest(&m->stdout_sha256, r, 0);
    set_digest(&m->stderr_sha256, r, 1);
    m->started_ms = r->started_wall_ms;
    m->finished_ms = r->finished_wall_ms;
    m->reason = (char *)(uintptr_t)r->reason;
    m->user_us = r->user_us;
    m->system_us = r->system_us;
    m->max_rss_kb = r->max_rss_kb;
}

static int get_digest(const ProtobufCBinaryData *in, struct sup_result *r, unsigned stream) {
    if (in->len != 0 && in->len != NL_SHA256_LEN) {
        return NL_EINVAL;
    }
    r->sha256_known[stream] = in->len != 0;
    if (in->len != 0) {
        memcpy(r->sha256[stream], in->data, NL_SHA256_LEN);
    }
    return NL_OK;
}

int sup_result_from_message(const Nodelink__V1__TaskResult *m, struct sup_result *ret) {
    struct sup_result r = {0};
    if ((int)m->kind <= SUP_KIND_NONE || (int)m->kind > SUP_KIND_LOST ||
        get_digest(&m->stdout_sha256, &r, 0) != NL_OK ||
        get_digest(&m->stderr_sha256, &r, 1) != NL_OK || strlen(m->reason) >= sizeof r.reason) {
        return NL_EINVAL;
    }
    r.kind = (enum sup_kind)m->kind;
    r.exit_code = m->exit_code;
    r.signal = m->signal;
    r.bytes[0] = m->stdout_bytes;
    r.bytes[1] = m->stderr_bytes;
    r.started_wall_ms = m->started_ms;
    r.finished_wall_ms = m->finished_ms;
    r.user_us = m->user_us;
    r.system_us = m->system_us;
    r.max_rss_kb = m->max_rss_kb;
    memcpy(r.reason, m->reason, strlen(m->reason) + 1);
    *ret = r;
    return NL_OK;
}

void sup_spool_to_message(struct sup_task *t, Nodelink__V1__SupSpool *ret) {
    nodelink__v1__sup_spool__init(ret);
    ret->task_id = t->id;
    ret->attempt = t->attempt;
    ret->stdout_base = t->out[0].base;
    ret->stdout_end = t->out[0].end;
    ret->stderr_base = t->out[1].base;
    ret->stderr_end = t->out[1].end;
}

void sup_task_to_message(struct sup_task *t, struct sup_task_message *ret) {
    Nodelink__V1__SupTask *m = &ret->message;
    nodelink__v1__sup_task__init(m);
    sup_spool_to_message(t, &ret->spool);
    snprintf(ret->spool_dir, sizeof ret->spool_dir, "spool/%s", t->key);
    m->task_id = t->id;
    m->attempt = t->attempt;
    m->epoch = t->epoch;
    m->phase = t->phase >= SUP_FINISHED ? NODELINK__V1__TASK_REF__PHASE__FINISHED
                                        : NODELINK__V1__TASK_REF__PHASE__RUNNING;
    m->started_ms = t->started_wall_ms;
    m->pid = t->pid;
    m->spool = &ret->spool;
    m->forgotten = t->phase >= SUP_FORGOTTEN;
    m->lost = t->why == SUP_WHY_LOST && t->phase < SUP_FINISHED;
    if (t->phase != SUP_SPENT) {
        m->spool_dir = ret->spool_dir;
    }
    if (t->phase >= SUP_FINISHED) {
        sup_result_to_message(&t->result, &ret->result);
        m->result = &ret->result.message;
    }
}
