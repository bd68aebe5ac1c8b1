"""Commands run on agents from any node; every byte, exit code and state comes back right."""

import json
import os
import pathlib
import signal
import subprocess

import pytest

from harness import SLOW, alive, new_id, processes_with, sha256, wait_for


@pytest.mark.parametrize("node", ["n1", "n2", "n3"])
@pytest.mark.parametrize("agent", ["a1", "a2", "a3"])
def test_runs_through_every_node(shared, node, agent):
    r = shared.nl(
        "run", agent, "--addr", shared.addr(node), "--", f"echo to-{agent}; echo err >&2; exit 0"
    )
    assert (r.returncode, r.stdout, r.stderr) == (0, f"to-{agent}\n", "err\n")


@pytest.mark.parametrize("code", [0, 1, 3, 42, 123])
def test_exit_code_is_passed_through(shared, code):
    assert shared.nl("run", "a1", "--", f"exit {code}").returncode == code


def test_death_by_signal_is_128_plus_n(shared):
    task = new_id()
    assert shared.nl("run", "a1", "--task-id", task, "--", "kill -9 $$").returncode == 137
    t = shared.task(task)
    assert (t["state"], t["signal"]) == ("failed", 9)


def test_several_arguments_are_executed_as_they_are(shared):
    args = ["a b", "$HOME", "*", "it's", '"', "\\", "é\n."]
    r = shared.nl("run", "a1", "--", "printf", "[%s]", *args)
    assert r.returncode == 0 and r.stdout == "".join(f"[{a}]" for a in args)


def test_env_and_cwd(shared, tmp_path):
    r = shared.nl(
        "run",
        "a1",
        "--env",
        "X=1 2",
        "--env",
        "Y=a=b",
        "--cwd",
        tmp_path,
        "--",
        'echo "$X|$Y|$(pwd)|$NODELINK_AGENT_ID"',
    )
    assert r.stdout == f"1 2|a=b|{tmp_path}|a1\n"


def test_cannot_start_says_why(shared):
    task = new_id()
    r = shared.nl("run", "a1", "--task-id", task, "--cwd", "/no/such/dir", "--", "true")
    assert r.returncode != 0 and "/no/such/dir" in r.stderr
    assert "/no/such/dir" in shared.task(task)["reason"]
    r = shared.nl("run", "a1", "--", "/no/such/program", "x")
    assert r.returncode != 0 and "/no/such/program" in r.stderr


def test_output_is_byte_exact(shared):
    """P5: 5 MB of binary without structure; totals and digest of the record agree."""
    task = new_id()
    command = [
        "/usr/bin/python3",
        "-c",
        "import hashlib,os;"
        "d=b''.join(hashlib.sha256(b'%d'%i).digest() for i in range(163840));"
        "os.write(2,b'e'*1000);"
        "[os.write(1,d[i:i+9999]) for i in range(0,len(d),9999)]",
    ]
    r = shared.nl("run", "a2", "--task-id", task, "--", *command, text=False)
    want = subprocess.run(command, capture_output=True, check=True)
    assert r.stdout == want.stdout and r.stderr == want.stderr
    t = shared.task(task)
    assert (t["stdout_bytes"], t["stdout_sha256"]) == (len(want.stdout), sha256(want.stdout))
    assert (t["stderr_bytes"], t["stderr_sha256"]) == (1000, sha256(want.stderr))
    for name in shared.names():  # again, afterwards, through each node
        logs = shared.nl("task", "logs", task, "--addr", shared.addr(name), text=False)
        assert logs.stdout == want.stdout and logs.stderr == want.stderr


def test_output_is_live(shared):
    """The first line is there while the command still waits for us."""
    fifo = pathlib.Path(shared.dir) / new_id("fifo")
    os.mkfifo(fifo)
    p = shared.spawn("run", "a1", "--", f"echo first; cat {fifo}; echo last")
    assert p.stdout.readline() == b"first\n"
    assert p.poll() is None
    fifo.write_text("go\n")
    out, _ = p.communicate(timeout=30 * SLOW)
    assert out == b"go\nlast\n" and p.returncode == 0


def test_detach_prints_the_id_alone(shared):
    task = new_id()
    r = shared.nl("run", "a1", "--detach", "--task-id", task, "--", "true")
    assert (r.returncode, r.stdout) == (0, task + "\n")
    shared.wait_task(task)


def test_show_has_the_promised_fields(shared):
    task = new_id()
    shared.nl("run", "a3", "--task-id", task, "--", "echo hi; exit 4")
    t = shared.task(task)
    for field in (
        "id agent state exit_code signal attempt stdout_bytes stderr_bytes stdout_sha256 "
        "stderr_sha256 created_ms started_ms finished_ms reason"
    ).split():
        assert field in t, field
    assert (t["id"], t["agent"], t["exit_code"], t["attempt"]) == (task, "a3", 4, 1)
    assert t["stdout_bytes"] == 3 and t["stdout_sha256"] == sha256(b"hi\n")
    assert t["created_ms"] <= t["finished_ms"]
    a = shared.json("agent", "show", "a3")
    assert {"id", "state", "node", "epoch", "connected_ms"} <= set(a)
    s = shared.status()
    assert {"cluster", "health", "leader", "nodes"} <= set(s) and s["health"] == "healthy"
    assert {"name", "id", "role", "state", "term", "commit", "applied", "agents"} <= set(
        s["nodes"][0]
    )
    # The leader knows how far each log is stored, its own too.
    wait_for("all have stored this", lambda: stored_everywhere(shared) >= s["nodes"][0]["commit"])


def stored_everywhere(cluster):
    return min(n["match_index"] or 0 for n in cluster.status()["nodes"])


def test_timeout_ends_the_tree(shared):
    task = new_id()
    r = shared.nl("run", "a1", "--task-id", task, "--timeout", "1s", "--", "sleep 300 & sleep 300")
    assert r.returncode == 124
    assert shared.task(task)["state"] == "timed_out"
    wait_for("nothing of it left", lambda: not processes_with(f"NODELINK_TASK_ID={task}"), 15)


def test_cancel_takes_down_the_whole_tree(shared):
    """P6: children that ignore TERM and double-forked ones included."""
    task = new_id()
    shared.submit(
        "a1",
        "sh -c 'trap \"\" TERM; while :; do sleep 1; done' & "
        "(setsid sh -c 'sleep 301' &) ; echo up; sleep 302",
        options=("--task-id", task, "--kill-grace", "1s"),
    )
    wait_for("tree up", lambda: len(processes_with(f"NODELINK_TASK_ID={task}")) >= 4, 15)
    r = shared.nl("task", "cancel", task)
    assert r.returncode == 0, r.stderr
    t = shared.wait_task(task)
    assert t["state"] == "cancelled"
    wait_for("nothing of it left", lambda: not processes_with(f"NODELINK_TASK_ID={task}"), 15)
    again = shared.nl("task", "cancel", task)  # too late is said, and changes nothing
    assert "cancelled" in again.stdout + again.stderr
    assert shared.task(task)["finished_ms"] == t["finished_ms"]


def test_ctrl_c_cancels(shared):
    task = new_id()
    p = shared.spawn("run", "a1", "--task-id", task, "--", "echo up; sleep 300")
    assert p.stdout.readline() == b"up\n"
    p.send_signal(signal.SIGINT)
    p.communicate(timeout=30 * SLOW)
    assert shared.wait_task(task)["state"] == "cancelled"


def test_same_id_same_request_is_one_task(shared, evidence):
    """P8, P2: a repeated submit gives the same task and no second start."""
    task = new_id()
    for name in shared.names() * 2:
        shared.submit(
            "a1", evidence.command(task), addr=shared.addr(name), options=("--task-id", task)
        )
    shared.wait_task(task)
    assert evidence.starts() == {task: 1}
    r = shared.nl("run", "a1", "--detach", "--task-id", task, "--", "something else")
    assert r.returncode == 125 and task in r.stderr
    assert evidence.starts() == {task: 1}


def test_run_on_all(shared):
    r = shared.nl("run", "--all", "--", "echo on $NODELINK_AGENT_ID")
    assert r.returncode == 0, r.stderr
    for agent in ("a1", "a2", "a3"):
        assert f"on {agent}" in r.stdout
    r = shared.nl("run", "--all", "--", 'test "$NODELINK_AGENT_ID" != a2')
    assert r.returncode == 1 and "a2" in r.stdout + r.stderr


def test_lists(shared):
    tasks = [shared.submit("a2", f"echo {i}") for i in range(5)]
    for t in tasks:
        shared.wait_task(t)
    listed = shared.json("task", "list", "--agent", "a2", "--limit", "5")
    rows = listed["tasks"] if isinstance(listed, dict) else listed
    assert {r["id"] for r in rows} == set(tasks)
    agents = shared.json("agent", "list")
    rows = agents["agents"] if isinstance(agents, dict) else agents
    assert [a["id"] for a in rows] == ["a1", "a2", "a3"]


def test_reads_your_write_through_every_node(shared):
    """P4: what one node acknowledged, every other node shows at once."""
    for _ in range(10):
        task = shared.submit("a1", "true", addr=shared.addr("n1"))
        for name in shared.names():
            assert shared.task(task, addr=shared.addr(name))["id"] == task


def test_replicas_agree(shared):
    shared.verify()
