"""SubmitTasks: many submits on one stream, each with an answer of its own."""

import os
import queue
import signal
import threading

import grpc
import pytest

from harness import Cluster, new_id, stubs, wait_for

OK, INVALID, NOT_FOUND, EXISTS = 0, 3, 5, 6


@pytest.fixture(scope="module")
def cluster():
    with Cluster(nodes=3, agents=1) as c:
        yield c


class Stream:
    """Requests go out as they are put; answers are collected."""

    def __init__(self, cluster, node, token=None):
        m = stubs()
        self.pb = m["control"]
        self.command = m["command"]
        self.channel = grpc.insecure_channel(cluster.addr(node))
        stub = m["control_grpc"].ControlServiceStub(self.channel)
        token = cluster.env["NODELINK_TOKEN"] if token is None else token
        self.requests = queue.SimpleQueue()
        self.call = stub.SubmitTasks(
            iter(self.requests.get, None), metadata=(("authorization", f"Bearer {token}"),)
        )
        self.answers = {}
        self.count = 0
        self.error = None
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        try:
            for answer in self.call:
                self.answers.setdefault(answer.task_id, []).append(answer)
                self.count += 1
        except grpc.RpcError as e:
            self.error = e

    def submit(self, task_id, agent="a1", cmd="true", wait_ms=0):
        spec = self.command.TaskSpec(agent_id=agent, cmd=cmd, wait_for_agent_ms=wait_ms)
        self.requests.put(self.pb.SubmitTaskRequest(task_id=task_id, spec=spec))

    def wait(self, n, seconds=60):
        wait_for(f"{n} answers, {self.count} came", lambda: self.count >= n, seconds)

    def end(self):
        self.requests.put(None)
        self.thread.join(30)
        assert not self.thread.is_alive()
        self.channel.close()
        assert self.error is None, self.error


def other_than_leader(cluster):
    leader = cluster.leader()
    return next(n for n in cluster.names() if n != leader)


def test_each_request_has_its_answer(cluster):
    """P1, P8, P13: the same outcomes as SubmitTask's, one answer for each request."""
    node = other_than_leader(cluster)
    assert cluster.nl("agent", "token", "create", "absent").returncode == 0
    s = Stream(cluster, node)
    ids = [new_id() for _ in range(3000)]
    for task_id in ids:
        s.submit(task_id, agent="absent", wait_ms=600000)
    s.wait(len(ids))
    assert sorted(s.answers) == sorted(ids)
    assert all(len(a) == 1 and a[0].code == OK for a in s.answers.values())
    assert max(a[0].reply.header.index for a in s.answers.values()) > 0
    for task_id in (ids[0], ids[-1]):
        assert cluster.task(task_id)["state"] == "pending"

    s.submit(ids[0], agent="absent", wait_ms=600000)  # again: the same task
    s.wait(len(ids) + 1)
    assert s.answers[ids[0]][1].code == OK and s.answers[ids[0]][1].reply.existed
    s.submit(ids[0], agent="absent", cmd="false", wait_ms=600000)
    s.wait(len(ids) + 2)
    assert s.answers[ids[0]][2].code == EXISTS
    s.submit("unknown-agent-task", agent="nobody")
    s.submit("no-command", cmd="")
    s.submit("", cmd="true")
    s.wait(len(ids) + 5)
    assert s.answers["unknown-agent-task"][0].code == NOT_FOUND
    assert s.answers["no-command"][0].code == INVALID and s.answers["no-command"][0].error
    assert s.answers[""][0].code == INVALID
    # The stream survives all of that; a task on it runs like any other.
    good = new_id()
    s.submit(good, cmd="exit 3")
    s.wait(len(ids) + 6)
    assert s.answers[good][0].code == OK
    assert cluster.wait_task(good)["exit_code"] == 3
    s.end()
    assert s.call.code() == grpc.StatusCode.OK


def test_half_close_waits_for_answers(cluster):
    s = Stream(cluster, cluster.leader())
    ids = [new_id() for _ in range(500)]
    for task_id in ids:
        s.submit(task_id, agent="absent", wait_ms=600000)
    s.end()  # right behind the last request
    assert sorted(s.answers) == sorted(ids)


def test_credential(cluster):
    s = Stream(cluster, cluster.leader(), token="wrong")
    s.thread.join(30)
    assert s.error.code() == grpc.StatusCode.UNAUTHENTICATED


def test_cancelled_stream_leaves_the_node_well(cluster):
    """What was under way happens or not; the node goes on. Nothing is freed too early (ASan)."""
    node = other_than_leader(cluster)
    for _ in range(20):
        s = Stream(cluster, node)
        ids = [new_id() for _ in range(200)]
        for task_id in ids:
            s.submit(task_id, agent="absent", wait_ms=600000)
        s.wait(1)
        s.call.cancel()
        s.requests.put(None)
        s.thread.join(30)
        s.channel.close()
    last = Stream(cluster, node)
    last.submit(new_id(), agent="absent", wait_ms=600000)
    last.wait(1)
    last.end()
    cluster.verify()


def test_node_stops_under_a_stream(cluster):
    """A node that stops ends the stream at once and says what that means. Last: it stops a node."""
    node = other_than_leader(cluster)
    s = Stream(cluster, node)
    s.submit(new_id(), agent="absent", wait_ms=600000)
    s.wait(1)
    pid = cluster.node(node)["pid"]
    os.kill(pid, signal.SIGTERM)
    s.thread.join(30)
    assert s.error.code() == grpc.StatusCode.UNAVAILABLE
    assert s.error.details().startswith("unknown: ")
    s.requests.put(None)
