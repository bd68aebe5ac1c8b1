// A node that plays a script: each WatchTask call gets the next scene. It runs in a process of its
// own: the test program started once more (gRPC does not survive a fork), which reads its script
// from standard input.
#ifndef NODELINK_TESTS_UNIT_TOOLS_SCRIPT_SERVER_H
#define NODELINK_TESTS_UNIT_TOOLS_SCRIPT_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum scene_end {
    SCENE_COMPLETE,     // the last event says `end`
    SCENE_UNAVAILABLE,  // the call fails
    SCENE_SILENCE,      // nothing more comes, reads fail
    SCENE_DIE,          // the process ends
    SCENE_NOT_FOUND,
};

struct scene {
    uint64_t from, to;  // bytes of stdout that are sent
    uint64_t gap_to;    // 0: none; else said before the output
    enum scene_end end;
    uint32_t attempt;  // of the output; 0: the node doesn't say
    bool at_offset;    // begin at the offset asked for instead of `from`
};

struct script {
    struct scene scenes[4];
    size_t n;         // the last one is played again and again
    int submit_code;  // SubmitTask fails with this; 0: it succeeds
    char submit_text[64];
};

struct script_server {
    pid_t pid;
    char address[32];
};

// The byte at an offset of the played task's stdout.
uint8_t script_byte(uint64_t offset);
// First thing in main: does not return in the process of a node.
void script_server_main(int argc, char **argv);
void script_server_start(const struct script *script, struct script_server *ret);
void script_server_stop(struct script_server *server);

#endif
