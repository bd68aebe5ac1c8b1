"""Output that is large, fast or nasty, through the whole cluster and the command line.

NL_HOSTILE_MB (default 64): size of the large output; 1000 for the full one.
"""

import base64
import contextlib
import hashlib
import json
import os
import pathlib
import selectors
import shutil
import signal
import subprocess
import time

import pytest

from harness import SANITIZED, SLOW, Cluster, alive, new_id, processes_with, sha256, wait_for

MIB = 1 << 20
LARGE = int(os.environ.get("NL_HOSTILE_MB", 64)) * 1000 * 1000
# What a process may grow by while a large output goes through it. A sanitizer's allocator keeps
# what was freed.
GROWTH_KB = 32 * 1024
TASKS = 25 if SANITIZED else 100  # a client each, and instrumented ones are large
LINES_PER_S, LINES_S = 100, 2
ALL_BYTES = bytes(range(256))


@pytest.fixture(scope="module")
def large():
    """The pseudo-random bytes that the commands write: a file of LARGE bytes, and its digest."""
    directory = pathlib.Path(os.environ.get("TMPDIR", "/tmp")) / new_id("nl-hostile")
    directory.mkdir()
    try:
        with open(directory / "bytes", "wb") as f:
            subprocess.run(["sh", "-c", stream(LARGE)], stdout=f, check=True)
        digest = hashlib.sha256()
        with open(directory / "bytes", "rb") as f:
            while piece := f.read(MIB):
                digest.update(piece)
        assert (directory / "bytes").stat().st_size == LARGE
        yield directory / "bytes", digest.hexdigest()
    finally:
        shutil.rmtree(directory)


def stream(size):
    """A command that writes `size` bytes of AES in counter mode, as fast as they are taken."""
    key = "00112233445566778899aabbccddeeff"
    return f"openssl enc -aes-128-ctr -K {key} -iv {key} -in /dev/zero 2>/dev/null | head -c {size}"


def read_and_compare(out, path, memory=None, begin=0):
    """Reads a stream to its end against the file from `begin` on; returns its digest."""
    digest, at, looked = hashlib.sha256(), begin, 0
    with open(path, "rb") as want:
        want.seek(begin)
        while piece := out.read(65536):
            digest.update(piece)
            assert piece == want.read(len(piece)), f"other bytes after {at}"
            at += len(piece)
            if memory and at - looked > MIB:
                memory.look()
                looked = at
        assert want.read(1) == b"", f"ends at {at}"
    return digest.hexdigest()


class Memory:
    """Peak resident memory of every process of a cluster, and of a client, from now on."""

    def __init__(self, cluster, client):
        config = cluster.config()
        self.pids = {n["name"]: n["pid"] for n in config["nodes"]}
        for a in config["agents"]:
            self.pids[f"{a['id']}.link"] = a["pid"]
            self.pids[f"{a['id']}.supervisor"] = a["supervisor_pid"]
        self.before, self.peak = {}, {}
        for name, pid in self.pids.items():
            pathlib.Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak begins anew
            self.before[name] = self._kb(pid, "VmRSS")
        self.pids["client"], self.before["client"] = client.pid, 0

    @staticmethod
    def _kb(pid, field):
        lines = pathlib.Path(f"/proc/{pid}/status").read_text().splitlines()
        return next(int(l.split()[1]) for l in lines if l.startswith(field + ":"))

    def look(self):
        """Again and again: a client that has ended can't be asked."""
        for name, pid in self.pids.items():
            with contextlib.suppress(OSError, StopIteration):
                self.peak[name] = self._kb(pid, "VmHWM")

    def check(self):
        grown = {n: self.peak[n] - kb for n, kb in self.before.items()}
        print("peak growth, KiB:", grown)
        if not SANITIZED:
            assert max(grown.values()) < GROWTH_KB, grown


@contextlib.contextmanager
def client(cluster, *args):
    """A nodelink that runs, with its output in pipes; it must end with exit code 0."""
    p = cluster.spawn(*args)
    try:
        yield p
        assert p.wait(60 * SLOW) == 0, p.stderr.read()
    finally:
        p.kill()
        p.communicate()


def far_node(cluster, agent):
    """One that does not hold the agent's stream."""
    return next(n for n in cluster.names() if n != cluster.owner(agent))


def check_record(cluster, task, size, digest):
    t = cluster.task(task)
    assert (t["state"], t["stdout_bytes"], t["stdout_sha256"]) == ("completed", size, digest)


# ---- large ---------------------------------------------------------------------------


def test_large_output_at_bounded_memory(shared, large):
    """Live, through a node that has to ask the owner for it; then again, through each node."""
    path, digest = large
    task, addr = new_id(), shared.addr(far_node(shared, "a1"))
    args = ["run", "a1", "--task-id", task, "--addr", addr, "--", stream(LARGE)]
    with client(shared, *args) as p:
        memory = Memory(shared, p)
        assert read_and_compare(p.stdout, path, memory) == digest
    memory.check()
    check_record(shared, task, LARGE, digest)
    for i, name in enumerate(shared.names()):
        begin = i * LARGE // 3
        args = ["logs", task, "--stdout-from", begin, "--addr", shared.addr(name)]
        with client(shared, *args) as p:
            memory = Memory(shared, p)
            read_and_compare(p.stdout, path, memory, begin)
        memory.check()


def test_exits_before_its_output_is_read(shared, large):
    """The reader takes nothing until the task has ended: nobody but the spool keeps it."""
    path, digest = large
    task = new_id()
    args = ["run", "a2", "--task-id", task, "--addr", shared.addr(far_node(shared, "a2"))]
    with client(shared, *args, "--", stream(LARGE)) as p:
        memory = Memory(shared, p)
        shared.wait_task(task)
        memory.look()
        assert read_and_compare(p.stdout, path, memory) == digest
    memory.check()
    check_record(shared, task, LARGE, digest)


def test_at_the_bound_of_its_spool_a_task_is_slowed_not_cut(large):
    path, digest = large
    bound, task = 4 * MIB, new_id()
    with Cluster(nodes=1, agents=1, agent_sets=[f"spool-task-max={bound}"]) as cluster:
        spool = pathlib.Path(cluster.agent("a1")["dir"]) / "spool"
        with client(cluster, "run", "a1", "--task-id", task, "--", stream(LARGE)) as p:
            memory = Memory(cluster, p)
            wait_for("its spool is full", lambda: used(spool) > bound - MIB)
            assert read_and_compare(p.stdout, path, memory) == digest
            assert used(spool) <= bound + 2 * MIB  # and what was in the pipe when it ended
        memory.check()
        check_record(cluster, task, LARGE, digest)
        logs = cluster.nl("logs", task, text=False)  # what is gone is said
        assert b"gone" in logs.stderr and len(logs.stdout) < LARGE, logs.stderr
        assert logs.stdout == path.read_bytes()[-len(logs.stdout) :]


def used(directory):
    """Bytes on disk."""
    total = 0
    for where, _, names in os.walk(directory):
        for name in names:
            with contextlib.suppress(OSError):
                total += (pathlib.Path(where) / name).stat().st_blocks * 512
    return total


# ---- no lines, no text ---------------------------------------------------------------


def test_no_newline(shared):
    """A plain reader gets it as it is; where each line has the agent's name, very long ones are cut
    into several."""
    size = 16 * MIB
    command = f"head -c {size} /dev/zero | tr '\\0' x"
    assert shared.nl("run", "a1", "--", command).stdout == "x" * size
    with client(shared, "run", "--all", "--", command) as p:
        memory = Memory(shared, p)
        got = {}
        for line in p.stdout:
            memory.look()
            agent, _, text = line.rstrip(b"\n").partition(b" | ")
            assert len(text) <= MIB and text.strip(b"x") == b""
            got[agent] = got.get(agent, 0) + len(text)
    assert got == {b"a1": size, b"a2": size, b"a3": size}
    memory.check()


def test_every_byte_on_both_streams(shared):
    task = new_id()
    command = (
        'perl -e \'$a = join("", map { chr } 0..255); syswrite(STDOUT, $a) || die for 1..40; '
        "syswrite(STDERR, reverse $a) || die for 1..40'"
    )
    want = (ALL_BYTES * 40, ALL_BYTES[::-1] * 40)
    r = shared.nl("run", "a3", "--task-id", task, "--", command, text=False)
    assert (r.returncode, r.stdout, r.stderr) == (0, *want)
    for name in shared.names():
        r = shared.nl("logs", task, "--addr", shared.addr(name), text=False)
        assert (r.stdout, r.stderr) == want
    result = json.loads(shared.nl("run", "a3", "-o", "json", "--", command).stdout)
    found = tuple(base64.b64decode(result[f"{s}_base64"]) for s in ("stdout", "stderr"))
    assert found == want and result["output_complete"]


# ---- many ----------------------------------------------------------------------------


def test_ten_thousand_lines_per_second(shared, tmp_path):
    """100 tasks at once, each with 100 lines per second, one write each: every reader has all of
    them while the tasks still run."""
    go, end = tmp_path / "go", tmp_path / "end"
    n = LINES_PER_S * LINES_S
    program = (
        "use Time::HiRes qw(time sleep); $| = 1;"
        f"sub await {{ sleep 0.05 while !-e $_[0]; }} await('{go}'); $at = time;"
        f"for (1..{n}) {{ print qq($_ of $ENV{{NODELINK_TASK_ID}}\\n);"
        f"$at += 1 / {LINES_PER_S}; $left = $at - time; sleep $left if $left > 0; }}"
        f"await('{end}'); print qq(end\\n)"
    )
    tasks = [new_id() for _ in range(TASKS)]
    agents, names = ["a1", "a2", "a3"], shared.names()
    with contextlib.ExitStack() as stack:
        clients = {}
        for i, task in enumerate(tasks):
            to = ["--addr", shared.addr(names[i // 3 % 3])]
            args = ["run", agents[i % 3], "--task-id", task, *to, "--", "perl", "-e", program]
            clients[task] = stack.enter_context(client(shared, *args))
        wait_for("all of them run", lambda: running(shared) >= TASKS, 60, every=0.2)
        go.touch()
        began = time.monotonic()
        want = {t: "".join(f"{i} of {t}\n" for i in range(1, n + 1)).encode() for t in tasks}
        got = read_all(
            {t: p.stdout for t, p in clients.items()}, {t: len(w) for t, w in want.items()}
        )
        print(f"{TASKS * n / (time.monotonic() - began):.0f} lines per second")
        assert got == want
        end.touch()
        assert all(p.stdout.read() == b"end\n" for p in clients.values())


def running(cluster):
    r = cluster.nl("task", "list", "--state", "running", "--limit", "1000", "-o", "json")
    return len(json.loads(r.stdout)) if r.returncode == 0 else 0


def read_all(pipes, sizes, seconds=60):
    """{key: the first so many bytes}, while the other ends are open."""
    got = {k: b"" for k in pipes}
    with selectors.DefaultSelector() as selector:
        for k, pipe in pipes.items():
            selector.register(pipe, selectors.EVENT_READ, k)
        deadline = time.monotonic() + seconds * SLOW
        while selector.get_map() and time.monotonic() < deadline:
            for key, _ in selector.select(1):
                k = key.data
                piece = os.read(key.fd, sizes[k] - len(got[k]))
                got[k] += piece
                if not piece or len(got[k]) == sizes[k]:
                    selector.unregister(key.fileobj)
    return got


# ---- pipes and processes -------------------------------------------------------------


def test_closes_its_output_and_runs_on(shared, tmp_path):
    task, go = new_id(), tmp_path / "go"
    command = f"echo all; exec >&- 2>&-; while [ ! -e {go} ]; do sleep 0.05; done; exit 7"
    p = shared.spawn("run", "a1", "--task-id", task, "--", command)
    assert p.stdout.readline() == b"all\n"
    assert os.listdir(f"/proc/{pid_of(shared, task)}/fd") == ["0"]
    assert shared.task(task)["state"] == "running" and p.poll() is None
    go.touch()
    out, err = p.communicate(timeout=30 * SLOW)
    assert (out, err, p.returncode) == (b"", b"", 7)
    assert shared.task(task)["stdout_sha256"] == sha256(b"all\n")


def pid_of(cluster, task):
    return wait_for("its pid is known", lambda: cluster.task(task)["pid"])


def test_double_fork_holds_the_pipe(shared, tmp_path):
    """The task ends with its main process; what its daemon writes later goes nowhere."""
    task, note = new_id(), tmp_path / "pid"
    daemon = f"setsid sh -c 'echo $$ > {note}.new; mv {note}.new {note}; exec sleep 600'"
    command = f"({daemon} &); while [ ! -e {note} ]; do sleep 0.05; done; echo out; exit 5"
    r = shared.nl("run", "a2", "--task-id", task, "--", command, timeout=30)
    pid = int(note.read_text())
    try:
        assert (r.returncode, r.stdout) == (5, "out\n")
        assert alive(pid)  # it was left in the background on purpose
        assert shared.task(task)["stdout_sha256"] == sha256(b"out\n")
    finally:
        os.kill(pid, signal.SIGKILL)


def test_ignores_term_and_writes_on(shared):
    """It is killed after the grace, and all that it wrote until then is there."""
    task = new_id()
    program = "$| = 1; $SIG{TERM} = sub { print qq(no\\n) }; while (1) { print ++$n, qq(\\n) }"
    options = ["--timeout", "1s", "--kill-grace", "500ms", "--task-id", task]
    with shared.spawn("run", "a3", *options, "--", "perl", "-e", program) as p:
        lines = p.stdout.read().split(b"\n")
        assert p.wait(30 * SLOW) == 124
    t = shared.task(task)
    assert t["state"] == "timed_out"
    assert not processes_with(f"NODELINK_TASK_ID={task}")
    at = lines.index(b"no")
    numbers = lines[:at] + lines[at + 1 :]
    last = len(numbers) - 1  # the last one may be cut short by the kill
    assert [int(x) for x in numbers[:last]] == list(range(1, last + 1))
    assert str(last + 1).startswith(numbers[last].decode())
    assert t["stdout_sha256"] == sha256(b"\n".join(lines))


@pytest.mark.parametrize("name", ["KILL", "SEGV", "TERM", "PIPE"])
def test_killed_by_a_signal(shared, name):
    task, number = new_id(), signal.Signals[f"SIG{name}"].value
    program = f"$| = 1; print q(x) x 300000; kill {name} => $$; sleep 60"
    r = shared.nl("run", "a1", "--task-id", task, "--", "perl", "-e", program)
    assert (r.returncode, r.stdout) == (128 + number, "x" * 300000)
    t = shared.task(task)
    assert (t["state"], t["signal"]) == ("failed", number)
