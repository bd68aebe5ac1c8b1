// grpc.health.v1.Health: Check and Watch, on the same interface as any other service. All of it
// runs on the loop.

#include <grpc/health/v1/health.pb-c.h>
#include <stdlib.h>
#include <string.h>

#include "common/rpc/internal.h"

typedef Grpc__Health__V1__HealthCheckRequest Request;
typedef Grpc__Health__V1__HealthCheckResponse Response;
typedef Grpc__Health__V1__HealthCheckResponse__ServingStatus Status;

#define SERVING GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVING
#define NOT_SERVING GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__NOT_SERVING
#define SERVICE_UNKNOWN GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__SERVING_STATUS__SERVICE_UNKNOWN

// A watch never ends by itself, so their number is bounded.
#define WATCHES_MAX 1024

struct entry {
    struct entry *next;
    Status status;
    char name[];
};

struct watch {
    struct watch *next, **link;
    struct nl_rpc_health *health;
    struct nl_rpc_call *call;
    Status sent;  // valid if `any`
    bool any;
    char name[];
};

struct nl_rpc_health {
    struct entry *entries;
    struct watch *watches;
    size_t watch_count;
    bool stopped;
};

static struct entry *find(const struct nl_rpc_health *health, const char *name) {
    struct entry *entry = health->entries;
    while (entry != NULL && strcmp(entry->name, name) != 0) {
        entry = entry->next;
    }
    return entry;
}

static bool put(struct nl_rpc_health *health, const char *name, Status status) {
    struct entry *entry = find(health, name);
    if (entry == NULL) {
        size_t size = strlen(name) + 1;
        entry = malloc(sizeof *entry + size);
        if (entry == NULL) {
            return false;
        }
        memcpy(entry->name, name, size);
        entry->next = health->entries;
        health->entries = entry;
    }
    entry->status = status;
    return true;
}

// ---- watches ---------------------------------------------------------------

// When the send queue is full the status goes out from on_writable: the last one, which is all a
// watcher wants to know.
static void watch_send(struct watch *watch) {
    const struct entry *entry = find(watch->health, watch->name);
    Status status = entry != NULL ? entry->status : SERVICE_UNKNOWN;
    if (watch->any && watch->sent == status) {
        return;
    }
    Response response = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    response.status = status;
    if (nl_rpc_call_send(watch->call, &response.base) == NL_OK) {
        watch->any = true;
        watch->sent = status;
    }
}

static void on_watch_writable(struct nl_rpc_call *call, void *user) {
    (void)call;
    watch_send(user);
}

static void on_watch_closed(struct nl_rpc_call *call, void *user,
                            const struct nl_rpc_status *status) {
    (void)call;
    (void)status;
    struct watch *watch = user;
    *watch->link = watch->next;
    if (watch->next != NULL) {
        watch->next->link = watch->link;
    }
    watch->health->watch_count--;
    free(watch);
}

static const struct nl_rpc_handler watch_handler = {.on_writable = on_watch_writable,
                                                    .on_closed = on_watch_closed};

static struct watch *watch_new(struct nl_rpc_health *health, struct nl_rpc_call *call,
                               const char *name) {
    size_t size = strlen(name) + 1;
    struct watch *watch = calloc(1, sizeof *watch + size);
    if (watch == NULL) {
        return NULL;
    }
    memcpy(watch->name, name, size);
    watch->health = health;
    watch->call = call;
    watch->next = health->watches;
    watch->link = &health->watches;
    if (health->watches != NULL) {
        health->watches->link = &watch->next;
    }
    health->watches = watch;
    health->watch_count++;
    return watch;
}

static void on_watch(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    struct nl_rpc_health *health = user;
    struct watch *watch = NULL;
    if (!health->stopped && health->watch_count < WATCHES_MAX) {
        watch = watch_new(health, call, ((Request *)message)->service);
    }
    nl_rpc_message_free(message);
    if (watch == NULL) {
        nl_rpc_call_finish(call, health->stopped ? NL_RPC_UNAVAILABLE : NL_RPC_RESOURCE_EXHAUSTED,
                           health->stopped ? "the server is stopping" : "too many watches");
        return;
    }
    nl_rpc_call_set_handler(call, &watch_handler, watch);
    watch_send(watch);
}

static void on_check(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    const struct entry *entry = find(user, ((Request *)message)->service);
    nl_rpc_message_free(message);
    if (entry == NULL) {
        nl_rpc_call_finish(call, NL_RPC_NOT_FOUND, "unknown service");
        return;
    }
    Response response = GRPC__HEALTH__V1__HEALTH_CHECK_RESPONSE__INIT;
    response.status = entry->status;
    nl_rpc_call_reply(call, &response.base);
}

// ---- for the server --------------------------------------------------------

struct nl_rpc_health *nl_rpc_health_new(const struct nl_rpc_service *services) {
    struct nl_rpc_health *health = calloc(1, sizeof *health);
    if (health == NULL) {
        return NULL;
    }
    bool ok = put(health, "", SERVING);
    for (; ok && services->descriptor != NULL; services++) {
        ok = put(health, services->descriptor->name, SERVING);
    }
    if (!ok) {
        nl_rpc_health_free(health);
        return NULL;
    }
    return health;
}

void nl_rpc_health_set(struct nl_rpc_health *health, const char *service, bool serving) {
    if (health->stopped || !put(health, service, serving ? SERVING : NOT_SERVING)) {
        return;
    }
    for (struct watch *watch = health->watches; watch != NULL; watch = watch->next) {
        if (strcmp(watch->name, service) == 0) {
            watch_send(watch);
        }
    }
}

void nl_rpc_health_stop(struct nl_rpc_health *health) {
    for (struct entry *entry = health->entries; entry != NULL; entry = entry->next) {
        entry->status = NOT_SERVING;
    }
    health->stopped = true;
    for (struct watch *watch = health->watches; watch != NULL; watch = watch->next) {
        watch_send(watch);
        nl_rpc_call_finish(watch->call, NL_RPC_UNAVAILABLE, "the server is stopping");
    }
}

void nl_rpc_health_free(struct nl_rpc_health *health) {
    while (health != NULL && health->entries != NULL) {
        struct entry *next = health->entries->next;
        free(health->entries);
        health->entries = next;
    }
    free(health);
}

struct nl_rpc_service nl_rpc_health_service(struct nl_rpc_health *health) {
    static const struct nl_rpc_method methods[] = {
        {.name = "Check", .kind = NL_RPC_UNARY, .request = on_check},
        {.name = "Watch", .kind = NL_RPC_SERVER_STREAM, .request = on_watch},
        {0},
    };
    return (struct nl_rpc_service){
        .descriptor = &grpc__health__v1__health__descriptor, .methods = methods, .user = health};
}
