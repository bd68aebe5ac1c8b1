"""Attempts, deadlines, tasks that wait for their agent, the limit of an agent; UNKNOWN and late
results. Through the command line, on real processes."""

import datetime
import json
import time

import pytest

from harness import SLOW, Cluster, Evidence, alive, new_id, processes_with, stubs, wait_for

GRACE_S = 10 * SLOW


@pytest.fixture(scope="module")
def fast():
    """An agent away for a second is unreachable, for some seconds lost."""
    sets = [f"unreachable-after={SLOW}s", f"disconnect-grace={GRACE_S}s"]
    with Cluster(sets=sets, agent_sets=["capacity=2"]) as c:
        yield c


@pytest.fixture
def go(tmp_path):
    return tmp_path / "go"


def until(path):
    """A shell command that waits for the file."""
    return f"while [ ! -e {path} ]; do sleep 0.05; done"


def away(cluster, agent):
    """The agent's link dies; its tasks go on."""
    cluster.kill(agent)


def back(cluster, agent):
    cluster.start(agent)
    cluster.owner(agent)


def wait_agent(cluster, agent, state):
    wait_for(
        f"{agent} {state}",
        lambda: cluster.json("agent", "show", agent)["state"] == state,
        30,
    )


# ---- attempts


def test_retried_until_it_succeeds(fast, evidence, tmp_path):
    """Each attempt has its number, its start, its output and its record."""
    count = tmp_path / "count"
    script = (
        f"echo x >> {count}; n=$(wc -l < {count}); echo attempt $NODELINK_ATTEMPT of $n; "
        f"[ $n -ge 3 ] || exit $((n + 10))"
    )
    task = new_id()
    r = fast.nl(
        "run", "a1", "--attempts", 5, "--task-id", task, "--", evidence.command("k", script)
    )
    assert r.returncode == 0, r.stderr
    assert r.stdout == "attempt 1 of 1\nattempt 2 of 2\nattempt 3 of 3\n"
    assert evidence.starts() == {"k": 3}
    t = fast.task(task)
    assert (t["state"], t["attempt"], t["attempts"]) == ("completed", 3, 5)
    assert [(a["attempt"], a["exit_code"]) for a in t["earlier_attempts"]] == [(1, 11), (2, 12)]
    for n in (1, 2, 3):
        r = fast.nl("logs", task, "--attempt", n, "--addr", fast.addr(f"n{n}"))
        assert r.stdout == f"attempt {n} of {n}\n", r.stderr
    # Without a number it is the last one; -f says how the task ended.
    assert fast.nl("logs", "-f", task).stdout == "attempt 3 of 3\n"
    assert "no attempt 4" in fast.nl("logs", task, "--attempt", 4).stderr
    fast.verify()


def test_attempts_run_out(fast, evidence):
    task = new_id()
    r = fast.nl(
        "run", "a1", "--attempts", 3, "--task-id", task, "--", evidence.command("k", "exit 7")
    )
    assert r.returncode == 7
    assert evidence.starts() == {"k": 3}
    t = fast.task(task)
    assert (t["state"], t["attempt"], len(t["earlier_attempts"])) == ("failed", 3, 2)


def test_nobody_asked_for_a_retry(fast, evidence):
    assert fast.nl("run", "a1", "--", evidence.command("k", "exit 7")).returncode == 7
    assert evidence.starts() == {"k": 1}


@pytest.mark.parametrize("on, starts", [("exit", 1), ("signal,timeout", 2)])
def test_only_what_was_asked_for(fast, evidence, on, starts):
    r = fast.nl(
        "run", "a1", "--attempts", 2, "--retry-on", on, "--", evidence.command("k", "kill -9 $$")
    )
    assert r.returncode == 137
    assert evidence.starts() == {"k": starts}


def test_cancel_ends_all_attempts(fast, evidence, go):
    task = fast.submit(
        "a1", evidence.command("k", until(go)), options=["--attempts", 5, "--kill-grace", "100ms"]
    )
    wait_for("started", lambda: evidence.starts().get("k"))
    assert fast.nl("task", "cancel", task).returncode == 0
    assert fast.wait_task(task)["state"] == "cancelled"
    assert evidence.starts() == {"k": 1}


def test_attempts_survive_the_supervisor(fast, evidence, go):
    """The supervisor dies: its attempt is lost, its process killed, only then the next begins."""
    command = f"{until(go)}; echo $NODELINK_ATTEMPT"
    task = fast.submit("a2", evidence.command("k", command), options=["--attempts", 2])
    wait_for("started", lambda: evidence.starts().get("k"))
    pid = evidence.pid("k")
    fast.kill("a2", "--supervisor")
    fast.kill("a2")
    fast.start("a2")
    wait_for("started again", lambda: evidence.starts().get("k") == 2, 60)
    assert not alive(pid)
    go.touch()
    t = fast.wait_task(task)
    assert (t["state"], t["attempt"]) == ("completed", 2)
    assert t["earlier_attempts"][0]["exit_code"] is None
    assert fast.nl("logs", task).stdout == "2\n"


def test_attempts_do_not_overlap(fast, evidence, go):
    """The agent is given up and the next attempt is due; it comes back with the first one running:
    that is killed before the second one starts, and its result is kept as late."""
    task = fast.submit(
        "a2",
        evidence.command("k", until(go)),
        options=["--attempts", 2, "--wait-for-agent", "2m", "--kill-grace", "100ms"],
    )
    wait_for("running", lambda: fast.task(task)["state"] == "running")
    first = evidence.pid("k")
    away(fast, "a2")
    wait_for("unknown", lambda: fast.task(task)["state"] == "unknown")
    wait_agent(fast, "a2", "lost")
    t = fast.task(task)
    assert (t["state"], t["attempt"]) == ("pending", 2)
    assert alive(first)
    back(fast, "a2")
    wait_for("the second one started", lambda: evidence.starts().get("k") == 2)
    assert not alive(first)
    go.touch()
    t = fast.wait_task(task)
    assert (t["state"], t["attempt"], t["late_results"]) == ("completed", 2, 1)
    assert t["late_result"]["attempt"] == 1 and t["late_result"]["signal"] == 15
    fast.verify()


def test_attempts_across_the_loss_of_nodes(fast, evidence, tmp_path):
    """Owner and leader die while attempts go on: each is started once."""
    count = tmp_path / "count"
    script = (
        f"echo x >> {count}; sleep 0.3; echo done $NODELINK_ATTEMPT; [ $(wc -l < {count}) -ge 8 ]"
    )
    p = fast.spawn("run", "a1", "--attempts", 20, "--", evidence.command("k", script))
    wait_for("under way", lambda: evidence.starts().get("k", 0) >= 2)
    victim = fast.owner("a1")
    fast.kill(victim)
    out, err = p.communicate(timeout=90 * SLOW)
    fast.start(victim)
    assert p.returncode == 0, err.decode()
    assert out.decode() == "".join(f"done {n}\n" for n in range(1, 9)), err.decode()
    lines = evidence.path.read_text().split("\n")[:-1]
    assert [line.split()[1] for line in lines] == [str(n) for n in range(1, 9)]
    fast.wait_healthy()
    fast.verify()


# ---- deadlines, waiting


def test_wait_for_agent(fast, evidence):
    """A task for an agent that is away is stored, and runs when it comes; without asking it is
    refused."""
    away(fast, "a3")
    wait_agent(fast, "a3", "lost")
    r = fast.nl("run", "a3", "--", "true")
    assert r.returncode == 126 and "offline" in r.stderr
    task = fast.submit("a3", evidence.command("k"), options=["--wait-for-agent", "10m"])
    assert fast.task(task)["state"] == "pending"
    short = fast.nl("run", "a3", "--wait-for-agent", "700ms", "--", evidence.command("short"))
    assert short.returncode == 126 and "did not connect" in short.stderr
    back(fast, "a3")
    assert fast.wait_task(task)["state"] == "completed"
    assert evidence.starts() == {"k": 1}


def test_start_by(fast, evidence, go):
    """What could not start in time is never started: the agent away, or at its limit."""
    blockers = [fast.submit("a1", until(go)) for _ in range(2)]  # capacity=2
    wait_for("both run", lambda: all(fast.task(t)["state"] == "running" for t in blockers))
    begun = time.monotonic()
    r = fast.nl(
        "run",
        "a1",
        "--start-by",
        "1s",
        "--attempts",
        3,
        "--",
        evidence.command("late"),
    )
    assert r.returncode == 125 and "not started by its deadline" in r.stderr, r.stderr
    assert 0.9 <= time.monotonic() - begun
    go.touch()
    for t in blockers:
        assert fast.wait_task(t)["state"] == "completed"
    away(fast, "a3")
    wait_agent(fast, "a3", "lost")
    r = fast.nl(
        "run", "a3", "--wait-for-agent", "10m", "--start-by", "1s", "--", evidence.command("late")
    )
    assert r.returncode == 126 and "not started by its deadline" in r.stderr, r.stderr
    back(fast, "a3")
    # In time it runs.
    r = fast.nl("run", "a3", "--start-by", f"{30 * SLOW}s", "--", evidence.command("in-time"))
    assert r.returncode == 0, r.stderr
    assert evidence.starts() == {"in-time": 1}


def test_finish_by(fast, evidence):
    """What still runs at its deadline is killed, in whichever attempt it is."""
    task = new_id()
    begun = time.monotonic()
    r = fast.nl(
        *("run", "a1", "--finish-by", "2s", "--attempts", 50, "--task-id", task),
        *("--kill-grace", "100ms", "--", evidence.command("k", "sleep 0.8; exit 1")),
    )
    took = time.monotonic() - begun
    t = fast.task(task)
    assert r.returncode == 124 and t["state"] == "timed_out", r.stderr
    assert 1.9 <= took
    assert t["attempt"] == evidence.starts()["k"] <= 4
    assert t["finish_deadline_ms"] == t["created_ms"] + 2000
    assert not processes_with(f"NODELINK_TASK_ID={task}")


def test_a_time_as_deadline(fast, evidence):
    now = datetime.datetime.now(datetime.timezone.utc)
    later = (now + datetime.timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%SZ")
    past = (now - datetime.timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S+00:00")
    task = new_id()
    args = ("run", "a1", "--task-id", task, "--start-by", later, "--", evidence.command("k"))
    assert fast.nl(*args).returncode == 0
    assert fast.nl(*args).returncode == 0  # the same words are the same request (P8)
    assert evidence.starts() == {"k": 1}
    r = fast.nl("run", "a1", "--finish-by", past, "--", "true")
    assert r.returncode == 125 and "has passed; nothing was stored" in r.stderr, r.stderr


@pytest.mark.parametrize(
    "args, words",
    [
        (["--attempts", "0"], "1 to 100"),
        (["--attempts", "101"], "1 to 100"),
        (["--retry-on", "exit"], "needs --attempts"),
        (["--attempts", "2", "--retry-on", "bad luck"], "a list of exit, signal"),
        (["--attempts", "2", "--retry-on", "exit,"], "a list of exit, signal"),
        (["--start-by", "soon"], "neither a duration"),
        (["--start-by", "0s"], "neither a duration"),
        (["--finish-by", "2026-13-01T00:00:00Z"], "neither a duration"),
        (["--finish-by", "2026-11-24T00:00:00"], "neither a duration"),
    ],
)
def test_bad_flags(fast, args, words):
    r = fast.nl("run", "a1", *args, "--", "true")
    assert r.returncode == 2 and words in r.stderr, r.stderr


@pytest.mark.parametrize(
    "kw, words",
    [
        ({"attempts": 101}, "at most 100"),
        ({"retry_on": [1]}, "one attempt only"),
        ({"attempts": 2, "retry_on": [77]}, "not a known end"),
        ({"start_by_ms": 1}, "has passed"),
    ],
)
def test_bad_requests(fast, kw, words):
    """As above, by a client that does not check."""
    import grpc

    m = stubs()
    control, channel = fast.stub("n1")
    with channel:
        spec = m["command"].TaskSpec(agent_id="a1", cmd="true", **kw)
        task = new_id()
        with pytest.raises(grpc.RpcError) as e:
            control.SubmitTask(m["control"].SubmitTaskRequest(task_id=task, spec=spec))
        assert e.value.code() == grpc.StatusCode.INVALID_ARGUMENT and words in e.value.details()
    assert fast.nl("task", "show", task).returncode != 0


# ---- limits


def test_concurrency_limit(fast, evidence, go):
    """An agent runs as many tasks at once as it says; the others wait their turn."""
    tasks = [fast.submit("a1", evidence.command(f"k{n}", until(go))) for n in range(5)]
    wait_for("two run", lambda: len(evidence.starts()) == 2)
    states = [fast.task(t)["state"] for t in tasks]
    assert states.count("dispatched") == 3, states
    assert fast.json("agent", "show", "a1")["capacity"] == 2
    # One of those that wait is cancelled: it never starts.
    assert fast.nl("task", "cancel", tasks[4]).returncode == 0
    assert fast.wait_task(tasks[4])["state"] == "cancelled"
    go.touch()
    for t in tasks[:4]:
        assert fast.wait_task(t)["state"] == "completed"
    assert evidence.starts() == {f"k{n}": 1 for n in range(4)}


# ---- UNKNOWN


def test_unknown_is_resolved_by_the_return(fast, evidence, go):
    """UNKNOWN while the agent is unreachable; then what its journal says: still running, or ended
    meanwhile."""
    stays, ends = tmp_names = [new_id("stays"), new_id("ends")]
    done = go.with_name("done")
    fast.submit("a2", evidence.command("stays", until(go)), options=["--task-id", stays])
    fast.submit(
        "a2", evidence.command("ends", f"{until(done)}; exit 3"), options=["--task-id", ends]
    )
    wait_for("both run", lambda: all(fast.task(t)["state"] == "running" for t in tmp_names))
    away(fast, "a2")
    wait_for("unknown", lambda: all(fast.task(t)["state"] == "unknown" for t in tmp_names))
    assert "unreachable" in fast.task(stays)["reason"]
    done.touch()
    back(fast, "a2")
    t = fast.wait_task(ends)
    assert (t["state"], t["exit_code"], t["late_results"]) == ("failed", 3, 0)
    wait_for("running again", lambda: fast.task(stays)["state"] == "running")
    go.touch()
    assert fast.wait_task(stays)["state"] == "completed"
    assert evidence.starts() == {"stays": 1, "ends": 1}


def lose(cluster, evidence, go, agent="a1"):
    """A task runs, its agent is away until the task has failed."""
    task = cluster.submit(
        agent, evidence.command("k", until(go)), options=["--kill-grace", "100ms"]
    )
    wait_for("running", lambda: cluster.task(task)["state"] == "running")
    away(cluster, agent)
    t = cluster.wait_task(task)
    assert (t["state"], t["reason"]) == ("failed", "agent disconnected")
    return task, t


def test_what_was_given_up_is_killed(fast, evidence, go):
    """A task that was declared failed and still runs when its agent returns is killed; its result
    is kept as late and changes nothing (P3)."""
    task, before = lose(fast, evidence, go, "a2")
    assert alive(evidence.pid("k"))
    back(fast, "a2")
    wait_for("its late result", lambda: fast.task(task)["late_results"] == 1)
    assert not alive(evidence.pid("k"))
    t = fast.task(task)
    assert t["late_result"]["signal"] == 15
    for field in ("state", "reason", "finished_ms", "exit_code", "signal"):
        assert t[field] == before[field]
    assert "kept as late" in fast.nl("task", "show", task).stdout


def test_or_left_and_no_grace(evidence, go):
    """leave-orphans: it goes on to its end. A grace of 0: its task had failed at once."""
    with Cluster(agents=1, sets=["leave-orphans=true", "disconnect-grace=0s"]) as cluster:
        begun = time.monotonic()
        task, _ = lose(cluster, evidence, go)
        assert time.monotonic() - begun < 20 * SLOW
        back(cluster, "a1")
        # The agent has its turn with something else, and the orphan is still there.
        assert cluster.nl("run", "a1", "--", "true").returncode == 0
        assert alive(evidence.pid("k")) and cluster.task(task)["late_results"] == 0
        go.touch()
        wait_for("its late result", lambda: cluster.task(task)["late_results"] == 1)
        t = cluster.task(task)
        assert (t["state"], t["late_result"]["exit_code"]) == ("failed", 0)
        assert (
            json.loads(cluster.nl("task", "show", task, "-o", "json").stdout)["state"] == "failed"
        )
