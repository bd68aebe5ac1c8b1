// rpc_test_server [--tls CA CERT KEY] [--connections N] [--nofile N]
// Serves EchoService and an echo of TaskService.StreamTasks; prints "port N"; ends on SIGTERM.

#include <nodelink/v1/task.pb-c.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "tests/unit/rpc/fixture.h"

// Each TaskResponse is answered by a TaskRequest with the same ids.
static void on_response(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    (void)user;
    const Nodelink__V1__TaskResponse *response = (Nodelink__V1__TaskResponse *)message;
    Nodelink__V1__TaskRequest request = NODELINK__V1__TASK_REQUEST__INIT;
    request.agent_id = response->agent_id;
    request.task_id = response->task_id;
    nl_rpc_call_send(call, &request.base);
    nl_rpc_message_free(message);
}

static void on_end(struct nl_rpc_call *call, void *user) {
    (void)user;
    nl_rpc_call_finish(call, NL_RPC_OK, NULL);
}

static void on_stream_tasks(struct nl_rpc_call *call, void *user) {
    static const struct nl_rpc_handler handler = {.on_message = on_response,
                                                  .on_half_close = on_end};
    nl_rpc_call_set_handler(call, &handler, user);
}

static const struct nl_rpc_method task_methods[] = {
    {.name = "StreamTasks", .kind = NL_RPC_BIDI, .stream = on_stream_tasks}, {0}};

static bool stop;

static void on_signal(uv_signal_t *handle, int number) {
    (void)number;
    stop = true;
    uv_close((uv_handle_t *)handle, NULL);
}

static void limit_descriptors(rlim_t count) {
    struct rlimit limit = {.rlim_cur = count, .rlim_max = count};
    setrlimit(RLIMIT_NOFILE, &limit);
}

static void serve(struct fixture *fx, const struct nl_rpc_server_options *options) {
    struct nl_rpc_service services[] = {
        fixture_echo_service(fx),
        {.descriptor = &nodelink__v1__task_service__descriptor, .methods = task_methods},
        {0},
    };
    if (nl_rpc_server_new(fx->rpc, options, services, &fx->server, fx->error, sizeof fx->error) !=
        NL_OK) {
        fprintf(stderr, "%s\n", fx->error);
        exit(EXIT_FAILURE);
    }
    printf("port %u\n", (unsigned)nl_rpc_server_port(fx->server));
    fflush(stdout);
    while (!stop) {
        uv_run(&fx->loop, UV_RUN_ONCE);
    }
    fixture_close(fx);
}

int main(int argc, char **argv) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);  // a test that failed leaves nothing behind
    struct nl_rpc_tls tls = {0};
    struct nl_rpc_server_options options = {.address = "127.0.0.1:0"};
    rlim_t descriptors = 0;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--tls") == 0 && i + 3 < argc) {
            tls = (struct nl_rpc_tls){
                .ca_file = argv[i + 1], .cert_file = argv[i + 2], .key_file = argv[i + 3]};
            options.tls = &tls;
            i += 2;
        } else if (strcmp(argv[i], "--connections") == 0) {
            options.connections_max = (uint32_t)atoi(argv[i + 1]);
        } else if (strcmp(argv[i], "--nofile") == 0) {
            descriptors = (rlim_t)atoi(argv[i + 1]);
        }
    }
    struct fixture fx;
    fixture_open(&fx);
    uv_signal_t term;
    uv_signal_init(&fx.loop, &term);
    uv_signal_start(&term, on_signal, SIGTERM);
    if (descriptors > 0) {
        limit_descriptors(descriptors);
    }
    serve(&fx, &options);
    return EXIT_SUCCESS;
}
