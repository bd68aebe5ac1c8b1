#include "tools/view.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/err.h"

// Fields that scripts rely on; taking one away breaks them.
static const char *const TASK_FIELDS[] = {"id",
                                          "agent",
                                          "state",
                                          "exit_code",
                                          "signal",
                                          "attempt",
                                          "stdout_bytes",
                                          "stderr_bytes",
                                          "stdout_sha256",
                                          "stderr_sha256",
                                          "created_ms",
                                          "started_ms",
                                          "finished_ms",
                                          "reason",
                                          "cmd",
                                          "cancel_requested",
                                          "late_results",
                                          "index",
                                          "node",
                                          NULL};
static const char *const AGENT_FIELDS[] = {"id",           "state",  "node",    "epoch",
                                           "connected_ms", "labels", "version", NULL};

static void expect_fields(const json_t *object, const char *const *fields) {
    for (; *fields != NULL; fields++) {
        if (json_object_get(object, *fields) == NULL) {
            fail_msg("no field %s", *fields);
        }
    }
}

static void test_pending_task(void **state) {
    (void)state;
    Nodelink__V1__Task task = NODELINK__V1__TASK__INIT;
    Nodelink__V1__TaskSpec spec = NODELINK__V1__TASK_SPEC__INIT;
    Nodelink__V1__ReplyHeader header = NODELINK__V1__REPLY_HEADER__INIT;
    task.id = (char *)"t1";
    task.spec = &spec;
    spec.agent_id = (char *)"a1";
    task.state = NODELINK__V1__TASK_STATE__TASK_PENDING;
    header.index = 17;
    header.node = (char *)"n2";
    json_t *object = nl_json_task(&task, &header);
    expect_fields(object, TASK_FIELDS);
    assert_string_equal(json_string_value(json_object_get(object, "state")), "pending");
    assert_true(json_is_null(json_object_get(object, "exit_code")));
    assert_true(json_is_null(json_object_get(object, "signal")));
    assert_true(json_is_null(json_object_get(object, "stdout_sha256")));
    assert_int_equal(json_integer_value(json_object_get(object, "started_ms")), 0);
    assert_int_equal(json_integer_value(json_object_get(object, "index")), 17);
    json_decref(object);
}

static void test_finished_task(void **state) {
    (void)state;
    uint8_t hash[32] = {0xab};
    Nodelink__V1__Task task = NODELINK__V1__TASK__INIT;
    Nodelink__V1__TaskResult result = NODELINK__V1__TASK_RESULT__INIT;
    task.state = NODELINK__V1__TASK_STATE__TASK_FAILED;
    task.has_result = true;
    task.result = &result;
    result.kind = NODELINK__V1__TASK_RESULT__KIND__EXITED;
    result.exit_code = 3;
    result.started_ms = 99;
    result.stdout_bytes = 5;
    result.stdout_sha256 = (ProtobufCBinaryData){sizeof hash, hash};
    json_t *object = nl_json_task(&task, NULL);
    assert_int_equal(json_integer_value(json_object_get(object, "exit_code")), 3);
    assert_int_equal(json_integer_value(json_object_get(object, "stdout_bytes")), 5);
    assert_int_equal(json_integer_value(json_object_get(object, "started_ms")), 99);
    assert_true(json_is_null(json_object_get(object, "signal")));
    const char *hex = json_string_value(json_object_get(object, "stdout_sha256"));
    assert_int_equal(strlen(hex), 64);
    assert_memory_equal(hex, "ab00", 4);
    json_decref(object);

    result.kind = NODELINK__V1__TASK_RESULT__KIND__SIGNALLED;
    result.signal = 9;
    object = nl_json_task(&task, NULL);
    assert_true(json_is_null(json_object_get(object, "exit_code")));
    assert_int_equal(json_integer_value(json_object_get(object, "signal")), 9);
    json_decref(object);
}

static void test_agent(void **state) {
    (void)state;
    Nodelink__V1__Agent agent = NODELINK__V1__AGENT__INIT;
    Nodelink__V1__Label label = NODELINK__V1__LABEL__INIT;
    Nodelink__V1__Label *labels[] = {&label};
    label.key = (char *)"os";
    label.value = (char *)"linux";
    agent.id = (char *)"a1";
    agent.labels = labels;
    agent.n_labels = 1;
    agent.connection = NODELINK__V1__AGENT_CONNECTION__AGENT_NEVER_CONNECTED;
    json_t *object = nl_json_agent(&agent);
    expect_fields(object, AGENT_FIELDS);
    assert_string_equal(json_string_value(json_object_get(object, "state")), "never_connected");
    assert_true(json_is_null(json_object_get(object, "node")));
    assert_string_equal(json_string_value(json_object_get(json_object_get(object, "labels"), "os")),
                        "linux");
    json_decref(object);
}

static void test_bytes(void **state) {
    (void)state;
    json_t *object = json_object();
    nl_json_set_bytes(object, "a", "text\n", 5);
    nl_json_set_bytes(object, "b", "\xff\x00\x01\x02", 4);
    nl_json_set_bytes(object, "c", NULL, 0);
    assert_string_equal(json_string_value(json_object_get(object, "a")), "text\n");
    assert_string_equal(json_string_value(json_object_get(object, "b_base64")), "/wABAg==");
    assert_string_equal(json_string_value(json_object_get(object, "c")), "");
    json_decref(object);
}

static void test_labels(void **state) {
    (void)state;
    static const char *const GOOD[] = {"a=b", "c=d=e", "f="};
    static const char *const BAD[] = {"a=b", "=x"};
    struct nl_labels labels;
    const char *bad = NULL;
    assert_int_equal(nl_labels_parse(GOOD, 3, &labels, &bad), NL_OK);
    assert_string_equal(labels.pointers[1]->key, "c");
    assert_string_equal(labels.pointers[1]->value, "d=e");
    assert_string_equal(labels.pointers[2]->value, "");
    nl_labels_close(&labels);
    assert_int_equal(nl_labels_parse(BAD, 2, &labels, &bad), NL_EINVAL);
    assert_string_equal(bad, "=x");
    nl_labels_close(&labels);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pending_task), cmocka_unit_test(test_finished_task),
        cmocka_unit_test(test_agent),        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_labels),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
