#include "tools/follow.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "common/base/clock.h"
#include "common/base/err.h"
#include "tests/unit/tools/script_server.h"

enum { NODES_MAX = 3 };

struct story {
    struct script_server servers[NODES_MAX];
    size_t n;
    struct nl_client_target target;
    struct nl_client *client;
    uint64_t offset;  // next byte expected
    uint64_t gap_from, gap_to;
    uint64_t before;   // bytes of the attempt before
    uint32_t attempt;  // as told; 0: never
    size_t moves;
    bool wrong, over, failed;
    struct nl_client_error error;
    Nodelink__V1__TaskState state;
};

static void on_task(void *user, const Nodelink__V1__Task *task) {
    ((struct story *)user)->state = task->state;
}

static void on_output(void *user, enum nl_stream stream, const uint8_t *data, size_t len) {
    struct story *s = user;
    for (size_t i = 0; i < len; i++) {
        s->wrong |= stream != NL_STDOUT || data[i] != script_byte(s->offset++);
    }
}

static void on_gap(void *user, enum nl_stream stream, uint64_t from, uint64_t to,
                   const char *reason) {
    struct story *s = user;
    s->wrong |= stream != NL_STDOUT || from != s->offset || reason == NULL;
    s->gap_from = from;
    s->gap_to = to;
    s->offset = to;
}

static void on_moved(void *user, const char *from, const char *to, const char *why) {
    struct story *s = user;
    (void)from;
    (void)to;
    (void)why;
    s->moves++;
}

static void on_end(void *user, const struct nl_client_error *error,
                   const Nodelink__V1__Task *task) {
    struct story *s = user;
    (void)task;
    s->over = true;
    s->failed = error != NULL;
    if (error != NULL) {
        s->error = *error;
    }
}

static void on_attempt(void *user, uint32_t attempt) {
    struct story *s = user;
    s->attempt = attempt;
    s->before = s->offset;
    s->offset = 0;
}

static const struct nl_follow_events EVENTS = {.on_task = on_task,
                                               .on_output = on_output,
                                               .on_gap = on_gap,
                                               .on_attempt = on_attempt,
                                               .on_moved = on_moved,
                                               .on_end = on_end};

static void begin(struct story *s, const struct script *scripts, size_t n) {
    char error[128];
    *s = (struct story){.n = n};
    for (size_t i = 0; i < n; i++) {
        script_server_start(&scripts[i], &s->servers[i]);
        assert_int_equal(
            nl_client_parse_addresses(s->servers[i].address, &s->target, error, sizeof error),
            NL_OK);
    }
    s->client = nl_client_new(&s->target);
    assert_non_null(s->client);
}

static void follow_with(struct story *s, const struct nl_follow_options *options) {
    struct nl_follow *f = NULL;
    assert_int_equal(nl_follow_start(s->client, options, &EVENTS, s, &f), NL_OK);
    while (!s->over) {
        uv_run(nl_client_loop(s->client), UV_RUN_ONCE);
    }
}

static void follow(struct story *s, uint64_t patience_ms) {
    follow_with(s, &(struct nl_follow_options){
                       .task_id = "t1", .output = true, .patience_ms = patience_ms});
}

static void end(struct story *s) {
    nl_client_free(s->client);
    nl_client_target_close(&s->target);
    for (size_t i = 0; i < s->n; i++) {
        script_server_stop(&s->servers[i]);
    }
}

static void expect_complete(const struct story *s, uint64_t bytes) {
    assert_false(s->failed);
    assert_false(s->wrong);
    assert_int_equal(s->offset, bytes);
    assert_int_equal(s->state, NODELINK__V1__TASK_STATE__TASK_COMPLETED);
}

static void test_one_node(void **state) {
    (void)state;
    struct story s;
    struct script script = {.scenes = {{.to = 5500, .end = SCENE_COMPLETE}}, .n = 1};
    begin(&s, &script, 1);
    follow(&s, 10000);
    expect_complete(&s, 5500);
    end(&s);
}

static void test_goes_on_at_the_next_node(void **state) {
    (void)state;
    struct story s;
    struct script scripts[] = {
        {.scenes = {{.to = 3000, .end = SCENE_DIE}}, .n = 1},
        {.scenes = {{.at_offset = true, .to = 4500, .end = SCENE_UNAVAILABLE}}, .n = 1},
        {.scenes = {{.at_offset = true, .to = 9000, .end = SCENE_COMPLETE}}, .n = 1},
    };
    begin(&s, scripts, 3);
    follow(&s, 10000);
    expect_complete(&s, 9000);
    assert_int_equal(s.moves, 2);
    end(&s);
}

static void test_next_attempt_begins_at_zero(void **state) {
    (void)state;
    struct story s;
    struct script scripts[] = {
        {.scenes = {{.attempt = 1, .to = 3000, .end = SCENE_UNAVAILABLE}}, .n = 1},
        {.scenes = {{.attempt = 2, .to = 1000, .end = SCENE_UNAVAILABLE}}, .n = 1},
        {.scenes = {{.attempt = 2, .at_offset = true, .to = 1500, .end = SCENE_COMPLETE}}, .n = 1},
    };
    begin(&s, scripts, 3);
    follow(&s, 10000);
    expect_complete(&s, 1500);
    assert_int_equal(s.attempt, 2);
    assert_int_equal(s.before, 3000);
    end(&s);
}

// A node may begin earlier than asked; what is known is not written again.
static void test_overlap_is_left_out(void **state) {
    (void)state;
    struct story s;
    struct script scripts[] = {
        {.scenes = {{.to = 3000, .end = SCENE_UNAVAILABLE}}, .n = 1},
        {.scenes = {{.from = 1234, .to = 6000, .end = SCENE_COMPLETE}}, .n = 1},
    };
    begin(&s, scripts, 2);
    follow(&s, 10000);
    expect_complete(&s, 6000);
    assert_int_equal(s.gap_to, 0);
    end(&s);
}

static void test_gaps_are_said(void **state) {
    (void)state;
    struct story s;
    struct script scripts[] = {
        {.scenes = {{.to = 1000, .end = SCENE_UNAVAILABLE}}, .n = 1},
        {.scenes = {{.gap_to = 2000, .from = 2000, .to = 3000, .end = SCENE_COMPLETE}}, .n = 1},
    };
    begin(&s, scripts, 2);
    follow(&s, 10000);
    expect_complete(&s, 3000);
    assert_int_equal(s.gap_from, 1000);
    assert_int_equal(s.gap_to, 2000);
    end(&s);
}

// A jump that the node doesn't mention is a gap all the same.
static void test_silent_jump_is_a_gap(void **state) {
    (void)state;
    struct story s;
    struct script script = {.scenes = {{.from = 500, .to = 900, .end = SCENE_COMPLETE}}, .n = 1};
    begin(&s, &script, 1);
    follow(&s, 10000);
    expect_complete(&s, 900);
    assert_int_equal(s.gap_to, 500);
    end(&s);
}

static void test_silent_node_is_left(void **state) {
    (void)state;
    struct story s;
    struct script scripts[] = {
        {.scenes = {{.to = 100, .end = SCENE_SILENCE}}, .n = 1},
        {.scenes = {{.at_offset = true, .to = 200, .end = SCENE_COMPLETE}}, .n = 1},
    };
    begin(&s, scripts, 2);
    follow(&s, 30000);
    expect_complete(&s, 200);
    end(&s);
}

static void test_unknown_task_ends_at_once(void **state) {
    (void)state;
    struct story s;
    struct script script = {.scenes = {{.end = SCENE_NOT_FOUND}}, .n = 1};
    begin(&s, &script, 1);
    follow(&s, 30000);
    assert_true(s.failed);
    assert_int_equal(s.error.code, NL_RPC_NOT_FOUND);
    end(&s);
}

static void test_patience_ends(void **state) {
    (void)state;
    struct story s;
    struct script script = {.scenes = {{.to = 100, .end = SCENE_DIE}}, .n = 1};
    begin(&s, &script, 1);
    uint64_t started = nl_clock_mono_ms();
    follow(&s, 1500);
    assert_true(s.failed);
    assert_int_equal(s.error.outcome, NL_CLIENT_UNKNOWN);
    assert_true(nl_clock_mono_ms() - started < 10000);
    end(&s);
}

// Every node answers, but the output is out of reach: that must end, too.
static void test_output_out_of_reach_ends(void **state) {
    (void)state;
    struct story s;
    struct script script = {.scenes = {{.end = SCENE_UNAVAILABLE}}, .n = 1};
    begin(&s, &script, 1);
    struct nl_follow_options options = {
        .task_id = "t1", .output = true, .no_follow = true, .patience_ms = 1000};
    follow_with(&s, &options);
    assert_true(s.failed);
    assert_int_equal(s.error.outcome, NL_CLIENT_FAILED);
    end(&s);
}

// ---- calls -----------------------------------------------------------------

static bool submit(struct story *s, uint64_t timeout_ms) {
    Nodelink__V1__SubmitTaskRequest request = NODELINK__V1__SUBMIT_TASK_REQUEST__INIT;
    ProtobufCMessage *reply = NULL;
    request.task_id = (char *)"t1";
    struct nl_client_call call = {.method = "SubmitTask",
                                  .request = &request.base,
                                  .repeat = NL_CLIENT_IDEMPOTENT,
                                  .timeout_ms = timeout_ms};
    bool ok = nl_client_wait(s->client, &call, &reply, &s->error);
    nl_rpc_message_free(reply);
    return ok;
}

static void test_submit_fails_over(void **state) {
    (void)state;
    struct story s;
    struct script scripts[] = {
        {.submit_code = NL_RPC_UNAVAILABLE, .submit_text = "failed: draining", .n = 1},
        {.n = 1},
    };
    begin(&s, scripts, 2);
    assert_true(submit(&s, 5000));
    assert_int_equal(nl_client_index(s.client), 77);
    end(&s);
}

// One "maybe" stays a maybe, whatever the nodes asked later say about not being able to.
static void test_maybe_stays_maybe(void **state) {
    (void)state;
    struct story s;
    struct script scripts[] = {
        {.submit_code = NL_RPC_UNAVAILABLE, .submit_text = "unknown: leader changed", .n = 1},
        {.submit_code = NL_RPC_UNAVAILABLE, .submit_text = "failed: no quorum", .n = 1},
    };
    begin(&s, scripts, 2);
    assert_false(submit(&s, 700));
    assert_int_equal(s.error.outcome, NL_CLIENT_UNKNOWN);
    end(&s);
}

// A node that says why is worth more than one that is not there.
static void test_answer_beats_silence(void **state) {
    (void)state;
    struct story s;
    struct script scripts[] = {
        {.submit_code = NL_RPC_UNAVAILABLE, .submit_text = "failed: no quorum", .n = 1},
        {.n = 1},
    };
    begin(&s, scripts, 2);
    script_server_stop(&s.servers[1]);
    s.n = 1;
    assert_false(submit(&s, 1000));
    assert_string_equal(s.error.text, "no quorum");
    assert_int_equal(s.error.outcome, NL_CLIENT_FAILED);
    assert_false(s.error.unreachable);
    end(&s);
}

static void test_refusal_is_final(void **state) {
    (void)state;
    struct story s;
    struct script scripts[] = {
        {.submit_code = NL_RPC_NOT_FOUND, .submit_text = "no agent a9", .n = 1},
        {.n = 1},
    };
    begin(&s, scripts, 2);
    assert_false(submit(&s, 5000));
    assert_int_equal(s.error.code, NL_RPC_NOT_FOUND);
    assert_int_equal(s.error.outcome, NL_CLIENT_FAILED);
    end(&s);
}

int main(int argc, char **argv) {
    script_server_main(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_one_node),
        cmocka_unit_test(test_goes_on_at_the_next_node),
        cmocka_unit_test(test_next_attempt_begins_at_zero),
        cmocka_unit_test(test_overlap_is_left_out),
        cmocka_unit_test(test_gaps_are_said),
        cmocka_unit_test(test_silent_jump_is_a_gap),
        cmocka_unit_test(test_silent_node_is_left),
        cmocka_unit_test(test_unknown_task_ends_at_once),
        cmocka_unit_test(test_patience_ends),
        cmocka_unit_test(test_output_out_of_reach_ends),
        cmocka_unit_test(test_submit_fails_over),
        cmocka_unit_test(test_maybe_stays_maybe),
        cmocka_unit_test(test_answer_beats_silence),
        cmocka_unit_test(test_refusal_is_final),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
