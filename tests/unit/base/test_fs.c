#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
// cmocka needs the four above first
#include <cmocka.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "common/base/err.h"
#include "common/base/fs.h"

static char dir[] = "/tmp/nl-fs-XXXXXX";

static int setup(void **state) {
    (void)state;
    return mkdtemp(dir) == NULL ? -1 : 0;
}

static int teardown(void **state) {
    (void)state;
    return rmdir(dir);  // fails when a test leaves anything, a temporary file included
}

static const char *in_dir(const char *name) {
    static char path[256];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    return path;
}

static void write_and_read(void **state) {
    (void)state;
    char *data = NULL;
    size_t len = 0;
    static char big[100000];
    memset(big, 'x', sizeof big);
    const char *path = in_dir("file");
    assert_int_equal(nl_fs_read(path, 10, &data, &len), NL_ENOTFOUND);
    assert_int_equal(nl_fs_write_atomic(path, big, sizeof big, 0640), NL_OK);
    assert_int_equal(nl_fs_read(path, sizeof big - 1, &data, &len), NL_ETOOBIG);
    assert_null(data);
    assert_int_equal(nl_fs_read(path, sizeof big, &data, &len), NL_OK);
    assert_int_equal(len, sizeof big);
    assert_int_equal(data[len], '\0');
    assert_memory_equal(data, big, len);
    free(data);
    struct stat st;
    assert_int_equal(stat(path, &st), 0);
    assert_int_equal(st.st_mode & 0777, 0640);
    unlink(path);
}

// A file size limit stands in for a full disk: the old content stays, no temporary is left.
static void failed_write_changes_nothing(void **state) {
    (void)state;
    const char *path = in_dir("kept");
    assert_int_equal(nl_fs_write_atomic(path, "old", 3, 0600), NL_OK);
    struct rlimit before, small;
    getrlimit(RLIMIT_FSIZE, &before);
    small = before;
    small.rlim_cur = 4096;
    signal(SIGXFSZ, SIG_IGN);
    static char big[64 * 1024];
    setrlimit(RLIMIT_FSIZE, &small);
    int rv = nl_fs_write_atomic(path, big, sizeof big, 0600);
    setrlimit(RLIMIT_FSIZE, &before);
    assert_int_equal(rv, NL_ETOOBIG);
    char *data = NULL;
    size_t len = 0;
    assert_int_equal(nl_fs_read(path, 100, &data, &len), NL_OK);
    assert_string_equal(data, "old");
    free(data);
    unlink(path);
}

static void secrets(void **state) {
    (void)state;
    char *secret = NULL;
    const char *path = in_dir("token");
    assert_int_equal(nl_fs_write_atomic(path, "s3cret \t\r\nrest\n", 15, 0600), NL_OK);
    assert_int_equal(nl_fs_read_secret(path, &secret), NL_OK);
    assert_string_equal(secret, "s3cret");
    free(secret);
    secret = NULL;
    assert_int_equal(chmod(path, 0640), 0);
    assert_int_equal(nl_fs_read_secret(path, &secret), NL_EPERM);
    assert_int_equal(chmod(path, 0604), 0);
    assert_int_equal(nl_fs_read_secret(path, &secret), NL_EPERM);
    assert_int_equal(nl_fs_write_atomic(path, "\n", 1, 0600), NL_OK);
    assert_int_equal(nl_fs_read_secret(path, &secret), NL_EINVAL);
    assert_null(secret);
    unlink(path);
    assert_int_equal(nl_fs_read_secret(path, &secret), NL_ENOTFOUND);
}

static void directories(void **state) {
    (void)state;
    char deep[256];
    snprintf(deep, sizeof deep, "%s/a//b/c/", dir);
    assert_int_equal(nl_fs_mkdirs(deep, 0700), NL_OK);
    assert_int_equal(nl_fs_mkdirs(deep, 0700), NL_OK);
    assert_int_equal(nl_fs_write_atomic(in_dir("a/b/c/f"), "", 0, 0600), NL_OK);
    assert_int_equal(nl_fs_mkdirs(in_dir("a/b/c/f"), 0700), NL_EEXIST);
    assert_int_equal(nl_fs_mkdirs(in_dir("a/b/c/f/g"), 0700), NL_EINVAL);
    assert_int_equal(nl_fs_mkdirs("", 0700), NL_EINVAL);
    assert_int_equal(nl_fs_sync_dir(in_dir("a/b")), NL_OK);
    assert_int_equal(nl_fs_sync_dir(in_dir("none")), NL_ENOTFOUND);
    unlink(in_dir("a/b/c/f"));
    rmdir(in_dir("a/b/c"));
    rmdir(in_dir("a/b"));
    rmdir(in_dir("a"));
}

static void locks(void **state) {
    (void)state;
    int first = -1, second = -1;
    pid_t holder = -1;
    const char *path = in_dir("lock");
    assert_int_equal(nl_fs_lock(path, &first, &holder), NL_OK);
    assert_int_equal(nl_fs_lock(path, &second, &holder), NL_EBUSY);
    assert_int_equal(holder, getpid());
    assert_int_equal(second, -1);
    assert_true((fcntl(first, F_GETFD) & FD_CLOEXEC) != 0);
    close(first);
    assert_int_equal(nl_fs_lock(path, &second, NULL), NL_OK);
    close(second);
    unlink(path);
    assert_int_equal(nl_fs_lock(in_dir("none/lock"), &second, NULL), NL_ENOTFOUND);
}

static void free_space(void **state) {
    (void)state;
    uint64_t bytes = 0;
    assert_int_equal(nl_fs_free_bytes(dir, &bytes), NL_OK);
    assert_true(bytes > 0);
    assert_int_equal(nl_fs_free_bytes(in_dir("none"), &bytes), NL_ENOTFOUND);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(write_and_read), cmocka_unit_test(failed_write_changes_nothing),
        cmocka_unit_test(secrets),        cmocka_unit_test(directories),
        cmocka_unit_test(locks),          cmocka_unit_test(free_space),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
