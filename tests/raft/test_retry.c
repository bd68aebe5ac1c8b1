// Fixes 4 and 5 of scripts/raft/README.md: a write to the log fails once, and the end of a segment
// doesn't hold up the loop. The linker puts the failure in, and tells which thread gives back the
// kernel's context (--wrap=UvWriterSubmit, --wrap=io_destroy).

#include <dirent.h>
#include <linux/aio_abi.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <raft.h>
#include <raft/uv.h>
#include <uv.h>

#include "tests/raft/child.h"

struct UvWriter;
struct UvWriterReq;
typedef void (*writer_cb)(struct UvWriterReq *req, int status);

int __real_UvWriterSubmit(struct UvWriter *w, struct UvWriterReq *req, const uv_buf_t bufs[],
                          unsigned n, size_t offset, writer_cb cb);
int __wrap_UvWriterSubmit(struct UvWriter *w, struct UvWriterReq *req, const uv_buf_t bufs[],
                          unsigned n, size_t offset, writer_cb cb);

int __real_io_destroy(aio_context_t ctx);
int __wrap_io_destroy(aio_context_t ctx);

static char dir[32];

static pthread_t loop_thread;
static atomic_uint destroyed, destroyed_on_loop;

int __wrap_io_destroy(aio_context_t ctx) {
    atomic_fetch_add(pthread_equal(pthread_self(), loop_thread) ? &destroyed_on_loop : &destroyed,
                     1);
    return __real_io_destroy(ctx);
}

static unsigned submits;
static struct UvWriterReq *failing_req;
static writer_cb failing_cb;
static uv_timer_t failing_timer;

static void fail_now(uv_timer_t *timer) {
    (void)timer;
    failing_cb(failing_req, RAFT_IOERR);
}

int __wrap_UvWriterSubmit(struct UvWriter *w, struct UvWriterReq *req, const uv_buf_t bufs[],
                          unsigned n, size_t offset, writer_cb cb) {
    submits += 1;
    if (submits > 1) {
        return __real_UvWriterSubmit(w, req, bufs, n, offset, cb);
    }
    failing_req = req;
    failing_cb = cb;
    return uv_timer_start(&failing_timer, fail_now, 1, 0);
}

struct appended {
    struct raft_io_append req;
    bool done;
    int status;
};

static void append_done(struct raft_io_append *req, int status) {
    struct appended *a = req->data;
    a->status = status;
    a->done = true;
}

static void no_close_cb(struct raft_io *io) {
    (void)io;
}

static void start_io(struct raft_io *io, uv_loop_t *loop, struct raft_uv_transport *transport) {
    memset(transport, 0, sizeof *transport);
    memset(io, 0, sizeof *io);
    transport->version = 1;
    REACH(raft_uv_tcp_init(transport, loop) == 0);
    REACH(raft_uv_init(io, loop, dir, transport) == 0);
    raft_uv_set_disk_retry(io, 10);
    REACH(io->init(io, 1, "127.0.0.1:9000") == 0);
}

// Number of entries that the directory holds.
static size_t load(struct raft_io *io) {
    raft_term term;
    raft_id voted_for;
    struct raft_snapshot *snapshot;
    raft_index start_index;
    struct raft_entry *entries = NULL;
    size_t n = 0;
    REACH(io->load(io, &term, &voted_for, &snapshot, &start_index, &entries, &n) == 0);
    if (n > 0) {
        raft_free(entries[0].batch);
        raft_free(entries);
    }
    return n;
}

static void write_one(uv_loop_t *loop, struct raft_io *io) {
    uint64_t payload = 42;
    struct raft_entry entry = {.term = 1, .type = RAFT_COMMAND};
    entry.buf = (struct raft_buffer){.base = &payload, .len = sizeof payload};
    struct appended a = {.req.data = &a};
    REACH(io->append(io, &a.req, &entry, 1, append_done) == 0);
    while (!a.done) {
        uv_run(loop, UV_RUN_ONCE);
    }
    REQUIRE(a.status == 0);
}

static void failed_write(void) {
    uv_loop_t loop;
    struct raft_uv_transport transport;
    struct raft_io io;
    REACH(uv_loop_init(&loop) == 0 && uv_timer_init(&loop, &failing_timer) == 0);
    start_io(&io, &loop, &transport);
    REACH(load(&io) == 0);

    write_one(&loop, &io);
    REQUIRE(submits == 2);

    uv_close((uv_handle_t *)&failing_timer, NULL);
    io.close(&io, no_close_cb);
    uv_run(&loop, UV_RUN_DEFAULT);
    raft_uv_close(&io);
    raft_uv_tcp_close(&transport);
    REQUIRE(uv_loop_close(&loop) == 0);

    REACH(uv_loop_init(&loop) == 0);
    start_io(&io, &loop, &transport);
    REQUIRE(load(&io) == 1);
}

// The segments that are open when the backend closes end there.
static void end_of_segment(void) {
    uv_loop_t loop;
    struct raft_uv_transport transport;
    struct raft_io io;
    submits = 1;  // none fails
    loop_thread = pthread_self();
    REACH(uv_loop_init(&loop) == 0);
    start_io(&io, &loop, &transport);
    REACH(load(&io) == 0);
    atomic_store(&destroyed_on_loop, 0);  // the start may take its time
    write_one(&loop, &io);
    io.close(&io, no_close_cb);
    uv_run(&loop, UV_RUN_DEFAULT);
    for (int tries = 0; atomic_load(&destroyed) + atomic_load(&destroyed_on_loop) == 0; tries++) {
        REACH(tries < 5000);
        nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    }
    REQUIRE(atomic_load(&destroyed_on_loop) == 0);
    raft_uv_close(&io);
    raft_uv_tcp_close(&transport);
    REQUIRE(uv_loop_close(&loop) == 0);
}

static void remove_dir(void) {
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *entry = readdir(d); entry != NULL; entry = readdir(d)) {
        unlinkat(dirfd(d), entry->d_name, 0);
    }
    closedir(d);
    assert_int_equal(rmdir(dir), 0);
}

static void check(void (*scenario)(void)) {
    memcpy(dir, "/tmp/nl-raft-retry-XXXXXX", sizeof "/tmp/nl-raft-retry-XXXXXX");
    assert_non_null(mkdtemp(dir));
    child_check(scenario);
    remove_dir();
}

static void test_failed_write(void **state) {
    (void)state;
    check(failed_write);
}

static void test_end_of_segment(void **state) {
    (void)state;
    check(end_of_segment);
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_failed_write),
                                       cmocka_unit_test(test_end_of_segment)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
