#include "tools/client.h"

#include <assert.h>
#include <nodelink/v1/control.pb-c.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/base/clock.h"
#include "common/base/config.h"
#include "common/base/err.h"

enum {
    CALL_MS = 10000,          // default for all tries of a call
    TRY_MS = 3000,            // one node, while there are others to ask
    CONNECT_GRACE_MS = 2000,  // a node being restarted is back by then
    BACKOFF_MS = 100,
    BACKOFF_MS_MAX = 1000,
    MESSAGE_BYTES_MAX = 64 << 20,
    UNPACKED_BYTES_MAX = 256 << 20,
};

struct node {
    const char *address;             // the target's; the extra one's is `extra_address`
    struct nl_rpc_channel *channel;  // NULL until needed
};

struct request {
    struct nl_client *client;
    struct request *next, *previous;
    struct nl_client_call call;
    nl_client_cb done;
    void *user;
    uv_timer_t timer;            // backoff; closed last, then this is freed
    struct nl_rpc_channel *own;  // of call.only; NULL else
    struct nl_rpc_call *rpc_call;
    char address[128];  // being tried
    uint64_t started_ms, deadline_ms;
    uint64_t backoff_ms;
    size_t tries;                   // in this round over the nodes
    bool reached;                   // some node of this round could be connected to
    bool ambiguous;                 // a try may have done the write
    struct nl_client_error answer;  // the last failure that a node told itself; text "": none
    bool stopping;
};

struct nl_client {
    uv_loop_t loop;
    uv_async_t keep;  // the loop waits even while nothing else is active
    struct nl_rpc *rpc;
    const struct nl_client_target *target;
    struct node *nodes;
    size_t current;
    uint64_t index;
    char *authorization;  // "Bearer TOKEN"
    struct nl_rpc_metadata metadata[2];
    struct request *requests;
};

// ---- target ----------------------------------------------------------------

// "host" gets the default port; NULL: malformed or no memory.
static char *complete_address(const char *text, size_t len) {
    char *address = NULL;
    char *host = NULL;
    uint16_t port = 0;
    bool bare = memchr(text, ':', len) == NULL;
    if (asprintf(&address, "%.*s%s", (int)len, text, bare ? ":7000" : "") < 0) {
        return NULL;
    }
    if (len == 0 || nl_parse_address(address, &host, &port) != NL_OK || port == 0) {
        free(host);
        free(address);
        return NULL;
    }
    free(host);
    return address;
}

static int add_address(struct nl_client_target *target, char *address) {
    char **addresses =
        realloc(target->addresses, (target->n_addresses + 1) * sizeof *target->addresses);
    if (addresses == NULL) {
        free(address);
        return NL_ENOMEM;
    }
    target->addresses = addresses;
    addresses[target->n_addresses++] = address;
    return NL_OK;
}

int nl_client_parse_addresses(const char *list, struct nl_client_target *target, char *error,
                              size_t error_size) {
    for (const char *at = list; at != NULL;) {
        const char *comma = strchr(at, ',');
        size_t len = comma != NULL ? (size_t)(comma - at) : strlen(at);
        size_t blanks = strspn(at, " ");
        blanks = blanks < len ? blanks : len;
        const char *text = at + blanks;
        len -= blanks;
        while (len > 0 && text[len - 1] == ' ') {
            len--;
        }
        char *address = complete_address(text, len);
        if (address == NULL) {
            snprintf(error, error_size, "'%.*s' in '%s' is not HOST:PORT", (int)len, text, list);
            return NL_EINVAL;
        }
        if (add_address(target, address) != NL_OK) {
            snprintf(error, error_size, "out of memory");
            return NL_ENOMEM;
        }
        at = comma != NULL ? comma + 1 : NULL;
    }
    return NL_OK;
}

void nl_client_target_close(struct nl_client_target *target) {
    for (size_t i = 0; i < target->n_addresses; i++) {
        free(target->addresses[i]);
    }
    free(target->addresses);
    free(target->token);
    *target = (struct nl_client_target){0};
}

// ---- errors ----------------------------------------------------------------

static bool not_sent(const char *message) {
    static const char *const SIGNS[] = {
        "failed to connect",     "onnection refused",      "connections to all backends failing",
        "DNS resolution failed", "name resolution failed", "empty address list"};
    for (size_t i = 0; i < sizeof SIGNS / sizeof SIGNS[0]; i++) {
        if (strcasestr(message, SIGNS[i]) != NULL) {
            return true;
        }
    }
    return false;
}

static bool may_have_happened(enum nl_rpc_code code) {
    return code == NL_RPC_UNAVAILABLE || code == NL_RPC_DEADLINE_EXCEEDED ||
           code == NL_RPC_CANCELLED || code == NL_RPC_UNKNOWN || code == NL_RPC_INTERNAL;
}

void nl_client_read_status(const struct nl_rpc_status *status, const char *address, bool write,
                           struct nl_client_error *ret) {
    static const char FAILED[] = "failed: ", UNKNOWN[] = "unknown: ";
    const char *text = status->message;
    *ret = (struct nl_client_error){.code = status->code, .outcome = NL_CLIENT_FAILED};
    snprintf(ret->address, sizeof ret->address, "%s", address);
    if (strncmp(text, FAILED, strlen(FAILED)) == 0) {
        snprintf(ret->text, sizeof ret->text, "%s", text + strlen(FAILED));
        return;
    }
    if (strncmp(text, UNKNOWN, strlen(UNKNOWN)) == 0) {
        ret->outcome = write ? NL_CLIENT_UNKNOWN : NL_CLIENT_FAILED;
        snprintf(ret->text, sizeof ret->text, "%s", text + strlen(UNKNOWN));
        return;
    }
    if (status->code == NL_RPC_UNAVAILABLE && not_sent(text)) {
        ret->unreachable = true;
        snprintf(ret->text, sizeof ret->text, "can't connect to %s", address);
        return;
    }
    ret->outcome = write && may_have_happened(status->code) ? NL_CLIENT_UNKNOWN : NL_CLIENT_FAILED;
    if (status->code == NL_RPC_DEADLINE_EXCEEDED) {
        snprintf(ret->text, sizeof ret->text, "no answer from %s in time", address);
    } else if (status->code == NL_RPC_UNAVAILABLE) {
        snprintf(ret->text, sizeof ret->text, "connection to %s lost (%s)", address, text);
    } else {
        snprintf(ret->text, sizeof ret->text, "%s", text);
    }
}

// ---- client ----------------------------------------------------------------

static void on_keep(uv_async_t *handle) {
    (void)handle;
}

static int init_metadata(struct nl_client *client) {
    if (client->target->token == NULL) {
        return NL_OK;
    }
    if (asprintf(&client->authorization, "Bearer %s", client->target->token) < 0) {
        client->authorization = NULL;
        return NL_ENOMEM;
    }
    client->metadata[0] = (struct nl_rpc_metadata){"authorization", client->authorization};
    return NL_OK;
}

static int init_nodes(struct nl_client *client) {
    client->nodes = calloc(client->target->n_addresses, sizeof *client->nodes);
    if (client->nodes == NULL) {
        return NL_ENOMEM;
    }
    for (size_t i = 0; i < client->target->n_addresses; i++) {
        client->nodes[i].address = client->target->addresses[i];
    }
    return NL_OK;
}

struct nl_client *nl_client_new(const struct nl_client_target *target) {
    assert(target->n_addresses > 0);
    struct nl_client *client = calloc(1, sizeof *client);
    if (client == NULL) {
        return NULL;
    }
    client->target = target;
    if (uv_loop_init(&client->loop) != 0) {
        free(client);
        return NULL;
    }
    if (uv_async_init(&client->loop, &client->keep, on_keep) != 0 || init_nodes(client) != NL_OK ||
        init_metadata(client) != NL_OK || nl_rpc_new(&client->loop, &client->rpc) != NL_OK) {
        nl_client_free(client);
        return NULL;
    }
    return client;
}

static void on_rpc_closed(void *user) {
    struct nl_client *client = user;
    client->rpc = NULL;
}

static void stop_requests(struct nl_client *client);

void nl_client_free(struct nl_client *client) {
    if (client == NULL) {
        return;
    }
    stop_requests(client);
    for (size_t i = 0; client->nodes != NULL && i < client->target->n_addresses; i++) {
        if (client->nodes[i].channel != NULL) {
            nl_rpc_channel_free(client->nodes[i].channel);
        }
    }
    if (client->rpc != NULL) {
        nl_rpc_close(client->rpc, on_rpc_closed, client);
    }
    while (client->rpc != NULL) {
        uv_run(&client->loop, UV_RUN_ONCE);
    }
    if (client->keep.type == UV_ASYNC) {
        uv_close((uv_handle_t *)&client->keep, NULL);
    }
    uv_run(&client->loop, UV_RUN_DEFAULT);
    int rc = uv_loop_close(&client->loop);
    assert(rc == 0);
    (void)rc;
    free(client->authorization);
    free(client->nodes);
    free(client);
}

static struct nl_rpc_channel *open_channel(struct nl_client *client, const char *address) {
    struct nl_rpc_channel_options options = {
        .tls = client->target->tls.ca_file != NULL ? &client->target->tls : NULL,
        .message_bytes_max = MESSAGE_BYTES_MAX,
        .unpacked_bytes_max = UNPACKED_BYTES_MAX,
        .connect_backoff_ms_max = BACKOFF_MS_MAX,
    };
    struct nl_rpc_channel *channel = NULL;
    return nl_rpc_channel_new(client->rpc, address, &options, &channel) == NL_OK ? channel : NULL;
}

struct nl_rpc_channel *nl_client_channel(struct nl_client *client) {
    struct node *node = &client->nodes[client->current];
    if (node->channel == NULL) {
        node->channel = open_channel(client, node->address);
    } else {
        nl_rpc_channel_reset_backoff(node->channel);
    }
    return node->channel;
}

struct nl_rpc *nl_client_rpc(struct nl_client *client) {
    return client->rpc;
}

uv_loop_t *nl_client_loop(struct nl_client *client) {
    return &client->loop;
}

const struct nl_rpc_metadata *nl_client_metadata(const struct nl_client *client) {
    return client->authorization != NULL ? client->metadata : NULL;
}

const char *nl_client_address(const struct nl_client *client) {
    return client->nodes[client->current].address;
}

void nl_client_next(struct nl_client *client, const char *address) {
    if (strcmp(address, nl_client_address(client)) == 0) {
        client->current = (client->current + 1) % client->target->n_addresses;
    }
}

uint64_t nl_client_index(const struct nl_client *client) {
    return client->index;
}

void nl_client_saw_index(struct nl_client *client, uint64_t index) {
    if (index > client->index) {
        client->index = index;
    }
}

// ---- calls -----------------------------------------------------------------

static void on_request_closed(uv_handle_t *handle) {
    free(handle->data);
}

static void finish(struct request *r, const struct nl_client_error *error,
                   ProtobufCMessage *reply) {
    if (r->previous != NULL) {
        r->previous->next = r->next;
    } else {
        r->client->requests = r->next;
    }
    if (r->next != NULL) {
        r->next->previous = r->previous;
    }
    if (r->own != NULL) {
        nl_rpc_channel_free(r->own);
    }
    uv_close((uv_handle_t *)&r->timer, on_request_closed);
    r->done(r->user, error, reply);
}

// Every reply begins with a header; the descriptor knows where.
static void note_index(struct nl_client *client, const ProtobufCMessage *reply) {
    const ProtobufCFieldDescriptor *field =
        protobuf_c_message_descriptor_get_field_by_name(reply->descriptor, "header");
    if (field != NULL) {
        const void *at = (const char *)reply + field->offset;
        const Nodelink__V1__ReplyHeader *const *header = at;
        if (*header != NULL) {
            nl_client_saw_index(client, (*header)->index);
        }
    }
}

static bool may_repeat(const struct request *r, const struct nl_client_error *error) {
    bool transient = error->code == NL_RPC_UNAVAILABLE || error->code == NL_RPC_DEADLINE_EXCEEDED;
    bool safe = r->call.repeat != NL_CLIENT_ONCE || error->outcome == NL_CLIENT_FAILED;
    bool known_again = error->code != NL_RPC_DEADLINE_EXCEEDED || r->call.repeat != NL_CLIENT_ONCE;
    return transient && safe && known_again && !r->stopping && r->call.only == NULL &&
           nl_clock_mono_ms() < r->deadline_ms;
}

static void on_timer(uv_timer_t *timer);

// After a failed try: the next node at once; after all of them, a pause. False: give up.
static bool again(struct request *r, const struct nl_client_error *error) {
    if (!may_repeat(r, error)) {
        return false;
    }
    uint64_t pause = 0;
    r->reached |= !error->unreachable;
    nl_client_next(r->client, r->address);
    if (++r->tries >= r->client->target->n_addresses) {
        uint64_t now = nl_clock_mono_ms();
        if (!r->reached && now - r->started_ms >= CONNECT_GRACE_MS) {
            return false;
        }
        pause = r->backoff_ms;
        if (now + pause >= r->deadline_ms) {
            return false;
        }
        r->backoff_ms = pause * 2 < BACKOFF_MS_MAX ? pause * 2 : BACKOFF_MS_MAX;
        r->tries = 0;
        r->reached = false;
    }
    uv_timer_start(&r->timer, on_timer, pause, 0);
    return true;
}

// Names all nodes that were tried.
static void name_all(const struct request *r, struct nl_client_error *error) {
    const struct nl_client_target *target = r->client->target;
    int at = snprintf(error->text, sizeof error->text, "can't connect to any node:");
    for (size_t i = 0; i < target->n_addresses && at > 0 && (size_t)at < sizeof error->text; i++) {
        at += snprintf(error->text + at, sizeof error->text - (size_t)at, "%s %s", i > 0 ? "," : "",
                       target->addresses[i]);
    }
}

static void fail(struct request *r, const struct nl_rpc_status *status) {
    struct nl_client_error error;
    nl_client_read_status(status, r->address, r->call.repeat != NL_CLIENT_READ, &error);
    r->ambiguous |= error.outcome == NL_CLIENT_UNKNOWN;
    if (!error.unreachable) {
        r->answer = error;
    }
    if (again(r, &error)) {
        return;
    }
    // What a node said is worth more than that the one asked last is not there.
    if (error.unreachable && *r->answer.text != '\0') {
        error = r->answer;
    }
    // A later "certainly not" does not take back an earlier "maybe", but a refusal that comes
    // from the state machine after it does: the write was looked at and is not there.
    bool only_transport =
        error.code == NL_RPC_UNAVAILABLE || error.code == NL_RPC_DEADLINE_EXCEEDED;
    if (r->ambiguous && only_transport) {
        error.outcome = NL_CLIENT_UNKNOWN;
    }
    if (error.unreachable && r->call.only == NULL && r->client->target->n_addresses > 1) {
        name_all(r, &error);
    }
    finish(r, &error, NULL);
}

static void on_reply(void *user, const struct nl_rpc_status *status, ProtobufCMessage *reply) {
    struct request *r = user;
    r->rpc_call = NULL;
    if (status->code != NL_RPC_OK || reply == NULL) {
        fail(r, status);
        return;
    }
    note_index(r->client, reply);
    finish(r, NULL, reply);
}

static uint64_t try_ms(const struct request *r, uint64_t left_ms) {
    bool others = r->call.only == NULL && r->client->target->n_addresses > 1;
    return others && r->call.repeat != NL_CLIENT_ONCE && left_ms > TRY_MS ? TRY_MS : left_ms;
}

static struct nl_rpc_channel *channel_of(struct request *r) {
    struct nl_client *client = r->client;
    if (r->call.only == NULL) {
        snprintf(r->address, sizeof r->address, "%s", nl_client_address(client));
        return nl_client_channel(client);
    }
    snprintf(r->address, sizeof r->address, "%s", r->call.only);
    for (size_t i = 0; i < client->target->n_addresses; i++) {
        if (strcmp(client->nodes[i].address, r->call.only) == 0 &&
            client->nodes[i].channel != NULL) {
            nl_rpc_channel_reset_backoff(client->nodes[i].channel);
            return client->nodes[i].channel;
        }
    }
    if (r->own == NULL) {
        r->own = open_channel(client, r->call.only);
    }
    return r->own;
}

static void attempt(struct request *r) {
    struct nl_client *client = r->client;
    uint64_t now = nl_clock_mono_ms();
    struct nl_rpc_channel *channel = channel_of(r);
    if (r->call.min_index != NULL) {
        *r->call.min_index = client->index;
    }
    struct nl_rpc_call_options options = {
        .metadata = nl_client_metadata(client),
        .timeout_ms = try_ms(r, r->deadline_ms > now ? r->deadline_ms - now : 1),
    };
    int rc = channel == NULL
                 ? NL_ENOMEM
                 : nl_rpc_unary(channel, &nodelink__v1__control_service__descriptor, r->call.method,
                                &options, r->call.request, on_reply, r, &r->rpc_call);
    if (rc != NL_OK) {
        struct nl_rpc_status status = {NL_RPC_INTERNAL, nl_strerror(rc)};
        struct nl_client_error error;
        nl_client_read_status(&status, r->address, false, &error);
        finish(r, &error, NULL);
    }
}

static void on_timer(uv_timer_t *timer) {
    attempt(timer->data);
}

int nl_client_start(struct nl_client *client, const struct nl_client_call *call, nl_client_cb done,
                    void *user) {
    struct request *r = calloc(1, sizeof *r);
    if (r == NULL) {
        return NL_ENOMEM;
    }
    uint64_t now = nl_clock_mono_ms();
    *r = (struct request){.client = client, .call = *call, .done = done, .user = user};
    r->started_ms = now;
    r->deadline_ms = now + (call->timeout_ms != 0 ? call->timeout_ms : CALL_MS);
    r->backoff_ms = BACKOFF_MS;
    r->next = client->requests;
    if (r->next != NULL) {
        r->next->previous = r;
    }
    client->requests = r;
    uv_timer_init(&client->loop, &r->timer);
    r->timer.data = r;
    uv_timer_start(&r->timer, on_timer, 0, 0);
    return NL_OK;
}

static void stop_requests(struct nl_client *client) {
    static const struct nl_client_error CANCELLED = {.code = NL_RPC_CANCELLED, .text = "given up"};
    struct request *next = NULL;
    for (struct request *r = client->requests; r != NULL; r = next) {
        next = r->next;
        r->stopping = true;
        if (r->rpc_call != NULL) {
            nl_rpc_call_cancel(r->rpc_call);
        } else {
            finish(r, &CANCELLED, NULL);
        }
    }
    while (client->requests != NULL) {
        uv_run(&client->loop, UV_RUN_ONCE);
    }
}

struct waiting {
    bool over;
    bool ok;
    ProtobufCMessage *reply;
    struct nl_client_error error;
};

static void on_waited(void *user, const struct nl_client_error *error, ProtobufCMessage *reply) {
    struct waiting *w = user;
    w->over = true;
    w->ok = error == NULL;
    w->reply = reply;
    if (error != NULL) {
        w->error = *error;
    }
}

bool nl_client_wait(struct nl_client *client, const struct nl_client_call *call,
                    ProtobufCMessage **ret_reply, struct nl_client_error *ret_error) {
    struct waiting w = {0};
    if (nl_client_start(client, call, on_waited, &w) != NL_OK) {
        *ret_error = (struct nl_client_error){.code = NL_RPC_INTERNAL, .text = "out of memory"};
        return false;
    }
    while (!w.over) {
        uv_run(&client->loop, UV_RUN_ONCE);
    }
    if (w.ok) {
        *ret_reply = w.reply;
    } else {
        *ret_error = w.error;
    }
    return w.ok;
}
