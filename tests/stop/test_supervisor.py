"""nodelink-agent supervisor: told to stop, made to fail and killed at each step of its start."""

import pytest

import steps
from steps import BIN, TERMINATED, Program, run_step

pytestmark = pytest.mark.skipif(not steps.HAS_FAILPOINTS, reason="no fail points in this build")

# As in test_node.py. TERM counts from the loop on.
STEPS = {
    "settings": (TERMINATED, 2),
    "memory": (TERMINATED, 1),
    "lock": (TERMINATED, 1),
    "journal_id": (TERMINATED, 1),
    "spool": (TERMINATED, 1),
    "journal": (TERMINATED, 1),
    "loop": (TERMINATED, 1),
    "listen": (0, 1),
    "pid_file": (0, 1),
    "replayed": (0, None),
    "ready": (0, None),
}
NAMES = ["supervisor.sock", "supervisor.pid"]


@pytest.fixture
def supervisor(tmp_path):
    state = tmp_path / "state"
    p = Program(
        tmp_path, "supervisor.start.", BIN / "nodelink-agent", "supervisor", "--state-dir", state
    )
    p.state = state
    yield p
    if p.process is not None and p.process.poll() is None:
        p.process.kill()
        p.process.wait()


def names_left(supervisor):
    return [n for n in NAMES if (supervisor.state / n).exists()]


def test_every_step_is_here():
    assert steps.steps_in_source("supervisor.start.", "agent") == {*STEPS, "ended"}


@pytest.mark.parametrize("step", STEPS)
def test_at(supervisor, step):
    stopped, failed = STEPS[step]
    if failed is not None:
        supervisor.start(**{step: "error", "ended": "stop"}).wait(failed)
        assert names_left(supervisor) == []
    run_step(supervisor, step, stopped, failed)
    assert stopped != 0 or names_left(supervisor) == []
    supervisor.start(ended="stop").wait_text("ready")
    supervisor.terminate()
    supervisor.wait(0)
    assert names_left(supervisor) == []


def garbage_journal(state):
    (state / "journal").write_bytes(b"not a journal" * 100)


def garbage_id(state):
    (state / "journal_id").write_text("\n")


def directory_for_socket(state):
    (state / "supervisor.sock").mkdir()


def directory_for_pid_file(state):
    (state / "supervisor.pid").mkdir()


def file_for_spool(state):
    (state / "spool").rmdir()
    (state / "spool").write_text("")


@pytest.mark.parametrize(
    "damage",
    [garbage_journal, garbage_id, directory_for_socket, directory_for_pid_file, file_for_spool],
)
def test_damaged(supervisor, damage):
    supervisor.start(ended="stop").wait_text("ready")
    supervisor.terminate()
    supervisor.wait(0)
    damage(supervisor.state)
    text = supervisor.start(ended="stop").wait(1)
    assert str(supervisor.state) in text


def test_held_directory(supervisor, tmp_path):
    supervisor.start().wait_text("ready")
    other = Program(tmp_path / "other", "supervisor.start.", *supervisor.args)
    other.start(ended="stop").wait(3)
    supervisor.terminate()
    supervisor.wait(0)
