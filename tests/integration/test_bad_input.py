"""Bad input gets a clear error and loses nothing; nobody else notices."""

import json
import socket
import subprocess
import time

import grpc
import pytest

from harness import BIN, SLOW, Cluster, JsonProcess, new_id, stubs, wait_for

CODE = grpc.StatusCode


def code_of(call):
    with pytest.raises(grpc.RpcError) as e:
        call()
    return e.value.code(), e.value.details()


@pytest.fixture(scope="module")
def control():
    return stubs()["control"]


def spec(agent="a1", cmd="true", **kw):
    return stubs()["command"].TaskSpec(agent_id=agent, cmd=cmd, **kw)


def test_unknown_agent_is_not_found_and_nothing_is_stored(shared, control):
    client, _ = shared.stub("n1")
    task = new_id()
    code, text = code_of(
        lambda: client.SubmitTask(control.SubmitTaskRequest(task_id=task, spec=spec("nobody")))
    )
    assert code == CODE.NOT_FOUND and "nobody" in text
    assert (
        code_of(lambda: client.GetTask(control.GetTaskRequest(task_id=task)))[0] == CODE.NOT_FOUND
    )
    r = shared.nl("run", "nobody", "--", "true")
    assert r.returncode == 126 and "nobody" in r.stderr


@pytest.mark.parametrize("token", ["", "wrong", "x" * 4000])
def test_wrong_or_missing_token(shared, control, token):
    """P14: every method refuses, and says nothing about what exists."""
    client, _ = shared.stub("n1", token=token)
    calls = [
        lambda: client.SubmitTask(control.SubmitTaskRequest(task_id=new_id(), spec=spec())),
        lambda: client.GetTask(control.GetTaskRequest(task_id="x")),
        lambda: client.ListTasks(control.ListTasksRequest()),
        lambda: client.CancelTask(control.CancelTaskRequest(task_id="x")),
        lambda: client.GetAgent(control.GetAgentRequest(agent_id="a1")),
        lambda: client.ListAgents(control.ListAgentsRequest()),
        lambda: client.CreateAgentToken(control.CreateAgentTokenRequest(agent_id="evil")),
        lambda: client.RevokeAgentToken(control.RevokeAgentTokenRequest(agent_id="a1")),
        lambda: client.GetStatus(control.GetStatusRequest()),
        lambda: list(client.WatchTask(control.WatchTaskRequest(task_id="x"))),
    ]
    for call in calls:
        assert code_of(call)[0] == CODE.UNAUTHENTICATED


def test_peer_service_needs_its_credential(shared):
    m = stubs()
    channel = grpc.insecure_channel(shared.addr("n1"))
    peer = m["peer_grpc"].PeerServiceStub(channel)
    request = m["peer"].PeerRequest(id=1, read_index=m["peer"].ReadIndex())
    for metadata in ((), (("nodelink-peer", "2"), ("nodelink-peer-auth", "00" * 32))):
        with pytest.raises(grpc.RpcError) as e:
            list(peer.Link(iter([request]), metadata=metadata, timeout=10))
        assert e.value.code() == CODE.UNAUTHENTICATED


@pytest.mark.parametrize(
    "bad",
    [
        dict(task_id="-x"),
        dict(task_id="a/b"),
        dict(task_id="../../etc"),
        dict(task_id="x" * 129),
        dict(task_id="a b"),
    ],
)
def test_bad_ids_are_refused(shared, control, bad):
    client, _ = shared.stub("n2")
    assert (
        code_of(lambda: client.SubmitTask(control.SubmitTaskRequest(spec=spec(), **bad)))[0]
        == CODE.INVALID_ARGUMENT
    )


@pytest.mark.parametrize(
    "kw",
    [
        dict(cmd=""),
        dict(env=["NOEQUALS"]),
        dict(env=["=x"]),
        dict(agent="a/1"),
        dict(agent=""),
        dict(cmd="true", working_dir="relative/dir"),
    ],
)
def test_bad_specs_are_refused(shared, control, kw):
    client, _ = shared.stub("n3")
    assert (
        code_of(
            lambda: client.SubmitTask(control.SubmitTaskRequest(task_id=new_id(), spec=spec(**kw)))
        )[0]
        == CODE.INVALID_ARGUMENT
    )


def raw(shared, node, method, data):
    """Calls a method with bytes as they are."""
    channel = grpc.insecure_channel(
        shared.addr(node), options=[("grpc.max_send_message_length", -1)]
    )
    call = channel.unary_unary(
        method, request_serializer=lambda b: b, response_deserializer=lambda b: b
    )
    try:
        return call(
            data,
            timeout=15,
            metadata=(("authorization", f"Bearer {shared.env['NODELINK_TOKEN']}"),),
        )
    finally:
        channel.close()


SUBMIT = "/nodelink.v1.ControlService/SubmitTask"


def test_malformed_message(shared):
    assert (
        code_of(lambda: raw(shared, "n1", SUBMIT, b"\xff\xff\xff\xff"))[0] == CODE.INVALID_ARGUMENT
    )


def test_invalid_utf8(shared):
    assert (
        code_of(lambda: raw(shared, "n1", SUBMIT, b"\x0a\x02\xff\xfe"))[0] == CODE.INVALID_ARGUMENT
    )


def test_oversized_message(shared):
    code, _ = code_of(
        lambda: raw(shared, "n1", SUBMIT, b"\x0a" + b"\x80\x80\x80\x08" + b"x" * (16 << 20))
    )
    assert code in (CODE.INVALID_ARGUMENT, CODE.RESOURCE_EXHAUSTED)


def test_unknown_method(shared):
    assert (
        code_of(lambda: raw(shared, "n1", "/nodelink.v1.ControlService/Nothing", b""))[0]
        == CODE.UNIMPLEMENTED
    )


def agent_stream(shared, node, metadata, frames):
    channel = grpc.insecure_channel(shared.addr(node))
    call = channel.stream_stream(
        "/nodelink.v1.TaskService/StreamTasks",
        request_serializer=lambda b: b,
        response_deserializer=lambda b: b,
    )
    try:
        for _ in call(iter(frames), metadata=metadata, timeout=15):
            pass
        return CODE.OK, ""
    except grpc.RpcError as e:
        return e.code(), e.details()
    finally:
        channel.close()


def token_of(shared, agent):
    with open(shared.agent(agent)["token_file"]) as f:
        return f.read().strip()


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        (("agent_id", "a1"),),
        (("agent_token", "x"),),
        (("agent_id", "a1"), ("agent_token", "wrong")),
        (("agent_id", "nobody"), ("agent_token", "wrong")),
    ],
)
def test_agent_without_the_right_token(shared, metadata):
    assert agent_stream(shared, "n1", metadata, [])[0] == CODE.UNAUTHENTICATED


def test_wrong_tokens_are_logged_with_the_peer_and_without_the_token(shared):
    secret = "very-wrong-token-value"
    agent_stream(shared, "n2", (("agent_id", "a1"), ("agent_token", secret)), [])
    log = "".join(p.read_text(errors="replace") for p in shared.log_files())
    assert secret not in log
    assert token_of(shared, "a1") not in log and shared.env["NODELINK_TOKEN"] not in log
    assert "127.0.0.1" in log


def test_garbage_on_an_agents_stream_ends_that_stream_only(shared, tmp_path):
    r = shared.nl("agent", "token", "create", "g1")
    assert r.returncode == 0
    metadata = (("agent_id", "g1"), ("agent_token", r.stdout.strip()))
    epochs = {a: shared.json("agent", "show", a)["epoch"] for a in ("a1", "a2", "a3")}
    task = stubs()["task"]
    bad = [
        b"\xff\xff\xff",
        b"\x0a\x02\xff\xfe",
        task.TaskResponse(agent_id="a1", task_id="x").SerializeToString(),  # another agent's name
        b"\x18\x63"
        + task.TaskResponse(agent_id="g1", task_id="x").SerializeToString(),  # status 99
    ]
    for frame in bad:
        code, text = agent_stream(shared, "n1", metadata, [frame])
        assert code == CODE.INVALID_ARGUMENT, (frame, code, text)
    assert {a: shared.json("agent", "show", a)["epoch"] for a in ("a1", "a2", "a3")} == epochs
    assert shared.nl("run", "a1", "--", "true").returncode == 0


def test_garbage_on_the_ports(shared):
    """Not even HTTP/2, not even Raft: closed, and the cluster goes on."""
    for node in shared.config()["nodes"]:
        for address in (node["grpc"], node["raft"]):
            host, port = address.rsplit(":", 1)
            for data in (
                b"GET / HTTP/1.1\r\n\r\n",
                b"\0" * 4096,
                b"\xff" * 70000,
                b"PRI * HTTP/2.0\r\n",
            ):
                with socket.create_connection((host, int(port)), timeout=5) as s:
                    try:
                        s.sendall(data)
                    except OSError:
                        pass
    assert shared.nl("run", "a1", "--", "true").returncode == 0
    shared.wait_healthy()


def test_wrong_token_on_the_command_line(shared):
    r = shared.nl("task", "list", env={"NODELINK_TOKEN": "wrong"})
    assert r.returncode == 1 and "NODELINK_TOKEN" in r.stderr


def test_nothing_listens(shared):
    r = shared.nl("task", "list", "--addr", "127.0.0.1:1", timeout=60)
    assert r.returncode == 3 and "127.0.0.1:1" in r.stderr
    r = shared.nl("status", "--addr", "127.0.0.1:1", timeout=60)
    assert r.returncode == 3


def test_revoked_token_closes_the_stream():
    with Cluster(agents=1) as cluster:
        assert cluster.nl("agent", "token", "revoke", "a1").returncode == 0
        wait_for(
            "disconnected", lambda: cluster.json("agent", "show", "a1")["state"] != "connected"
        )


def test_usage_errors(shared):
    for args in (
        ["frobnicate"],
        ["run"],
        ["run", "a1"],
        ["run", "a1", "--timeout", "soon", "--", "true"],
        ["task", "show"],
        ["status", "--no-such-flag"],
    ):
        r = shared.nl(*args)
        assert r.returncode not in (0,) and r.stderr.strip(), args
