#!/usr/bin/python3
"""Three real nodes, agents and clients in Python: the paths through nodelinkd that unit tests of
its cores can't show. Run by ctest; NODELINKD names the program."""

import os
import sys
import time
import uuid

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import grpc  # noqa: E402
from nodes import (Cluster, JournalAgent, StockAgent, Watch, command_pb2, control_pb2,  # noqa: E402
                   task_pb2, wait_for)

C = control_pb2


def new_id():
    return "t-" + uuid.uuid4().hex[:10]


def submit(node, agent, cmd="true", task_id=None, within=10, **kw):
    r = node.call("SubmitTask", C.SubmitTaskRequest(
        task_id=task_id or "", spec=command_pb2.TaskSpec(agent_id=agent, cmd=cmd, **kw)), within)
    return r.task_id


def code_of(call):
    try:
        call()
    except grpc.RpcError as e:
        return e.code(), e.details()
    raise AssertionError("no error")


def ended(cluster, task, node=None):
    return wait_for(f"{task} ended", lambda: (t := cluster.task(task, node)).state >= 5 and t)


def connected(cluster, agent):
    return wait_for(f"{agent} connected",
                    lambda: (a := cluster.agent(agent)).connection == C.AGENT_CONNECTED and a)


def stock_agent(cluster):
    owner = cluster.nodes[1]
    agent = StockAgent(owner, "s1", cluster.token("s1"))
    assert connected(cluster, "s1").node == owner.name
    for node in cluster.nodes:
        task = submit(node, "s1", "echo out; echo err >&2; exit 5")
        w = Watch(node, task).wait()
        assert w.out == [b"out\n", b"err\n"] and w.ended and not w.gaps(), (w.out, w.error)
        t = cluster.task(task, node)
        assert (t.state, t.result.exit_code, t.result.stdout_bytes) == (C.TASK_FAILED, 5, 4)
    big = submit(cluster.nodes[2], "s1", "head -c 700000 /dev/zero | tr '\\0' x")
    assert Watch(cluster.nodes[0], big).wait().out[0] == b"x" * 700000
    task = submit(cluster.nodes[2], "s1", "sleep 300")
    wait_for("running", lambda: cluster.task(task).state == C.TASK_RUNNING)
    r = cluster.nodes[0].call("CancelTask", C.CancelTaskRequest(task_id=task, reason="enough"))
    assert r.outcome == C.CancelTaskReply.REQUESTED
    t = ended(cluster, task)
    assert (t.state, t.reason) == (C.TASK_CANCELLED, "enough")
    r = cluster.nodes[0].call("CancelTask", C.CancelTaskRequest(task_id=task))
    assert r.outcome == C.CancelTaskReply.TOO_LATE and r.state == C.TASK_CANCELLED
    timed = submit(cluster.nodes[0], "s1", "sleep 300", timeout_ms=300)
    assert ended(cluster, timed).state == C.TASK_TIMED_OUT
    assert all(r.attempt == 0 and r.epoch == 0 for r in agent.requests)
    agent.close()
    wait_for("disconnected", lambda: cluster.agent("s1").connection != C.AGENT_CONNECTED)


def journal_agent(cluster):
    token = cluster.token("j1", cluster.nodes[2])
    agent = JournalAgent("j1", token).join(cluster.nodes[0])
    task = submit(cluster.nodes[1], "j1", "work")
    wait_for("running", lambda: cluster.task(task).state == C.TASK_RUNNING)
    assert cluster.task(task).pid == 4711
    watches = [Watch(n, task) for n in cluster.nodes]
    agent.write(task, b"hello ")
    wait_for("output everywhere", lambda: all(w.out[0] == b"hello " for w in watches))
    quiet = Watch(cluster.nodes[2], task, no_follow=True).wait()
    assert quiet.out[0] == b"hello " and quiet.ended
    agent.write(task, b"e" * 3000000, 1)
    agent.write(task, b"world")
    agent.finish(task)
    for w in watches:
        w.wait()
        assert (w.out[0], w.out[1] == b"e" * 3000000) == (b"hello world", True) and w.ended
        assert w.states()[-1] == C.TASK_COMPLETED and not w.gaps()
    wait_for("acknowledged", lambda: agent.acks == [task])
    late = Watch(cluster.nodes[1], task, offsets=(6, 2999999)).wait()
    assert late.out == [b"world", b"e"] and late.ended
    agent.leave()
    wait_for("disconnected", lambda: cluster.agent("j1").connection != C.AGENT_CONNECTED)
    r = Watch(cluster.nodes[1], task, no_follow=True).wait()
    assert r.error and r.error[0] == grpc.StatusCode.UNAVAILABLE, r.error


def capacity_and_withdrawal(cluster):
    agent = JournalAgent("c1", cluster.token("c1"), capacity=2).join(cluster.nodes[1])
    tasks = [submit(cluster.nodes[i % 3], "c1", f"job {i}") for i in range(5)]
    wait_for("two started", lambda: len(agent.starts) == 2)
    r = cluster.nodes[0].call("CancelTask", C.CancelTaskRequest(task_id=tasks[3]))
    assert r.outcome in (C.CancelTaskReply.REQUESTED, C.CancelTaskReply.CANCELLED)
    assert ended(cluster, tasks[3]).state == C.TASK_CANCELLED  # though the agent has no room
    for _ in range(4):
        for task in list(agent.starts):
            if not agent.tasks[task]["result"]:
                agent.finish(task)
        time.sleep(0.1)
    for task in tasks:
        ended(cluster, task)
    assert tasks[3] not in agent.starts and sorted(agent.starts) == sorted(
        t for t in tasks if t != tasks[3])
    agent.leave()


def owner_dies(cluster):
    owner = cluster.nodes[2]
    other = cluster.nodes[0]
    agent = JournalAgent("m1", cluster.token("m1")).join(owner)
    task = submit(other, "m1", "long")
    wait_for("started", lambda: agent.starts)
    w = Watch(other, task)
    agent.write(task, b"a" * 100000)
    wait_for("first part", lambda: len(w.out[0]) == 100000)
    owner.kill()
    agent.leave()
    agent.write(task, b"b" * 100000)
    agent.join(cluster.nodes[1])
    wait_for("second part", lambda: len(w.out[0]) == 200000, 30)
    agent.write(task, b"c")
    agent.finish(task)
    w.wait(30)
    assert w.out[0] == b"a" * 100000 + b"b" * 100000 + b"c" and not w.gaps() and w.ended
    assert agent.starts == [task]
    t = cluster.task(task, other)
    assert t.state == C.TASK_COMPLETED and t.attempt == 1
    wait_for("the node is down", lambda: not next(
        m for m in other.status().members if m.id == owner.id).up)
    owner.start()
    wait_for("the node is up again", lambda: all(m.up for m in owner.status().members), 30)
    assert cluster.task(task, owner).state == C.TASK_COMPLETED
    agent.leave()


def replaced(cluster):
    token = cluster.token("r1")
    first = JournalAgent("r1", token).join(cluster.nodes[0])
    second = JournalAgent("r1", token)
    second.epoch = first.epoch
    second.join(cluster.nodes[1])
    wait_for("the first is closed", lambda: first.status)
    assert first.status[0] == grpc.StatusCode.ABORTED and "replaced" in first.status[1]
    cluster.nodes[2].call("RevokeAgentToken", C.RevokeAgentTokenRequest(agent_id="r1"))
    wait_for("the second is closed", lambda: second.status)
    assert second.status[0] == grpc.StatusCode.UNAUTHENTICATED
    again = JournalAgent("r1", token).connect(cluster.nodes[2])
    wait_for("refused", lambda: again.status)
    assert again.status[0] == grpc.StatusCode.UNAUTHENTICATED


def errors(cluster):
    node = cluster.nodes[1]
    S = grpc.StatusCode
    assert code_of(lambda: submit(node, "nobody"))[0] == S.NOT_FOUND
    assert code_of(lambda: submit(node, "a b"))[0] == S.INVALID_ARGUMENT
    assert code_of(lambda: submit(node, "s1", env=["X"]))[0] == S.INVALID_ARGUMENT
    cluster.token("never")
    assert code_of(lambda: submit(node, "never"))[0] == S.FAILED_PRECONDITION
    task = new_id()
    submit(node, "never", task_id=task, wait_for_agent_ms=600)
    submit(cluster.nodes[2], "never", task_id=task, wait_for_agent_ms=600)
    assert code_of(lambda: submit(node, "never", "x", task_id=task))[0] == S.ALREADY_EXISTS
    t = ended(cluster, task)
    assert t.state == C.TASK_FAILED and "did not connect" in t.reason
    w = Watch(node, task).wait()
    assert w.ended and w.states() == [C.TASK_FAILED]
    assert code_of(lambda: cluster.task(new_id()))[0] == S.NOT_FOUND
    r = node.call("ListTasks", C.ListTasksRequest(limit=3))
    assert len(r.tasks) == 3 and r.next_page_token
    seen, page = [], ""
    while True:
        r = node.call("ListTasks", C.ListTasksRequest(limit=3, page_token=page))
        seen += [t.id for t in r.tasks]
        page = r.next_page_token
        if not page:
            break
    assert len(seen) == len(set(seen)) and task in seen


def drained(cluster):
    """SIGTERM: agents are told to move, the program exits with 0, tasks go on."""
    leader = wait_for("leader", lambda: next(
        (n for n in cluster.nodes if n.status().role == "leader"), None))
    others = [n for n in cluster.nodes if n is not leader]
    agent = JournalAgent("d1", cluster.token("d1")).join(leader)
    task = submit(leader, "d1", "x")
    wait_for("started", lambda: agent.starts)
    start = time.monotonic()
    leader.process.terminate()
    wait_for("it is told to move", lambda: agent.drained or agent.status)
    agent.leave()
    agent.join(others[0])
    agent.finish(task)
    assert ended(cluster, task, others[1]).state == C.TASK_COMPLETED
    assert leader.process.wait(30) == 0 and time.monotonic() - start < 15
    leader.start()
    agent.leave()


def no_quorum(cluster):
    survivor, *rest = cluster.nodes
    agent = JournalAgent("q1", cluster.token("q1")).join(survivor)
    for node in rest:
        node.kill()
    wait_for("no leader", lambda: not survivor.status().leader_id)
    code, text = code_of(lambda: submit(survivor, "q1", within=2))
    assert code == grpc.StatusCode.UNAVAILABLE and text.startswith(("failed: no quorum",
                                                                    "unknown: ")), text
    code, text = code_of(lambda: survivor.call("GetAgent", C.GetAgentRequest(agent_id="q1"), 2))
    assert code == grpc.StatusCode.UNAVAILABLE and text.startswith("failed: no quorum"), text
    r = survivor.call("GetAgent", C.GetAgentRequest(agent_id="q1", read=C.ReadOptions(stale=True)))
    assert r.header.stale and r.agent.id == "q1"
    wait_for("the agent is sent away", lambda: agent.status)
    assert agent.status[0] == grpc.StatusCode.UNAVAILABLE
    for node in rest:
        node.start()
    wait_for("quorum", lambda: all(m.up for m in survivor.status().members), 30)
    agent.join(survivor)
    agent.leave()


def verify(cluster):
    def equal():
        replies = [n.status() for n in cluster.nodes]
        return len({(r.applied, r.state_hash) for r in replies}) == 1
    wait_for("equal state", equal)


STEPS = [stock_agent, journal_agent, capacity_and_withdrawal, owner_dies, replaced, errors, drained,
         no_quorum, verify]


def main():
    wanted = sys.argv[1:]
    with Cluster(extra="leaderless-grace = 1s\nunreachable-after = 1s\ndisconnect-grace = 3s\n"
                       "agent-ping-interval = 1s\n") as cluster:
        for step in STEPS:
            if not wanted or step.__name__ in wanted:
                start = time.monotonic()
                step(cluster)
                print(f"{step.__name__}: ok, {time.monotonic() - start:.1f} s", flush=True)


if __name__ == "__main__":
    main()
