"""Watches a cluster during a run: its processes, its state hashes, how its tasks ended.

Everything is read from each node's own view (stale reads), so that a node that differs is seen.
"""

import contextlib
import dataclasses
import pathlib
import threading
import time

import grpc

from harness import TERMINAL, alive, stubs
from workload import Nodes

PAGE = 200
TICK_S = 0.1
STANDSTILL_S = 2


@dataclasses.dataclass(frozen=True)
class Seen:
    """A task as one node holds it."""

    node: str
    task: str
    state: str
    exit_code: int
    stdout_size: int
    stdout_sha: str
    stderr_sha: str
    attempt: int
    version: int
    time: int = 0  # ns, CLOCK_MONOTONIC, after the reply
    late_results: int = 0
    has_tail: bool = False  # the last output is kept with the task
    rest: str = ""  # what else an end fixes for ever

    def outcome(self):
        return (self.state, self.exit_code, self.stdout_size, self.stdout_sha, self.stderr_sha)

    def changes(self):
        """Version at the end, if nothing changed since but late results that were counted."""
        return self.version - self.late_results


@dataclasses.dataclass(frozen=True)
class Hash:
    node: str
    index: int
    hash: str


@dataclasses.dataclass(frozen=True)
class Sample:
    name: str  # n1, a1.link, a1.supervisor
    pid: int
    time: float  # s
    age: float  # s since this process was first seen
    rss_kb: int
    fds: int


def seen_of(node, task):
    r = task.result
    return Seen(
        node=node,
        task=task.id,
        state=stubs()["control"].TaskState.Name(task.state)[5:].lower(),
        exit_code=r.exit_code,
        stdout_size=r.stdout_bytes,
        stdout_sha=r.stdout_sha256.hex(),
        stderr_sha=r.stderr_sha256.hex(),
        attempt=task.attempt,
        version=task.version,
        time=time.monotonic_ns(),
        late_results=task.late_results,
        has_tail=task.has_tail,
        rest=f"signal {r.signal}, {task.started_ms}-{task.finished_ms} {task.reason!r}",
    )


def pages(stub, timeout=10):
    """Lists of tasks, newest first, from this node's own view."""
    control = stubs()["control"]
    token = ""
    while True:
        reply = stub.ListTasks(
            control.ListTasksRequest(
                read=control.ReadOptions(stale=True), limit=PAGE, page_token=token
            ),
            timeout=timeout,
        )
        yield reply.tasks
        token = reply.next_page_token
        if not token:
            return


def hash_of(stub, node):
    """Of a node's state at the index it has applied."""
    reply = stub.GetStatus(stubs()["control"].GetStatusRequest(), timeout=5)
    return Hash(node, reply.applied, reply.state_hash.hex())


def all_tasks(stub, node):
    """{task: Seen} of everything that a node holds."""
    return {t.id: seen_of(node, t) for page in pages(stub) for t in page}


def rss_and_fds(pid):
    """(KiB, count), or None: it is gone."""
    with contextlib.suppress(OSError, StopIteration, ValueError):
        status = pathlib.Path(f"/proc/{pid}/status").read_text()
        rss = next(l.split()[1] for l in status.splitlines() if l.startswith("VmRSS:"))
        return int(rss), len(list(pathlib.Path(f"/proc/{pid}/fd").iterdir()))
    return None


class Observer:
    """start(), stop(); then `ended`, `hashes`, `samples` and the other lists hold what was seen."""

    def __init__(self, cluster, on_purpose, task_every=2, status_every=1, sample_every=5):
        self.cluster, self.on_purpose = cluster, on_purpose
        self.nodes = Nodes(cluster)
        self.stopped = threading.Event()
        self.lock = threading.Lock()
        self.ended = {}  # (node, task): list of different Seen
        self.hashes, self.samples, self.deaths, self.errors = set(), [], [], []
        self.standstills = []  # (begin, end), ns, CLOCK_MONOTONIC
        self.born = {}
        jobs = [(self._sample, sample_every, None)]
        for n in self.nodes.names:
            jobs += [(self._tasks, task_every, n), (self._status, status_every, n)]
        self.threads = [threading.Thread(target=self._loop, args=j, daemon=True) for j in jobs]
        self.threads.append(threading.Thread(target=self._standstills, daemon=True))

    def start(self):
        for t in self.threads:
            t.start()

    def _standstills(self):
        """When nothing ran here, not even this: the machine was stopped, or all of the run was."""
        while not self.stopped.is_set():
            before = time.monotonic_ns()
            self.stopped.wait(TICK_S)
            after = time.monotonic_ns()
            if after - before > STANDSTILL_S * 1e9:
                self.standstills.append((before, after))

    def stop(self):
        self.stopped.set()
        for t in self.threads:
            t.join(60)
        self.nodes.close()

    def _loop(self, job, every, *args):
        while not self.stopped.wait(every):
            try:
                job(*args)
            except grpc.RpcError:
                pass  # that node is down
            except Exception as error:  # shown in the verdict
                self.errors.append(f"{job.__name__}: {error!r}")
                return

    def note(self, seen):
        """Keeps an end that differs from what this node said before. True: nothing new."""
        if seen.state not in TERMINAL:
            return False
        with self.lock:
            known = self.ended.setdefault((seen.node, seen.task), [])
            if any(k.outcome() == seen.outcome() and k.version == seen.version for k in known):
                return True
            known.append(seen)
            return False

    def _tasks(self, node):
        quiet = 0
        for page in pages(self.nodes.stub[node]):
            news = [t for t in page if not self.note(seen_of(node, t))]
            quiet = 0 if news else quiet + 1
            if quiet == 2 or self.stopped.is_set():
                return

    def _status(self, node):
        self.hashes.add(hash_of(self.nodes.stub[node], node))

    # ---- processes --------------------------------------------------------------

    def _sample(self, node=None):
        config = self.cluster.config()
        named = {n["name"]: n["pid"] for n in config["nodes"]}
        for a in config["agents"]:
            named[f"{a['id']}.link"] = a["pid"]
            named[f"{a['id']}.supervisor"] = a["supervisor_pid"]
        now = time.monotonic()
        for name, pid in named.items():
            seen = rss_and_fds(pid)
            if seen is not None:
                age = now - self.born.setdefault((name, pid), now)
                self.samples.append(Sample(name, pid, now, age, *seen))
            elif (name, pid) in self.born and self._died_by_itself(name, pid):
                self.deaths.append(f"{name} (pid {pid}) ended by itself")
                del self.born[name, pid]

    def _died_by_itself(self, name, pid):
        """Not the nemesis's doing, neither now nor when the pids were read."""
        if alive(pid) or name in self.on_purpose():
            return False
        config = self.cluster.config()
        now = {n["name"]: n["pid"] for n in config["nodes"]}
        now.update({f"{a['id']}.link": a["pid"] for a in config["agents"]})
        return now.get(name, pid) == pid
