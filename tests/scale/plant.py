#!/usr/bin/python3
"""Gives the nodes of a stopped local cluster a state with many retained tasks.

    plant.py CLUSTER_DIR SNAPSHOT INDEX [NODE...]

CLUSTER_DIR was made by `nodelink local up` and stopped by `local down`; SNAPSHOT and INDEX come
from `bench_state TASKS SNAPSHOT`, which prints the index. The raft folder of each node, or of
those named, is replaced by one that holds that snapshot and nothing else, in libraft's own form
(format 1). Retention is raised in the nodes' settings so that the tasks stay.
"""

import os
import shutil
import struct
import sys

VOTER = 1
TERM = 1


def settings(path):
    with open(path, encoding="utf-8") as f:
        lines = [line.split("=", 1) for line in f if "=" in line and not line.startswith("#")]
    return {key.strip(): value.strip() for key, value in lines}


def configuration(members):
    """The members as libraft encodes them: version, count, then id, address and role of each."""
    out = struct.pack("<BQ", 1, len(members))
    for node, address in sorted(members):
        out += struct.pack("<Q", node) + address.encode() + b"\0" + bytes([VOTER])
    return out + bytes(-len(out) % 8)


def crc32(data, crc=0):
    """libraft's: polynomial 0x04c11db7, not reflected, begins with 0."""
    for byte in data:
        crc ^= byte << 24
        for _ in range(8):
            crc = (crc << 1) ^ 0x104C11DB7 if crc & 0x80000000 else crc << 1
    return crc


def plant(node_dir, snapshot, index):
    conf = settings(os.path.join(node_dir, "nodelinkd.conf"))
    members = [m.split("/") for m in conf["members"].split(",")]
    encoded = configuration([(int(m[1]), m[2]) for m in members])
    raft = os.path.join(conf["data-dir"], "raft")
    shutil.rmtree(raft)
    os.mkdir(raft, 0o700)
    with open(os.path.join(raft, "metadata1"), "wb") as f:
        f.write(struct.pack("<4Q", 1, 1, TERM, 0))
    with open(os.path.join(raft, "metadata2"), "wb") as f:
        f.write(struct.pack("<4Q", 1, 2, TERM, 0))
    name = os.path.join(raft, f"snapshot-{TERM}-{index}-1")
    shutil.copyfile(snapshot, name)
    covered = struct.pack("<2Q", 1, len(encoded))
    header = struct.pack("<2Q", 1, crc32(covered + encoded)) + covered
    with open(name + ".meta", "wb") as f:
        f.write(header + encoded)


def plant_all(cluster, snapshot, index, names=()):
    for name in sorted(os.listdir(cluster)):
        config = os.path.join(cluster, name, "nodelinkd.conf")
        if os.path.exists(config) and (not names or name in names):
            plant(os.path.join(cluster, name), snapshot, index)
            if "retention-count" not in settings(config):
                with open(config, "a", encoding="utf-8") as f:
                    f.write("retention-count = 4000000\nretention-time = 720h\n")


def main():
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    plant_all(sys.argv[1], sys.argv[2], int(sys.argv[3]), sys.argv[4:])


if __name__ == "__main__":
    main()
