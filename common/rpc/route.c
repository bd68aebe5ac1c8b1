// The server's table from "/package.Service/Method" to what the application registered.

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "common/rpc/internal.h"

static bool has_one_request(enum nl_rpc_kind kind) {
    return kind == NL_RPC_UNARY || kind == NL_RPC_SERVER_STREAM;
}

static int add_method(struct nl_rpc_routes *routes, const struct nl_rpc_service *service,
                      const struct nl_rpc_method *method, char *error_text, size_t error_size) {
    const ProtobufCMethodDescriptor *descriptor =
        protobuf_c_service_descriptor_get_method_by_name(service->descriptor, method->name);
    bool has_callback =
        has_one_request(method->kind) ? method->request != NULL : method->stream != NULL;
    if (descriptor == NULL || !has_callback) {
        snprintf(error_text, error_size, "%s.%s: %s", service->descriptor->name, method->name,
                 descriptor == NULL ? "the service has no such method"
                                    : "the callback of the method's kind is missing");
        return NL_EINVAL;
    }
    struct nl_rpc_route *list = realloc(routes->list, (routes->count + 1) * sizeof *list);
    if (list == NULL) {
        return NL_ENOMEM;
    }
    routes->list = list;
    char *path = NULL;
    if (asprintf(&path, "/%s/%s", service->descriptor->name, method->name) < 0) {
        return NL_ENOMEM;
    }
    routes->list[routes->count++] = (struct nl_rpc_route){
        .path = path, .service = service, .method = method, .descriptor = descriptor};
    return NL_OK;
}

int nl_rpc_routes_add(struct nl_rpc_routes *routes, const struct nl_rpc_service *services,
                      char *error_text, size_t error_size) {
    for (; services->descriptor != NULL; services++) {
        for (const struct nl_rpc_method *m = services->methods; m->name != NULL; m++) {
            int rc = add_method(routes, services, m, error_text, error_size);
            if (rc != NL_OK) {
                return rc;
            }
        }
    }
    return NL_OK;
}

static int compare_routes(const void *a, const void *b) {
    const struct nl_rpc_route *left = a, *right = b;
    return strcmp(left->path, right->path);
}

void nl_rpc_routes_sort(struct nl_rpc_routes *routes) {
    qsort(routes->list, routes->count, sizeof *routes->list, compare_routes);
}

const struct nl_rpc_route *nl_rpc_routes_find(const struct nl_rpc_routes *routes,
                                              const char *path) {
    struct nl_rpc_route key = {.path = (char *)(uintptr_t)path};
    return bsearch(&key, routes->list, routes->count, sizeof *routes->list, compare_routes);
}

void nl_rpc_routes_close(struct nl_rpc_routes *routes) {
    for (size_t i = 0; i < routes->count; i++) {
        free(routes->list[i].path);
    }
    free(routes->list);
    *routes = (struct nl_rpc_routes){0};
}
