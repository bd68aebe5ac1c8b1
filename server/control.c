#include "server/control.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#include "common/base/err.h"
#include "common/base/text.h"

enum { DEFAULT_TIMEOUT_MS = 10000, TIMEOUT_MS_MAX = 60000, MARGIN_MS = 150 };

const struct nl_rpc_method nl_control_methods[] = {
    {"SubmitTask", NL_RPC_UNARY, nl_control_submit, NULL},
    {"SubmitTasks", NL_RPC_BIDI, NULL, nl_control_submits},
    {"GetTask", NL_RPC_UNARY, nl_control_get_task, NULL},
    {"ListTasks", NL_RPC_UNARY, nl_control_list_tasks, NULL},
    {"CancelTask", NL_RPC_UNARY, nl_control_cancel, NULL},
    {"WatchTask", NL_RPC_SERVER_STREAM, nl_control_watch, NULL},
    {"GetAgent", NL_RPC_UNARY, nl_control_get_agent, NULL},
    {"ListAgents", NL_RPC_UNARY, nl_control_list_agents, NULL},
    {"CreateAgentToken", NL_RPC_UNARY, nl_control_create_token, NULL},
    {"RevokeAgentToken", NL_RPC_UNARY, nl_control_revoke_token, NULL},
    {"GetStatus", NL_RPC_UNARY, nl_control_status, NULL},
    {NULL, NL_RPC_UNARY, NULL, NULL},
};

struct nl_control *nl_control_new(struct nl_server *server) {
    struct nl_control *control = calloc(1, sizeof *control);
    if (control == NULL) {
        return NULL;
    }
    control->server = server;
    control->watches = nl_watches_new(server);
    if (control->watches == NULL) {
        free(control);
        return NULL;
    }
    return control;
}

void nl_control_free(struct nl_control *control) {
    if (control != NULL) {
        assert(control->operations == 0);
        nl_watches_free(control->watches);
        free(control);
    }
}

// ---- small things ----------------------------------------------------------

static void fail_v(struct nl_rpc_call *call, enum nl_rpc_code code, const char *fmt, va_list args) {
    char text[1024];
    vsnprintf(text, sizeof text, fmt, args);
    nl_rpc_call_finish(call, code, text);
}

void nl_control_fail(struct nl_rpc_call *call, enum nl_rpc_code code, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    fail_v(call, code, fmt, args);
    va_end(args);
}

void nl_control_header(struct nl_server *server, Nodelink__V1__ReplyHeader *ret) {
    struct nl_cluster_status status;
    nl_cluster_status(server->cluster, &status);
    nodelink__v1__reply_header__init(ret);
    ret->index = nl_state_index(nl_cluster_state(server->cluster));
    ret->term = status.term;
    ret->node = server->settings->node_name;
}

uint64_t nl_control_timeout_ms(const struct nl_rpc_call *call) {
    uint64_t left = nl_rpc_call_time_left_ms(call);
    if (left == UINT64_MAX) {
        return DEFAULT_TIMEOUT_MS;
    }
    // gRPC rounds the deadline up by as much as one in a hundred on the wire, and proposals end at
    // the loop's tick: without room for both the client gives up before it hears why.
    uint64_t margin = left / 20 + MARGIN_MS;
    margin = left / 4 < margin ? left / 4 : margin;
    uint64_t timeout = left - margin < TIMEOUT_MS_MAX ? left - margin : TIMEOUT_MS_MAX;
    return timeout > 0 ? timeout : 1;  // 0 would mean the default
}

bool nl_control_id_ok(struct nl_rpc_call *call, const char *what, const char *id) {
    if (nl_text_id_ok(id)) {
        return true;
    }
    nl_control_fail(call, NL_RPC_INVALID_ARGUMENT,
                    "%s is not valid: 1 to 128 of A-Z a-z 0-9 . _ : -, not beginning with - or .",
                    what);
    return false;
}

// ---- operations ------------------------------------------------------------

struct nl_control_op *nl_control_op_new(struct nl_server *server, struct nl_rpc_call *call,
                                        ProtobufCMessage *request) {
    struct nl_control_op *op = calloc(1, sizeof *op);
    if (op == NULL) {
        nl_rpc_message_free(request);
        nl_control_fail(call, NL_RPC_RESOURCE_EXHAUSTED, "failed: this node is out of memory");
        return NULL;
    }
    nl_rpc_call_ref(call);
    op->control = server->control;
    op->call = call;
    op->request = request;
    op->what = "the request";
    op->control->operations++;
    return op;
}

static void op_free(struct nl_control_op *op) {
    op->control->operations--;
    nl_rpc_call_unref(op->call);
    nl_rpc_message_free(op->request);
    free(op->text);
    free(op);
}

void nl_control_op_name(struct nl_control_op *op, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    if (vasprintf(&op->text, fmt, args) < 0) {
        op->text = NULL;
    }
    va_end(args);
    op->what = op->text != NULL ? op->text : "the request";
}

static void tell_v(struct nl_control_op *op, enum nl_rpc_code code, const char *fmt, va_list args) {
    char text[1024];
    if (op->tell == NULL) {
        fail_v(op->call, code, fmt, args);
        return;
    }
    vsnprintf(text, sizeof text, fmt, args);
    op->tell(op, code, text);
}

void nl_control_op_tell(struct nl_control_op *op, enum nl_rpc_code code, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    tell_v(op, code, fmt, args);
    va_end(args);
}

void nl_control_op_fail(struct nl_control_op *op, enum nl_rpc_code code, const char *fmt, ...) {
    va_list args;
    va_start(args, fmt);
    tell_v(op, code, fmt, args);
    va_end(args);
    op_free(op);
}

// ---- reads -----------------------------------------------------------------

static void read_failed(struct nl_control_op *op, int result) {
    if (result == NL_EFULL) {
        nl_control_op_fail(op, NL_RPC_RESOURCE_EXHAUSTED,
                           "failed: this node has too many reads under way; try again");
    } else {
        nl_control_op_fail(op, NL_RPC_UNAVAILABLE,
                           "failed: no quorum: node %s could not confirm with a leader that it is "
                           "up to date (%s); try another node, or read with stale",
                           op->control->server->settings->node_name, nl_strerror(result));
    }
}

static void read_now(struct nl_control_op *op) {
    Nodelink__V1__ReplyHeader header;
    nl_control_header(op->control->server, &header);
    header.stale = op->stale;
    op->read_done(op, &header);
    op_free(op);
}

static void on_applied(void *user, int result, uint64_t index, uint64_t term) {
    (void)index;
    (void)term;
    struct nl_control_op *op = user;
    bool closing = op->control->server->cluster == NULL;
    if (result != NL_OK || closing) {
        read_failed(op, closing ? NL_ECANCELED : result);
    } else {
        read_now(op);
    }
}

static void wait_min_index(struct nl_control_op *op) {
    struct nl_cluster *cluster = op->control->server->cluster;
    if (nl_state_index(nl_cluster_state(cluster)) >= op->min_index) {
        read_now(op);
        return;
    }
    int rv = nl_cluster_wait_applied(cluster, op->min_index, nl_control_timeout_ms(op->call),
                                     on_applied, op);
    if (rv != NL_OK) {
        read_failed(op, rv);
    }
}

static void on_read(void *user, int result, uint64_t index, uint64_t term) {
    (void)index;
    (void)term;
    struct nl_control_op *op = user;
    bool closing = op->control->server->cluster == NULL;
    if (result != NL_OK || closing) {
        read_failed(op, closing ? NL_ECANCELED : result);
    } else {
        wait_min_index(op);
    }
}

void nl_control_read(struct nl_control_op *op, const Nodelink__V1__ReadOptions *options) {
    op->stale = options != NULL && options->stale;
    op->min_index = options != NULL ? options->min_index : 0;
    if (op->stale) {
        wait_min_index(op);
        return;
    }
    int rv =
        nl_cluster_read(op->control->server->cluster, nl_control_timeout_ms(op->call), on_read, op);
    if (rv != NL_OK) {
        read_failed(op, rv);
    }
}

// ---- writes ----------------------------------------------------------------

static void write_failed(struct nl_control_op *op, int result) {
    switch (result) {
        case NL_EFULL:
            nl_control_op_fail(op, NL_RPC_RESOURCE_EXHAUSTED,
                               "failed: %s: a queue or a disk is full, nothing was done; "
                               "try again later",
                               op->what);
            return;
        case NL_ENOQUORUM:
        case NL_ETIMEOUT:
        case NL_ENOTLEADER:
        case NL_ENOMEM:
            nl_control_op_fail(op, NL_RPC_UNAVAILABLE,
                               "failed: no quorum: %s: nothing was done (%s); try again, or "
                               "another node",
                               op->what, nl_strerror(result));
            return;
        case NL_ETOOBIG:
        case NL_EINVAL:
            nl_control_op_fail(op, NL_RPC_INVALID_ARGUMENT, "failed: %s: too large or not valid",
                               op->what);
            return;
        default:
            nl_control_op_fail(op, NL_RPC_UNAVAILABLE,
                               "unknown: %s: it was sent to the cluster and may have happened "
                               "(%s); look, or repeat it with the same id",
                               op->what, nl_strerror(result));
            return;
    }
}

static void on_written(void *user, int result, struct nl_outcome outcome, uint64_t index,
                       uint64_t term) {
    struct nl_control_op *op = user;
    if (result != NL_OK) {
        write_failed(op, result);
        return;
    }
    Nodelink__V1__ReplyHeader header = NODELINK__V1__REPLY_HEADER__INIT;
    header.index = index;
    header.term = term;
    header.node = op->control->server->settings->node_name;
    op->write_done(op, outcome, &header);
    op_free(op);
}

void nl_control_write(struct nl_control_op *op, Nodelink__V1__Command *command) {
    int rv = nl_cluster_propose(op->control->server->cluster, command,
                                nl_control_timeout_ms(op->call), on_written, op);
    if (rv != NL_OK) {
        write_failed(op, rv);
    }
}
