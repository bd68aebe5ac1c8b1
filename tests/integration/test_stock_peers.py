"""An agent and a server that know only the fixed fields of the protocol work with ours."""

import base64
import pathlib
import re
import subprocess

import pytest

from harness import BIN, SLOW, Cluster, JsonProcess, new_id, sha256, wait_for


@pytest.fixture(scope="module")
def cluster():
    with Cluster(agents=0) as c:
        yield c


def stock_agent(cluster, node, agent_id, tmp_path):
    r = cluster.nl("agent", "token", "create", agent_id)
    assert r.returncode == 0 and re.fullmatch(r"\S+\n", r.stdout), r.stderr
    token = tmp_path / "token"
    token.write_text(r.stdout)
    return JsonProcess("agent.py", cluster.addr(node), agent_id, token)


def connected(cluster, agent_id):
    return wait_for(
        "connected", lambda: cluster.json("agent", "show", agent_id)["state"] == "connected"
    )


def test_stock_agent_runs_tasks_of_every_node(cluster, tmp_path):
    with stock_agent(cluster, "n1", "s1", tmp_path) as agent:
        connected(cluster, "s1")
        for name in cluster.names():
            r = cluster.nl(
                "run", "s1", "--addr", cluster.addr(name), "--", "echo out; echo err >&2; exit 5"
            )
            assert (r.returncode, r.stdout, r.stderr) == (5, "out\n", "err\n")
        assert all(e["agent"] == "s1" for e in agent.of(event="request"))
        task = new_id()
        r = cluster.nl("run", "s1", "--task-id", task, "--", "printf", "%s|", "a b", "$x", "it's")
        assert r.stdout == "a b|$x|it's|"  # quoted into the one command string it knows
        t = cluster.task(task)
        assert (t["state"], t["stdout_bytes"], t["stdout_sha256"]) == (
            "completed",
            len(r.stdout),
            sha256(r.stdout.encode()),
        )


def test_stock_agents_output_outlives_its_node(tmp_path):
    """Its node keeps what it pushes in memory only; the end of it goes into the state."""
    with Cluster(agents=0, sets=["unreachable-after=1s", "disconnect-grace=2s"]) as cluster:
        with stock_agent(cluster, "n1", "s1", tmp_path):
            connected(cluster, "s1")
            owner = cluster.owner("s1")
            task = cluster.submit("s1", "echo out; echo err >&2; seq 1 20000; exit 4")
            t = cluster.wait_task(task)
            want = "out\n" + "".join(f"{i}\n" for i in range(1, 20001))
            assert t["stdout_sha256"] == sha256(want.encode())
            assert cluster.nl("logs", task).stdout == want
            cluster.kill(owner)
        r = cluster.nl("logs", "-f", task, timeout=90)
        kept = 64 * 1024 - len("err\n")
        assert (r.stdout, r.returncode) == (want[-kept:], 4)
        assert "err\n" in r.stderr and f"bytes 0 to {len(want) - kept} are gone" in r.stderr
        cluster.start(owner)


def test_stock_agent_gets_only_what_it_knows(cluster, tmp_path):
    with stock_agent(cluster, "n2", "s2", tmp_path) as agent:
        connected(cluster, "s2")
        assert cluster.nl("run", "s2", "--", "true").returncode == 0
        assert {e["kind"] for e in agent.of(event="request")} == {"shell_execute"}


def test_stock_agent_cancel(cluster, tmp_path):
    with stock_agent(cluster, "n3", "s3", tmp_path) as agent:
        connected(cluster, "s3")
        task = cluster.submit("s3", "sleep 300")
        agent.wait(event="started", task=task)
        assert cluster.nl("task", "cancel", task).returncode == 0
        assert cluster.wait_task(task)["state"] == "cancelled"


def test_stock_agent_is_never_sent_a_task_twice(tmp_path):
    """P2: its stream breaks with a task running; it comes back; the task is not sent again."""
    with Cluster(agents=0, sets=["unreachable-after=1s", "disconnect-grace=3s"]) as cluster:
        with stock_agent(cluster, "n1", "s1", tmp_path) as agent:
            connected(cluster, "s1")
            task = cluster.submit("s1", "sleep 300")
            agent.wait(event="started", task=task)
        with JsonProcess("agent.py", cluster.addr("n2"), "s1", tmp_path / "token") as agent:
            wait_for(
                "connected again",
                lambda: cluster.json("agent", "show", "s1")["epoch"] >= 2
                and cluster.json("agent", "show", "s1")["state"] == "connected",
            )
            other = cluster.submit("s1", "true")
            assert cluster.wait_task(other)["state"] == "completed"
            t = cluster.wait_task(task, seconds=30)
            assert t["state"] == "failed" and t["reason"]
            assert not agent.of(event="request", task=task, kind="shell_execute")


def test_second_stream_replaces_the_first(cluster, tmp_path):
    """P7: one owner per agent; the older stream is closed, tasks go to the newer."""
    with stock_agent(cluster, "n1", "s4", tmp_path) as first:
        connected(cluster, "s4")
        with JsonProcess("agent.py", cluster.addr("n2"), "s4", tmp_path / "token") as second:
            first.wait(event="closed")
            wait_for("owner n2", lambda: cluster.json("agent", "show", "s4")["node"] == "n2")
            assert cluster.nl("run", "s4", "--", "true").returncode == 0
            assert second.of(event="request") and not first.of(event="request")


class OurAgent:
    def __init__(self, directory, servers, agent_id="x1"):
        directory.mkdir(exist_ok=True)
        token = directory / "token"
        token.write_text("anything\n")
        token.chmod(0o600)
        self.dir = directory
        self.log = open(directory / "agent.log", "ab")
        self.args = [
            BIN / "nodelink-agent",
            "--agent-id",
            agent_id,
            "--token-file",
            token,
            "--servers",
            servers,
            "--state-dir",
            directory / "state",
            "--insecure",
        ]
        self.process = subprocess.Popen(
            self.args, stdout=self.log, stderr=self.log, stdin=subprocess.DEVNULL
        )

    def close(self):
        self.process.kill()
        self.process.wait()
        pid = self.dir / "state" / "supervisor.pid"
        if pid.exists():
            subprocess.run(["kill", "-QUIT", pid.read_text().split()[0]], check=False)
        self.log.close()

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.close()
        if kind:
            print((self.dir / "agent.log").read_text())


def collect(server, task):
    """(stdout, stderr, final event) of a task as the stock server saw it."""
    final = server.wait(event="response", task=task, final=True)
    out = b"".join(base64.b64decode(e["stdout"]) for e in server.of(event="response", task=task))
    err = b"".join(base64.b64decode(e["stderr"]) for e in server.of(event="response", task=task))
    return out, err, final


def test_our_agent_serves_a_stock_server(tmp_path):
    with JsonProcess("server.py") as server:
        port = server.wait(event="listening")["port"]
        with OurAgent(tmp_path / "a", f"127.0.0.1:{port}"):
            hello = server.wait(event="connected")
            assert (hello["agent"], hello["token"]) == ("x1", "anything")
            server.send({"task": "t1", "cmd": "echo out; echo err >&2; exit 7"})
            out, err, final = collect(server, "t1")
            assert (out, err, final["exit_code"], final["status"]) == (b"out\n", b"err\n", 7, 2)
            server.send({"task": "t2", "cmd": "echo $X; pwd", "env": ["X=1"], "cwd": "/tmp"})
            out, err, final = collect(server, "t2")
            assert (out, final["exit_code"], final["status"]) == (b"1\n/tmp\n", 0, 1)
            server.send({"task": "t3", "cmd": "head -c 3000000 /dev/zero | tr '\\0' x"})
            out, err, final = collect(server, "t3")
            assert out == b"x" * 3000000
            server.send({"task": "t4", "cmd": "sleep 300"})
            server.wait(event="response", task="t4")
            server.send({"cancel": "t4"})
            out, err, final = collect(server, "t4")
            assert final["cancelled"]


def test_our_agent_never_reruns_for_a_stock_server(tmp_path):
    """P2: the server dies under a task and asks again: the same process, no second start."""
    marker = tmp_path / "starts"
    go = tmp_path / "go"
    with JsonProcess("server.py") as server:
        port = server.wait(event="listening")["port"]
        agent = OurAgent(tmp_path / "a", f"127.0.0.1:{port}")
        server.wait(event="connected")
        cmd = f"echo x >> {marker}; while [ ! -e {go} ]; do sleep 0.05; done; echo done"
        server.send({"task": "t1", "cmd": cmd})
        wait_for("started", lambda: marker.exists())
    with agent, JsonProcess("server.py", port) as server:
        server.wait(event="connected", seconds=60)
        server.send({"task": "t1", "cmd": cmd})
        go.touch()
        out, _, final = collect(server, "t1")
        assert out.endswith(b"done\n") and final["exit_code"] == 0
        assert marker.read_text() == "x\n"
