#include "tools/interrupt.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>

#include "common/base/err.h"

static struct {
    uv_async_t wake;
    atomic_uint count;
    unsigned told;
    void (*callback)(void *user, unsigned count);
    void *user;
    struct sigaction before;
} watcher;

// uv_async_send is async-signal-safe.
static void on_signal(int number) {
    (void)number;
    atomic_fetch_add(&watcher.count, 1);
    uv_async_send(&watcher.wake);
}

static void on_wake(uv_async_t *handle) {
    (void)handle;
    while (watcher.told < atomic_load(&watcher.count)) {
        watcher.callback(watcher.user, ++watcher.told);
    }
}

int nl_interrupt_watch(uv_loop_t *loop, void (*callback)(void *user, unsigned count), void *user) {
    // Not restarting: a blocked write has to notice.
    struct sigaction action = {.sa_handler = on_signal};
    watcher.callback = callback;
    watcher.user = user;
    watcher.told = 0;
    atomic_store(&watcher.count, 0);
    if (uv_async_init(loop, &watcher.wake, on_wake) != 0) {
        return NL_EIO;
    }
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGINT, &action, &watcher.before) != 0) {
        uv_close((uv_handle_t *)&watcher.wake, NULL);
        return NL_EIO;
    }
    return NL_OK;
}

unsigned nl_interrupt_count(void) {
    return atomic_load(&watcher.count);
}

void nl_interrupt_close(void) {
    sigaction(SIGINT, &watcher.before, NULL);
    uv_close((uv_handle_t *)&watcher.wake, NULL);
}
