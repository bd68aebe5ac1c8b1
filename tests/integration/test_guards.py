"""P11: a node with a failing, hanging or full disk, a paused or confused one, is correct or stops.

Faults are made on real processes: strace answers system calls of a running node in the kernel's
place, and a small file system is really full.
"""

import errno
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

import grpc
import pytest

import partition
from harness import BIN, SANITIZED, SLOW, Cluster, Evidence, alive, new_id, stubs, wait_for
from test_start import config_of, data_dir

FAIL_STOP = "stopped at once, to be safe"
MIB = 1024 * 1024


# ---- helpers -------------------------------------------------------------------


class Inject:
    """strace on a running process: `rules` as in `strace --inject=`, on `paths` only if given."""

    def __init__(self, pid, *rules, paths=()):
        calls = ",".join(r.split(":")[0] for r in rules)
        args = ["strace", "-f", "-q", "-o", "/dev/null", "-p", str(pid), "-e", f"trace={calls}"]
        for r in rules:
            args += ["-e", f"inject={r}"]
        for p in paths:
            args += ["-P", str(p)]
        self.pid, self.args = pid, args

    def __enter__(self):
        self.process = subprocess.Popen(self.args, stderr=subprocess.PIPE)
        wait_for("strace is attached", self._attached)
        return self

    def _attached(self):
        assert self.process.poll() is None or not alive(self.pid), self.process.stderr.read()
        tasks = pathlib.Path(f"/proc/{self.pid}/task").glob("*/status")
        return all("TracerPid:\t0\n" not in t.read_text() for t in tasks)

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        self.process.wait(30)


def others(cluster, name):
    return [n for n in cluster.names() if n != name]


def log_of(cluster, name):
    return (pathlib.Path(cluster.node(name)["dir"]) / "nodelinkd.log").read_text(errors="replace")


def wait_stopped(cluster, name, pid, *words, seconds=10):
    """The node ended by itself and said why in its last lines."""
    wait_for(f"{name} stops", lambda: not alive(pid), seconds)
    last = "\n".join(log_of(cluster, name).splitlines()[-3:])
    for word in (FAIL_STOP, *words):
        assert word in last, last


def addresses(cluster, names):
    return ",".join(cluster.addr(n) for n in names)


def run_true(cluster, names=None):
    """A command through these nodes; another try under a new id is another task."""
    args = ["--addr", addresses(cluster, names)] if names else []
    r = cluster.nl("run", "a1", *args, "--", "true")
    return r.returncode == 0


def back_to_health(cluster, *names):
    """What was stopped starts again, and nothing was lost or doubled."""
    for name in names:
        cluster.start(name)
    cluster.wait_healthy(60)
    assert run_true(cluster)
    cluster.verify()


def make_leader(cluster, name):
    """Stops whoever else leads until this one does."""
    for _ in range(20):
        leader = partition.leader_among(cluster, cluster.names())
        if leader == name:
            return
        cluster.local("pause", leader)
        try:
            partition.leader_among(cluster, others(cluster, leader))
        finally:
            cluster.local("resume", leader)
        cluster.wait_healthy()
    raise AssertionError(f"{name} never leads")


class Filler:
    """Writes that fill the log but not the state: the same large task again and again (P8)."""

    def __init__(self, cluster, name, size=200 * 1024):
        self.client, self.channel = cluster.stub(name)
        self.task = new_id()
        self.spec = stubs()["command"].TaskSpec(
            agent_id="ghost", cmd="true", env=["X=" + "x" * size], wait_for_agent_ms=3600000
        )
        assert cluster.nl("agent", "token", "create", "ghost").returncode == 0

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.channel.close()

    def write(self, timeout=15):
        request = stubs()["control"].SubmitTaskRequest(task_id=self.task, spec=self.spec)
        return self.client.SubmitTask(request, timeout=timeout).header.index


# ---- failed and hung writes ------------------------------------------------------

FAILS = (["io_submit:error=EIO"], ["appending to the log"])
FULL = (["io_submit:error=ENOSPC"], ["appending to the log"])
# Said to be taken, and never done: what a hanging disk looks like.
HANGS = (["io_submit:retval=1"], ["takes longer than"])


@pytest.mark.parametrize(
    "fault,role",
    [
        (FAILS, "leader"),
        (FAILS, "follower"),
        (FULL, "leader"),
        (HANGS, "leader"),
        (HANGS, "follower"),
    ],
    ids=["fails-leader", "fails-follower", "full-leader", "hangs-leader", "hangs-follower"],
)
def test_append(fault, role):
    """A node whose log can't be written stops; the others serve; nothing acknowledged is lost."""
    rules, words = fault
    with Cluster(agents=1) as cluster:
        leader = partition.leader_among(cluster, cluster.names())
        victim = leader if role == "leader" else others(cluster, leader)[0]
        evidence = Evidence(cluster.dir)
        before = cluster.submit("a1", evidence.command("before"))
        pid = cluster.node(victim)["pid"]
        with Inject(pid, *rules):
            # Something to write. What becomes of it only the others know.
            task = new_id()
            cluster.nl("run", "a1", "--detach", "--task-id", task, "--", evidence.command("x"))
            wait_stopped(cluster, victim, pid, *words)
        rest = others(cluster, victim)
        wait_for("the others serve", lambda: run_true(cluster, rest))
        known = cluster.nl("run", "a1", "--detach", "--task-id", task, "--", evidence.command("x"))
        assert known.returncode == 0, known.stderr
        for t in (before, task):
            assert cluster.wait_task(t)["state"] == "completed"
        back_to_health(cluster, victim)
        assert evidence.starts() == {"before": 1, "x": 1}


def test_term_and_vote():
    """A node that can't write its term or vote stops before it says anything about it."""
    with Cluster(agents=1) as cluster:
        leader = partition.leader_among(cluster, cluster.names())
        victim, other = others(cluster, leader)
        pid = cluster.node(victim)["pid"]
        paths = [data_dir(cluster, victim) / "raft" / f"metadata{i}" for i in (1, 2)]
        assert any(p.exists() for p in paths)
        rules = [f"{c}:error=EIO" for c in ("write", "pwrite64", "fsync", "fdatasync")]
        with Inject(pid, *rules, paths=paths):
            cluster.local("pause", leader)  # now there must be an election
            try:
                wait_for(f"{victim} stops", lambda: not alive(pid), 20)
            finally:
                cluster.local("resume", leader)
        last = "\n".join(log_of(cluster, victim).splitlines()[-3:])
        assert FAIL_STOP in last and ("the term failed" in last or "the vote failed" in last), last
        wait_for("the others serve", lambda: run_true(cluster, [leader, other]))
        back_to_health(cluster, victim)


# ---- full disk -----------------------------------------------------------------


class SmallDisk:
    """A file system of its own, mounted on an empty directory."""

    def __init__(self, directory, mib=192):
        self.dir, self.mib = pathlib.Path(directory), mib

    def __enter__(self):
        self.image = tempfile.NamedTemporaryFile(prefix="nl-disk-")
        self.image.truncate(self.mib * MIB)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", self.image.name], check=True)
        subprocess.run(["mount", "-o", "loop", self.image.name, self.dir], check=True)
        self.dir.chmod(0o700)
        return self

    def __exit__(self, *_):
        subprocess.run(["umount", "-l", self.dir], check=True)
        self.image.close()

    def free(self):
        s = os.statvfs(self.dir)
        return s.f_bavail * s.f_bsize

    def leave(self, free):
        """Fills it but for so many bytes."""
        with open(self.dir / "ballast", "ab") as f:
            for step in (4 * MIB, 65536, 4096):
                while self.free() >= free + step and self._grow(f, step):
                    pass
        assert self.free() <= free + 65536

    @staticmethod
    def _grow(f, step):
        try:
            os.posix_fallocate(f.fileno(), os.fstat(f.fileno()).st_size, step)
            return True
        except OSError as error:
            assert error.errno == errno.ENOSPC
            return False

    def clear(self):
        (self.dir / "ballast").unlink()


needs_mount = pytest.mark.skipif(
    os.geteuid() != 0 or not os.path.exists("/dev/loop-control"),
    reason="mounting a small disk needs root and loop devices",
)


@pytest.fixture
def small_disk():
    """A cluster, and the disk of its n3, with the data that n3 had."""
    with Cluster(agents=1) as cluster:
        cluster.kill("n3")
        data = data_dir(cluster, "n3")
        old = data.rename(data.with_name("data.old"))
        data.mkdir(mode=0o700)
        with SmallDisk(data) as disk:
            try:
                shutil.copytree(old, data, dirs_exist_ok=True)
                data.chmod(0o700)
                cluster.start("n3")
                cluster.wait_healthy()
                yield cluster, disk
            finally:
                if alive(cluster.node("n3")["pid"]):
                    cluster.kill("n3")


def submit(cluster, name, task):
    args = ["--detach", "--task-id", task, "--addr", cluster.addr(name)]
    return cluster.nl("run", "a1", *args, "--", "true")


@needs_mount
def test_all_are_short_of_disk(tmp_path, monkeypatch):
    """Writes are refused before a disk is full, clearly (P13), and reads go on."""
    with SmallDisk(tmp_path, mib=320) as disk:
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
        with Cluster(agents=1) as cluster:
            task = new_id()
            assert submit(cluster, "n1", task).returncode == 0
            cluster.wait_task(task)
            disk.leave(32 * MIB)
            for name in cluster.names():
                wait_for("said", lambda: "disk nearly full" in log_of(cluster, name))
            leader = partition.leader_among(cluster, cluster.names())
            refused = {name: new_id() for name in (leader, others(cluster, leader)[0])}
            for name, t in refused.items():
                r = submit(cluster, name, t)
                assert r.returncode == 125, r.stderr
                assert name != leader or "disk" in r.stderr, r.stderr
            assert cluster.task(task)["state"] == "completed"
            disk.clear()
            wait_for("writes again", lambda: run_true(cluster))
            for t in refused.values():
                assert cluster.nl("task", "show", t).returncode != 0
            cluster.wait_healthy()
            cluster.verify()


@needs_mount
def test_leader_is_short_of_disk(small_disk):
    """The lead goes to a node with room; writes go on through every node, this one too (P10)."""
    cluster, disk = small_disk
    make_leader(cluster, "n3")
    disk.leave(32 * MIB)
    wait_for("n3 says so", lambda: "disk nearly full" in log_of(cluster, "n3"))
    wait_for("another leads", lambda: partition.leader_among(cluster, cluster.names()) != "n3")
    for name in cluster.names():
        wait_for(f"{name} serves", lambda: run_true(cluster, [name]))
    disk.clear()
    cluster.wait_healthy()
    cluster.verify()


@needs_mount
def test_disk_gets_full(small_disk):
    """No byte left while the log goes on: the node stops, and comes back when there is room."""
    cluster, disk = small_disk
    pid = cluster.node("n3")["pid"]
    disk.leave(0)
    with Filler(cluster, "n1") as filler:

        def stopped():
            try:
                filler.write()
            except grpc.RpcError as error:  # while the lead moves
                assert error.code() == grpc.StatusCode.UNAVAILABLE, error
            return not alive(pid)

        wait_for("n3 stops", stopped, 60, every=0)
    assert FAIL_STOP in log_of(cluster, "n3")
    wait_for("the others serve", lambda: run_true(cluster, ["n1", "n2"]))
    disk.clear()
    back_to_health(cluster, "n3")


# ---- a paused follower -----------------------------------------------------------


def rss_mib(pid):
    text = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(next(l.split()[1] for l in text.splitlines() if l.startswith("VmRSS"))) // 1024


def snapshot_index(cluster, name):
    """Of the newest snapshot in the node's directory; 0: none."""
    names = (data_dir(cluster, name) / "raft").glob("snapshot-*-*-*")
    return max((int(p.name.split("-")[2]) for p in names if p.suffix == ""), default=0)


def test_paused_follower():
    """The leader's memory is bounded while a follower reads nothing; it catches up by snapshot."""
    sets = ["snapshot-threshold=128", "snapshot-trailing=32"]
    with Cluster(agents=1, sets=sets) as cluster:
        leader = partition.leader_among(cluster, cluster.names())
        victim, other = others(cluster, leader)
        with Filler(cluster, leader) as filler:
            for _ in range(200):
                filler.write()
            pid, base = cluster.node(leader)["pid"], rss_mib(cluster.node(leader)["pid"])
            cluster.local("pause", victim)
            try:
                highest = base
                for _ in range(900):  # 180 MB of log
                    index = filler.write()
                    highest = max(highest, rss_mib(pid))
            finally:
                cluster.local("resume", victim)
        assert alive(pid) and highest - base < (400 if SANITIZED else 120), (base, highest)
        wait_for("a snapshot", lambda: snapshot_index(cluster, victim) > index - 300, 60)
        cluster.wait_healthy(60)
        cluster.verify()
        assert run_true(cluster)


# ---- entries of every length -------------------------------------------------------


def test_odd_entry_sizes():
    """libraft destroys a log with entries whose length is no multiple of 8; ours never are."""
    with Cluster(agents=1) as cluster:
        assert cluster.nl("agent", "token", "create", "ghost").returncode == 0
        control, command = stubs()["control"], stubs()["command"]
        tasks = {new_id(): "x" * n for n in [*range(40), 4095, 4096, 4097, 65535, 250001]}
        client, channel = cluster.stub("n1")
        for task, text in tasks.items():
            spec = command.TaskSpec(
                agent_id="ghost", cmd="true", env=[f"X={text}"], wait_for_agent_ms=3600000
            )
            client.SubmitTask(control.SubmitTaskRequest(task_id=task, spec=spec))
        channel.close()
        for name in cluster.names():
            cluster.kill(name)
        for name in cluster.names():
            cluster.start(name)
        cluster.wait_healthy(60)
        cluster.verify()
        for name in cluster.names():
            client, channel = cluster.stub(name)
            for task, text in tasks.items():
                found = client.GetTask(control.GetTaskRequest(task_id=task)).task
                assert list(found.spec.env) == [f"X={text}"]
            channel.close()


# ---- an old copy of a data directory ----------------------------------------------


def boot_of(cluster, name):
    return int((data_dir(cluster, name) / "boot").read_text())


def wait_counted(cluster, name, number):
    wait_for(f"start {number} of {name} is counted", lambda: boot_of(cluster, name) == number)


def refused_starts(cluster, name, times):
    """Each start ends by itself and says why; none of them counts."""

    def directory_says():
        file = data_dir(cluster, name) / "boot"
        return file.read_text() if file.exists() else None

    before = directory_says()
    for _ in range(times):
        args = [BIN / "nodelinkd", "--config", config_of(cluster, name), "--bootstrap"]
        r = subprocess.run(args, capture_output=True, text=True, timeout=30 * SLOW)
        assert r.returncode != 0
        for words in ("the cluster knows a later start of this node", "join under a new id"):
            assert words in r.stderr, r.stderr
        assert directory_says() == before


def test_old_copy_of_the_directory():
    """It has forgotten what the node promised: refused each time, however often it is started."""
    with Cluster(agents=1) as cluster:
        leader = partition.leader_among(cluster, cluster.names())
        victim = others(cluster, leader)[0]
        rest = others(cluster, victim)
        real = data_dir(cluster, victim)
        old, new = real.with_name("old"), real.with_name("new")
        wait_counted(cluster, victim, 1)
        cluster.kill(victim)
        shutil.copytree(real, old)
        for number in (2, 3):
            cluster.start(victim)
            wait_counted(cluster, victim, number)
            cluster.wait_healthy()
            cluster.kill(victim)
        real.rename(new)
        old.rename(real)
        refused_starts(cluster, victim, 8)
        assert run_true(cluster, rest)
        # One that is made anew under the same id has forgotten more.
        shutil.rmtree(real)
        real.mkdir(mode=0o700)
        refused_starts(cluster, victim, 6)
        shutil.rmtree(real)
        new.rename(real)
        back_to_health(cluster, victim)
        wait_counted(cluster, victim, 4)


def test_crash_loop_starts():
    """kill -9 at every moment of a start: the directory stays the node's last one."""
    with Cluster(agents=1) as cluster:
        victim = cluster.names()[-1]
        first = boot_of(cluster, victim)
        for i in range(10):
            cluster.kill(victim)
            cluster.start(victim)
            if i % 2:
                wait_for("it is counted", lambda: boot_of(cluster, victim) > first + i // 2)
        cluster.kill(victim)
        back_to_health(cluster, victim)
        # Without a quorum no start can be counted, and none is needed.
        for name in others(cluster, victim):
            cluster.kill(name)
        number = boot_of(cluster, victim)
        for _ in range(3):
            cluster.kill(victim)
            seen = len(log_of(cluster, victim))
            cluster.start(victim)
            wait_for("it runs", lambda: "role=candidate" in log_of(cluster, victim)[seen:])
        assert boot_of(cluster, victim) == number
        for name in others(cluster, victim):
            cluster.start(name)
        cluster.wait_healthy(60)
        wait_for("it is counted", lambda: boot_of(cluster, victim) == number + 1)
        assert run_true(cluster)
        cluster.verify()
