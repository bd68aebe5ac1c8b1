"""The real nodelink-agent, both processes, against servers that share no code with it."""

import hashlib
import os
import random
import signal
import socket
import subprocess
import threading

import grpc
import pytest

from peer import (AGENT, Agent, Epochs, Node, Stock, alive, pb, pids_with, wait_for)

# Every byte value, from a seed, at a pace: `size` bytes to stdout, half of that to stderr.
GENERATE = """/usr/bin/python3 -c '
import random, sys, time
r = random.Random({seed}); size = {size}
while size > 0:
    n = min(size, 50000)
    sys.stdout.buffer.write(r.randbytes(n)); sys.stdout.buffer.flush()
    sys.stderr.buffer.write(r.randbytes(n // 2)); sys.stderr.buffer.flush()
    size -= n
    time.sleep({pause})
'"""


def generated(seed, size):
    r, out, err = random.Random(seed), b"", b""
    parts = []
    while size > 0:
        n = min(size, 50000)
        parts.append((r.randbytes(n), r.randbytes(n // 2)))
        size -= n
    out, err = b"".join(p[0] for p in parts), b"".join(p[1] for p in parts)
    return out, err


@pytest.fixture
def cleanup():
    """Objects with close or stop, ended in reverse order; the agent's log is shown on failure."""
    things = []
    yield things
    for thing in reversed(things):
        if isinstance(thing, Agent):
            print(thing.log())
            thing.close()
        else:
            thing.stop()


@pytest.fixture
def one(tmp_path, cleanup):
    """A node, an agent on it, and their stream."""
    node = Node()
    cleanup.append(node)
    agent = Agent(tmp_path, [node.address])
    cleanup.append(agent)
    return node, agent, node.wait_stream()


# ---- tasks -----------------------------------------------------------------

def test_runs_and_reports(one):
    node, agent, stream = one
    assert stream.metadata["agent_id"] == "a1"
    assert stream.metadata["nodelink-protocol"] == "1"
    assert stream.hello.boot_id and stream.hello.journal_id and not stream.hello.tasks
    stream.run("ok", "echo hello")
    stream.run("seven", "exit 7")
    stream.run("killed", "kill -9 $$")
    stream.run("argv", "shown", argv=["/bin/sh", "-c", "exit $#", "x", "a", "b"])
    stream.run("slow", "sleep 100", timeout_ms=300)
    stream.run("none", "", argv=["/nonexistent"])
    ok = stream.wait_final("ok")
    assert (ok.status, ok.shell_execute.exit_code) == (pb.TaskResponse.COMPLETED, 0)
    assert ok.result.kind == pb.TaskResult.EXITED and ok.epoch == stream.epoch
    assert ok.result.stdout_sha256 == hashlib.sha256(b"hello\n").digest()
    seven = stream.wait_final("seven")
    assert (seven.status, seven.result.exit_code) == (pb.TaskResponse.FAILURE, 7)
    assert stream.wait_final("killed").result.signal == 9
    assert stream.wait_final("argv").result.exit_code == 2
    assert stream.wait_final("slow").result.kind == pb.TaskResult.TIMED_OUT
    assert stream.wait_final("none").result.kind == pb.TaskResult.NOT_STARTED


def test_same_request_runs_once(one, tmp_path):
    """P2"""
    _, _, stream = one
    for _ in range(3):
        stream.run("t", f"echo run >> {tmp_path}/runs; sleep 0.2")
    stream.wait_final("t")
    stream.run("t", f"echo run >> {tmp_path}/runs")
    wait_for("repeated result", lambda: sum(r.is_final for r in list(stream.responses)) >= 2)
    assert (tmp_path / "runs").read_text() == "run\n"


def test_bad_requests_do_no_harm(one):
    _, agent, stream = one
    stream.send(agent_id="a1", task_id="docker", docker_operation=pb.DockerOperation())
    stream.send(agent_id="a1", task_id="empty")
    stream.send(agent_id="a1", task_id="env",
                shell_execute=pb.ShellExecute(cmd="true", env=["novalue"]))
    stream.send(agent_id="other", task_id="other", shell_execute=pb.ShellExecute(cmd="true"))
    stream.send(agent_id="a1", task_id="../../x", shell_execute=pb.ShellExecute(cmd="true"))
    stream.send(agent_id="a1", task_id="huge", shell_execute=pb.ShellExecute(cmd="x" * 200000))
    stream.send(output_credit=pb.OutputCredit(sub=99, bytes=1 << 63))
    stream.send(output_close=pb.OutputClose(sub=98))
    stream.open(97, "unknown")
    for task in ("docker", "empty", "env", "other", "../../x", "huge"):
        final = stream.wait_final(task)
        assert final.status == pb.TaskResponse.FAILURE and final.result.reason
    assert stream.final("docker").result.reason == \
        "docker operations are not supported by this agent version"
    assert stream.wait_end(97)[2].why == pb.OutputEnd.GONE
    assert agent.process.poll() is None


def test_cancel_takes_down_the_tree(one):
    """P6"""
    _, _, stream = one
    marker = f"NL_MARK={os.urandom(8).hex()}"
    stream.run("tree", f"export {marker}; (setsid sleep 1000 & sleep 1000 &) ; "
                       "trap '' TERM; while :; do sleep 1; done")
    stream.wait_started("tree")
    wait_for("the tree", lambda: len(pids_with(marker)) >= 3)
    stream.cancel("tree")
    final = stream.wait_final("tree")
    assert final.cancelled and final.result.kind == pb.TaskResult.CANCELLED
    assert pids_with(marker) == []


# ---- output ----------------------------------------------------------------

def test_output_is_byte_exact_within_credit(one):
    """P5"""
    _, _, stream = one
    size = 3_000_000
    stream.run("big", GENERATE.format(seed=1, size=size, pause=0))
    stream.open(1, "big", credit=100_000)
    expected = generated(1, size)
    total = len(expected[0]) + len(expected[1])
    granted = 100_000
    while not stream.output(1)[2]:
        have = sum(map(len, stream.output(1)[:2]))
        assert have <= granted
        if have == granted and have < total:
            granted += 500_000
            stream.credit(1, 500_000)
    out, err, end = stream.wait_end(1)
    assert (out, err) == expected
    assert end.why == pb.OutputEnd.COMPLETE and end.stdout_bytes == size
    result = stream.wait_final("big").result
    assert result.stdout_sha256 == hashlib.sha256(out).digest()
    assert result.stderr_sha256 == hashlib.sha256(err).digest()
    stream.ack("big")
    stream.open(2, "big", stdout=size - 10)  # the spool outlives the acknowledgement
    assert stream.wait_end(2)[0] == expected[0][-10:]


def test_server_dies_and_output_resumes_at_the_offset(tmp_path, cleanup):
    """P5, P9: same process, no byte lost or repeated."""
    epochs = Epochs()
    nodes = [Node("n1", epochs), Node("n2", epochs)]
    cleanup.extend(nodes)
    agent = Agent(tmp_path, [n.address for n in nodes])
    cleanup.append(agent)
    first = wait_for("a stream", lambda: next((n for n in nodes if n.streams
                                               and n.streams[0].welcomed), None))
    other = nodes[1 - nodes.index(first)]
    size = 2_000_000
    stream = first.streams[0]
    stream.run("t", GENERATE.format(seed=2, size=size, pause=0.02))
    pid = stream.wait_started("t").pid
    stream.open(1, "t")
    wait_for("half of the output", lambda: len(stream.output(1)[0]) > size // 4)
    first.stop()
    out, err, _ = stream.output(1)
    assert alive(pid)
    resumed = other.wait_stream()
    assert [(t.task_id, t.phase) for t in resumed.hello.tasks] == [("t", pb.TaskRef.RUNNING)]
    assert resumed.epoch > stream.epoch
    resumed.open(5, "t", stdout=len(out), stderr=len(err))
    rest = resumed.wait_end(5)
    assert (out + rest[0], err + rest[1]) == generated(2, size)
    assert resumed.wait_final("t").result.exit_code == 0


def test_slow_reader_delays_nobody(one):
    _, _, stream = one
    stream.run("t", GENERATE.format(seed=3, size=500_000, pause=0))
    stream.open(1, "t", credit=10)
    stream.open(2, "t")
    assert stream.wait_end(2)[:2] == generated(3, 500_000)
    assert len(stream.output(1)[0]) + len(stream.output(1)[1]) == 10


def test_missing_spool_is_said(one):
    _, agent, stream = one
    stream.run("t", "echo x")
    stream.wait_final("t")
    for name in ("stdout", "stderr"):
        (agent.state / "spool" / "t.1" / name).unlink()
    stream.open(1, "t")
    assert stream.wait_end(1)[2].why == pb.OutputEnd.GONE


# ---- results and restarts --------------------------------------------------

def test_result_is_repeated_until_acknowledged(one):
    node, _, stream = one
    stream.run("t", "exit 4")
    stream.wait_final("t")
    stream.end()
    second = node.wait_stream(1)
    assert [(t.task_id, t.phase) for t in second.hello.tasks] == [("t", pb.TaskRef.FINISHED)]
    assert second.wait_final("t").result.exit_code == 4
    second.ack("t")
    second.run("later", "true")  # in order after the acknowledgement
    second.wait_final("later")
    second.ack("later")
    second.end()
    third = node.wait_stream(2)
    assert "t" not in [t.task_id for t in third.hello.tasks]


def test_link_killed_in_the_middle(one):
    """The task's process goes on; a new link finds it and all of its output."""
    node, agent, stream = one
    size = 1_000_000
    stream.run("t", GENERATE.format(seed=4, size=size, pause=0.05))
    pid = stream.wait_started("t").pid
    agent.kill()
    assert alive(pid)
    agent.start()
    second = node.wait_stream(1)
    assert [t.task_id for t in second.hello.tasks] == ["t"]
    assert second.hello.last_epoch == stream.epoch
    second.run("t", "echo again")  # the node can't know: it must not run twice
    second.open(1, "t")
    assert second.wait_end(1)[:2] == generated(4, size)
    assert second.wait_final("t").result.exit_code == 0


def test_supervisor_killed_in_the_middle(one, tmp_path):
    """What ran under it is LOST, not run again; the link starts another supervisor."""
    _, agent, stream = one
    stream.run("t", f"trap '' TERM; echo run >> {tmp_path}/runs; sleep 1000", kill_grace_ms=300)
    pid = stream.wait_started("t").pid
    wait_for("the command", (tmp_path / "runs").exists)
    os.kill(agent.supervisor_pid(), signal.SIGKILL)
    assert stream.wait_final("t").result.kind == pb.TaskResult.LOST
    # It took the grace to take it down; that it is lost was said before.
    said = [r.WhichOneof("control") for r in stream.responses if r.task_id == "t"]
    assert said == ["started", "uncertain", "result"]
    wait_for("the end of what is left", lambda: not alive(pid))
    stream.run("u", "exit 5")
    assert stream.wait_final("u").result.exit_code == 5
    assert (tmp_path / "runs").read_text() == "run\n"


# ---- signals ---------------------------------------------------------------

def test_term_leaves_the_tasks_running(one):
    node, agent, stream = one
    stream.run("t", "sleep 2; exit 6")
    pid = stream.wait_started("t").pid
    assert agent.kill(signal.SIGTERM) == 0
    assert any(r.WhichOneof("control") == "goodbye" for r in stream.responses)
    assert alive(pid)
    agent.start()
    second = node.wait_stream(1)
    second.run("new", "true")  # the supervisor's stop was taken back
    assert second.wait_final("new").result.kind == pb.TaskResult.EXITED
    assert second.wait_final("t").result.exit_code == 6


def test_term_with_a_supervisor_it_started_again(one):
    """The supervisor is the link's own child then, and outlives it all the same."""
    _, agent, stream = one
    os.kill(agent.supervisor_pid(), signal.SIGKILL)
    stream.run("t", "sleep 1000")
    pid = stream.wait_started("t").pid
    assert agent.kill(signal.SIGTERM) == 0
    assert alive(pid) and agent.supervisor_pid() is not None


def test_term_without_tasks_ends_both(one):
    _, agent, _ = one
    assert agent.kill(signal.SIGTERM) == 0
    wait_for("the supervisor's end", lambda: agent.supervisor_pid() is None)


def test_quit_kills_the_tasks(one):
    _, agent, stream = one
    stream.run("t", "sleep 1000")
    pid = stream.wait_started("t").pid
    assert agent.kill(signal.SIGQUIT) == 0
    assert not alive(pid)
    assert stream.final("t").result.kind == pb.TaskResult.CANCELLED
    wait_for("the supervisor's end", lambda: agent.supervisor_pid() is None)


def test_stop_at_any_moment(tmp_path, cleanup):
    """SIGTERM during the start and while no server is there."""
    agent = Agent(tmp_path, ["127.0.0.1:1"])
    cleanup.append(agent)
    for event in ("agent started", "connect failed", None):
        if event:
            wait_for(event, lambda e=event: e in agent.log())
        status = agent.kill(signal.SIGTERM)
        assert status in (0, -signal.SIGTERM)  # before the handlers are there nothing is to be done
        agent.log_file.write_text("")
        agent.start()


def test_hup_reads_the_settings_again(tmp_path, cleanup):
    epochs = Epochs()
    nodes = [Node("n1", epochs), Node("n2", epochs)]
    cleanup.extend(nodes)
    config = tmp_path / "agent.conf"
    config.write_text("label = rack=1\n")
    servers = tmp_path / "servers"
    servers.write_text(f"# first\n{nodes[0].address}\n")
    agent = Agent(tmp_path, [], "--config", config, "--servers-file", servers)
    cleanup.append(agent)
    assert nodes[0].wait_stream().hello.labels[0].value == "1"
    config.write_text("label = rack=2\n")
    servers.write_text(nodes[1].address + "\n")
    agent.process.send_signal(signal.SIGHUP)
    stream = nodes[1].wait_stream()
    assert stream.hello.labels[0].value == "2"
    wait_for("the old stream's end", lambda: nodes[0].streams[0].ended)
    config.write_text("nonsense = 1\n")
    agent.process.send_signal(signal.SIGHUP)
    wait_for("the refusal", lambda: "settings not reloaded" in agent.log())
    assert not stream.ended


# ---- servers ---------------------------------------------------------------

def test_drain_makes_before_it_breaks(tmp_path, cleanup):
    epochs = Epochs()
    nodes = [Node("n1", epochs), Node("n2", epochs)]
    cleanup.extend(nodes)
    agent = Agent(tmp_path, [nodes[0].address])
    cleanup.append(agent)
    stream = nodes[0].wait_stream()
    stream.run("t", "sleep 1000")
    pid = stream.wait_started("t").pid
    nodes[1].welcome = False
    stream.send(drain=pb.Drain(reason="test", servers=[nodes[1].address]))
    pending = wait_for("the second stream", lambda: next(
        (s for s in nodes[1].streams if s.hello), None))
    assert not stream.ended  # it stays until the other one is welcomed
    stream.run("u", "true")
    stream.wait_final("u")
    pending.epoch = epochs.next()
    pending.send(welcome=pb.Welcome(epoch=pending.epoch, node="n2", ping_interval_ms=1000))
    wait_for("goodbye", lambda: stream.ended)
    assert any(r.WhichOneof("control") == "goodbye" for r in stream.responses)
    assert pending.wait_final("u") and alive(pid)


def test_older_epoch_is_refused(tmp_path, cleanup):
    """P7, across a restart of the link."""
    node = Node("n1", Epochs(10))
    cleanup.append(node)
    agent = Agent(tmp_path, [node.address])
    cleanup.append(agent)
    wait_for("the epoch on disk", lambda: (agent.state / "epoch").exists()
             and (agent.state / "epoch").read_text() == "10\n")
    agent.kill()
    node.stop()
    old = Node("old", Epochs(5), port=node.port)
    cleanup.append(old)
    agent.start()
    old.wait_stream(3)  # refused again and again until its epoch is above
    wait_for("the refusal", lambda: "is not above the highest seen" in agent.log())
    assert old.wait_stream().hello.last_epoch == 10


def test_learned_servers_survive_a_restart(tmp_path, cleanup):
    epochs = Epochs()
    second = Node("n2", epochs)
    first = Node("n1", epochs, servers=[second.address])
    cleanup.extend([first, second])
    agent = Agent(tmp_path, [first.address])
    cleanup.append(agent)
    first.wait_stream()
    cache = agent.state / "servers.cache"
    wait_for("the cache", lambda: cache.exists() and second.address in cache.read_text())
    agent.kill()
    first.stop()
    agent.start()
    second.wait_stream()


def test_token_is_read_again(tmp_path, cleanup):
    node = Node(token="new-token")
    cleanup.append(node)
    agent = Agent(tmp_path, [node.address], token="wrong-token")
    cleanup.append(agent)
    wait_for("the refusal", lambda: "put a valid one into the token file" in agent.log())
    agent.set_token("new-token")
    node.wait_stream()
    agent.token_file.chmod(0o644)
    node.streams[0].end()
    wait_for("the refusal", lambda: "mode 0600" in agent.log())
    agent.token_file.chmod(0o600)
    node.wait_stream(1)
    everything = agent.log().encode() + b"".join(
        p.read_bytes() for p in agent.state.rglob("*") if p.is_file())
    for pid in (agent.process.pid, agent.supervisor_pid()):
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            everything += file.read()
        with open(f"/proc/{pid}/environ", "rb") as file:
            everything += file.read()
    assert b"new-token" not in everything and b"wrong-token" not in everything


@pytest.fixture(scope="module")
def pki(tmp_path_factory):
    """A CA and two leaves: server (for localhost) and agent."""
    path = tmp_path_factory.mktemp("pki")

    def openssl(*args):
        subprocess.run(["openssl", *args], check=True, capture_output=True, cwd=path)
    openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem",
            "-subj", "/CN=test CA", "-days", "2")
    for name in ("server", "agent"):
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out",
                f"{name}.csr", "-subj", f"/CN={name}")
        (path / f"{name}.ext").write_text("subjectAltName = DNS:localhost, IP:127.0.0.1\n")
        openssl("x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
                "-CAcreateserial", "-days", "2", "-extfile", f"{name}.ext", "-out", f"{name}.pem")
    return path


def test_mutual_tls(pki, tmp_path, cleanup):
    """P14"""
    node = Node(tls=[(pki / name).read_bytes() for name in ("server.key", "server.pem", "ca.pem")])
    cleanup.append(node)
    flags = ["--tls-ca-file", pki / "ca.pem", "--tls-cert-file", pki / "agent.pem",
             "--tls-key-file", pki / "agent.key"]
    agent = Agent(tmp_path, [node.address], *flags, insecure=False)
    cleanup.append(agent)
    stream = node.wait_stream()
    stream.run("t", "exit 8")
    assert stream.wait_final("t").result.exit_code == 8


def test_server_that_is_not_trusted(pki, tmp_path, cleanup):
    """The token does not go to a server whose certificate nobody we trust has signed."""
    other = tmp_path / "other.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout",
                    tmp_path / "other.key", "-out", other, "-subj", "/CN=other", "-days", "2"],
                   check=True, capture_output=True)
    node = Node(tls=((pki / "server.key").read_bytes(), (pki / "server.pem").read_bytes(), None))
    cleanup.append(node)
    agent = Agent(tmp_path, [node.address], "--tls-ca-file", other, insecure=False)
    cleanup.append(agent)
    wait_for("failures", lambda: agent.log().count("connect failed") >= 3)
    assert not node.streams


def test_stopped_supervisor_is_waited_for(one):
    """A task that comes while the supervisor is stopped runs when it goes on, once."""
    _, agent, stream = one
    stream.run("before", "true")
    stream.wait_final("before")
    pid = agent.supervisor_pid()
    os.kill(pid, signal.SIGSTOP)
    stream.run("t", "exit 3")
    stream.send(ping=pb.Ping(nonce=5))
    wait_for("pong", lambda: any(r.pong.nonce == 5 for r in list(stream.responses)))
    os.kill(pid, signal.SIGCONT)
    assert stream.wait_final("t").result.exit_code == 3


def test_two_links_of_one_directory(one):
    _, agent, _ = one
    second = subprocess.run(agent.args, capture_output=True, text=True, check=False)
    assert second.returncode == 1
    assert f"pid {agent.process.pid}" in second.stderr


def test_settings_are_checked(tmp_path):
    def run(*args):
        return subprocess.run([AGENT, *args], capture_output=True, text=True, check=False)
    assert "nodelink-agent" in run("--version").stdout
    assert "--token-file" in run("--help").stdout
    base = ["--agent-id", "a", "--token-file", "t", "--servers", "h:1", "--state-dir",
            str(tmp_path / "s")]
    assert "tls-ca-file" in run(*base).stderr
    assert run(*base).returncode == 2
    assert "label" in run(*base, "--insecure", "--label", "x").stderr
    assert "no such flag" in run(*base, "--insecure", "--nonsense").stderr
    for choice in ("lost-tasks", "spool-full"):
        assert choice in run(*base, "--insecure", f"--{choice}", "maybe").stderr
    config = tmp_path / "c.conf"
    config.write_text("agent-id = a\ntoken-file = t\nservers = h:1, i:2\ninsecure = true\n")
    assert run("validate", config).returncode == 0
    config.write_text("agent-id = a\nservers = h:1\n\nbackoff-cap = soon\n")
    wrong = run("validate", config)
    assert wrong.returncode == 2 and "c.conf:4" in wrong.stderr and "backoff-cap" in wrong.stderr


# ---- hostile servers -------------------------------------------------------

class Garbage:
    """Accepts, sends random bytes, closes."""

    def __init__(self):
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self.socket.getsockname()[1]}"
        self.served = 0
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            try:
                connection, _ = self.socket.accept()
            except OSError:
                return
            try:
                connection.sendall(os.urandom(random.Random(self.served).randrange(1, 5000)))
            except OSError:
                pass
            connection.close()
            self.served += 1

    def stop(self):
        self.socket.close()


class BadMessages(grpc.GenericRpcHandler):
    """A gRPC server whose messages are random bytes."""

    def __init__(self):
        self.calls = 0
        self.server = grpc.server(__import__("concurrent.futures").futures.ThreadPoolExecutor(4))
        self.server.add_generic_rpc_handlers((self,))
        self.address = f"127.0.0.1:{self.server.add_insecure_port('127.0.0.1:0')}"
        self.server.start()

    def service(self, details):
        def stream(_, context):
            self.calls += 1
            context.send_initial_metadata((("nodelink-protocol", "1"),))
            r = random.Random(self.calls)
            for _ in range(20):
                yield r.randbytes(r.randrange(0, 300))
        return grpc.stream_stream_rpc_method_handler(stream)

    def stop(self):
        self.server.stop(None).wait()


@pytest.mark.parametrize("kind", [Garbage, BadMessages])
def test_garbage_from_a_server(kind, tmp_path, cleanup):
    bad = kind()
    node = Node()
    cleanup.extend([bad, node])
    agent = Agent(tmp_path, [bad.address])
    cleanup.append(agent)
    wait_for("attempts", lambda: (bad.served if kind is Garbage else bad.calls) >= 5)
    assert agent.process.poll() is None
    agent.kill(signal.SIGTERM)
    agent.args[agent.args.index("--servers") + 1] = f"{bad.address},{node.address}"
    agent.start()
    stream = node.wait_stream()
    stream.run("t", "true")
    assert stream.wait_final("t").result.exit_code == 0


# ---- a server that knows only the fixed fields -----------------------------

@pytest.fixture
def stock(tmp_path, cleanup):
    server = Stock()
    cleanup.append(server)
    agent = Agent(tmp_path, [server.address])
    cleanup.append(agent)
    wait_for("connection", lambda: server.find("connected"))
    return server, agent


def test_stock_server(stock):
    server, _ = stock
    size = 2_000_000
    server.say(task="t", cmd="printf 'A=%s %s' $A $(pwd); echo e >&2; exit 3", env=["A=1"],
               cwd="/tmp")
    server.say(task="big", cmd=GENERATE.format(seed=6, size=size, pause=0))
    final = server.wait_final("t")
    assert (final["status"], final["exit_code"], final["agent"]) == (2, 3, "a1")
    assert server.output("t") == b"A=1 /tmp" and server.output("t", "stderr") == b"e\n"
    assert server.wait_final("big")["status"] == 1
    assert (server.output("big"), server.output("big", "stderr")) == generated(6, size)
    assert server.responses("big")[-1]["final"]
    server.say(task="sleep", cmd="sleep 1000")
    wait_for("start", lambda: server.responses("sleep"))
    server.say(cancel="sleep")
    assert server.wait_final("sleep")["cancelled"]


def test_stock_server_restarts(stock, cleanup):
    """The task goes on, its result comes on the next stream."""
    server, _ = stock
    server.say(task="t", cmd="sleep 1; echo done; exit 9")
    wait_for("start", lambda: server.responses("t"))
    port = server.port
    server.stop()
    again = Stock(port)
    cleanup.append(again)
    assert again.wait_final("t")["exit_code"] == 9
    assert again.output("t") == b"done\n"
