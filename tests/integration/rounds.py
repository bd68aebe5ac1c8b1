"""Rounds of: 50 tasks through random nodes, kill -9 of a random node in the middle, restart.

Clients, evidence and checks are those of jepsen/ (its README says what is checked); they judge all
rounds so far after each one.

Usage: rounds.py [--rounds N] [--tasks N] [--seed N]
"""

import argparse
import pathlib
import random
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
sys.path.append(str(ROOT / "jepsen"))

from harness import Cluster, wait_for  # noqa: E402
import checkers  # noqa: E402
import evidence  # noqa: E402
import history  # noqa: E402
import runner  # noqa: E402
import workload  # noqa: E402

RATE = 100


class Rounds:
    def __init__(self, cluster, tasks, seed):
        self.cluster, self.tasks, self.seed = cluster, tasks, seed
        self.rng = random.Random(seed)
        self.history = history.History()
        self.journal = cluster.dir / "journal"
        self.journal.touch()
        # Between rounds nobody submits: gaps say nothing.
        self.run = checkers.Run(took_effect={"kill": 0}, gap_limit_s=float("inf"))

    def one(self, number):
        """Returns the name of the node that was killed."""
        load = workload.Tasks(
            self.cluster,
            self.history,
            lambda task: [str(runner.TASK), str(self.journal), task],
            RATE,
            f"{self.seed}-{number}",
            count=self.tasks,
        )
        victim = self.rng.choice(self.cluster.names())
        kill_at = self.rng.randrange(self.tasks)
        before = len(self.history.ops)
        load.start()
        wait_for(
            "the submit to kill at",
            lambda: sum(o.f == "submit" for o in self.history.ops[before:]) > kill_at,
            every=0.002,
        )
        self.cluster.kill(victim)
        self.run.took_effect["kill"] += 1
        load.finish()
        self.cluster.start(victim)
        self.cluster.wait_healthy(60)
        self.run.harness_errors += load.errors
        return victim

    def check(self):
        runner.final_reads(self.cluster, self.run)
        self.run.ops = list(self.history.ops)
        self.run.journal = evidence.read(self.journal)
        judged = checkers.judge(self.run)
        assert judged["valid"] is True, judged
        return judged


def rounds(cluster, count, tasks, seed):
    """Returns how many submits ended how: {"ok", "fail", "info"}."""
    r = Rounds(cluster, tasks, seed)
    for i in range(count):
        began = time.monotonic()
        victim = r.one(i)
        judged = r.check()["run"]
        total = {k: judged[k] for k in ("ok", "fail", "info")}
        seconds = time.monotonic() - began
        print(
            f"round {i + 1}/{count}: killed {victim}, so far {total}, {seconds:.1f} s", flush=True
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


if __name__ == "__main__":
    main()
