#include "cluster/raft/background.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <uv.h>

// A third of the weight of a thread that has none. Not the least one: while the work lasts the log
// grows, and on a busy machine it has to end.
#define NICE 5

struct job {
    void (*work)(void *arg);
    void *arg;
};

// A thread can be made less important, but only root can take that back; so not a pool's thread.
static void run(void *user) {
    const struct job *job = user;
    id_t thread = (id_t)syscall(SYS_gettid);
    (void)setpriority(PRIO_PROCESS, thread, getpriority(PRIO_PROCESS, thread) + NICE);
    job->work(job->arg);
}

void nl_background_run(void (*work)(void *arg), void *arg) {
    struct job job = {work, arg};
    uv_thread_t thread;
    if (uv_thread_create(&thread, run, &job) != 0) {
        work(arg);
        return;
    }
    uv_thread_join(&thread);
}
