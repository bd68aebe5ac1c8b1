// Form of a snapshot, shared by its writer and its reader (private).
//
// Frames of u32 length (little endian), u8 type, payload: one HEADER; all NODE, PROPOSER, AGENT,
// TASK records, each type sorted by its key; one FOOTER; one CHECKSUM, whose payload is the
// XXH3-128 (big endian) of every byte before its frame. Payloads of the others are messages of
// snapshot.proto.
#ifndef NODELINK_CLUSTER_STATE_FRAME_H
#define NODELINK_CLUSTER_STATE_FRAME_H

// 2: attempts, late results, tails. Version 1 is the same without these fields, and is still read.
#define NL_SNAPSHOT_VERSION 2u
#define NL_FRAME_HEAD 5u

enum nl_frame_type {
    NL_FRAME_HEADER = 1,
    NL_FRAME_NODE,
    NL_FRAME_PROPOSER,
    NL_FRAME_AGENT,
    NL_FRAME_TASK,
    NL_FRAME_FOOTER,
    NL_FRAME_CHECKSUM,
};

#endif
