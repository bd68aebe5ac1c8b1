// The .proto files of this program in their encoded form, made by embed-descriptors at build
// time: for reflection, which hands them out and never reads one.
#ifndef NODELINK_COMMON_RPC_DESCRIPTORS_H
#define NODELINK_COMMON_RPC_DESCRIPTORS_H

#include <stddef.h>
#include <stdint.h>

struct nl_rpc_descriptor_file {
    const char *name;
    const uint8_t *data;  // FileDescriptorProto
    size_t len;
    const uint16_t *closure;  // indices: the file itself, then all it imports
    size_t closure_count;
};
extern const struct nl_rpc_descriptor_file nl_rpc_descriptor_files[];
extern const size_t nl_rpc_descriptor_file_count;

struct nl_rpc_descriptor_symbol {
    const char *name;  // "nodelink.v1.Task", "nodelink.v1.TaskService.StreamTasks"
    uint16_t file;
};
extern const struct nl_rpc_descriptor_symbol nl_rpc_descriptor_symbols[];  // sorted by name
extern const size_t nl_rpc_descriptor_symbol_count;

#endif
