#include "agent/link/link.h"

#include <assert.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "agent/link/core.h"
#include "agent/link/output.h"
#include "agent/link/state_dir.h"
#include "agent/link/streams.h"
#include "agent/link/subs.h"
#include "agent/link/sup_client.h"
#include "agent/link/tail.h"
#include "agent/supervisor/client.h"
#include "common/base/clock.h"
#include "common/base/crypto.h"
#include "common/base/err.h"
#include "common/base/failpoint.h"
#include "common/base/log.h"

#define MODULE "link"

enum {
    PUMP_BYTES_MAX = 1024 * 1024,
    SUPERVISOR_LOG_BYTES_MAX = 8 * 1024 * 1024,
    STARTUP_ERROR_LEN = 600,
};

static const int SIGNALS[] = {SIGTERM, SIGINT, SIGQUIT, SIGHUP};
#define SIGNAL_COUNT (sizeof SIGNALS / sizeof SIGNALS[0])

struct link {
    struct nl_link_settings settings;
    int argc;
    char **argv;
    char *self_exe;        // owned
    char *supervisor_log;  // owned; NULL: stderr
    char **supervisor_args;
    struct utsname os;
    char os_text[200];

    struct nl_link_dir dir;
    struct nl_link_core *core;
    struct nl_link_streams streams;
    struct nl_link_sup sup;
    struct nl_rpc *rpc;
    uv_loop_t loop;
    uv_timer_t timer;  // the core's deadline
    uv_idle_t pump;    // active while there is output to send
    uv_signal_t signals[SIGNAL_COUNT];
    bool stepping;  // the core is in a step: events must not nest
    bool ending;
    int exit_status;
    uint8_t chunk[NL_LINK_CHUNK_BYTES_MAX];
};

static void step(struct link *l, struct nl_link_event *event);
static void end(struct link *l);

// ---- actions ---------------------------------------------------------------

static void log_action(const struct nl_link_action *action) {
    const char *pairs[7] = {NULL};
    size_t n = 0;
    struct nl_log_num epoch = nl_log_u64(action->log.epoch);
    if (action->log.server != NULL) {
        pairs[n++] = "server";
        pairs[n++] = action->log.server;
    }
    if (action->log.epoch != 0) {
        pairs[n++] = "epoch";
        pairs[n++] = epoch.s;
    }
    if (action->log.reason != NULL) {
        pairs[n++] = "reason";
        pairs[n++] = action->log.reason;
    }
    nl_log(action->log.level, MODULE, action->log.event, pairs[0], pairs[1], pairs[2], pairs[3],
           pairs[4], pairs[5], NULL);
}

static void save_servers(struct link *l) {
    (void)NL_FAILPOINT("link.start.welcomed");
    int rv = nl_link_dir_save_cache(&l->dir, nl_link_core_servers(l->core));
    if (rv != NL_OK) {
        nl_log(NL_LOG_WARN, MODULE, "the server cache can't be written", "reason", nl_strerror(rv),
               NULL);
    }
}

// The result with the end of its output, if that can be read. It is the spool's as it is now, so a
// result that is sent again later may come without.
static int send_with_tail(struct link *l, const struct nl_link_action *action) {
    struct nl_link_tail tail;
    int rv = nl_link_tail_read(l->dir.path, &action->tail, l->settings.tail_bytes_max, &tail);
    if (rv != NL_OK) {
        nl_log(NL_LOG_WARN, MODULE, "the end of the output goes without its result", "task",
               action->response->task_id, "reason", nl_strerror(rv), NULL);
        return nl_link_streams_send(&l->streams, action->call, action->response);
    }
    Nodelink__V1__TaskResponse response = *action->response;
    response.tail = &tail.message;
    rv = nl_link_streams_send(&l->streams, action->call, &response);
    nl_link_tail_close(&tail);
    return rv;
}

static void send_response(struct link *l, const struct nl_link_action *action) {
    bool tail = action->tail.spool_dir != NULL && l->settings.tail_bytes_max > 0;
    int rv = tail ? send_with_tail(l, action)
                  : nl_link_streams_send(&l->streams, action->call, action->response);
    if (rv != NL_OK && rv != NL_ECLOSED) {
        nl_log(NL_LOG_ERROR, MODULE, "a response was not sent", "task", action->response->task_id,
               "reason", nl_strerror(rv), NULL);
    }
    if (action->response->control_case == NODELINK__V1__TASK_RESPONSE__CONTROL_RESULT) {
        (void)NL_FAILPOINT("link.result_sent");
    }
}

static void send_to_supervisor(struct link *l, const struct nl_link_action *action) {
    if (action->to_sup->body_case == NODELINK__V1__TO_SUPERVISOR__BODY_FORGET) {
        (void)NL_FAILPOINT("link.before_forget");
    }
    int rv = nl_link_sup_send(&l->sup, action->to_sup);
    if (rv != NL_OK && rv != NL_ECLOSED) {
        nl_log(NL_LOG_ERROR, MODULE, "the supervisor can't be told", "reason", nl_strerror(rv),
               NULL);
    }
}

// Events that answer an action at once. They come after the step that asked.
struct answers {
    struct nl_link_event events[4];
    char texts[4][400];
    size_t count;
};

static struct nl_link_event *answer(struct answers *a, enum nl_link_event_type type,
                                    uint64_t call) {
    assert(a->count < sizeof a->events / sizeof a->events[0]);
    struct nl_link_event *event = &a->events[a->count++];
    *event = (struct nl_link_event){.type = type, .call = call};
    return event;
}

static void answer_closed(struct answers *a, uint64_t call, int code) {
    const char *text = a->texts[a->count];
    struct nl_link_event *event = answer(a, NL_LINK_CALL_CLOSED, call);
    event->closed.code = code;
    event->closed.message = text;
}

static void do_connect(struct link *l, const struct nl_link_action *action, struct answers *a) {
    int code = 0;
    (void)NL_FAILPOINT("link.start.connect");
    int rv = nl_link_streams_connect(&l->streams, action->call, action->address, &code,
                                     a->texts[a->count], sizeof a->texts[0]);
    if (rv != NL_OK) {
        answer_closed(a, action->call, code);
    }
}

static void do_probe(struct link *l, const struct nl_link_action *action, struct answers *a) {
    if (nl_link_streams_is_connected(&l->streams, action->call)) {
        answer(a, NL_LINK_CALL_UP, action->call);
        return;
    }
    nl_link_streams_cancel(&l->streams, action->call);
    snprintf(a->texts[a->count], sizeof a->texts[0], "no connection in time");
    answer_closed(a, action->call, NL_RPC_DEADLINE_EXCEEDED);
}

static void do_save_epoch(struct link *l, const struct nl_link_action *action, struct answers *a) {
    int rv = nl_link_dir_save_epoch(&l->dir, action->epoch);
    if (rv != NL_OK) {
        nl_log(NL_LOG_ERROR, MODULE, "the epoch can't be written", "reason", nl_strerror(rv), NULL);
    }
    answer(a, NL_LINK_EPOCH_SAVED, 0)->ok = rv == NL_OK;
}

static void execute(struct link *l, const struct nl_link_action *action, struct answers *a) {
    switch (action->type) {
        case NL_LINK_CONNECT:
            do_connect(l, action, a);
            break;
        case NL_LINK_PROBE:
            do_probe(l, action, a);
            break;
        case NL_LINK_SEND:
            send_response(l, action);
            break;
        case NL_LINK_LEAVE:
            nl_link_streams_leave(&l->streams, action->call);
            break;
        case NL_LINK_CANCEL:
            nl_link_streams_cancel(&l->streams, action->call);
            break;
        case NL_LINK_SUP_SEND:
            send_to_supervisor(l, action);
            break;
        case NL_LINK_SUP_DROP:
            nl_link_sup_drop(&l->sup, "it does not answer");
            break;
        case NL_LINK_SAVE_EPOCH:
            do_save_epoch(l, action, a);
            break;
        case NL_LINK_SAVE_SERVERS:
            save_servers(l);
            break;
        case NL_LINK_OUTPUT:
            break;  // step looks itself whether the pump has to run
        case NL_LINK_LOG:
            log_action(action);
            break;
        case NL_LINK_EXIT:
            end(l);
            break;
    }
}

// ---- steps -----------------------------------------------------------------

static void on_timer(uv_timer_t *timer) {
    struct nl_link_event event = {.type = NL_LINK_TICK};
    step(timer->data, &event);
}

static void on_pump(uv_idle_t *idle);

static void set_timer(struct link *l) {
    uint64_t at = nl_link_core_deadline_ms(l->core), now = nl_clock_mono_ms();
    if (l->ending || at == UINT64_MAX) {
        uv_timer_stop(&l->timer);
        return;
    }
    uv_update_time(&l->loop);
    uv_timer_start(&l->timer, on_timer, at > now ? at - now : 0, 0);
}

// One event and the answers that its actions gave. Nothing else can come in between: libuv and
// rpc call back from the loop only.
static void step(struct link *l, struct nl_link_event *event) {
    assert(!l->stepping);
    l->stepping = true;
    nl_random_bytes(&event->random, sizeof event->random);
    struct nl_link_actions actions;
    struct answers a = {.count = 0};
    bool output = false;
    if (nl_link_core_step(l->core, nl_clock_mono_ms(), event, &actions) != NL_OK) {
        // The journal has everything, a core that is half-way has not.
        nl_log(NL_LOG_ERROR, MODULE, "out of memory: ending, the tasks go on", NULL);
        _exit(1);
    }
    for (size_t i = 0; i < actions.count; i++) {
        output = output || actions.items[i].type == NL_LINK_OUTPUT;
        execute(l, &actions.items[i], &a);
    }
    l->stepping = false;
    if (output && !l->ending) {
        uv_idle_start(&l->pump, on_pump);
    }
    for (size_t i = 0; i < a.count; i++) {
        step(l, &a.events[i]);
    }
    set_timer(l);
}

// ---- output ----------------------------------------------------------------

static int send_chunk(struct link *l, const struct nl_link_output *output) {
    struct nl_link_output_frame frame;
    int rv = nl_link_output_read(l->dir.path, output, l->chunk);
    if (rv != NL_OK) {
        struct nl_link_event event = {.type = NL_LINK_OUTPUT_FAILED};
        event.output_failed.gone = rv == NL_EGAP;
        event.output_failed.message = nl_strerror(rv);
        step(l, &event);
        return NL_OK;
    }
    nl_link_core_output_frame(l->core, l->chunk, &frame);
    rv = nl_link_streams_try_send(&l->streams, output->call, &frame.response);
    if (rv == NL_OK) {
        struct nl_link_event event = {.type = NL_LINK_OUTPUT_SENT};
        step(l, &event);
    }
    return rv;
}

static void on_pump(uv_idle_t *idle) {
    struct link *l = idle->data;
    struct nl_link_output output;
    size_t bytes = 0;
    while (bytes < PUMP_BYTES_MAX) {
        // Full: on_writable starts the pump again. Closed: so does the next stream.
        if (!nl_link_core_output_next(l->core, &output) || send_chunk(l, &output) != NL_OK) {
            uv_idle_stop(&l->pump);
            return;
        }
        bytes += output.len;
    }
}

// ---- events ----------------------------------------------------------------

static void on_stream_event(void *user, const struct nl_link_event *event) {
    struct nl_link_event copy = *event;
    step(user, &copy);
}

static void on_stream_writable(void *user) {
    struct link *l = user;
    if (!l->ending) {
        uv_idle_start(&l->pump, on_pump);
    }
}

static void on_sup_up(void *user) {
    (void)NL_FAILPOINT("link.start.attached");
    struct nl_link_event event = {.type = NL_LINK_SUP_UP};
    step(user, &event);
}

static void on_sup_message(void *user, const Nodelink__V1__FromSupervisor *message) {
    struct nl_link_event event = {.type = NL_LINK_SUP_MESSAGE, .from_sup = message};
    step(user, &event);
}

static void on_sup_down(void *user, const char *why) {
    struct link *l = user;
    if (l->sup.may_start) {
        nl_log(NL_LOG_WARN, MODULE, "lost the supervisor", "reason", why, NULL);
    }
    struct nl_link_event event = {.type = NL_LINK_SUP_DOWN};
    step(l, &event);
}

// What can change without a new process: servers, labels, token and TLS files, log level.
static void reload(struct link *l) {
    struct nl_link_settings fresh;
    struct nl_config_error error;
    struct nl_config_list servers = {0};
    int rv = nl_link_settings_load(&fresh, NULL, l->argc, l->argv, &error);
    if (rv == NL_OK && strcmp(fresh.agent_id, l->settings.agent_id) != 0) {
        snprintf(error.text, sizeof error.text, "agent-id: can't change while the agent runs");
        rv = NL_EINVAL;
    }
    if (rv == NL_OK) {
        rv = nl_link_server_list(&fresh, &servers, &error);
    }
    if (rv != NL_OK) {
        nl_link_settings_close(&fresh);
        nl_log(NL_LOG_ERROR, MODULE, "settings not reloaded, the old ones stay", "reason",
               error.text, NULL);
        return;
    }
    nl_link_settings_close(&l->settings);
    l->settings = fresh;
    nl_log_set_levels(l->settings.log_level);
    struct nl_link_event event = {.type = NL_LINK_CONFIG};
    event.config.servers = (struct nl_link_strings){servers.items, servers.count};
    event.config.labels =
        (struct nl_link_strings){l->settings.labels.items, l->settings.labels.count};
    step(l, &event);
    nl_link_server_list_close(&servers);
    nl_log(NL_LOG_INFO, MODULE, "settings reloaded", NULL);
}

static void on_signal(uv_signal_t *handle, int number) {
    struct link *l = handle->data;
    if (number == SIGHUP) {
        reload(l);
        return;
    }
    nl_log(NL_LOG_INFO, MODULE, "stopping", "tasks", number == SIGQUIT ? "are killed" : "go on",
           NULL);
    l->sup.may_start = false;
    struct nl_link_event event = {.type = NL_LINK_STOP, .kill_tasks = number == SIGQUIT};
    step(l, &event);
}

// ---- end -------------------------------------------------------------------

static void close_handle(uv_handle_t *handle) {
    if (!uv_is_closing(handle)) {
        uv_close(handle, NULL);
    }
}

static void close_signals(struct link *l) {
    for (size_t i = 0; i < SIGNAL_COUNT; i++) {
        close_handle((uv_handle_t *)&l->signals[i]);
    }
}

static void on_rpc_closed(void *user) {
    struct link *l = user;
    l->rpc = NULL;
    close_signals(l);
    nl_link_sup_close(&l->sup);
    nl_link_streams_close(&l->streams);
    close_handle((uv_handle_t *)&l->timer);
    close_handle((uv_handle_t *)&l->pump);
}

static void on_streams_idle(void *user) {
    struct link *l = user;
    nl_rpc_close(l->rpc, on_rpc_closed, l);
}

static void end(struct link *l) {
    if (l->ending) {
        return;
    }
    l->ending = true;
    l->sup.may_start = false;
    uv_idle_stop(&l->pump);
    nl_link_streams_stop(&l->streams);
}

// ---- start -----------------------------------------------------------------

static int start_error(const char *what, const char *why) {
    nl_log(NL_LOG_ERROR, MODULE, what, "reason", why, NULL);
    return 1;
}

// Absolute: the supervisor outlives this process's working directory.
static int open_dir(struct link *l) {
    char error[STARTUP_ERROR_LEN];
    int rv = nl_link_dir_open(l->settings.state_dir, &l->dir, error, sizeof error);
    if (rv == NL_OK && NL_FAILPOINT("link.start.dir")) {
        snprintf(error, sizeof error, "fail point");
        rv = NL_EIO;
    }
    if (rv != NL_OK) {
        return start_error("can't use the state directory", error);
    }
    char *absolute = realpath(l->dir.path, NULL);
    if (absolute == NULL) {
        return start_error("can't use the state directory", "no absolute path");
    }
    free(l->dir.path);
    l->dir.path = absolute;
    if (nl_sup_socket_path_check(absolute) != NL_OK) {
        return start_error("can't use the state directory",
                           "its absolute path is too long for a "
                           "socket; take a shorter one");
    }
    return 0;
}

static char *join_path(const char *dir, const char *name) {
    char path[PATH_MAX];
    int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    return n > 0 && n < PATH_MAX ? strdup(path) : NULL;
}

static void rotate_log(const char *path) {
    struct stat st;
    char old[PATH_MAX];
    int n = snprintf(old, sizeof old, "%s.1", path);
    if (stat(path, &st) == 0 && st.st_size > SUPERVISOR_LOG_BYTES_MAX && n > 0 && n < PATH_MAX) {
        rename(path, old);
    }
}

static int prepare_supervisor(struct link *l) {
    char exe[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof exe - 1);
    if (n <= 0 || NL_FAILPOINT("link.start.program")) {
        return start_error("can't find the own program", "/proc/self/exe can't be read");
    }
    exe[n] = '\0';
    l->self_exe = strdup(exe);
    l->supervisor_args = nl_link_supervisor_args(&l->settings, exe, l->dir.path);
    const char *log = l->settings.supervisor_log;
    bool to_stderr = log != NULL && strcmp(log, "-") == 0;
    if (!to_stderr) {
        l->supervisor_log = log != NULL ? strdup(log) : join_path(l->dir.path, "supervisor.log");
    }
    if (l->self_exe == NULL || l->supervisor_args == NULL ||
        (!to_stderr && l->supervisor_log == NULL)) {
        return start_error("can't start", nl_strerror(NL_ENOMEM));
    }
    return 0;
}

// Before gRPC has threads: nl_supervisor_spawn forks.
static int start_supervisor(struct link *l) {
    pid_t pid = 0;
    int rv = nl_supervisor_running(l->dir.path, &pid);
    if (rv == NL_OK && pid == 0) {
        if (l->supervisor_log != NULL) {
            rotate_log(l->supervisor_log);
        }
        rv = NL_FAILPOINT("link.start.supervisor")
                 ? NL_EIO
                 : nl_supervisor_spawn(l->self_exe, l->supervisor_args, l->supervisor_log, NULL);
    }
    return rv == NL_OK ? 0 : start_error("can't start the supervisor", nl_strerror(rv));
}

static struct nl_link_core_options core_options(struct link *l) {
    const struct nl_link_settings *s = &l->settings;
    if (uname(&l->os) != 0) {
        memset(&l->os, 0, sizeof l->os);
    }
    snprintf(l->os_text, sizeof l->os_text, "%s %s %s", l->os.sysname, l->os.release,
             l->os.machine);
    return (struct nl_link_core_options){
        .agent_id = s->agent_id,
        .version = NODELINK_AGENT_VERSION,
        .hostname = l->os.nodename,
        .os = l->os_text,
        .pid = getpid(),
        .capacity = (uint32_t)s->capacity,
        .labels = {s->labels.items, s->labels.count},
        .backoff_start_ms = s->backoff_start_ms,
        .backoff_factor_percent = s->backoff_factor_percent,
        .backoff_cap_ms = s->backoff_cap_ms,
        .connect_ms = s->connect_timeout_ms,
        .welcome_ms = s->welcome_timeout_ms,
        .stable_ms = s->stable_after_ms,
        .kill_wait_ms = s->kill_grace_ms + 10000,
        .forgotten_keep_ms = s->spool_keep_ms + 60000,
    };
}

static int make_core(struct link *l) {
    struct nl_link_core_options options = core_options(l);
    int rv =
        NL_FAILPOINT("link.start.epoch") ? NL_EIO : nl_link_dir_load_epoch(&l->dir, &options.epoch);
    if (rv != NL_OK) {
        return start_error(
            "the file 'epoch' in the state directory can't be read; without it an "
            "old owner could be obeyed. Restore it, or remove it if no other node "
            "believes to own this agent",
            nl_strerror(rv));
    }
    struct nl_config_error error;
    struct nl_config_list servers = {0};
    if (nl_link_server_list(&l->settings, &servers, &error) != NL_OK) {
        return start_error("bad server list", error.text);
    }
    struct nl_link_cache cache;
    nl_link_dir_load_cache(&l->dir, &cache);
    options.servers = (struct nl_link_strings){servers.items, servers.count};
    options.learned = (struct nl_link_strings){cache.servers, cache.count};
    options.last_good = cache.last_good;
    rv = NL_FAILPOINT("link.start.core") ? NL_ENOMEM : nl_link_core_new(&options, &l->core);
    nl_link_cache_close(&cache);
    nl_link_server_list_close(&servers);
    return rv == NL_OK ? 0 : start_error("can't start", nl_strerror(rv));
}

static void make_handles(struct link *l) {
    uv_timer_init(&l->loop, &l->timer);
    uv_idle_init(&l->loop, &l->pump);
    l->timer.data = l->pump.data = l;
    for (size_t i = 0; i < SIGNAL_COUNT; i++) {
        uv_signal_init(&l->loop, &l->signals[i]);
        l->signals[i].data = l;
        uv_signal_start(&l->signals[i], on_signal, SIGNALS[i]);
    }
    l->streams = (struct nl_link_streams){.rpc = l->rpc,
                                          .settings = &l->settings,
                                          .on_event = on_stream_event,
                                          .on_writable = on_stream_writable,
                                          .on_idle = on_streams_idle,
                                          .user = l};
    nl_link_streams_init(&l->streams, &l->loop);
}

static void run_loop(struct link *l) {
    signal(SIGPIPE, SIG_IGN);  // a supervisor that died is an error of write, not our end
    make_handles(l);
    (void)NL_FAILPOINT("link.start.signals");
    nl_link_sup_connect(&l->sup);
    nl_log(NL_LOG_INFO, MODULE, "agent started", "agent", l->settings.agent_id, "version",
           NODELINK_AGENT_VERSION, "state-dir", l->dir.path, NULL);
    uv_run(&l->loop, UV_RUN_DEFAULT);
}

static int run_on_loop(struct link *l) {
    l->sup.state_dir = l->dir.path;
    l->sup.self_exe = l->self_exe;
    l->sup.supervisor_args = l->supervisor_args;
    l->sup.supervisor_log = l->supervisor_log;
    l->sup.on_up = on_sup_up;
    l->sup.on_message = on_sup_message;
    l->sup.on_down = on_sup_down;
    l->sup.user = l;
    int rv = NL_FAILPOINT("link.start.socket") ? NL_ENOMEM : nl_link_sup_init(&l->sup, &l->loop);
    if (rv == NL_OK) {
        rv = NL_FAILPOINT("link.start.rpc") ? NL_EIO : nl_rpc_new(&l->loop, &l->rpc);
    }
    if (rv == NL_OK) {
        run_loop(l);
        return l->exit_status;
    }
    nl_link_sup_close(&l->sup);
    uv_run(&l->loop, UV_RUN_DEFAULT);
    return start_error("can't start", nl_strerror(rv));
}

static int run(struct link *l) {
    int status = open_dir(l);
    if (status == 0) {
        status = prepare_supervisor(l);
    }
    if (status == 0) {
        status = make_core(l);
    }
    if (status == 0) {
        status = start_supervisor(l);
    }
    if (status != 0) {
        return status;
    }
    if (NL_FAILPOINT("link.start.loop") || uv_loop_init(&l->loop) != 0) {
        return start_error("can't start", "no event loop");
    }
    status = run_on_loop(l);
    int rv = uv_loop_close(&l->loop);
    assert(rv == 0);
    (void)rv;
    return status;
}

int nl_link_run(struct nl_link_settings *settings, int argc, char **argv) {
    struct link *l = calloc(1, sizeof *l);
    if (l == NULL) {
        nl_link_settings_close(settings);
        return start_error("can't start", nl_strerror(NL_ENOMEM));
    }
    l->settings = *settings;
    memset(settings, 0, sizeof *settings);
    l->argc = argc;
    l->argv = argv;
    l->dir.lock_fd = -1;
    int status = run(l);
    nl_link_core_free(l->core);
    nl_link_dir_close(&l->dir);
    nl_link_supervisor_args_free(l->supervisor_args);
    free(l->supervisor_log);
    free(l->self_exe);
    nl_link_settings_close(&l->settings);
    free(l);
    return status;
}
