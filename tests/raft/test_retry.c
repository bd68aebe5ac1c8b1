// Fix 4 of scripts/raft/README.md: a write to the log fails once. The linker puts the failure in
// (--wrap=UvWriterSubmit).

#include <dirent.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
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

static char dir[] = "/tmp/nl-raft-retry-XXXXXX";

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

static void failed_write(void) {
    uv_loop_t loop;
    struct raft_uv_transport transport;
    struct raft_io io;
    REACH(uv_loop_init(&loop) == 0 && uv_timer_init(&loop, &failing_timer) == 0);
    start_io(&io, &loop, &transport);
    REACH(load(&io) == 0);

    uint64_t payload = 42;
    struct raft_entry entry = {.term = 1, .type = RAFT_COMMAND};
    entry.buf = (struct raft_buffer){.base = &payload, .len = sizeof payload};
    struct appended a = {.req.data = &a};
    REACH(io.append(&io, &a.req, &entry, 1, append_done) == 0);
    while (!a.done) {
        uv_run(&loop, UV_RUN_ONCE);
    }
    REQUIRE(submits == 2);
    REQUIRE(a.status == 0);

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

static void remove_dir(void) {
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *entry = readdir(d); entry != NULL; entry = readdir(d)) {
        unlinkat(dirfd(d), entry->d_name, 0);
    }
    closedir(d);
    assert_int_equal(rmdir(dir), 0);
}

static void test_failed_write(void **state) {
    (void)state;
    assert_non_null(mkdtemp(dir));
    child_check(failed_write);
    remove_dir();
}

int main(void) {
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_failed_write)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
