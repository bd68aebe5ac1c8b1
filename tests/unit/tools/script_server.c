#include "tests/unit/tools/script_server.h"

#include <fcntl.h>
#include <nodelink/v1/control.pb-c.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

#include "common/base/err.h"
#include "common/rpc/rpc.h"

enum { CHUNK = 1000 };
static const char SERVE[] = "serve";

static struct {
    struct script script;
    size_t next;
    bool silent;
} play;

uint8_t script_byte(uint64_t offset) {
    return (uint8_t)(offset * 7 + offset / 251);
}

static void fill_task(Nodelink__V1__Task *task, Nodelink__V1__TaskSpec *spec, bool over) {
    nodelink__v1__task__init(task);
    nodelink__v1__task_spec__init(spec);
    spec->agent_id = (char *)"a1";
    task->id = (char *)"t1";
    task->spec = spec;
    task->version = over ? 3 : 2;
    task->state =
        over ? NODELINK__V1__TASK_STATE__TASK_COMPLETED : NODELINK__V1__TASK_STATE__TASK_RUNNING;
}

static uint32_t played_attempt;  // of the scene

static void send_state(struct nl_rpc_call *call, bool over) {
    Nodelink__V1__WatchTaskEvent event = NODELINK__V1__WATCH_TASK_EVENT__INIT;
    Nodelink__V1__Task task;
    Nodelink__V1__TaskSpec spec;
    fill_task(&task, &spec, over);
    event.task = &task;
    event.end = over;
    event.attempt = played_attempt;
    nl_rpc_call_send(call, &event.base);
}

static void send_output(struct nl_rpc_call *call, uint64_t from, uint64_t to) {
    uint8_t bytes[CHUNK];
    while (from < to) {
        Nodelink__V1__WatchTaskEvent event = NODELINK__V1__WATCH_TASK_EVENT__INIT;
        size_t n = to - from < CHUNK ? (size_t)(to - from) : CHUNK;
        for (size_t i = 0; i < n; i++) {
            bytes[i] = script_byte(from + i);
        }
        event.stdout_offset = from;
        event.attempt = played_attempt;
        event.stdout = (ProtobufCBinaryData){n, bytes};
        nl_rpc_call_send(call, &event.base);
        from += n;
    }
}

static void send_gap(struct nl_rpc_call *call, uint64_t to) {
    Nodelink__V1__WatchTaskEvent event = NODELINK__V1__WATCH_TASK_EVENT__INIT;
    Nodelink__V1__WatchGap gap = NODELINK__V1__WATCH_GAP__INIT;
    gap.stdout_to = to;
    gap.reason = (char *)"dropped";
    event.gap = &gap;
    event.attempt = played_attempt;
    nl_rpc_call_send(call, &event.base);
}

static void on_die(uv_timer_t *timer) {
    (void)timer;
    _exit(0);
}

static void end_scene(struct nl_rpc_call *call, enum scene_end end) {
    static uv_timer_t timer;
    switch (end) {
        case SCENE_COMPLETE:
            send_state(call, true);
            nl_rpc_call_finish(call, NL_RPC_OK, "");
            return;
        case SCENE_UNAVAILABLE:
            nl_rpc_call_finish(call, NL_RPC_UNAVAILABLE, "failed: draining");
            return;
        case SCENE_NOT_FOUND:
            nl_rpc_call_finish(call, NL_RPC_NOT_FOUND, "no task t1");
            return;
        case SCENE_SILENCE:
            play.silent = true;
            nl_rpc_call_ref(call);
            return;
        case SCENE_DIE:
            nl_rpc_call_ref(call);
            uv_timer_init(uv_default_loop(), &timer);
            uv_timer_start(&timer, on_die, 300, 0);  // what was sent has to get out
            return;
    }
}

static void watch(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    const Nodelink__V1__WatchTaskRequest *request = (const Nodelink__V1__WatchTaskRequest *)message;
    const struct scene *scene = &play.script.scenes[play.next];
    (void)user;
    if (play.next + 1 < play.script.n) {
        play.next++;
    }
    played_attempt = scene->attempt;
    if (scene->end != SCENE_NOT_FOUND) {
        send_state(call, false);
    }
    if (scene->gap_to > 0) {
        send_gap(call, scene->gap_to);
    }
    send_output(call, scene->at_offset ? request->stdout_offset : scene->from, scene->to);
    end_scene(call, scene->end);
    nl_rpc_message_free(message);
}

static void get(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    Nodelink__V1__GetTaskReply reply = NODELINK__V1__GET_TASK_REPLY__INIT;
    Nodelink__V1__Task task;
    Nodelink__V1__TaskSpec spec;
    (void)user;
    nl_rpc_message_free(message);
    if (play.silent) {
        nl_rpc_call_finish(call, NL_RPC_UNAVAILABLE, "failed: no quorum");
        return;
    }
    fill_task(&task, &spec, false);
    reply.task = &task;
    nl_rpc_call_reply(call, &reply.base);
}

static void submit(struct nl_rpc_call *call, void *user, ProtobufCMessage *message) {
    Nodelink__V1__SubmitTaskReply reply = NODELINK__V1__SUBMIT_TASK_REPLY__INIT;
    Nodelink__V1__ReplyHeader header = NODELINK__V1__REPLY_HEADER__INIT;
    Nodelink__V1__SubmitTaskRequest *request = (Nodelink__V1__SubmitTaskRequest *)message;
    (void)user;
    if (play.script.submit_code != 0) {
        nl_rpc_call_finish(call, (enum nl_rpc_code)play.script.submit_code,
                           play.script.submit_text);
    } else {
        header.index = 77;
        reply.header = &header;
        reply.task_id = request->task_id;
        nl_rpc_call_reply(call, &reply.base);
    }
    nl_rpc_message_free(message);
}

static const struct nl_rpc_method METHODS[] = {
    {"WatchTask", NL_RPC_SERVER_STREAM, watch, NULL},
    {"GetTask", NL_RPC_UNARY, get, NULL},
    {"SubmitTask", NL_RPC_UNARY, submit, NULL},
    {NULL, NL_RPC_UNARY, NULL, NULL},
};

static void serve(void) {
    static uv_async_t keep;  // the loop goes on while nothing is active
    const struct nl_rpc_service services[] = {
        {&nodelink__v1__control_service__descriptor, METHODS, NULL, NULL}, {0}};
    struct nl_rpc_server_options options = {.address = "127.0.0.1:0"};
    struct nl_rpc *rpc = NULL;
    struct nl_rpc_server *server = NULL;
    char error[256];
    uv_async_init(uv_default_loop(), &keep, NULL);
    if (nl_rpc_new(uv_default_loop(), &rpc) != NL_OK ||
        nl_rpc_server_new(rpc, &options, services, &server, error, sizeof error) != NL_OK) {
        _exit(1);
    }
    uint16_t port = nl_rpc_server_port(server);
    if (write(STDOUT_FILENO, &port, sizeof port) != (ssize_t)sizeof port) {
        _exit(1);
    }
    uv_run(uv_default_loop(), UV_RUN_DEFAULT);
}

void script_server_main(int argc, char **argv) {
    if (argc < 2 || strcmp(argv[1], SERVE) != 0) {
        return;
    }
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (read(STDIN_FILENO, &play.script, sizeof play.script) == (ssize_t)sizeof play.script) {
        serve();
    }
    _exit(1);
}

void script_server_start(const struct script *script, struct script_server *ret) {
    int to[2], from[2];
    uint16_t port = 0;
    char *argv[] = {(char *)"/proc/self/exe", (char *)SERVE, NULL};
    posix_spawn_file_actions_t files;
    if (pipe2(to, O_CLOEXEC) != 0 || pipe2(from, O_CLOEXEC) != 0 ||
        posix_spawn_file_actions_init(&files) != 0) {
        abort();
    }
    posix_spawn_file_actions_adddup2(&files, to[0], STDIN_FILENO);
    posix_spawn_file_actions_adddup2(&files, from[1], STDOUT_FILENO);
    if (posix_spawn(&ret->pid, argv[0], &files, NULL, argv, environ) != 0 ||
        write(to[1], script, sizeof *script) != (ssize_t)sizeof *script) {
        abort();
    }
    posix_spawn_file_actions_destroy(&files);
    close(to[0]);
    close(to[1]);
    close(from[1]);
    if (read(from[0], &port, sizeof port) != (ssize_t)sizeof port) {
        abort();
    }
    close(from[0]);
    snprintf(ret->address, sizeof ret->address, "127.0.0.1:%u", (unsigned)port);
}

void script_server_stop(struct script_server *server) {
    kill(server->pid, SIGKILL);
    waitpid(server->pid, NULL, 0);
}
