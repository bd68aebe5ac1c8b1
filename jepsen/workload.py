"""Clients of a run: they submit tasks through all nodes, read their output and their state.

A workload is an object with start(), stop() and the history that it was given. What it learns goes
into the history only; checkers.py judges it.
"""

import collections
import dataclasses
import hashlib
import itertools
import random
import threading
import time

import grpc

import evidence
from harness import SLOW, stubs
from history import FAIL, INFO, OK, Client

# What a client must expect of a cluster whose nodes die. Anything else is a defect.
EXPECTED_CODES = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "CANCELLED", "RESOURCE_EXHAUSTED", "UNKNOWN"}
CHANNEL = [
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 500),
]
CALL_S = 10
STREAM_S = 30
SUBMIT_TRIES = 20
WATCH_S = 90
RECENT = 200
READERS = 3


@dataclasses.dataclass(frozen=True)
class Kind:
    """prefix: of the tasks' ids; task.c makes the output by it. insist: what certainly did not
    happen is asked for again, too. again: this share of outputs is read once more after the end."""

    prefix: str = "k"
    insist: bool = False
    again: float = 0.0


TIMED = Kind()
COUNTED = Kind(prefix="drip-", insist=True, again=0.25)


def error_of(error):
    """(type of the end, fields): P13 says which errors mean that nothing happened."""
    code, text = error.code().name, error.details() or ""
    kind = FAIL if text.startswith("failed:") or code not in EXPECTED_CODES else INFO
    return kind, {"code": code, "text": text[:200]}


class Pace:
    """Gives out turns at a rate, to any thread; a turn that nobody takes in time is dropped."""

    def __init__(self, rate, stopped, count=None):
        self.rate, self.stopped, self.left = rate, stopped, count
        self.lock = threading.Lock()
        self.next = time.monotonic()

    def turn(self):
        """False: stopped, or all turns were given."""
        with self.lock:
            if self.left is not None:
                if self.left == 0:
                    return False
                self.left -= 1
            self.next = max(self.next + 1 / self.rate, time.monotonic() - 1)
            at = self.next
        return not self.stopped.wait(max(0, at - time.monotonic()))


class Nodes:
    """A stub of each node, shared by the clients."""

    def __init__(self, cluster):
        self.names = cluster.names()
        opened = {n: cluster.stub(n, options=CHANNEL) for n in self.names}
        self.stub = {n: s for n, (s, _) in opened.items()}
        self.channels = [c for _, c in opened.values()]

    def close(self):
        for channel in self.channels:
            channel.close()


class Tasks:
    """Submits at a rate through random nodes to random agents, and reads each one's output.

    command(task): argv of the task. `count`: how many submits; None: until stop. Reads of recent
    tasks go on beside, at read_rate. `patience` stretches the deadlines of the calls.
    """

    def __init__(
        self,
        cluster,
        history,
        command,
        rate,
        seed,
        clients=24,
        count=None,
        read_rate=20,
        patience=1.0,
        kind=TIMED,
    ):
        self.history, self.command, self.seed = history, command, seed
        self.count, self.kind = count, kind
        self.call_s, self.stream_s = CALL_S * patience, STREAM_S * patience
        self.agents = [a["id"] for a in cluster.config()["agents"]]
        self.nodes = Nodes(cluster)
        self.stopped = threading.Event()
        self.numbers = itertools.count()
        self.recent = collections.deque(maxlen=RECENT)
        self.errors = []  # of the harness itself
        self.pace, read_pace = Pace(rate, self.stopped, count), Pace(read_rate, self.stopped)
        self.submitters = [self._thread(self._submitter, self.pace, i) for i in range(clients)]
        self.readers = [self._thread(self._reader, read_pace, i) for i in range(READERS)]

    def _thread(self, target, pace, i):
        rng = random.Random(f"{self.seed} {target.__name__} {i}")

        def run():
            try:
                client = Client(self.history)
                while pace.turn():
                    target(client, rng)
            except Exception as error:  # shown in the verdict: the run proves nothing then
                self.errors.append(f"{target.__name__}: {error!r}")

        return threading.Thread(target=run, daemon=True)

    def start(self):
        for t in self.submitters + self.readers:
            t.start()

    def busy(self, seconds):
        """Waits so long at most; False: all of `count` are done."""
        end = time.monotonic() + seconds
        for t in self.submitters:
            t.join(max(0, end - time.monotonic()))
        return any(t.is_alive() for t in self.submitters)

    def left(self):
        return self.pace.left

    def finish(self):
        """Waits until all of `count` are done."""
        self._join(self.submitters)
        self.stop()

    def stop(self):
        """Lets what was begun come to its end."""
        self.stopped.set()
        self._join(self.submitters + self.readers)
        self.nodes.close()

    def _join(self, threads):
        for t in threads:
            t.join(SLOW * (SUBMIT_TRIES * CALL_S + WATCH_S))
            if t.is_alive():
                self.errors.append("a client does not end")

    # ---- submit ---------------------------------------------------------------

    def _submitter(self, client, rng):
        task = f"{self.kind.prefix}{self.seed}-{next(self.numbers)}"
        pb = stubs()["command"]
        spec = pb.TaskSpec(
            agent_id=rng.choice(self.agents), argv=self.command(task), wait_for_agent_ms=60000
        )
        # Unknown: again under the same id (P8), through any node.
        for _ in range(SUBMIT_TRIES):
            end = self._submit(client, rng.choice(self.nodes.names), task, spec)
            if end == OK:
                self.recent.append(task)
                self._watch(client, rng, task)
                if self.kind.again > 0 and rng.random() < self.kind.again:
                    self._watch(client, rng, task)
            if end == OK or (end == FAIL and not self.kind.insist):
                return
            time.sleep(0.1)  # the pace of a client's retries

    def _submit(self, client, node, task, spec):
        control = stubs()["control"]
        fields = {"task": task, "node": node, "agent": spec.agent_id}
        client.invoke("submit", **fields)
        try:
            reply = self.nodes.stub[node].SubmitTask(
                control.SubmitTaskRequest(task_id=task, spec=spec), timeout=self.call_s
            )
        except grpc.RpcError as error:
            kind, more = error_of(error)
            client.end(kind, "submit", **fields, **more)
            return kind
        seen = {"index": reply.header.index, "term": reply.header.term, "existed": reply.existed}
        client.end(OK, "submit", **fields, **seen)
        return OK

    # ---- output ---------------------------------------------------------------

    def _watch(self, client, rng, task):
        """Reads both streams to their ends, at another node from the same offset after an error."""
        client.invoke("watch", task=task)
        out = Received(task)
        end = time.monotonic() + WATCH_S * SLOW
        nodes = rng.sample(self.nodes.names, len(self.nodes.names))
        while not out.ended and time.monotonic() < end:
            nodes = nodes[1:] + nodes[:1]
            if not self._watch_once(nodes[0], task, out):
                out.resumed += 1
                time.sleep(0.1)  # the pace of a client's retries
        client.end(OK if out.ended else INFO, "watch", task=task, **out.fields())

    def _watch_once(self, node, task, out):
        control = stubs()["control"]
        request = control.WatchTaskRequest(
            task_id=task,
            output=True,
            stdout_offset=out.offset["stdout"],
            stderr_offset=out.offset["stderr"],
        )
        try:
            for event in self.nodes.stub[node].WatchTask(request, timeout=self.stream_s):
                out.take(event)
        except grpc.RpcError as error:
            kind, more = error_of(error)
            if kind == FAIL and not more["text"].startswith("failed:"):
                out.unexpected.append(f"{more['code']}: {more['text']}")
            return False
        return out.ended

    # ---- read -----------------------------------------------------------------

    def _reader(self, client, rng):
        control = stubs()["control"]
        if not self.recent:
            return
        fields = {"task": rng.choice(self.recent), "node": rng.choice(self.nodes.names)}
        client.invoke("read", **fields)
        try:
            reply = self.nodes.stub[fields["node"]].GetTask(
                control.GetTaskRequest(task_id=fields["task"]), timeout=self.call_s
            )
        except grpc.RpcError as error:
            kind, more = error_of(error)
            if more["code"] == "NOT_FOUND":
                client.end(OK, "read", **fields, found=False, version=0, index=0)
            else:
                # A read changes nothing: whatever the error, it has no effect.
                unexpected = kind == FAIL and not more["text"].startswith("failed:")
                client.end(FAIL, "read", **fields, **more, unexpected=unexpected)
            return
        client.end(
            OK,
            "read",
            **fields,
            found=True,
            version=reply.task.version,
            index=reply.header.index,
            stale=reply.header.stale,
            state=control.TaskState.Name(reply.task.state)[5:].lower(),
        )


class Received:
    """Output as it came: offsets must follow each other without a gap, and each byte must be the
    one that the command wrote there."""

    def __init__(self, task):
        want = evidence.expected(task)
        self.want = {
            "stdout": evidence.stream(task, "out", want.stdout_size),
            "stderr": evidence.stream(task, "err", want.stderr_size),
        }
        self.offset = {"stdout": 0, "stderr": 0}
        self.sha = {"stdout": hashlib.sha256(), "stderr": hashlib.sha256()}
        self.gaps, self.skips, self.wrong, self.unexpected = [], [], [], []
        self.resumed, self.ended = 0, False

    def take(self, event):
        for name in ("stdout", "stderr"):
            data, at = getattr(event, name), getattr(event, f"{name}_offset")
            if data:
                self._data(name, data, at)
        if event.HasField("gap"):
            self.gaps.append(event.gap.reason)
        self.ended = self.ended or event.end

    def _data(self, name, data, at):
        if at != self.offset[name]:
            self.skips.append(f"{name}: {at} after {self.offset[name]}")
        if data != self.want[name][at : at + len(data)]:
            self.wrong.append(f"{name}: {len(data)} bytes at {at}")
        self.sha[name].update(data)
        self.offset[name] = at + len(data)

    def fields(self):
        return {
            "stdout": self.sha["stdout"].hexdigest(),
            "stderr": self.sha["stderr"].hexdigest(),
            "bytes": sum(self.offset.values()),
            "wrong": self.wrong,
            "gaps": self.gaps,
            "skips": self.skips,
            "unexpected": self.unexpected,
            "resumed": self.resumed,
        }
