// Work with a whole state: done before the call returns, with less weight than the caller's, and
// large memory given back in pieces.

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cmocka.h>

#include "cluster/raft/background.h"
#include "cluster/raft/reap.h"

struct seen {
    int priority;
    unsigned runs;
};

static void look(void *arg) {
    struct seen *seen = arg;
    seen->priority = getpriority(PRIO_PROCESS, 0);  // of the thread, on Linux
    seen->runs++;
}

static void test_work_has_less_weight(void **unused) {
    (void)unused;
    int before = getpriority(PRIO_PROCESS, 0);
    struct seen seen = {0};
    nl_background_run(look, &seen);
    nl_background_run(look, &seen);
    assert_int_equal(seen.runs, 2);
    assert_true(seen.priority > before || before == 19);
    assert_int_equal(getpriority(PRIO_PROCESS, 0), before);
}

// Of any size and place in the heap; what is beside it stays.
static void test_large_memory_is_freed(void **unused) {
    (void)unused;
    static const size_t sizes[] = {1, 4096, 100000, ((size_t)4 << 20) + 1, (size_t)33 << 20};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        uint8_t *before = malloc(5000), *large = malloc(sizes[i]), *after = malloc(5000);
        assert_non_null(before);
        assert_non_null(large);
        assert_non_null(after);
        memset(before, 1, 5000);
        memset(large, 2, sizes[i]);
        memset(after, 3, 5000);
        nl_free_large(large, sizes[i]);
        for (size_t k = 0; k < 5000; k++) {
            assert_true(before[k] == 1 && after[k] == 3);
        }
        free(before);
        free(after);
    }
    nl_free_large(NULL, 0);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_work_has_less_weight),
        cmocka_unit_test(test_large_memory_is_freed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
