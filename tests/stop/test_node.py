"""nodelinkd: told to stop, made to fail and killed at each step of its start."""

import contextlib
import random
import resource
import shutil
import socket
import subprocess

import pytest

import steps
from steps import BIN, TERMINATED, Program, run_step, wait_for

RESERVE = {"/dev/null": 1}  # common/rpc/accept_guard.c keeps one descriptor back
pytestmark = pytest.mark.skipif(not steps.HAS_FAILPOINTS, reason="no fail points in this build")

# step: (exit code when told to stop there, exit code when it fails there). Before the signals are
# caught TERM ends the process by itself, and nothing is there yet to be undone.
ALONE = {
    "settings": (TERMINATED, 2),
    "secret": (TERMINATED, 2),
    "loop": (TERMINATED, 1),
    "pid_file": (0, 1),
    "part": (0, 1),
    "services": (0, 1),
    "rpc": (0, 1),
    "rpc.thread": (0, 1),
    "listen": (0, 1),
    "cluster": (0, 1),
    "data_dir": (0, 1),
    "raft_listen": (0, 1),
    "raft_io": (0, 1),
    "raft.bootstrap": (0, 1),
    "mark": (0, 1),
    "load": (0, 1),
    "loaded": (0, 1),
    "identity": (0, 1),
    "boot": (0, 1),
    "links": (0, 1),
    "serving": (0, None),
}
TOGETHER = ["peer_in", "peer_out", "peer_link", "leader", "node_up", "ready"]
PARTS = 8


def free_ports(count):
    """Below the range that the kernel gives to outgoing connections."""
    found = set()
    while len(found) < count:
        port = random.randint(10000, 32000)
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            found.add(port)
    return sorted(found)


class Nodes:
    """Configurations of three nodes of one cluster."""

    def __init__(self, directory, extra=""):
        self.directory = directory
        ports = free_ports(6)
        secret = directory / "secret"
        secret.write_text("a secret of the nodes\n")
        secret.chmod(0o600)
        members = ", ".join(
            f"n{i + 1}/{i + 1}/127.0.0.1:{ports[i]}/127.0.0.1:{ports[3 + i]}" for i in range(3)
        )
        self.raft_port, self.grpc_port = ports[0], ports[3]
        self.nodes = []
        for i in range(1, 4):
            own = directory / f"n{i}"
            own.mkdir()
            conf = own / "conf"
            conf.write_text(
                f"node-id = {i}\ndata-dir = {own / 'data'}\nmembers = {members}\n"
                f"bootstrap = true\ninsecure = true\npid-file = {own / 'pid'}\n"
                f"cluster-secret-file = {secret}\nadmin-token-sha256 = {'0' * 64}\n"
                f"election-timeout = 1200ms\nheartbeat = 200ms\n{extra}"
            )
            self.nodes.append(
                Program(own, "start.", BIN / "nodelinkd", "--config", conf, may_keep=RESERVE)
            )

    def first(self):
        return self.nodes[0]

    def close(self):
        for node in self.nodes:
            if node.process is not None and node.process.poll() is None:
                node.process.kill()
                node.process.wait()


@pytest.fixture
def nodes(tmp_path):
    n = Nodes(tmp_path)
    yield n
    n.close()


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """n2 and n3 run; n1 is the test's. It must be stopped when the test ends."""
    n = Nodes(tmp_path_factory.mktemp("together"))
    for node in n.nodes:
        node.start()
    for node in n.nodes:
        node.wait_text(" ready ")
    n.first().terminate()
    n.first().wait(0)
    yield n
    for node in n.nodes[1:]:
        node.terminate()
        node.wait(0)
    n.close()


def test_every_step_is_here():
    assert steps.steps_in_source("start.", "server", "cluster") == {
        s for s in [*ALONE, *TOGETHER, "ended"] if "." not in s
    }


@pytest.mark.parametrize("step", ALONE)
def test_at(nodes, step):
    """Alone: without the others it has no leader, so its start is all that happens."""
    node = nodes.first()
    stopped, failed = ALONE[step]
    text = run_step(node, step, stopped, failed)
    assert stopped != 0 or "serving" in text
    assert not (node.directory / "pid").exists()
    node.start(ended="stop").wait_text("serving")
    node.terminate()
    node.wait(0)


@pytest.mark.parametrize("number", range(1, PARTS + 1))
def test_without_a_part(nodes, number):
    """What was made before it is closed, what would have come after it was never there."""
    node = nodes.first()
    node.start(part=f"error@{number}", ended="stop").wait(1)
    assert not (node.directory / "data").exists()


def test_all_parts_are_counted(nodes):
    node = nodes.first()
    node.start(part=f"error@{PARTS + 1}", ended="stop").wait_text("serving")
    node.terminate()
    node.wait(0)


def test_without_the_second_link(nodes):
    nodes.first().start(links="error@2", ended="stop").wait(1)


@pytest.mark.parametrize("step", TOGETHER)
def test_among_others_at(together, step):
    """The others go on; it comes back and is one of them."""
    node = together.first()
    node.start(**{step: "kill"}).wait(steps.KILLED)
    node.start(**{step: "stop", "ended": "stop"}).terminate_at(step)
    node.wait(0)


def test_second_signal_ends_it_at_once(nodes):
    node = nodes.first()
    node.start(**{"stop.begun": "stop"}).wait_text("serving")
    node.terminate()
    node.terminate_at("stop.begun")
    assert "at once" in node.wait(1)


# ---- what fails by itself ----------------------------------------------------


# With fewer, gRPC ends the process while it begins. With more nothing fails.
@pytest.mark.parametrize("descriptors", range(16, 24))
def test_short_of_descriptors(nodes, descriptors):
    node = nodes.first()
    limit = (descriptors, descriptors)
    node.start(limits=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limit), ended="stop")
    wait_for("an outcome", lambda: "serving" in node.text() or node.is_over())
    if "serving" in node.text():
        node.terminate()
        node.wait(0)
    else:
        assert "nodelinkd: " in node.wait(1)


def damaged(name, data):
    def damage(nodes):
        (nodes.first().directory / "data" / name).write_bytes(data)

    return damage


def raft_port_in_use(nodes):
    return listener(nodes.raft_port)


def grpc_port_in_use(nodes):
    return listener(nodes.grpc_port)


def listener(port):
    s = socket.socket()
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("127.0.0.1", port))
    s.listen(1)
    return s


def corrupt_segment(nodes):
    raft = nodes.first().directory / "data/raft"
    path = max(raft.glob("*[0-9]"), key=lambda p: p.stat().st_size)
    with open(path, "r+b") as f:
        f.seek(40)
        f.write(b"\xff" * 64)


def no_log(nodes):
    shutil.rmtree(nodes.first().directory / "data/raft")


def no_pid_file(nodes):
    conf = nodes.first().directory / "conf"
    conf.write_text(conf.read_text().replace("/pid\n", "/none/pid\n"))


DAMAGE = {
    "identity": damaged("identity", b"format 1\nnode\n"),
    "boot": damaged("boot", b"many\n"),
    "stored": damaged("raft/stored", b"\xff" * 64),
    "segment": corrupt_segment,
    "no log": no_log,
    "raft port": raft_port_in_use,
    "grpc port": grpc_port_in_use,
    "pid file": no_pid_file,
}


@pytest.fixture(scope="module")
def used(tmp_path_factory):
    """A directory of a node that has been in a cluster."""
    n = Nodes(tmp_path_factory.mktemp("used"))
    for node in n.nodes:
        node.start()
    for node in n.nodes:
        node.wait_text(" ready ")
    for node in n.nodes:
        node.terminate()
    for node in n.nodes:
        node.wait(0)
    return n


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged(used, damage):
    node = used.first()
    kept = node.directory.with_name("kept")
    shutil.copytree(node.directory, kept)
    in_use = DAMAGE[damage](used)
    try:
        text = node.start(ended="stop").wait(1)
        assert text.strip()
        assert not (node.directory / "pid").exists()
    finally:
        if in_use is not None:
            in_use.close()
        shutil.rmtree(node.directory)
        kept.rename(node.directory)
