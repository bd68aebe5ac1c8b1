"""WatchTask with stale: begins without the leader, never older than min_index, and says so (P4)."""

import pytest

from harness import Cluster, new_id, stubs, wait_for


@pytest.fixture(scope="module")
def cluster():
    with Cluster(nodes=3, agents=1) as c:
        yield c


def submit(cluster, node, cmd):
    pb, command = stubs()["control"], stubs()["command"]
    stub, channel = cluster.stub(node)
    request = pb.SubmitTaskRequest(task_id=new_id(), spec=command.TaskSpec(agent_id="a1", cmd=cmd))
    reply = stub.SubmitTask(request)
    channel.close()
    return reply


def watch(cluster, node, task_id, **fields):
    stub, channel = cluster.stub(node)
    request = stubs()["control"].WatchTaskRequest(task_id=task_id, output=True, **fields)
    events = list(stub.WatchTask(request, timeout=30))
    channel.close()
    return events


def test_follows_its_own_submit(cluster):
    """Submitted at one node, followed at each: none has forgotten it, all see the end."""
    for at in cluster.names():
        for node in cluster.names():
            reply = submit(cluster, at, "echo out; exit 4")
            events = watch(cluster, node, reply.task_id, stale=True, min_index=reply.header.index)
            assert all(e.header.stale for e in events)
            assert events[0].header.index >= reply.header.index
            assert b"".join(e.stdout for e in events) == b"out\n"
            assert events[-1].end
            assert [e.task.result.exit_code for e in events if e.HasField("task")][-1] == 4


def test_label_only_when_asked(cluster):
    reply = submit(cluster, cluster.leader(), "true")
    assert not any(e.header.stale for e in watch(cluster, cluster.leader(), reply.task_id))


def test_needs_no_quorum(cluster):
    """What it is for: no round to the leader. Last: it stops two nodes."""
    reply = submit(cluster, cluster.leader(), "true")
    cluster.wait_task(reply.task_id)
    keep = cluster.names()[0]
    wait_for(
        "the node that stays has applied it",
        lambda: watch(cluster, keep, reply.task_id, stale=True)[-1].end,
    )
    for name in cluster.names()[1:]:
        cluster.kill(name)
    events = watch(cluster, keep, reply.task_id, stale=True, min_index=reply.header.index)
    assert events[0].task.id == reply.task_id
    assert events[0].header.stale
