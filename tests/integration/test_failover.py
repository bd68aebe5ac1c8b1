"""kill -9 of the leader, of the owner, of a node that is neither, and of all three in turn."""

import random
import re
import threading
import time

import pytest

from harness import SLOW, Cluster, Evidence, alive, new_id, processes_with, sha256, wait_for

NUMBERS = "for i in $(seq 1 {n}); do echo $i; sleep 0.05; done"


def counting(n):
    return NUMBERS.format(n=n), "".join(f"{i}\n" for i in range(1, n + 1))


def run_through_a_kill(cluster, victim, agent="a1", addr=None):
    """A command prints numbers; victim dies in the middle; output whole, one process, one start."""
    task = new_id()
    evidence = Evidence(cluster.dir)
    command, want = counting(100)
    args = ["run", agent, "--task-id", task] + (["--addr", addr] if addr else [])
    p = cluster.spawn(*args, "--", evidence.command(task, command))
    first = b"".join(p.stdout.readline() for _ in range(10))
    cluster.kill(victim)
    out, err = p.communicate(timeout=60 * SLOW)
    assert (first + out).decode() == want, err.decode()
    assert p.returncode == 0, err.decode()
    assert evidence.starts()[task] == 1
    t = cluster.task(task)
    assert (t["state"], t["stdout_sha256"]) == ("completed", sha256(want.encode()))
    return task


def test_owner_dies(cluster):
    """P1, P2, P5: the task's process goes on, the new owner gets the rest."""
    victim = cluster.owner("a1")
    task = run_through_a_kill(cluster, victim)
    s = cluster.nl("status")
    assert s.returncode == 1 and victim in s.stdout
    assert cluster.owner("a1") != victim
    cluster.start(victim)
    cluster.wait_healthy()
    assert cluster.task(task, addr=cluster.addr(victim))["state"] == "completed"
    cluster.verify()


def test_leader_dies(cluster):
    run_through_a_kill(cluster, cluster.leader())
    assert cluster.nl("run", "a2", "--", "true").returncode == 0


def test_node_that_serves_the_reader_dies(cluster):
    """The reader is at a node that is neither leader nor owner where there is one."""
    owner, leader = cluster.owner("a1"), cluster.leader()
    others = [n for n in cluster.names() if n not in (owner, leader)]
    serving = others[0]
    rest = [cluster.addr(n) for n in cluster.names() if n != serving]
    run_through_a_kill(cluster, serving, addr=",".join([cluster.addr(serving)] + rest))


def test_each_node_in_turn(cluster):
    """All three die one after another under one command; each comes back before the next goes."""
    task = new_id()
    evidence = Evidence(cluster.dir)
    command, want = counting(400)
    p = cluster.spawn("run", "a1", "--task-id", task, "--", evidence.command(task, command))
    first = p.stdout.readline()
    for name in cluster.names():
        cluster.kill(name)
        wait_for(
            "the others serve",
            lambda: cluster.nl("run", "a2", "--timeout", "20s", "--", "true").returncode == 0,
        )
        cluster.start(name)
        cluster.wait_healthy()
    out, err = p.communicate(timeout=120 * SLOW)
    assert (first + out).decode() == want, err.decode()
    assert p.returncode == 0 and evidence.starts()[task] == 1
    cluster.verify()


def test_all_nodes_at_once(cluster):
    """The whole cluster dies and comes back: nothing is lost, a running task goes on."""
    evidence = Evidence(cluster.dir)
    go = cluster.dir / "go"
    done = [cluster.submit("a1", evidence.command(f"d{i}")) for i in range(5)]
    for t in done:
        cluster.wait_task(t)
    running = cluster.submit(
        "a2", evidence.command("r", f"while [ ! -e {go} ]; do sleep 0.1; done; echo end")
    )
    wait_for("started", lambda: evidence.starts().get("r"))
    shell = evidence.pid("r")
    for name in cluster.names():
        cluster.kill(name)
    status = cluster.nl("status")
    assert status.returncode == 3, status.stdout
    for name in cluster.names():
        cluster.start(name)
    cluster.wait_healthy(60)
    assert shell in processes_with(f"NODELINK_TASK_ID={running}")
    go.touch()
    assert cluster.wait_task(running)["state"] == "completed"
    assert cluster.nl("task", "logs", running).stdout.endswith("end\n")
    assert all(cluster.task(t)["state"] == "completed" for t in done)
    assert all(n == 1 for n in evidence.starts().values())
    cluster.verify()


def test_no_quorum_is_said(cluster):
    """P10, P13: with one node of three a submit fails in time and says that nothing was done."""
    names = cluster.names()
    survivor = cluster.owner("a1")
    for name in names:
        if name != survivor:
            cluster.kill(name)
    status = cluster.nl("status")
    assert status.returncode == 2, status.stdout
    task = new_id()
    r = cluster.nl(
        "run",
        "a1",
        "--detach",
        "--task-id",
        task,
        "--addr",
        cluster.addr(survivor),
        "--timeout",
        "20s",
        "--",
        "true",
        timeout=60,
    )
    assert r.returncode in (125, 127) and "quorum" in r.stderr, r.stderr
    # The isolated node serves no linearizable read, but a labelled stale one.
    for name in names:
        if name != survivor:
            cluster.start(name)
    cluster.wait_healthy(60)
    if r.returncode == 125:  # "failed": it must never appear (P1, P13)
        show = cluster.nl("task", "show", task)
        assert show.returncode != 0, show.stdout
    assert cluster.nl("run", "a1", "--", "true").returncode == 0
    cluster.verify()


def test_link_of_the_agent_dies(cluster):
    """The agent's link process is killed: its task goes on in the same process."""
    task = new_id()
    evidence = Evidence(cluster.dir)
    command, want = counting(100)
    p = cluster.spawn("run", "a1", "--task-id", task, "--", evidence.command(task, command))
    first = p.stdout.readline()
    cluster.kill("a1")
    cluster.start("a1")
    out, err = p.communicate(timeout=60 * SLOW)
    assert (first + out).decode() == want, err.decode()
    assert p.returncode == 0 and evidence.starts()[task] == 1


def test_paused_owner_is_fenced(cluster):
    """P7: the owner is stopped, its agent moves on, the old owner wakes and can do no harm."""
    owner = cluster.owner("a1")
    others = ",".join(cluster.addr(n) for n in cluster.names() if n != owner)
    epoch = cluster.json("agent", "show", "a1", "--addr", others)["epoch"]
    evidence = Evidence(cluster.dir)
    go = cluster.dir / "go"
    task = cluster.submit("a1", evidence.command("x", f"while [ ! -e {go} ]; do sleep 0.1; done"))
    wait_for("started", lambda: evidence.starts().get("x"))
    assert cluster.local("pause", owner).returncode == 0
    try:

        def moved():
            r = cluster.nl("agent", "show", "a1", "--addr", others, "-o", "json")
            import json

            return (
                r.returncode == 0
                and json.loads(r.stdout)["epoch"] > epoch
                and json.loads(r.stdout)["state"] == "connected"
            )

        wait_for("the agent is at another node", moved, 60)
    finally:
        assert cluster.local("resume", owner).returncode == 0
    go.touch()
    assert cluster.wait_task(task)["state"] == "completed"
    assert evidence.starts() == {"x": 1}
    cluster.wait_healthy()
    cluster.verify()


def test_agent_lost_fails_its_tasks_and_late_results_change_nothing():
    """P2, P3: UNKNOWN, then FAILED after the grace; what comes later is kept as late."""
    with Cluster(sets=["unreachable-after=1s", "disconnect-grace=3s"]) as cluster:
        evidence = Evidence(cluster.dir)
        go = cluster.dir / "go"
        task = cluster.submit(
            "a1", evidence.command("x", f"while [ ! -e {go} ]; do sleep 0.1; done")
        )
        wait_for("running", lambda: cluster.task(task)["state"] == "running")
        cluster.kill("a1")
        wait_for("unknown", lambda: cluster.task(task)["state"] in ("unknown", "failed"))
        t = cluster.wait_task(task)
        assert t["state"] == "failed" and "disconnected" in t["reason"]
        go.touch()
        cluster.start("a1")
        wait_for(
            "late result recorded",
            lambda: cluster.task(task)["late_results"] >= 1
            or not processes_with(f"NODELINK_TASK_ID={task}"),
        )
        again = cluster.task(task)
        assert (again["state"], again["finished_ms"], again["reason"]) == (
            t["state"],
            t["finished_ms"],
            t["reason"],
        )
        assert evidence.starts() == {"x": 1}
        assert cluster.nl("run", "a1", "--", "true").returncode == 0
