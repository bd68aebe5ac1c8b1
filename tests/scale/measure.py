#!/usr/bin/python3
"""Figures of real three-node clusters with many retained tasks, beside their targets.

    measure.py BIN_DIR WORK_DIR [TASKS] [--more]

    measure.py build/release/bin /tmp/scale            # a million tasks; about four minutes

Two clusters run beside each other, one with 1000 tasks and one with TASKS (default a million), and
take turns with one client that submits. Then the large one is loaded until each of its nodes has
taken a snapshot, and each node is killed and started again. Exits with 1 if a target is missed.
--more: also a follower that gets the leader's snapshot, and lists. WORK_DIR is made and removed;
it needs 4 GB, and should be on the disk that is meant.
"""

import argparse
import glob
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
sys.dont_write_bytecode = True
import plant  # noqa: E402

SMALL = 1000
ROUNDS = 5
ROUND_S = 5
# The load under which snapshots are taken: so few that a turn isn't long by the load alone.
LOAD_CLIENTS = 16
LOAD_S = 8
LOAD_ROUNDS_MAX = 20
FILL_S = 4
FILLED = 0.85
FILL_ROUNDS_MAX = 40
# When a node takes its next snapshot (cluster/raft/node.c, cluster/cluster.c): after one entry for
# so many tasks, or so many bytes.
SNAPSHOT_TASKS_PER_ENTRY = 16
SNAPSHOT_BYTES = 256 << 20
TRIES = 5

RATIO_MAX = 1.2
LAG_MS_MAX = 10
RESTART_S_MAX = 5


def say(text):
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


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

    def bench(self, clients, seconds):
        """What the clients saw, and the longest turn of each node's loop meanwhile. A call that
        fails says that the whole machine stood still: the run is done again."""
        args = ("--duration", str(seconds), "--clients", str(clients), "-o", "json")
        for _ in range(TRIES):
            figures = json.loads(self.run("bench", "submit", *args, check=False))
            if figures.get("errors") == 0:
                return figures
            say(f"a run with errors, done again: {figures.get('error') or figures}")
        sys.exit(f"measure: {TRIES} runs with errors")

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

    def snapshots(self):
        """The newest snapshot of each node, by index."""
        newest = {}
        for node in self.nodes:
            metas = glob.glob(os.path.join(self.folder, node, "data", "raft", "snapshot-*.meta"))
            newest[node] = max(int(os.path.basename(meta).split("-")[2]) for meta in metas)
        return newest

    def log_since_snapshot(self, tasks):
        """How much of what brings the next snapshot is there, at the node that has most."""
        applied = {n["name"]: n.get("applied") or 0 for n in self.status().get("nodes", [])}
        parts = []
        for node, index in self.snapshots().items():
            entries = max(0, applied.get(node, 0) - index)
            files = glob.glob(os.path.join(self.folder, node, "data", "raft", "0*-*"))
            ends = {path: int(path.rsplit("-", 1)[1]) for path in files}
            size = sum(os.path.getsize(path) for path, end in ends.items() if end > index)
            parts += [entries / (tasks / SNAPSHOT_TASKS_PER_ENTRY), size / SNAPSHOT_BYTES]
        return max(parts)


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


def planted(bin_dir, folder, tasks):
    """A cluster that runs with so many tasks, and what was put into it."""
    say(f"a cluster with {tasks} tasks")
    path, index = make_snapshot(bin_dir, folder, tasks)
    cluster = Cluster(bin_dir, os.path.join(folder, f"cluster-{tasks}"))
    plant.plant_all(cluster.folder, path, index)
    cluster.up()
    cluster.wait_healthy()
    return cluster, path, index


def compare_submits(small, large):
    """The ratio of the medians; rounds by turns, so that what the machine does hits both."""
    p50 = {small: [], large: []}
    for _ in range(ROUNDS):
        for cluster in (small, large):
            p50[cluster].append(cluster.bench(1, ROUND_S)["p50_us"])
    say(f"submit p50 in us: few tasks {p50[small]}, many {p50[large]}")
    return statistics.median(p50[large]) / statistics.median(p50[small])


def fill_log(cluster, tasks):
    for _ in range(FILL_ROUNDS_MAX):
        part = cluster.log_since_snapshot(tasks)
        if part >= FILLED:
            say(f"the log holds {part:.0%} of what brings the next snapshot")
            return
        cluster.bench(LOAD_CLIENTS, FILL_S)
    sys.exit("measure: the log doesn't grow")


def lag_with_snapshots(cluster, tasks):
    """The longest turn in ms of any loop in the rounds in which snapshots were taken."""
    fill_log(cluster, tasks)
    before = cluster.snapshots()
    longest, others = 0.0, 0.0
    for _ in range(LOAD_ROUNDS_MAX):
        at_begin = cluster.snapshots()
        figures = cluster.bench(LOAD_CLIENTS, LOAD_S)
        now = cluster.snapshots()
        taken = [node for node in cluster.nodes if now[node] > at_begin[node]]
        lags = {n["name"]: n["loop_lag_max_us"] / 1000 for n in figures["nodes"]}
        say(
            f"load: {figures['ops_per_s']:.0f}/s, p99 {figures['p99_us']} us; "
            f"snapshots by {' '.join(taken) or 'none'}; longest turns in ms {lags}"
        )
        worst = max(lags.values())
        longest, others = (max(longest, worst), others) if taken else (longest, max(others, worst))
        if all(now[node] > before[node] for node in cluster.nodes):
            say(f"longest turn in rounds without a snapshot: {others:.1f} ms")
            return longest
    sys.exit("measure: the load didn't bring every node to take a snapshot")


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
    else:
        sys.exit(f"measure: {node} is not ready 180 s after its start")
    took = time.monotonic() - begin
    cluster.wait_healthy()
    return took


def restarts(cluster):
    took = {node: round(restart(cluster, node), 2) for node in cluster.nodes}
    say(f"restarts in s, from the start to ready: {took}")
    return max(took.values())


def lists(cluster):
    with Lag(cluster) as lag:
        begin, n = time.monotonic(), 0
        for args in (["--limit", "1000"], ["--agent", "host-0007"], ["--state", "running"]):
            cluster.run("task", "list", *args, "--timeout", "60s", check=False)
            n += 1
        took = time.monotonic() - begin
    say(f"{n} lists and filters over all tasks: {took:.2f} s; lag {lag}")


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
    say(f"start, and {node} gets the leader's snapshot: {took:.2f} s; lag {lags} ms")
    say(cluster.run("cluster", "verify", check=False).strip().splitlines()[0])


def judge(what, figure, limit, unit):
    met = figure <= limit
    print(
        f"{what}: {figure:.2f}{unit}, target <= {limit}{unit}: {'met' if met else 'MISSED'}",
        flush=True,
    )
    return met


def measure(bin_dir, folder, tasks, more):
    clusters, met = [], []
    try:
        small, small_path, small_index = planted(bin_dir, folder, SMALL)
        clusters.append(small)
        large, _, _ = planted(bin_dir, folder, tasks)
        clusters.append(large)
        ratio = compare_submits(small, large)
        small.local("down")
        lag = lag_with_snapshots(large, tasks)
        longest = restarts(large)
        met = [
            judge(f"submit p50 with {tasks} tasks / with {SMALL}", ratio, RATIO_MAX, ""),
            judge("longest turn of a loop while snapshots are taken", lag, LAG_MS_MAX, " ms"),
            judge(f"restart of a node with {tasks} tasks", longest, RESTART_S_MAX, " s"),
        ]
        if more:
            lists(large)
            install(large, small_path, small_index)
    finally:
        for cluster in clusters:
            cluster.local("down")
    return all(met)


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("bin_dir")
    parser.add_argument("work_dir")
    parser.add_argument("tasks", nargs="?", type=int, default=1000000)
    parser.add_argument("--more", action="store_true")
    args = parser.parse_args()
    os.makedirs(args.work_dir)
    try:
        met = measure(os.path.abspath(args.bin_dir), args.work_dir, args.tasks, args.more)
    finally:
        shutil.rmtree(args.work_dir)
    sys.exit(0 if met else 1)


if __name__ == "__main__":
    main()
