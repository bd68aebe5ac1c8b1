// The journal's bytes and file: torn tails, damage, failing disks.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
// cmocka needs the four above first
#include <cmocka.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent/supervisor/journal_format.h"
#include "common/base/err.h"
#include "common/base/failpoint.h"
#include "common/base/fs.h"

static char dir[64], path[96];

static int setup(void **state) {
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/nl-journal-XXXXXX");
    if (mkdtemp(dir) == NULL) {
        return -1;
    }
    snprintf(path, sizeof path, "%s/journal", dir);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    unlink(path);
    return rmdir(dir);
}

struct replayed {
    struct sup_record records[64];
    size_t count, reject_at;
};

static int take(void *user, const struct sup_record *r) {
    struct replayed *p = user;
    assert_true(p->count < 64);
    p->records[p->count++] = *r;
    return p->reject_at != 0 && p->count == p->reject_at ? NL_ECORRUPT : NL_OK;
}

static struct sup_record intent(const char *id) {
    struct sup_record r = {.type = SUP_REC_INTENT, .attempt = 2, .epoch = 9, .timeout_ms = 11};
    snprintf(r.id, sizeof r.id, "%s", id);
    memset(r.digest, 0x5A, sizeof r.digest);
    return r;
}

static struct sup_record result(const char *id) {
    struct sup_record r = {.type = SUP_REC_RESULT, .attempt = 2};
    snprintf(r.id, sizeof r.id, "%s", id);
    r.result = (struct sup_result){.kind = SUP_KIND_SIGNALLED,
                                   .signal = 9,
                                   .bytes = {1ull << 40, 7},
                                   .sha256_known = {true, false},
                                   .finished_wall_ms = 12345,
                                   .user_us = 3};
    memset(r.result.sha256[0], 0xC3, NL_SHA256_LEN);
    snprintf(r.result.reason, sizeof r.result.reason, "because");
    return r;
}

static int open_journal(struct replayed *p, char why[512], struct sup_journal **j) {
    size_t reject_at = p->reject_at;
    memset(p, 0, sizeof *p);
    p->reject_at = reject_at;
    why[0] = '\0';
    return sup_journal_open(dir, take, p, why, j);
}

static void records_come_back(void **state) {
    (void)state;
    static struct replayed p;
    char why[512];
    struct sup_journal *j = NULL;
    assert_int_equal(open_journal(&p, why, &j), NL_OK);
    struct sup_record records[] = {
        intent("a"),
        {.type = SUP_REC_STARTED,
         .id = "a",
         .attempt = 2,
         .pid = 77,
         .pid_start = 1ull << 50,
         .started_wall_ms = 5,
         .boot = {1, 2, 3}},
        {.type = SUP_REC_DROPPED, .id = "a", .attempt = 2, .base = {8192, 1}},
        result("a"),
        {.type = SUP_REC_FORGOTTEN, .id = "a", .attempt = 2},
        {.type = SUP_REC_SPENT, .id = "a", .attempt = 2},
    };
    for (size_t i = 0; i < 6; i++) {
        assert_int_equal(sup_journal_append(j, &records[i]), NL_OK);
    }
    assert_true(sup_journal_dirty(j));
    assert_int_equal(sup_journal_sync(j), NL_OK);
    assert_false(sup_journal_dirty(j));
    sup_journal_close(j);
    assert_int_equal(open_journal(&p, why, &j), NL_OK);
    assert_int_equal(p.count, 6);
    for (size_t i = 0; i < 6; i++) {
        assert_memory_equal(&p.records[i], &records[i], sizeof records[i]);
    }
    sup_journal_close(j);
}

// Makes a journal with n intents ("t0".."tN"), each durable on its own. Returns its bytes.
static char *make(size_t n, size_t *ret_len, size_t *ret_last) {
    static struct replayed p;
    char why[512];
    struct sup_journal *j = NULL;
    unlink(path);
    p.reject_at = 0;
    assert_int_equal(open_journal(&p, why, &j), NL_OK);
    for (size_t i = 0; i < n; i++) {
        char id[32];
        snprintf(id, sizeof id, "t%zu", i);
        struct sup_record r = intent(id);
        *ret_last = (size_t)sup_journal_size(j);
        assert_int_equal(sup_journal_append(j, &r), NL_OK);
        assert_int_equal(sup_journal_sync(j), NL_OK);
    }
    sup_journal_close(j);
    char *data = NULL;
    assert_int_equal(nl_fs_read(path, 1 << 20, &data, ret_len), NL_OK);
    return data;
}

static void put(const char *data, size_t len) {
    assert_int_equal(nl_fs_write_atomic(path, data, len, 0600), NL_OK);
}

static void torn_at_every_byte(void **state) {
    (void)state;
    static struct replayed p;
    char why[512];
    size_t len = 0, last = 0;
    char *data = make(3, &len, &last);
    for (size_t cut = last; cut < len; cut++) {
        struct sup_journal *j = NULL;
        put(data, cut);
        assert_int_equal(open_journal(&p, why, &j), NL_OK);
        assert_int_equal(p.count, 2);
        assert_int_equal(sup_journal_size(j), last);
        // It goes on at the cut, and what is written then is found: a record shorter than
        // what was cut, so that nothing of that may be left behind it.
        struct sup_record r = {.type = SUP_REC_SPENT, .id = "after"};
        assert_int_equal(sup_journal_append(j, &r), NL_OK);
        assert_int_equal(sup_journal_sync(j), NL_OK);
        sup_journal_close(j);
        assert_int_equal(open_journal(&p, why, &j), NL_OK);
        assert_int_equal(p.count, 3);
        assert_string_equal(p.records[2].id, "after");
        sup_journal_close(j);
    }
    free(data);
}

static void every_flipped_bit_is_seen(void **state) {
    (void)state;
    size_t len = 0, last = 0;
    char *data = make(3, &len, &last);
    for (size_t at = 0; at < len; at++) {
        static struct replayed p;
        struct sup_journal_scan scan;
        memset(&p, 0, sizeof p);
        data[at] = (char)(data[at] ^ (1 << (at % 8)));
        sup_journal_scan((uint8_t *)data, len, take, &p, &scan);
        assert_true(scan.verdict == SUP_JOURNAL_CORRUPT);
        assert_true(scan.good <= at);
        assert_true(p.count <= 2);
        data[at] = (char)(data[at] ^ (1 << (at % 8)));
    }
    free(data);
}

static void damage_stops_and_changes_nothing(void **state) {
    (void)state;
    static struct replayed p;
    char why[512];
    size_t len = 0, last = 0;
    char *data = make(3, &len, &last);
    struct sup_journal *j = NULL;
    data[60] = (char)(data[60] ^ 1);
    put(data, len);
    assert_int_equal(open_journal(&p, why, &j), NL_ECORRUPT);
    assert_null(j);
    assert_non_null(strstr(why, path));
    assert_non_null(strstr(why, "offset 32"));
    size_t now_len = 0;
    char *now = NULL;
    assert_int_equal(nl_fs_read(path, 1 << 20, &now, &now_len), NL_OK);
    assert_int_equal(now_len, len);
    assert_memory_equal(now, data, len);
    free(now);
    free(data);
}

static void zeroed_sectors(void **state) {
    (void)state;
    static struct replayed p;
    struct sup_journal_scan scan;
    size_t len = 0, last = 0;
    char *data = make(12, &len, &last);
    // A power loss may leave the last append as zeros, from a sector's start on.
    size_t sector = (last / 512 + 1) * 512;
    char *longer = calloc(1, sector + 512);
    memcpy(longer, data, last);
    memset(&p, 0, sizeof p);
    sup_journal_scan((uint8_t *)longer, sector + 512, take, &p, &scan);
    assert_int_equal(scan.verdict, SUP_JOURNAL_TORN);
    assert_int_equal(scan.good, last);
    // In the middle, below what later records know to be durable, it is damage.
    memset(data + 512, 0, 512);
    memset(&p, 0, sizeof p);
    sup_journal_scan((uint8_t *)data, len, take, &p, &scan);
    assert_int_equal(scan.verdict, SUP_JOURNAL_CORRUPT);
    free(longer);
    free(data);
}

static void not_a_journal(void **state) {
    (void)state;
    static struct replayed p;
    char why[512];
    struct sup_journal *j = NULL;
    put("", 0);
    assert_int_equal(open_journal(&p, why, &j), NL_ECORRUPT);
    put("some other file of somebody else's, of some length", 50);
    assert_int_equal(open_journal(&p, why, &j), NL_ECORRUPT);
    uint8_t header[SUP_JOURNAL_HEADER];
    sup_journal_encode_header(1, header);
    put((char *)header, 31);
    assert_int_equal(open_journal(&p, why, &j), NL_ECORRUPT);
    header[8] = 2;
    put((char *)header, sizeof header);
    assert_int_equal(open_journal(&p, why, &j), NL_ECORRUPT);  // its checksum
    assert_null(j);
}

static void contradiction(void **state) {
    (void)state;
    static struct replayed p = {.reject_at = 2};
    char why[512];
    size_t len = 0, last = 0;
    free(make(3, &len, &last));
    struct sup_journal *j = NULL;
    p.reject_at = 2;
    assert_int_equal(open_journal(&p, why, &j), NL_ECORRUPT);
    assert_non_null(strstr(why, "contradicts"));
    p.reject_at = 0;
}

static int emit_one(void *user, struct sup_journal *fresh) {
    struct sup_record r = intent(user);
    return sup_journal_append(fresh, &r);
}

static int emit_failure(void *user, struct sup_journal *fresh) {
    emit_one(user, fresh);
    return NL_EIO;
}

static void rewriting(void **state) {
    (void)state;
    static struct replayed p;
    char why[512];
    size_t len = 0, last = 0;
    free(make(20, &len, &last));
    struct sup_journal *j = NULL;
    assert_int_equal(open_journal(&p, why, &j), NL_OK);
    assert_int_equal(p.count, 20);
    assert_int_equal(sup_journal_rewrite(j, emit_failure, (void *)(uintptr_t) "kept"), NL_EIO);
    assert_int_equal(sup_journal_size(j), len);
    assert_int_equal(sup_journal_rewrite(j, emit_one, (void *)(uintptr_t) "kept"), NL_OK);
    assert_true(sup_journal_size(j) < len);
    struct sup_record r = result("kept");
    assert_int_equal(sup_journal_append(j, &r), NL_OK);
    sup_journal_close(j);
    assert_int_equal(open_journal(&p, why, &j), NL_OK);
    assert_int_equal(p.count, 2);
    assert_int_equal(p.records[1].result.kind, SUP_KIND_SIGNALLED);
    sup_journal_close(j);
}

// A file size limit stands in for a full disk: the part of a record that fitted goes again.
static void full_disk(void **state) {
    (void)state;
    static struct replayed p;
    char why[512];
    struct rlimit before, small;
    struct sup_journal *j = NULL;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(open_journal(&p, why, &j), NL_OK);
    struct sup_record r = intent("a");
    assert_int_equal(sup_journal_append(j, &r), NL_OK);
    uint64_t size = sup_journal_size(j);
    getrlimit(RLIMIT_FSIZE, &before);
    small = before;
    small.rlim_cur = size + 40;
    setrlimit(RLIMIT_FSIZE, &small);
    int rv = sup_journal_append(j, &r);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_not_equal(rv, NL_OK);
    assert_false(sup_journal_broken(j));
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_size, size);
    r = intent("b");
    assert_int_equal(sup_journal_append(j, &r), NL_OK);
    sup_journal_close(j);
    assert_int_equal(open_journal(&p, why, &j), NL_OK);
    assert_int_equal(p.count, 2);
    sup_journal_close(j);
}

#ifdef NL_FAILPOINTS
// After a failed fsync nothing is appended until the file was written anew.
static void failed_fsync(void **state) {
    (void)state;
    static struct replayed p;
    char why[512];
    struct sup_journal *j = NULL;
    assert_int_equal(open_journal(&p, why, &j), NL_OK);
    struct sup_record r = intent("a");
    assert_int_equal(nl_failpoint_set("journal.sync=error@1"), NL_OK);
    assert_int_equal(sup_journal_append(j, &r), NL_OK);
    assert_int_equal(sup_journal_sync(j), NL_EIO);
    assert_true(sup_journal_broken(j));
    assert_int_equal(sup_journal_append(j, &r), NL_EIO);
    assert_int_equal(sup_journal_sync(j), NL_EIO);
    assert_int_equal(sup_journal_rewrite(j, emit_one, (void *)(uintptr_t) "x"), NL_OK);
    assert_int_equal(sup_journal_append(j, &r), NL_OK);
    assert_int_equal(sup_journal_sync(j), NL_OK);
    nl_failpoint_set("");
    sup_journal_close(j);
}
#endif

int main(void) {
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(records_come_back),
        TEST(torn_at_every_byte),
        TEST(every_flipped_bit_is_seen),
        TEST(damage_stops_and_changes_nothing),
        TEST(zeroed_sectors),
        TEST(not_a_journal),
        TEST(contradiction),
        TEST(rewriting),
        TEST(full_disk),
#ifdef NL_FAILPOINTS
        TEST(failed_fsync),
#endif
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
