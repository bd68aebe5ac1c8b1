#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "agent/supervisor/driver.h"
#include "common/base/clock.h"
#include "common/base/err.h"

enum { EVENTS_MAX = 64, WAIT_MS_MAX = 60000, JOURNAL_LOOK_MS = 1000 };

// ---- watches ---------------------------------------------------------------

int sup_watch_set(struct sup_driver *d, struct sup_watch *w, uint32_t events) {
    if (w->events == events) {
        return NL_OK;
    }
    struct epoll_event e = {.events = events, .data.ptr = w};
    int op = events == 0 ? EPOLL_CTL_DEL : w->events == 0 ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    if (epoll_ctl(d->epoll_fd, op, w->fd, &e) != 0) {
        return nl_err_from_errno(errno);
    }
    w->events = events;
    return NL_OK;
}

void sup_watch_close(struct sup_driver *d, struct sup_watch *w) {
    if (w->fd < 0) {
        return;
    }
    if (w->events != 0) {
        sup_watch_set(d, w, 0);
    }
    close(w->fd);
    w->fd = -1;
    w->events = 0;
}

// ---- signals ---------------------------------------------------------------

static void step_stop(struct sup_driver *d, bool kill_tasks) {
    struct sup_event e = {.type = SUP_EV_STOP, .flag = kill_tasks};
    nl_log(NL_LOG_INFO, "supervisor", "told to stop", "tasks",
           nl_log_u64(sup_core_running(d->core)).s, "kill", kill_tasks ? "yes" : "no", NULL);
    sup_driver_step(d, &e);
}

static void signals_ready(struct sup_driver *d, struct sup_watch *w, uint32_t events) {
    struct signalfd_siginfo info;
    (void)events;
    while (read(w->fd, &info, sizeof info) == (ssize_t)sizeof info) {
        switch (info.ssi_signo) {
            case SIGCHLD:
                sup_reap(d);
                break;
            case SIGTERM:
                step_stop(d, false);
                break;
            case SIGINT:
            case SIGQUIT:
                step_stop(d, true);
                break;
            default:
                break;
        }
    }
}

int sup_loop_open(struct sup_driver *d) {
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGQUIT);
    sigaddset(&set, SIGHUP);  // read and ignored: the terminal it may have come from is gone
    sigprocmask(SIG_BLOCK, &set, NULL);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);  // a file size limit is an error to handle, not a death
    d->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    if (d->epoll_fd < 0) {
        return nl_err_from_errno(errno);
    }
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0) {
        return nl_err_from_errno(errno);
    }
    d->signals = (struct sup_watch){.ready = signals_ready, .fd = fd};
    return sup_watch_set(d, &d->signals, EPOLLIN);
}

void sup_loop_close(struct sup_driver *d) {
    sup_watch_close(d, &d->signals);
    if (d->epoll_fd >= 0) {
        close(d->epoll_fd);
        d->epoll_fd = -1;
    }
}

// ---- turns -----------------------------------------------------------------

void sup_driver_step(struct sup_driver *d, const struct sup_event *e) {
    sup_core_step(d->core, d->now_ms, d->wall_ms, e);
    if (d->draining) {
        return;
    }
    struct sup_action action;
    d->draining = true;
    while (sup_core_next(d->core, &action)) {
        sup_do(d, &action);
    }
    d->draining = false;
}

static void read_clocks(struct sup_driver *d) {
    d->now_ms = nl_clock_mono_ms();
    d->wall_ms = nl_clock_wall_ms();
}

static int shorter(int a, int b) {
    return a < 0 ? b : b < 0 ? a : a < b ? a : b;
}

static int wait_ms(const struct sup_driver *d, int tell_ms) {
    uint64_t deadline = sup_core_deadline(d->core);
    int wait = WAIT_MS_MAX;
    if (d->again) {
        return 0;
    }
    if (deadline != 0) {
        uint64_t left = deadline > d->now_ms ? deadline - d->now_ms : 0;
        wait = left < WAIT_MS_MAX ? (int)left : WAIT_MS_MAX;
    }
    if (sup_journal_broken(d->journal)) {
        wait = shorter(wait, JOURNAL_LOOK_MS);
    }
    return shorter(wait, tell_ms);
}

static void take_ready(struct sup_driver *d, int timeout_ms) {
    struct epoll_event events[EVENTS_MAX];
    int n = epoll_wait(d->epoll_fd, events, EVENTS_MAX, timeout_ms);
    read_clocks(d);
    d->tree_fresh = false;
    for (int i = 0; i < n; i++) {
        struct sup_watch *w = events[i].data.ptr;
        if (w->fd >= 0) {  // closed by an earlier event of this turn
            w->ready(d, w, events[i].events);
        }
    }
}

static void bury_garbage(struct sup_driver *d) {
    struct sup_io *io;
    while ((io = TAILQ_FIRST(&d->garbage)) != NULL) {
        TAILQ_REMOVE(&d->garbage, io, garbage);
        sup_io_free(d, io);
    }
    sup_bury_conns(d);
}

void sup_loop_run(struct sup_driver *d) {
    const struct sup_event tick = {.type = SUP_EV_TICK};
    int tell_ms = 0;
    while (!d->exiting) {
        take_ready(d, wait_ms(d, tell_ms));
        sup_process_again(d);
        sup_driver_step(d, &tick);
        sup_commit(d);
        sup_maintain_journal(d);
        tell_ms = sup_flush_link(d);
        bury_garbage(d);
    }
}
