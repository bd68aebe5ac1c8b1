#!/usr/bin/python3
"""Figures of a real three-node cluster with many retained tasks.

    measure.py BIN_DIR WORK_DIR [TASKS]        measure.py build/release/bin /tmp/scale 1000000

Submit latency with 1000 tasks and with TASKS (default a million); the restart of one node; a
follower that gets the leader's snapshot; lists, filters and pages; each with the largest lag of the
nodes' loops meanwhile. WORK_DIR is made and removed. Two clusters run one after the other.
"""

import json
import os
import shutil
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True
import plant  # noqa: E402

SMALL = 1000


class Cluster:
    def __init__(self, bin_dir, folder):
        self.bin, self.folder = bin_dir, folder
        self.up()
        self.local("down")
        with open(os.path.join(folder, "cluster.json"), encoding="utf-8") as f:
            self.nodes = sorted(n["name"] for n in json.load(f)["nodes"])
        self.env = dict(os.environ)
        with open(os.path.join(folder, "env"), encoding="utf-8") as f:
            for line in f:
                if line.startswith("export NODELINK_"):
                    key, value = line.removeprefix("export ").strip().split("=", 1)
                    self.env[key] = value

    def run(self, *args, check=True, timeout=300):
        done = subprocess.run(
            [os.path.join(self.bin, "nodelink"), *args],
            env=getattr(self, "env", None),
            timeout=timeout,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if check and done.returncode != 0:
            sys.exit(f"measure: nodelink {' '.join(args)}: {done.returncode}: {done.stderr}")
        return done.stdout

    def up(self):
        self.local("up", "--nodes", "3", "--agents", "0", "--timeout", "180s")

    def local(self, verb, *args):
        return self.run("local", verb, *args, "--dir", self.folder)

    def status(self):
        text = self.run("status", "-o", "json", "--timeout", "2s", check=False)
        return json.loads(text) if text.strip().startswith("{") else {}

    def wait(self, condition, what, seconds=180):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if condition(self.status()):
                return
            time.sleep(0.05)
        sys.exit(f"measure: not within {seconds} s: {what}")

    def wait_healthy(self):
        self.wait(lambda s: s.get("health") == "healthy", "a healthy cluster")

    def log(self, node):
        return os.path.join(self.folder, node, "nodelinkd.log")


class Lag:
    """The largest lag of each node's loop while the block runs, as the nodes themselves say."""

    def __init__(self, cluster):
        self.cluster, self.max_ms, self.stop = cluster, {}, threading.Event()
        self.thread = threading.Thread(target=self.poll)

    def poll(self):
        while not self.stop.wait(0.5):
            for node in self.cluster.status().get("nodes", []):
                lag = (node.get("loop_lag_us") or 0) / 1000
                self.max_ms[node["name"]] = max(lag, self.max_ms.get(node["name"], 0))

    def __enter__(self):
        time.sleep(25)  # until what was before is out of the nodes' windows
        self.thread.start()
        return self

    def __exit__(self, *_):
        time.sleep(2)
        self.stop.set()
        self.thread.join()

    def __str__(self):
        return ", ".join(f"{name} {ms:.1f} ms" for name, ms in sorted(self.max_ms.items()))


def make_snapshot(bin_dir, folder, tasks):
    path = os.path.join(folder, f"snapshot-{tasks}")
    program = os.path.join(bin_dir, "bench_state")
    index = subprocess.run([program, str(tasks), path], check=True, stdout=subprocess.PIPE).stdout
    return path, int(index)


def submit(cluster, what):
    with Lag(cluster) as lag:
        out = cluster.run("bench", "submit", "--duration", "10", "--clients", "1", "-o", "json")
    figures = json.loads(out)
    print(f"submit, {what}: {json.dumps(figures)}; lag {lag}", flush=True)


def restart(cluster, node):
    cluster.local("kill", node)
    with open(cluster.log(node), "w", encoding="utf-8"):
        pass
    begin = time.monotonic()
    cluster.local("start", node)
    while time.monotonic() < begin + 180:
        with open(cluster.log(node), encoding="utf-8") as f:
            if "ready node=" in f.read():
                break
        time.sleep(0.02)
    print(f"restart of {node}: {time.monotonic() - begin:.2f} s to ready", flush=True)


def lists(cluster):
    with Lag(cluster) as lag:
        begin, n = time.monotonic(), 0
        for args in (["--limit", "1000"], ["--agent", "host-0007"], ["--state", "running"]):
            cluster.run("task", "list", *args, "--timeout", "60s", check=False)
            n += 1
        took = time.monotonic() - begin
    print(f"{n} lists and filters over all tasks: {took:.2f} s; lag {lag}", flush=True)


def install(cluster, old, old_index):
    """One node starts with less than the others' logs still hold. All stop before: a leader that
    knows what this node had stored would rightly not believe it."""
    node = cluster.nodes[-1]
    cluster.local("down")
    plant.plant_all(cluster.folder, old, old_index, [node])
    begin = time.monotonic()
    cluster.up()
    cluster.wait_healthy()
    cluster.wait(
        lambda s: len({n.get("applied") for n in s.get("nodes", [{}])}) == 1, "equal indices"
    )
    took = time.monotonic() - begin
    lags = {n["name"]: n.get("loop_lag_max_us", 0) / 1000 for n in cluster.status()["nodes"]}
    print(f"start, and {node} gets the leader's snapshot: {took:.2f} s; lag {lags} ms", flush=True)
    print(cluster.run("cluster", "verify", check=False).strip().splitlines()[0], flush=True)


def measure(bin_dir, folder, tasks):
    small, small_index = make_snapshot(bin_dir, folder, SMALL)
    large, large_index = make_snapshot(bin_dir, folder, tasks)
    cluster = Cluster(bin_dir, os.path.join(folder, "cluster"))
    try:
        plant.plant_all(cluster.folder, small, small_index)
        cluster.up()
        submit(cluster, f"{SMALL} tasks")
        cluster.local("down")
        plant.plant_all(cluster.folder, large, large_index)
        cluster.up()
        submit(cluster, f"{tasks} tasks")
        restart(cluster, cluster.nodes[-1])
        cluster.wait_healthy()
        lists(cluster)
        install(cluster, small, small_index)
    finally:
        cluster.local("down")


def main():
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    os.makedirs(sys.argv[2])
    try:
        measure(sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) == 4 else 1000000)
    finally:
        shutil.rmtree(sys.argv[2])


if __name__ == "__main__":
    main()
