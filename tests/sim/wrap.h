// The functions that the linker puts in place of the product's and libuv's own (--wrap, see
// CMakeLists.txt). Declared for the compiler; nobody calls them by these names.
#ifndef NODELINK_TESTS_SIM_WRAP_H
#define NODELINK_TESTS_SIM_WRAP_H

#include <raft/uv.h>

#include "cluster/raft/mark.h"
#include "cluster/raft/transport.h"
#include "common/base/log.h"
#include "tests/sim/sim.h"

// node.c
uint64_t __wrap_nl_clock_mono_us(void);
uint64_t __wrap_nl_clock_mono_ms(void);
uint64_t __wrap_nl_clock_wall_ms(void);
void __wrap_nl_random_bytes(void *out, size_t len);
void __wrap_nl_log(enum nl_log_level level, const char *module, const char *event, ...);
uint64_t __wrap_uv_now(const uv_loop_t *loop);
uint64_t __wrap_uv_metrics_idle_time(uv_loop_t *loop);
int __wrap_uv_loop_configure(uv_loop_t *loop, uv_loop_option option, ...);
int __wrap_uv_timer_init(uv_loop_t *loop, uv_timer_t *timer);
int __wrap_uv_timer_start(uv_timer_t *timer, uv_timer_cb cb, uint64_t timeout, uint64_t repeat);
int __wrap_uv_prepare_init(uv_loop_t *loop, uv_prepare_t *prepare);
int __wrap_uv_prepare_start(uv_prepare_t *prepare, uv_prepare_cb cb);
void __wrap_uv_close(uv_handle_t *handle, uv_close_cb cb);
int __wrap_uv_queue_work(uv_loop_t *loop, uv_work_t *req, uv_work_cb work, uv_after_work_cb after);
int __wrap_uv_fs_statfs(uv_loop_t *loop, uv_fs_t *req, const char *path, uv_fs_cb cb);
void __wrap_uv_fs_req_cleanup(uv_fs_t *req);

// disk.c
int __wrap_raft_uv_init(struct raft_io *io, struct uv_loop_s *loop, const char *dir,
                        struct raft_uv_transport *transport);
void __wrap_raft_uv_close(struct raft_io *io);
void __wrap_raft_uv_set_auto_recovery(struct raft_io *io, bool flag);
void __wrap_raft_uv_set_connect_retry_delay(struct raft_io *io, unsigned ms);
void __wrap_raft_uv_set_disk_retry(struct raft_io *io, unsigned ms);
void __wrap_raft_uv_set_tracer(struct raft_io *io, struct raft_tracer *tracer);

// files.c
int __wrap_nl_mark_open(struct nl_mark *mark, const char *dir);
void __wrap_nl_mark_close(struct nl_mark *mark);
void __wrap_nl_mark_raise(struct nl_mark *mark, uint64_t index);
int __wrap_nl_mark_lower(struct nl_mark *mark, uint64_t index);
int __wrap_nl_mark_install_begin(struct nl_mark *mark, uint64_t index, uint64_t term);
int __wrap_nl_mark_install_end(struct nl_mark *mark);
int __wrap_nl_data_dir_open(const char *path, const char *cluster_name, uint64_t id, bool bootstrap,
                            struct nl_data_dir *ret, char *error_text, size_t error_size);
int __wrap_nl_data_dir_ready(struct nl_data_dir *dir, const char *cluster_name, uint64_t id);
int __wrap_nl_data_dir_boot(const struct nl_data_dir *dir, uint64_t *ret);
int __wrap_nl_data_dir_count_boot(const struct nl_data_dir *dir, uint64_t boot);
void __wrap_nl_data_dir_close(struct nl_data_dir *dir);
int __wrap_nl_segments_last(const char *dir, uint64_t *ret, char *error_text, size_t error_size);
int __wrap_nl_segments_finish_install(const char *dir, uint64_t index, uint64_t term,
                                      char *error_text, size_t error_size);
int __wrap_nl_fs_free_bytes(const char *path, uint64_t *ret);
int __wrap_nl_transport_new(const struct nl_transport_options *options, struct nl_transport **ret,
                            char *error_text, size_t error_size);
struct raft_uv_transport *__wrap_nl_transport_raft(struct nl_transport *transport);
void __wrap_nl_transport_free(struct nl_transport *transport);
void __wrap_nl_transport_abandon(struct nl_transport *transport, void (*done)(void *user),
                                 void *user);

// check.c
int __real_raft_init(struct raft *r, struct raft_io *io, struct raft_fsm *fsm, raft_id id,
                     const char *address);
int __wrap_raft_init(struct raft *r, struct raft_io *io, struct raft_fsm *fsm, raft_id id,
                     const char *address);
int __real_nl_state_apply(struct nl_state *state, uint64_t index, const uint8_t *command,
                          size_t len, nl_effect_cb effect, void *user);
int __wrap_nl_state_apply(struct nl_state *state, uint64_t index, const uint8_t *command,
                          size_t len, nl_effect_cb effect, void *user);
void __real_nl_state_swap(struct nl_state *a, struct nl_state *b);
void __wrap_nl_state_swap(struct nl_state *a, struct nl_state *b);

// clients.c
int __real_nl_raft_append(struct nl_raft_node *node, struct nl_frame *frame, nl_raft_done done,
                          void *user);
int __wrap_nl_raft_append(struct nl_raft_node *node, struct nl_frame *frame, nl_raft_done done,
                          void *user);

// rpc.c
int __wrap_nl_rpc_channel_new(struct nl_rpc *rpc, const char *target,
                              const struct nl_rpc_channel_options *options,
                              struct nl_rpc_channel **ret);
void __wrap_nl_rpc_channel_free(struct nl_rpc_channel *channel);
void __wrap_nl_rpc_channel_reset_backoff(struct nl_rpc_channel *channel);
int __wrap_nl_rpc_call_start(struct nl_rpc_channel *channel,
                             const ProtobufCServiceDescriptor *service, const char *method,
                             const struct nl_rpc_call_options *options,
                             const struct nl_rpc_handler *handler, void *user,
                             struct nl_rpc_call **ret);
int __wrap_nl_rpc_call_send(struct nl_rpc_call *call, const ProtobufCMessage *message);
void __wrap_nl_rpc_call_cancel(struct nl_rpc_call *call);
void __wrap_nl_rpc_call_finish(struct nl_rpc_call *call, enum nl_rpc_code code,
                               const char *message);
void __wrap_nl_rpc_call_ref(struct nl_rpc_call *call);
void __wrap_nl_rpc_call_unref(struct nl_rpc_call *call);
void __wrap_nl_rpc_call_set_handler(struct nl_rpc_call *call, const struct nl_rpc_handler *handler,
                                    void *user);
const char *__wrap_nl_rpc_call_metadata(const struct nl_rpc_call *call, const char *key);
const char *__wrap_nl_rpc_call_peer(const struct nl_rpc_call *call);

#endif
