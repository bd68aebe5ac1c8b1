#include "tests/unit/supervisor/harness.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
// cmocka needs the four above first
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "agent/supervisor/client.h"
#include "common/base/clock.h"
#include "common/base/err.h"
#include "common/base/failpoint.h"
#include "common/base/fs.h"
#include "common/base/log.h"

static void pause_ms(int ms) {
    struct timespec ts = {.tv_nsec = ms * 1000000L};
    nanosleep(&ts, NULL);
}

void harness_open(struct harness *h) {
    memset(h, 0, sizeof *h);
    snprintf(h->dir, sizeof h->dir, "/tmp/nl-sup-XXXXXX");
    assert_non_null(mkdtemp(h->dir));
    snprintf(h->state_dir, sizeof h->state_dir, "%s/state", h->dir);
    h->agent_id = strrchr(h->dir, '/') + 1;
    h->options = (struct nl_supervisor_options){.state_dir = h->state_dir,
                                                .agent_id = h->agent_id,
                                                .kill_grace_ms = 400,
                                                .drain_ms = 300,
                                                .disk_free_bytes_min = 1};
    h->fd = -1;
    nl_buf_init(&h->in, 0);
}

static int remove_entry(const char *path, const struct stat *st, int flag, struct FTW *ftw) {
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

static void forget_seen(struct harness *h) {
    for (unsigned i = 0; i < h->count; i++) {
        if (h->seen[i].task != NULL) {
            nodelink__v1__sup_task__free_unpacked(h->seen[i].task, NULL);
        }
    }
    memset(h->seen, 0, sizeof h->seen);
    h->count = 0;
    if (h->attached != NULL) {
        nodelink__v1__sup_attached__free_unpacked(h->attached, NULL);
        h->attached = NULL;
    }
}

static void disconnect(struct harness *h) {
    if (h->fd >= 0) {
        close(h->fd);
        h->fd = -1;
    }
    h->closed = false;
    nl_buf_clear(&h->in);
}

void harness_close(struct harness *h) {
    if (h->pid > 0) {
        kill(h->pid, SIGINT);
        harness_wait_exit(h);
    }
    disconnect(h);
    forget_seen(h);
    nl_buf_close(&h->in);
    nftw(h->dir, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static void become_supervisor(struct harness *h) {
    if (h->file_bytes_max > 0) {
        struct rlimit limit = {h->file_bytes_max, h->file_bytes_max};
        setrlimit(RLIMIT_FSIZE, &limit);
    }
#ifdef NL_FAILPOINTS
    if (nl_failpoint_set(h->failpoints != NULL ? h->failpoints : "") != NL_OK) {
        _exit(99);
    }
#endif
    const char *level = getenv("NL_TEST_LOG");
    nl_log_set_levels(level != NULL ? level : "off");
    disconnect(h);
    _exit(nl_supervisor_main(&h->options));
}

void harness_start(struct harness *h) {
    assert_int_equal(h->pid, 0);
    h->pid = fork();
    assert_true(h->pid >= 0);
    if (h->pid == 0) {
        become_supervisor(h);
    }
    harness_attach(h);
}

void harness_kill(struct harness *h) {
    kill(h->pid, SIGKILL);
    harness_wait_exit(h);
}

int harness_wait_exit(struct harness *h) {
    uint64_t deadline = nl_clock_mono_ms() + HARNESS_DEADLINE_MS;
    int status = 0;
    pid_t got = 0;
    while (got == 0 && nl_clock_mono_ms() < deadline) {
        got = waitpid(h->pid, &status, WNOHANG);
        if (got == 0) {
            harness_pump(h, 5);
        }
    }
    if (got == 0) {
        kill(h->pid, SIGKILL);
        waitpid(h->pid, &status, 0);
        fail_msg("the supervisor does not exit");
    }
    h->pid = 0;
    return status;
}

int harness_connect(struct harness *h) {
    uint64_t deadline = nl_clock_mono_ms() + HARNESS_DEADLINE_MS;
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char *path = nl_sup_socket_path(h->state_dir);
    snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
    free(path);
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    while (connect(fd, (struct sockaddr *)&address, sizeof address) != 0) {
        int status = 0;
        if (h->pid > 0 && waitpid(h->pid, &status, WNOHANG) == h->pid) {
            h->pid = 0;
            fail_msg("the supervisor ended with status %x", (unsigned)status);
        }
        assert_true(nl_clock_mono_ms() < deadline);
        pause_ms(2);
    }
    return fd;
}

static void send_attach(struct harness *h) {
    Nodelink__V1__ToSupervisor m = NODELINK__V1__TO_SUPERVISOR__INIT;
    Nodelink__V1__SupAttach attach = NODELINK__V1__SUP_ATTACH__INIT;
    attach.version = NL_SUP_PROTOCOL_VERSION;
    attach.pid = getpid();
    m.body_case = NODELINK__V1__TO_SUPERVISOR__BODY_ATTACH;
    m.attach = &attach;
    harness_send(h, &m);
}

// A process that a killed supervisor has just forked holds its socket until it notices: such
// a connection is closed without an answer, and another one is needed.
static bool is_attached(struct harness *h, void *arg) {
    (void)arg;
    if (h->closed || h->fd < 0) {
        disconnect(h);
        forget_seen(h);
        h->fd = harness_connect(h);
        send_attach(h);
    }
    return h->attached != NULL && h->count >= h->attached->tasks;
}

void harness_attach(struct harness *h) {
    disconnect(h);
    harness_until(h, is_attached, NULL, "attached");
}

void harness_send(struct harness *h, Nodelink__V1__ToSupervisor *m) {
    struct nl_buf out;
    nl_buf_init(&out, 0);
    assert_int_equal(nl_sup_frame_encode(&out, &m->base), NL_OK);
    size_t sent = 0;
    while (sent < out.len) {
        ssize_t n = send(h->fd, out.data + sent, out.len - sent, MSG_NOSIGNAL);
        if (n < 0) {
            break;  // the supervisor is gone: the test will see that
        }
        sent += (size_t)n;
    }
    nl_buf_close(&out);
}

static size_t count_of(char *const *list) {
    size_t n = 0;
    while (list != NULL && list[n] != NULL) {
        n++;
    }
    return n;
}

void harness_run(struct harness *h, const struct run *run) {
    Nodelink__V1__ToSupervisor m = NODELINK__V1__TO_SUPERVISOR__INIT;
    Nodelink__V1__SupRun r = NODELINK__V1__SUP_RUN__INIT;
    Nodelink__V1__ShellExecute shell = NODELINK__V1__SHELL_EXECUTE__INIT;
    Nodelink__V1__ShellOptions options = NODELINK__V1__SHELL_OPTIONS__INIT;
    r.task_id = (char *)(uintptr_t)run->id;
    r.attempt = run->attempt != 0 ? run->attempt : 1;
    r.epoch = 7;
    shell.cmd = (char *)(uintptr_t)(run->cmd != NULL ? run->cmd : "");
    shell.working_dir = (char *)(uintptr_t)(run->working_dir != NULL ? run->working_dir : "");
    shell.n_env = count_of(run->env);
    shell.env = (char **)(uintptr_t)run->env;
    options.n_argv = count_of(run->argv);
    options.argv = (char **)(uintptr_t)run->argv;
    options.timeout_ms = run->timeout_ms;
    options.kill_grace_ms = run->grace_ms;
    r.shell = &shell;
    r.options = &options;
    m.body_case = NODELINK__V1__TO_SUPERVISOR__BODY_RUN;
    m.run = &r;
    harness_send(h, &m);
}

void harness_shell(struct harness *h, const char *id, const char *cmd) {
    harness_run(h, &(struct run){.id = id, .cmd = cmd});
}

void harness_cancel(struct harness *h, const char *id, const char *reason) {
    Nodelink__V1__ToSupervisor m = NODELINK__V1__TO_SUPERVISOR__INIT;
    Nodelink__V1__SupCancel cancel = NODELINK__V1__SUP_CANCEL__INIT;
    cancel.task_id = (char *)(uintptr_t)id;
    cancel.attempt = 1;
    cancel.reason = (char *)(uintptr_t)reason;
    m.body_case = NODELINK__V1__TO_SUPERVISOR__BODY_CANCEL;
    m.cancel = &cancel;
    harness_send(h, &m);
}

void harness_forget(struct harness *h, const char *id) {
    Nodelink__V1__ToSupervisor m = NODELINK__V1__TO_SUPERVISOR__INIT;
    Nodelink__V1__SupForget forget = NODELINK__V1__SUP_FORGET__INIT;
    forget.task_id = (char *)(uintptr_t)id;
    forget.attempt = 1;
    m.body_case = NODELINK__V1__TO_SUPERVISOR__BODY_FORGET;
    m.forget = &forget;
    harness_send(h, &m);
}

void harness_release(struct harness *h, const char *id, uint64_t out, uint64_t err,
                     bool no_reader) {
    Nodelink__V1__ToSupervisor m = NODELINK__V1__TO_SUPERVISOR__INIT;
    Nodelink__V1__SupRelease release = NODELINK__V1__SUP_RELEASE__INIT;
    release.task_id = (char *)(uintptr_t)id;
    release.attempt = 1;
    release.stdout_offset = out;
    release.stderr_offset = err;
    release.no_reader = no_reader;
    m.body_case = NODELINK__V1__TO_SUPERVISOR__BODY_RELEASE;
    m.release = &release;
    harness_send(h, &m);
}

void harness_stop(struct harness *h, bool kill_tasks) {
    Nodelink__V1__ToSupervisor m = NODELINK__V1__TO_SUPERVISOR__INIT;
    Nodelink__V1__SupStop stop = NODELINK__V1__SUP_STOP__INIT;
    stop.kill_tasks = kill_tasks;
    m.body_case = NODELINK__V1__TO_SUPERVISOR__BODY_STOP;
    m.stop = &stop;
    harness_send(h, &m);
}

static struct seen *seen_of(struct harness *h, const char *id, uint32_t attempt) {
    char key[160];
    snprintf(key, sizeof key, "%s.%u", id, attempt);
    for (unsigned i = 0; i < h->count; i++) {
        if (strcmp(h->seen[i].key, key) == 0) {
            return &h->seen[i];
        }
    }
    assert_true(h->count < HARNESS_TASKS_MAX);
    struct seen *s = &h->seen[h->count++];
    snprintf(s->key, sizeof s->key, "%s", key);
    return s;
}

struct seen *harness_seen(struct harness *h, const char *id) {
    return seen_of(h, id, 1);
}

static void take_spool(struct seen *s, const Nodelink__V1__SupSpool *spool) {
    // A base or an end never goes back.
    assert_true(spool->stdout_base >= s->base[0] && spool->stderr_base >= s->base[1]);
    assert_true(spool->stdout_end >= s->end[0] && spool->stderr_end >= s->end[1]);
    s->base[0] = spool->stdout_base;
    s->base[1] = spool->stderr_base;
    s->end[0] = spool->stdout_end;
    s->end[1] = spool->stderr_end;
}

static void take_task(struct harness *h, Nodelink__V1__SupTask *task) {
    struct seen *s = seen_of(h, task->task_id, task->attempt);
    bool was = s->task != NULL && s->task->phase == NODELINK__V1__TASK_REF__PHASE__FINISHED;
    assert_true(!was || task->phase == NODELINK__V1__TASK_REF__PHASE__FINISHED);
    take_spool(s, task->spool);
    if (s->task != NULL) {
        nodelink__v1__sup_task__free_unpacked(s->task, NULL);
    }
    s->task = task;
    s->reports++;
}

static void take(struct harness *h, Nodelink__V1__FromSupervisor *m) {
    switch (m->body_case) {
        case NODELINK__V1__FROM_SUPERVISOR__BODY_ATTACHED:
            h->attached = m->attached;
            m->attached = NULL;
            m->body_case = NODELINK__V1__FROM_SUPERVISOR__BODY__NOT_SET;
            break;
        case NODELINK__V1__FROM_SUPERVISOR__BODY_TASK:
            take_task(h, m->task);
            m->task = NULL;
            m->body_case = NODELINK__V1__FROM_SUPERVISOR__BODY__NOT_SET;
            break;
        case NODELINK__V1__FROM_SUPERVISOR__BODY_SPOOL:
            take_spool(seen_of(h, m->spool->task_id, m->spool->attempt), m->spool);
            break;
        case NODELINK__V1__FROM_SUPERVISOR__BODY_REFUSED: {
            struct seen *s = seen_of(h, m->refused->task_id, m->refused->attempt);
            snprintf(s->refused, sizeof s->refused, "%s", m->refused->reason);
            break;
        }
        default:
            fail_msg("unknown message");
    }
    nodelink__v1__from_supervisor__free_unpacked(m, NULL);
}

void harness_pump(struct harness *h, int wait_ms) {
    struct pollfd p = {.fd = h->fd, .events = POLLIN};
    if (h->fd < 0 || h->closed || poll(&p, 1, wait_ms) <= 0) {
        if (h->fd < 0 || h->closed) {
            pause_ms(wait_ms > 0 ? wait_ms : 1);
        }
        return;
    }
    assert_int_equal(nl_buf_reserve(&h->in, 65536), NL_OK);
    ssize_t n = recv(h->fd, h->in.data + h->in.len, 65536, MSG_DONTWAIT);
    if (n <= 0) {
        h->closed = true;
        return;
    }
    h->in.len += (size_t)n;
    size_t at = 0, used = 0;
    Nodelink__V1__FromSupervisor *m = NULL;
    int rv;
    while ((rv = nl_sup_decode_from(h->in.data + at, h->in.len - at, &m, &used)) == NL_OK) {
        at += used;
        take(h, m);
    }
    assert_int_equal(rv, NL_EAGAIN);
    nl_buf_consume(&h->in, at);
}

void harness_until(struct harness *h, bool (*done)(struct harness *h, void *arg), void *arg,
                   const char *what) {
    uint64_t deadline = nl_clock_mono_ms() + HARNESS_DEADLINE_MS;
    while (!done(h, arg)) {
        if (nl_clock_mono_ms() >= deadline) {
            fail_msg("in %u ms not: %s", HARNESS_DEADLINE_MS, what);
        }
        harness_pump(h, 10);
    }
}

static bool is_finished(struct harness *h, void *id) {
    struct seen *s = harness_seen(h, id);
    return s->task != NULL && s->task->phase == NODELINK__V1__TASK_REF__PHASE__FINISHED;
}

const Nodelink__V1__TaskResult *harness_finished(struct harness *h, const char *id) {
    harness_until(h, is_finished, (void *)(uintptr_t)id, id);
    return harness_seen(h, id)->task->result;
}

static bool is_running(struct harness *h, void *id) {
    return harness_seen(h, id)->task != NULL;
}

void harness_running(struct harness *h, const char *id) {
    harness_until(h, is_running, (void *)(uintptr_t)id, id);
}

static bool is_refused(struct harness *h, void *id) {
    return harness_seen(h, id)->refused[0] != '\0';
}

const char *harness_refused(struct harness *h, const char *id) {
    harness_until(h, is_refused, (void *)(uintptr_t)id, id);
    return harness_seen(h, id)->refused;
}

char *harness_read_file(const char *path, size_t *ret_len) {
    char *data = NULL;
    return nl_fs_read(path, 1u << 30, &data, ret_len) == NL_OK ? data : NULL;
}

char *harness_output(struct harness *h, const char *id, const char *stream, size_t *ret_len) {
    char path[512];
    snprintf(path, sizeof path, "%s/spool/%s.1/%s", h->state_dir, id, stream);
    char *data = harness_read_file(path, ret_len);
    assert_non_null(data);
    return data;
}

void harness_assert_output(struct harness *h, const char *id, const char *stream,
                           const char *want) {
    size_t len = 0;
    char *got = harness_output(h, id, stream, &len);
    assert_string_equal(got, want);
    free(got);
}

// Processes with this text in their environment; `sig` goes to each (0: none).
static unsigned signal_marked(struct harness *h, const char *text, int sig) {
    char mine[120];
    snprintf(mine, sizeof mine, "NODELINK_AGENT_ID=%s", h->agent_id);
    DIR *dir = opendir("/proc");
    unsigned n = 0;
    for (struct dirent *e = readdir(dir); e != NULL; e = readdir(dir)) {
        char path[300];
        char *data = NULL;
        size_t len = 0;
        snprintf(path, sizeof path, "/proc/%s/environ", e->d_name);
        if (e->d_name[0] < '1' || e->d_name[0] > '9' ||
            nl_fs_read(path, 1u << 20, &data, &len) != NL_OK) {
            continue;
        }
        if (memmem(data, len, mine, strlen(mine)) != NULL &&
            memmem(data, len, text, strlen(text)) != NULL) {
            n++;
            kill((pid_t)strtol(e->d_name, NULL, 10), sig);
        }
        free(data);
    }
    closedir(dir);
    return n;
}

unsigned harness_count_marked(struct harness *h, const char *text) {
    return signal_marked(h, text, 0);
}

void harness_kill_marked(struct harness *h, const char *text) {
    signal_marked(h, text, SIGKILL);
}

const char *harness_path(struct harness *h, const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", h->dir, name);
    return path;
}
