// grpc.reflection.v1alpha.ServerReflection: which services there are, and the .proto files behind
// them, so that generic clients need no copy of ours. All of it runs on the loop.

#include <grpc/reflection/v1alpha/reflection.pb-c.h>
#include <stdlib.h>
#include <string.h>

#include "common/rpc/descriptors.h"
#include "common/rpc/internal.h"

typedef Grpc__Reflection__V1alpha__ServerReflectionRequest Request;
typedef Grpc__Reflection__V1alpha__ServerReflectionResponse Response;
typedef Grpc__Reflection__V1alpha__FileDescriptorResponse Files;
typedef Grpc__Reflection__V1alpha__ExtensionNumberResponse Numbers;
typedef Grpc__Reflection__V1alpha__ListServiceResponse Services;
typedef Grpc__Reflection__V1alpha__ServiceResponse Service;
typedef Grpc__Reflection__V1alpha__ErrorResponse Error;

#define ASKED(what) GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_REQUEST__MESSAGE_REQUEST_##what
#define ANSWER(what) GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_RESPONSE__MESSAGE_RESPONSE_##what

struct session {
    struct nl_rpc_server *server;
    Request *waiting;  // the one request whose answer did not fit; the call is paused meanwhile
};

// ---- look-ups --------------------------------------------------------------

static const struct nl_rpc_descriptor_file *file_named(const char *name) {
    for (size_t i = 0; i < nl_rpc_descriptor_file_count; i++) {
        if (strcmp(nl_rpc_descriptor_files[i].name, name) == 0) {
            return &nl_rpc_descriptor_files[i];
        }
    }
    return NULL;
}

static int compare_symbols(const void *a, const void *b) {
    const struct nl_rpc_descriptor_symbol *left = a, *right = b;
    return strcmp(left->name, right->name);
}

static const struct nl_rpc_descriptor_file *file_with(const char *symbol) {
    struct nl_rpc_descriptor_symbol key = {.name = symbol};
    const struct nl_rpc_descriptor_symbol *found =
        bsearch(&key, nl_rpc_descriptor_symbols, nl_rpc_descriptor_symbol_count, sizeof key,
                compare_symbols);
    return found != NULL ? &nl_rpc_descriptor_files[found->file] : NULL;
}

// ---- answers: each sends one response ---------------------------------------

static int send_error(struct nl_rpc_call *call, Response *response, enum nl_rpc_code code,
                      const char *text) {
    Error error = GRPC__REFLECTION__V1ALPHA__ERROR_RESPONSE__INIT;
    error.error_code = (int32_t)code;
    error.error_message = (char *)(uintptr_t)text;
    response->message_response_case = ANSWER(ERROR_RESPONSE);
    response->error_response = &error;
    return nl_rpc_call_send(call, &response->base);
}

static int send_file(struct nl_rpc_call *call, Response *response,
                     const struct nl_rpc_descriptor_file *file) {
    if (file == NULL) {
        return send_error(call, response, NL_RPC_NOT_FOUND, "not known here");
    }
    ProtobufCBinaryData *list = calloc(file->closure_count, sizeof *list);
    if (list == NULL) {
        return NL_ENOMEM;
    }
    for (size_t i = 0; i < file->closure_count; i++) {
        const struct nl_rpc_descriptor_file *one = &nl_rpc_descriptor_files[file->closure[i]];
        list[i] = (ProtobufCBinaryData){.len = one->len, .data = (uint8_t *)(uintptr_t)one->data};
    }
    Files files = GRPC__REFLECTION__V1ALPHA__FILE_DESCRIPTOR_RESPONSE__INIT;
    files.n_file_descriptor_proto = file->closure_count;
    files.file_descriptor_proto = list;
    response->message_response_case = ANSWER(FILE_DESCRIPTOR_RESPONSE);
    response->file_descriptor_response = &files;
    int rc = nl_rpc_call_send(call, &response->base);
    free(list);
    return rc;
}

static int send_extensions(struct nl_rpc_call *call, Response *response, char *type) {
    if (file_with(type) == NULL) {
        return send_error(call, response, NL_RPC_NOT_FOUND, "not known here");
    }
    Numbers numbers = GRPC__REFLECTION__V1ALPHA__EXTENSION_NUMBER_RESPONSE__INIT;
    numbers.base_type_name = type;
    response->message_response_case = ANSWER(ALL_EXTENSION_NUMBERS_RESPONSE);
    response->all_extension_numbers_response = &numbers;
    return nl_rpc_call_send(call, &response->base);
}

static size_t count_services(const struct nl_rpc_service *services) {
    size_t count = 0;
    while (services[count].descriptor != NULL) {
        count++;
    }
    return count;
}

static size_t name_services(const struct nl_rpc_service *services, Service *list,
                            Service **pointers, size_t at) {
    for (; services->descriptor != NULL; services++, at++) {
        grpc__reflection__v1alpha__service_response__init(&list[at]);
        list[at].name = (char *)(uintptr_t)services->descriptor->name;
        pointers[at] = &list[at];
    }
    return at;
}

static int send_services(struct nl_rpc_call *call, Response *response,
                         const struct nl_rpc_server *server) {
    size_t count = count_services(server->services) + count_services(server->builtin);
    Service *list = calloc(count, sizeof *list);
    Service **pointers = calloc(count, sizeof *pointers);
    int rc = NL_ENOMEM;
    if (list != NULL && pointers != NULL) {
        size_t at = name_services(server->services, list, pointers, 0);
        name_services(server->builtin, list, pointers, at);
        Services services = GRPC__REFLECTION__V1ALPHA__LIST_SERVICE_RESPONSE__INIT;
        services.n_service = count;
        services.service = pointers;
        response->message_response_case = ANSWER(LIST_SERVICES_RESPONSE);
        response->list_services_response = &services;
        rc = nl_rpc_call_send(call, &response->base);
    }
    free(list);
    free(pointers);
    return rc;
}

static int answer(struct session *session, struct nl_rpc_call *call, Request *request) {
    Response response = GRPC__REFLECTION__V1ALPHA__SERVER_REFLECTION_RESPONSE__INIT;
    response.valid_host = request->host;
    response.original_request = request;
    switch (request->message_request_case) {
        case ASKED(FILE_BY_FILENAME):
            return send_file(call, &response, file_named(request->file_by_filename));
        case ASKED(FILE_CONTAINING_SYMBOL):
            return send_file(call, &response, file_with(request->file_containing_symbol));
        case ASKED(FILE_CONTAINING_EXTENSION):
            return send_error(call, &response, NL_RPC_NOT_FOUND, "there are no extensions");
        case ASKED(ALL_EXTENSION_NUMBERS_OF_TYPE):
            return send_extensions(call, &response, request->all_extension_numbers_of_type);
        case ASKED(LIST_SERVICES):
            return send_services(call, &response, session->server);
        default:
            return send_error(call, &response, NL_RPC_INVALID_ARGUMENT, "nothing was asked");
    }
}

// ---- the call --------------------------------------------------------------

// Takes request.
static void handle(struct session *session, struct nl_rpc_call *call, Request *request) {
    int rc = answer(session, call, request);
    if (rc == NL_EFULL) {
        session->waiting = request;
        nl_rpc_call_pause(call);
        return;
    }
    nl_rpc_message_free(&request->base);
    if (rc != NL_OK) {
        nl_rpc_call_finish(call, NL_RPC_RESOURCE_EXHAUSTED, nl_strerror(rc));
    }
}

static void on_request(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    handle(user, call, (Request *)message);
}

static void on_writable(struct nl_rpc_call *call, void *user) {
    struct session *session = user;
    Request *request = session->waiting;
    if (request != NULL) {
        session->waiting = NULL;
        nl_rpc_call_resume(call);
        handle(session, call, request);
    }
}

static void on_half_close(struct nl_rpc_call *call, void *user) {
    (void)user;
    nl_rpc_call_finish(call, NL_RPC_OK, NULL);
}

static void on_closed(struct nl_rpc_call *call, void *user, const struct nl_rpc_status *status) {
    (void)call;
    (void)status;
    struct session *session = user;
    if (session->waiting != NULL) {
        nl_rpc_message_free(&session->waiting->base);
    }
    free(session);
}

static void on_stream(struct nl_rpc_call *call, void *user) {
    static const struct nl_rpc_handler handler = {.on_message = on_request,
                                                  .on_half_close = on_half_close,
                                                  .on_writable = on_writable,
                                                  .on_closed = on_closed};
    struct session *session = calloc(1, sizeof *session);
    if (session == NULL) {
        nl_rpc_call_finish(call, NL_RPC_RESOURCE_EXHAUSTED, "no memory");
        return;
    }
    session->server = user;
    nl_rpc_call_set_handler(call, &handler, session);
}

struct nl_rpc_service nl_rpc_reflection_service(struct nl_rpc_server *server) {
    static const struct nl_rpc_method methods[] = {
        {.name = "ServerReflectionInfo", .kind = NL_RPC_BIDI, .stream = on_stream},
        {0},
    };
    return (struct nl_rpc_service){
        .descriptor = &grpc__reflection__v1alpha__server_reflection__descriptor,
        .methods = methods,
        .user = server};
}
