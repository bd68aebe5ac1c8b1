"""P4: reads are linearizable on every node: cut off, deposed, under load, whatever was asked."""

import pathlib
import sys
import threading
import time

import grpc
import pytest

import partition
from harness import SLOW, new_id, stubs, wait_for

sys.path.append(str(pathlib.Path(__file__).resolve().parent.parent.parent / "jepsen"))

import checkers  # noqa: E402
import evidence  # noqa: E402
import history  # noqa: E402
import runner  # noqa: E402
import workload  # noqa: E402

ANSWER_S = 1.0
# What a node may say instead of an answer.
REFUSALS = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


@pytest.fixture
def net_cluster():
    cluster, net = partition.cluster_with_net(agents=1)
    failed = True
    try:
        yield cluster, net
        failed = False
    finally:
        net.heal()
        cluster.close(failed=failed)
        net.close()


class Writer:
    """Submits one task after the other through the given nodes; `known` is the last acknowledged.

    The tasks wait for an agent that never comes, so that nothing but the log moves.
    """

    def __init__(self, cluster, names):
        self.cluster, self.names, self.known = cluster, names, None
        self.count, self.stopped, self.error = 0, threading.Event(), None
        assert cluster.nl("agent", "token", "create", "ghost").returncode == 0
        self.thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self):
        self.thread.start()
        self.more(1)
        return self

    def __exit__(self, *_):
        self.stopped.set()
        self.thread.join(30)
        assert self.error is None, self.error

    def more(self, count):
        """Waits until that many more writes are acknowledged."""
        want = self.count + count
        wait_for(f"{count} more writes", lambda: self.error or self.count >= want)

    def _run(self):
        control, command = stubs()["control"], stubs()["command"]
        opened = {n: self.cluster.stub(n, options=workload.CHANNEL) for n in self.names}
        spec = command.TaskSpec(agent_id="ghost", cmd="true", wait_for_agent_ms=3600000)
        while not self.stopped.is_set():
            task = new_id()
            node = self.names[self.count % len(self.names)]
            try:
                request = control.SubmitTaskRequest(task_id=task, spec=spec)
                reply = opened[node][0].SubmitTask(request, timeout=ANSWER_S)
                self.known = (task, reply.header.index)
                self.count += 1
            except grpc.RpcError as error:
                if error.code() not in REFUSALS:
                    self.error = f"{error.code()}: {error.details()}"
                    return
            self.stopped.wait(0.01)  # the pace of writes
        for _, channel in opened.values():
            channel.close()


class Reader:
    """Asks one node again and again, in every way; no answer may be older than what was
    acknowledged before the question."""

    def __init__(self, cluster, name, writer):
        self.cluster, self.name, self.writer = cluster, name, writer
        self.answers, self.refusals, self.old = 0, 0, []
        self.stopped = threading.Event()
        kinds = (self._task, self._tasks, self._agent, self._agents, self._watch)
        self.threads = [threading.Thread(target=self._run, args=(k,), daemon=True) for k in kinds]

    def __enter__(self):
        for t in self.threads:
            t.start()
        return self

    def __exit__(self, kind, *_):
        self.stopped.set()
        for t in self.threads:
            t.join(30)
        if kind is None:
            assert not self.old, f"{len(self.old)} old answers of {self.name}: {self.old[:5]}"

    def more(self, field, count):
        """Waits for that many more `answers` or `refusals`."""
        want = getattr(self, field) + count
        wait_for(f"{count} more {field}", lambda: self.old or getattr(self, field) >= want)
        assert not self.old, f"{len(self.old)} old answers of {self.name}: {self.old[:5]}"

    def _run(self, ask):
        client, channel = self.cluster.stub(self.name, options=workload.CHANNEL)
        while not self.stopped.is_set():
            task, index = self.writer.known
            try:
                seen, what = ask(client, task)
                self.answers += 1
                if seen < index:
                    self.old.append(f"{what}: index {seen}, {index} was acknowledged")
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.NOT_FOUND:
                    self.old.append(f"{ask.__name__}: {task} not found, but acknowledged")
                elif error.code() not in REFUSALS:
                    self.old.append(f"{ask.__name__}: {error.code()} {error.details()}")
                self.refusals += 1
            self.stopped.wait(0.002)
        channel.close()

    def _task(self, client, task):
        reply = client.GetTask(stubs()["control"].GetTaskRequest(task_id=task), timeout=ANSWER_S)
        assert not reply.header.stale and reply.task.id == task
        return reply.header.index, "GetTask"

    def _tasks(self, client, task):
        reply = client.ListTasks(stubs()["control"].ListTasksRequest(limit=200), timeout=ANSWER_S)
        found = task in [t.id for t in reply.tasks]
        return reply.header.index if found else 0, "ListTasks"

    def _agent(self, client, task):
        request = stubs()["control"].GetAgentRequest(agent_id="ghost")
        return client.GetAgent(request, timeout=ANSWER_S).header.index, "GetAgent"

    def _agents(self, client, task):
        request = stubs()["control"].ListAgentsRequest()
        return client.ListAgents(request, timeout=ANSWER_S).header.index, "ListAgents"

    def _watch(self, client, task):
        request = stubs()["control"].WatchTaskRequest(task_id=task, no_follow=True)
        events = client.WatchTask(request, timeout=ANSWER_S)
        first = next(iter(events))
        events.cancel()
        return first.header.index, "WatchTask"


def others(cluster, name):
    return [n for n in cluster.names() if n != name]


def stale_index(cluster, name):
    """Of an answer that was asked to be old."""
    control = stubs()["control"]
    client, channel = cluster.stub(name)
    read = control.ReadOptions(stale=True)
    reply = client.GetAgent(control.GetAgentRequest(agent_id="ghost", read=read), timeout=5)
    channel.close()
    assert reply.header.stale
    return reply.header.index


@pytest.mark.parametrize("inward,outward", [(True, True), (True, False), (False, True)])
def test_follower_cut_off(net_cluster, inward, outward):
    """Cut off both ways or one way: no old answer, but on request, and then it is labelled."""
    cluster, net = net_cluster
    leader = partition.leader_among(cluster, cluster.names())
    follower = others(cluster, leader)[0]
    with Writer(cluster, others(cluster, follower)) as writer:
        with Reader(cluster, follower, writer) as reader:
            reader.more("answers", 20)
            net.isolate(follower, inward, outward)
            writer.more(50)
            reader.more("refusals", 5)
            if inward:  # the cut had an effect: this node is behind
                assert stale_index(cluster, follower) < writer.known[1]
            net.heal()
            reader.more("answers", 20)


def test_deposed_leader_cut_off(net_cluster):
    """The leader is cut off; the others elect one and go on; the old one still believes."""
    cluster, net = net_cluster
    for _ in range(3):
        old = partition.leader_among(cluster, cluster.names())
        rest = others(cluster, old)
        with Writer(cluster, rest) as writer, Reader(cluster, old, writer) as reader:
            reader.more("answers", 20)
            net.isolate(old)
            partition.leader_among(cluster, rest)
            writer.more(20)
            assert stale_index(cluster, old) < writer.known[1]
            reader.more("refusals", 5)
            net.heal()
            reader.more("answers", 20)


def test_deposed_leader_was_paused(net_cluster):
    """The leader is stopped across an election, and asked before it runs on: it wakes as leader."""
    cluster, _ = net_cluster
    control = stubs()["control"]
    for _ in range(3):
        old = partition.leader_among(cluster, cluster.names())
        client, channel = cluster.stub(old)
        client.GetStatus(control.GetStatusRequest())
        assert cluster.local("pause", old).returncode == 0
        try:
            with Writer(cluster, others(cluster, old)) as writer:
                partition.leader_among(cluster, others(cluster, old))
                writer.more(5)
                task, index = writer.known
                asked = [client.ask("GetTask", control.GetTaskRequest(task_id=task))]
                asked += [client.ask("ListAgents", control.ListAgentsRequest()) for _ in range(20)]
                time.sleep(0.2)  # the questions lie in the node's socket when it wakes
        finally:
            assert cluster.local("resume", old).returncode == 0
        for future in asked:
            try:
                assert future.result().header.index >= index
            except grpc.RpcError as error:
                assert error.code() in REFUSALS, error
        channel.close()
        cluster.wait_healthy()


def reads(ops):
    return sum(op.f == "read" and op.type == history.OK for op in ops.ops)


def test_never_backwards_under_load_and_leader_change(net_cluster, tmp_path):
    """Clients of all nodes, while one leader after the other is cut off."""
    cluster, net = net_cluster
    journal = tmp_path / "journal"
    journal.touch()
    ops = history.History()

    def command(task):
        return [str(runner.TASK), str(journal), task]

    # Whoever asks the node that is cut off asks another one soon.
    load = workload.Tasks(
        cluster, ops, command, 40 / SLOW, "reads", read_rate=200, patience=ANSWER_S / 10
    )
    run = checkers.Run(took_effect={"partition": 0}, gap_limit_s=float("inf"))
    load.start()
    for _ in range(3):
        old = partition.leader_among(cluster, cluster.names())
        net.isolate(old)
        new = partition.leader_among(cluster, others(cluster, old))
        run.took_effect["partition"] += new != old
        before = reads(ops)
        wait_for("reads under the new leader", lambda: reads(ops) > before + 30)
        net.heal()
        cluster.wait_healthy()
    load.stop()
    run.harness_errors = load.errors
    runner.final_reads(cluster, run)
    run.ops, run.journal = list(ops.ops), evidence.read(journal)
    judged = checkers.judge(run)
    assert judged["valid"] is True, judged
    assert judged["reads"]["reads"] > 100
