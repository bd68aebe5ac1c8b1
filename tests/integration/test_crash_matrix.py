"""kill -9 of link, supervisor, owner and leader at each point of a task's life (P1, P2, P5).

One cluster for all cells. In each, a process stops at the point, the victim is killed at that very
moment, the one that stopped goes on (unless it was the victim), the victim is started again. Then
the command's own evidence, the task's end on all three nodes, its output and what still runs are
compared with the table below.
"""

import os

import pytest

from crash import States, world
from harness import SLOW, alive, new_id, sha256, wait_for

pytestmark = pytest.mark.skipif(
    os.environ.get("NL_FAILPOINTS") != "ON", reason="needs a build with failpoints"
)

# Where a task is stopped, in the order in which it comes there: failpoint, and whose it is.
POINTS = {
    "before-intent": ("journal.before_intent", "supervisor"),
    "after-intent": ("journal.after_intent", "supervisor"),
    "after-fork": ("spawn.after_fork", "supervisor"),
    "during-output": ("spool.during_output", "supervisor"),
    "after-exit": ("exit.before_record", "supervisor"),
    "after-send": ("session.result", "owner"),  # it has the result and has proposed nothing yet
    "before-ack": ("session.before_ack", "owner"),  # the result is committed
}
EARLY = ["before-intent", "after-intent", "after-fork"]
VICTIMS = ["link", "supervisor", "owner", "leader"]

# What must come of it: state, the reason's words, how often the command may have started, whether
# all of its output must be there. Whoever is killed, it completes, but for a supervisor that dies
# between the intent and the durable result: only that one knows how the command ended.
COMPLETED = ("completed", "", (1,), True)
OUTCOMES = {
    ("supervisor", "after-intent"): ("failed", "supervisor lost", (0,), False),
    ("supervisor", "after-fork"): ("failed", "supervisor lost", (0, 1), False),
    ("supervisor", "during-output"): ("failed", "supervisor lost", (1,), False),
    ("supervisor", "after-exit"): ("failed", "supervisor lost", (1,), True),
}

STDOUT = "".join(f"{i}\n" for i in range(1, 6001)).encode()
STDERR = "".join(f"{i}\n" for i in range(1, 1001)).encode()
AGENT_SETS = [
    "kill-grace=500ms",
    "backoff-start=100ms",
    "backoff-cap=1s",
    "connect-timeout=1s",
    "spool-keep=10m",
]


class Script:
    """A command that writes in three parts, the second and third when the test says so.

    It ignores TERM and has a process in a session of its own, so that whoever takes it down has to
    look for it and to insist."""

    def __init__(self, w, task):
        self.more, self.end = (w.cluster.dir / f"{task}.{word}" for word in ("more", "end"))
        until_end = f"while [ ! -e {self.end} ]; do sleep 0.02; done"
        self.command = w.evidence.command(
            task,
            'trap "" TERM; seq 1 2000; seq 1 500 >&2; '
            f"while [ ! -e {self.more} ]; do sleep 0.02; done; seq 2001 4000; "
            f"setsid sh -c '{until_end}' & {until_end}; wait; seq 4001 6000; seq 501 1000 >&2",
        )


@pytest.fixture(scope="module")
def healthy():
    sets = [f"unreachable-after={5 * SLOW}s", f"disconnect-grace={60 * SLOW}s"]
    with world(sets=sets, agent_sets=AGENT_SETS) as one:
        yield one
        one.wait_healthy()
        one.cluster.verify()
        assert all(n <= 1 for n in one.evidence.starts().values()), one.evidence.starts()


@pytest.fixture
def w(healthy):
    yield healthy
    healthy.points.disarm()  # a cell that failed leaves nobody standing


def check_everywhere(w, task, want):
    """The end, on all nodes the same; the output through all nodes."""
    state, reason, starts, whole = want
    first = None
    for name in w.cluster.names():
        t = wait_for(f"{task} through {name}", lambda: w.task(task, name))
        first = first or t
        assert t == first, (name, t, first)
        assert w.output(task, name) == w.output(task, w.cluster.names()[0])
    assert (w.state(task), reason in first.reason) == (state, True), first
    assert first.late_results == 0 and first.attempt == 1, first
    assert w.evidence.starts().get(task, 0) in starts, w.evidence.starts()
    out = w.output(task, w.cluster.names()[0])
    result = first.result
    for got, full, size, digest in (
        (out[0], STDOUT, result.stdout_bytes, result.stdout_sha256),
        (out[1], STDERR, result.stderr_bytes, result.stderr_sha256),
    ):
        assert got == full if whole else full.startswith(got), (len(got), len(full))
        assert (len(got), sha256(got)) == (size, digest.hex())


def has_another(w, agent, pid):
    now = w.agent_pid(agent, "supervisor")
    return now != pid and alive(now)


def bring_to(w, point, task, agent, third, script):
    """Submits the task and brings it to the point, where somebody stops now: returns its pid."""
    name = POINTS[point][0]
    early = point in EARLY
    if early:
        script.more.touch()
        w.points.arm(name)
    w.submit(task, agent, script.command, third)
    if not early:
        # The cluster knows that it runs, so that only the agent's word can end it.
        wait_for("running", lambda: w.state(task) == "running")
        w.points.arm(name)
        script.more.touch()
        if point != "during-output":
            script.end.touch()
    return w.points.wait(name)


def begin(w, point, victim):
    """A task that stands at its point. On a machine that stood still the cluster may have judged
    somebody dead meanwhile, and the agent be elsewhere: then this was no cell, and the next is
    begun."""
    name, holder = POINTS[point]
    for _ in range(5):
        w.wait_healthy()
        agent, owner, leader, third = w.place()
        task = new_id(f"{victim}-{point}")
        script = Script(w, task)
        pids = {p: w.agent_pid(agent, p) for p in ("link", "supervisor")}
        pids |= {"owner": w.node_pid(owner), "leader": w.node_pid(leader)}
        stopped = bring_to(w, point, task, agent, third, script)
        if stopped == pids[holder] and w.leads(leader):
            return task, script, pids, {"link": agent, "owner": owner, "leader": leader}, third
        w.points.go_on(name)
        script.end.touch()
        assert w.wait_ended(task).state == w.pb.TASK_COMPLETED
    raise AssertionError(f"nobody stays where they are long enough for {point}")


@pytest.mark.parametrize("victim", VICTIMS)
@pytest.mark.parametrize("point", POINTS)
def test_killed(w, point, victim):
    task, script, pids, names, third = begin(w, point, victim)
    states = States(w.on(third), task)

    w.kill(pids[victim])
    w.points.go_on(POINTS[point][0])
    # What a dead supervisor ran must not end by itself: it is to be found and taken down.
    if (victim, point) not in OUTCOMES:
        script.end.touch()
    if victim == "supervisor":  # its link starts another one
        wait_for("another supervisor", lambda: has_another(w, names["link"], pids[victim]))
    else:
        w.cluster.start(names[victim])
    w.wait_ended(task)
    wait_for("nothing of it runs", lambda: not w.processes(task))
    w.wait_healthy()
    check_everywhere(w, task, OUTCOMES.get((victim, point), COMPLETED))
    seen = states.end()
    assert seen[-1] == w.state(task), seen
    if (victim, point) == ("supervisor", "during-output"):
        # Taking it down took the grace; that nobody knows its end was said before.
        assert seen == ["running", "unknown", "failed"], seen


def test_left_running():
    """lost-tasks = leave: what a dead supervisor ran is reported lost, and goes on."""
    with world(nodes=1, agents=1, agent_sets=AGENT_SETS + ["lost-tasks=leave"]) as w:
        task = new_id("left")
        script = Script(w, task)
        script.more.touch()
        w.submit(task, "a1", script.command, "n1")
        wait_for("its two processes", lambda: len(w.processes(task)) >= 2)
        shell = w.evidence.pid(task)
        w.kill(w.agent_pid("a1", "supervisor"))
        t = w.wait_ended(task)
        assert w.state(task) == "failed" and "supervisor lost" in t.reason
        assert shell in w.processes(task)
        script.end.touch()
        wait_for("its own end", lambda: not w.processes(task))
        assert w.evidence.starts() == {task: 1}
