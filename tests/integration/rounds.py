"""Rounds of: 50 tasks through random nodes, kill -9 of a random node in the middle, restart.

Every acknowledged task has exactly one terminal state, equal on all nodes, its output complete, one
start by the evidence that the commands write themselves, and the replicas' hashes are equal.

Usage: rounds.py [--rounds N] [--tasks N] [--seed N]
"""

import argparse
import random
import sys
import threading
import time

import grpc

from harness import SLOW, TERMINAL, Cluster, Evidence, new_id, sha256, stubs, wait_for

AMBIGUOUS = (
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.CANCELLED,
)


def output_of(task):
    return "".join(f"{task} {i}\n" for i in range(1, 21))


def command_of(evidence, task):
    return evidence.command(task, f"for i in $(seq 1 20); do echo {task} $i; sleep 0.01; done")


class Round:
    def __init__(self, cluster, rng, tasks):
        self.cluster, self.rng = cluster, rng
        self.evidence = Evidence(cluster.dir)
        self.ids = [new_id() for _ in range(tasks)]
        self.acknowledged, self.failed, self.unknown = set(), set(), set()

    def submit(self, task, name, agent):
        control, pb = stubs()["control"], stubs()["command"]
        spec = pb.TaskSpec(agent_id=agent, cmd=command_of(self.evidence, task))
        client, channel = self.cluster.stub(name)
        try:
            client.SubmitTask(control.SubmitTaskRequest(task_id=task, spec=spec), timeout=20)
            self.acknowledged.add(task)
        except grpc.RpcError as error:
            said_failed = (error.details() or "").startswith("failed:")
            (self.failed if said_failed else self.unknown).add(task)
            assert error.code() in AMBIGUOUS, f"{error.code()}: {error.details()}"
        finally:
            channel.close()

    def run(self):
        names = self.cluster.names()
        agents = [a["id"] for a in self.cluster.config()["agents"]]
        victim = self.rng.choice(names)
        kill_at = self.rng.randrange(len(self.ids))
        threads = []
        for i, task in enumerate(self.ids):
            if i == kill_at:
                self.cluster.kill(victim)
            t = threading.Thread(
                target=self.submit, args=(task, self.rng.choice(names), self.rng.choice(agents))
            )
            t.start()
            threads.append(t)
            time.sleep(0.01)  # the rate of submits, not a wait
        for t in threads:
            t.join()
        self.cluster.start(victim)
        self.cluster.wait_healthy(60)
        return victim

    def check(self):
        control = stubs()["control"]
        clients = {n: self.cluster.stub(n) for n in self.cluster.names()}
        names = control.TaskState.Name

        def get(client, task):
            try:
                return client.GetTask(control.GetTaskRequest(task_id=task)).task
            except grpc.RpcError as error:
                assert error.code() == grpc.StatusCode.NOT_FOUND, error
                return None

        def ended(task):
            t = get(clients["n1"][0], task)
            return t is None or names(t.state)[5:].lower() in TERMINAL

        existing = set()
        for task in self.ids:
            wait_for(f"{task} ended", lambda: ended(task), 90)
            seen = {n: get(c[0], task) for n, c in clients.items()}
            first = seen["n1"]
            assert all((t is None) == (first is None) for t in seen.values()), f"{task}: {seen}"
            if first is None:
                assert task not in self.acknowledged, f"lost: {task}"
                continue
            assert task not in self.failed, f"said failed, but exists: {task}"
            existing.add(task)
            states = {
                n: (t.state, t.result.exit_code, t.result.stdout_sha256, t.version)
                for n, t in seen.items()
            }
            assert len(set(states.values())) == 1, f"{task}: nodes differ: {states}"
            assert first.state == control.TASK_COMPLETED, f"{task}: {first}"
            want = output_of(task).encode()
            assert first.result.stdout_sha256.hex() == sha256(want), task
            r = self.cluster.nl("task", "logs", task, text=False)
            assert r.stdout == want, f"{task}: output: {r.stdout[-200:]} {r.stderr}"
        starts = self.evidence.starts()
        for task in existing:
            assert starts.get(task) == 1, f"{task}: {starts.get(task)} starts"
        for task in set(self.ids) - existing:
            assert task not in starts, f"{task}: never taken, but started"
        for _, channel in clients.values():
            channel.close()
        self.cluster.verify()


def rounds(cluster, count, tasks, seed):
    rng = random.Random(seed)
    total = {"acknowledged": 0, "failed": 0, "unknown": 0}
    for i in range(count):
        r = Round(cluster, rng, tasks)
        began = time.monotonic()
        victim = r.run()
        r.check()
        for k in total:
            total[k] += len(getattr(r, k))
        print(
            f"round {i + 1}/{count}: killed {victim}, acknowledged {len(r.acknowledged)}, "
            f"failed {len(r.failed)}, unknown {len(r.unknown)}, {time.monotonic() - began:.1f} s",
            flush=True,
        )
    return total


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tasks", type=int, default=50)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1 << 32))
    args = parser.parse_args()
    print(f"seed {args.seed}")
    with Cluster() as cluster:
        total = rounds(cluster, args.rounds, args.tasks, args.seed)
    print(f"{args.rounds} rounds: {total}; 0 lost, 0 twice, 0 different")
    assert total["acknowledged"] > 0


if __name__ == "__main__":
    main()
