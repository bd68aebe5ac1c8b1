#include "common/rpc/accept_guard.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/base/clock.h"

// At the cap, descriptors are looked at for closed connections at most this often.
#define SWEEP_INTERVAL_MS 100

// A connection is known by its descriptor and, since descriptors are used again, its inode.
struct tracked {
    ino_t inode;  // 0: none
};

struct nl_accept_guard {
    struct nl_accept_guard *next;
    uint16_t port;
    uint32_t max;
    uint32_t count;         // at least the open ones
    struct tracked *by_fd;  // fd_max entries
    size_t fd_max;
    uint64_t swept_ms;
    uint64_t refused;
};

// All state is under one mutex: a connection's accept is rare against its life.
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static struct nl_accept_guard *guards;
static int reserve = -1;

static int real_accept4(int fd, struct sockaddr *addr, socklen_t *len, int flags) {
    return (int)syscall(SYS_accept4, fd, addr, len, flags);
}

static void refill_reserve(void) {
    if (reserve < 0) {
        reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
    }
}

static uint16_t local_port(int fd) {
    struct sockaddr_storage addr;
    socklen_t len = sizeof addr;
    if (getsockname(fd, (struct sockaddr *)&addr, &len) != 0) {
        return 0;
    }
    if (addr.ss_family == AF_INET) {
        return ntohs(((struct sockaddr_in *)&addr)->sin_port);
    }
    return addr.ss_family == AF_INET6 ? ntohs(((struct sockaddr_in6 *)&addr)->sin6_port) : 0;
}

static struct nl_accept_guard *find_guard(int listener) {
    if (guards == NULL) {
        return NULL;
    }
    uint16_t port = local_port(listener);
    struct nl_accept_guard *guard = guards;
    while (guard != NULL && guard->port != port) {
        guard = guard->next;
    }
    return guard;
}

static ino_t inode_of(int fd) {
    struct stat st;
    return fstat(fd, &st) == 0 ? st.st_ino : 0;
}

// ---- the cap ---------------------------------------------------------------

static void sweep(struct nl_accept_guard *guard) {
    uint64_t now = nl_clock_mono_ms();
    if (now - guard->swept_ms < SWEEP_INTERVAL_MS) {
        return;
    }
    guard->swept_ms = now;
    for (size_t fd = 0; fd < guard->fd_max; fd++) {
        struct tracked *t = &guard->by_fd[fd];
        if (t->inode != 0 && inode_of((int)fd) != t->inode) {
            t->inode = 0;
            guard->count--;
        }
    }
}

static bool grow(struct nl_accept_guard *guard, size_t fd) {
    if (fd < guard->fd_max) {
        return true;
    }
    size_t fd_max = (fd + 1) * 2;
    struct tracked *by_fd = realloc(guard->by_fd, fd_max * sizeof *by_fd);
    if (by_fd == NULL) {
        return false;
    }
    for (size_t i = guard->fd_max; i < fd_max; i++) {
        by_fd[i].inode = 0;
    }
    guard->by_fd = by_fd;
    guard->fd_max = fd_max;
    return true;
}

// Whether the new connection fits under the cap; then it is counted.
static bool admit(struct nl_accept_guard *guard, int fd) {
    if (guard == NULL || guard->max == 0) {
        return true;
    }
    if (!grow(guard, (size_t)fd)) {
        return false;
    }
    struct tracked *t = &guard->by_fd[fd];
    if (t->inode != 0) {  // its descriptor was used again, so the old connection is closed
        t->inode = 0;
        guard->count--;
    }
    if (guard->count >= guard->max) {
        sweep(guard);
    }
    if (guard->count >= guard->max) {
        return false;
    }
    t->inode = inode_of(fd);
    guard->count++;
    return true;
}

// ---- descriptors run out ---------------------------------------------------

// Accepts the connection that waits with the reserve's descriptor and closes it. False: none
// waits, or the reserve is used up.
static bool drain_one(int listener) {
    if (reserve < 0) {
        return false;
    }
    close(reserve);
    reserve = -1;
    int fd = real_accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) {
        close(fd);
    }
    refill_reserve();
    return fd >= 0;
}

static void count_refused(struct nl_accept_guard *guard) {
    if (guard != NULL) {
        guard->refused++;
    }
}

// One turn: a descriptor, -1 with errno, or -2 for "refused one, try again".
static int accept_once(int listener, struct sockaddr *addr, socklen_t *len, int flags) {
    int fd = real_accept4(listener, addr, len, flags);
    if (fd >= 0) {
        struct nl_accept_guard *guard = find_guard(listener);
        if (admit(guard, fd)) {
            return fd;
        }
        count_refused(guard);
        close(fd);
        return -2;
    }
    if (errno != EMFILE && errno != ENFILE) {
        return -1;
    }
    if (drain_one(listener)) {
        count_refused(find_guard(listener));
        return -2;
    }
    errno = EAGAIN;
    return -1;
}

static bool is_nonblocking(int fd) {
    int flags = fcntl(fd, F_GETFL);
    return flags >= 0 && (flags & O_NONBLOCK) != 0;
}

// A blocking listener is left alone: with the mutex held it would block everybody.
__attribute__((visibility("default"))) int accept4(int listener, struct sockaddr *addr,
                                                   socklen_t *restrict len, int flags) {
    if (!is_nonblocking(listener)) {
        return real_accept4(listener, addr, len, flags);
    }
    socklen_t room = len != NULL ? *len : 0;
    pthread_mutex_lock(&mutex);
    refill_reserve();
    int fd;
    do {
        if (len != NULL) {
            *len = room;
        }
        fd = accept_once(listener, addr, len, flags);
    } while (fd == -2);
    int error = errno;
    pthread_mutex_unlock(&mutex);
    errno = error;
    return fd;
}

// ---- servers ---------------------------------------------------------------

struct nl_accept_guard *nl_accept_guard_new(void) {
    return calloc(1, sizeof(struct nl_accept_guard));
}

void nl_accept_guard_watch(struct nl_accept_guard *guard, uint16_t port, uint32_t connections_max) {
    pthread_mutex_lock(&mutex);
    guard->port = port;
    guard->max = connections_max;
    refill_reserve();
    guard->next = guards;
    guards = guard;
    pthread_mutex_unlock(&mutex);
}

void nl_accept_guard_free(struct nl_accept_guard *guard) {
    if (guard == NULL) {
        return;
    }
    pthread_mutex_lock(&mutex);
    struct nl_accept_guard **link = &guards;
    while (*link != NULL && *link != guard) {
        link = &(*link)->next;
    }
    if (*link != NULL) {
        *link = guard->next;
    }
    pthread_mutex_unlock(&mutex);
    free(guard->by_fd);
    free(guard);
}

uint64_t nl_accept_guard_refused(const struct nl_accept_guard *guard) {
    pthread_mutex_lock(&mutex);
    uint64_t refused = guard->refused;
    pthread_mutex_unlock(&mutex);
    return refused;
}
