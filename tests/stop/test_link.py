"""nodelink-agent, the link: told to stop, made to fail and killed at each step of its start."""

import os
import pathlib
import signal

import pytest

import steps
from peer import Agent, Node, wait_for
from steps import BIN, TERMINATED, Program, run_step

pytestmark = pytest.mark.skipif(not steps.HAS_FAILPOINTS, reason="no fail points in this build")

# As in test_node.py; from `signals` on TERM is caught.
STEPS = {
    "settings": (TERMINATED, 2),
    "dir": (TERMINATED, 1),
    "program": (TERMINATED, 1),
    "epoch": (TERMINATED, 1),
    "core": (TERMINATED, 1),
    "supervisor": (TERMINATED, 1),
    "loop": (TERMINATED, 1),
    "socket": (TERMINATED, 1),
    "rpc": (TERMINATED, 1),
    "rpc.thread": (TERMINATED, 1),
    "signals": (0, None),
    "attached": (0, None),
    "connect": (0, None),
    "link.epoch": (0, None),
    "welcomed": (0, None),
}


class Link(Program):
    def __init__(self, directory, servers):
        self.state = pathlib.Path(directory) / "state"
        token = pathlib.Path(directory) / "token"
        token.write_text("secret\n")
        token.chmod(0o600)
        super().__init__(
            directory,
            "link.start.",
            *(BIN / "nodelink-agent", "--agent-id", "a1", "--token-file", token),
            *("--servers", ",".join(servers), "--state-dir", self.state, "--insecure"),
            *("--backoff-start", "50ms", "--backoff-cap", "500ms", "--log-level", "debug"),
        )

    supervisor_pid = Agent.supervisor_pid

    def end_supervisor(self):
        """It outlives the link, holds none of the link's files, and ends in order."""
        pid = self.supervisor_pid()
        if pid is not None:
            files = [os.readlink(f) for f in pathlib.Path(f"/proc/{pid}/fd").iterdir()]
            assert not any("link.pid" in f or f.startswith(str(self.log)) for f in files), files
            os.kill(pid, signal.SIGTERM)
            wait_for("the supervisor's end", lambda: self.supervisor_pid() is None)
        log = self.state / "supervisor.log"
        text = log.read_text(errors="replace") if log.exists() else ""
        assert not any(r in text for r in steps.REPORTS), text


@pytest.fixture
def node():
    n = Node()
    yield n
    n.stop()


@pytest.fixture
def link(tmp_path, node):
    p = Link(tmp_path, [node.address])
    yield p
    if p.process is not None and p.process.poll() is None:
        p.process.kill()
        p.process.wait()
    p.end_supervisor()


def test_every_step_is_here():
    assert steps.steps_in_source("link.start.", "agent") == {
        s for s in [*STEPS, "ended"] if "." not in s
    }


@pytest.mark.parametrize("step", STEPS)
def test_at(link, node, step):
    stopped, failed = STEPS[step]
    run_step(link, step, stopped, failed)
    link.end_supervisor()
    seen = len(node.streams)
    link.start(ended="stop")
    wait_for("a stream", lambda: any(s.welcomed for s in node.streams[seen:]))
    link.terminate()
    link.wait(0)


def test_epoch_that_cannot_be_kept(link, node):
    """It does not serve with an epoch that it could forget; asked again, it goes on."""
    link.start(**{"link.epoch": "error", "ended": "stop"})
    wait_for("another stream", lambda: sum(s.welcomed for s in node.streams) >= 2)
    link.terminate()
    link.wait(0)


# ---- what fails by itself ----------------------------------------------------


def garbage_epoch(link):
    (link.state / "epoch").write_text("many\n")


def file_for_state(link):
    link.end_supervisor()
    for f in sorted(link.state.rglob("*"), reverse=True):
        f.rmdir() if f.is_dir() else f.unlink()
    link.state.rmdir()
    link.state.write_text("")


def directory_for_lock(link):
    (link.state / "link.pid").unlink()
    (link.state / "link.pid").mkdir()


@pytest.mark.parametrize("damage", [garbage_epoch, file_for_state, directory_for_lock])
def test_damaged(link, node, damage):
    link.start(ended="stop")
    node.wait_stream()
    link.terminate()
    link.wait(0)
    damage(link)
    assert "can't" in link.start(ended="stop").wait(1)


def test_supervisor_that_cannot_start(link, node):
    """The link waits for one; told to stop, it does."""
    link.start(ended="stop")
    node.wait_stream()
    link.terminate()
    link.wait(0)
    wait_for("the supervisor's end", lambda: link.supervisor_pid() is None)
    (link.state / "journal").write_bytes(b"not a journal" * 100)
    link.start(ended="stop")
    log = link.state / "supervisor.log"
    wait_for("a refusal", lambda: "can't use the journal" in log.read_text(errors="replace"))
    link.terminate()
    link.wait(0)


def test_second_link_of_a_directory(link, node, tmp_path):
    link.start(ended="stop")
    node.wait_stream()
    (tmp_path / "other").mkdir()
    other = Program(tmp_path / "other", "link.start.", *link.args)
    other.start(ended="stop").wait(1)
    link.terminate()
    link.wait(0)
