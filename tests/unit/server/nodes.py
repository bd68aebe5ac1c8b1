"""Real nodelinkd processes on loopback, and agents made of Python, for smoke.py."""

import contextlib
import hashlib
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import grpc

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
BIN = os.environ.get("NODELINKD", os.path.join(ROOT, "build/release/bin/nodelinkd"))
SLOW = float(os.environ.get("NL_SLOW", "1"))


def load_stubs():
    from grpc_tools import protoc
    out = tempfile.mkdtemp(prefix="nl-stubs-")
    names = [f"nodelink/v1/{n}.proto" for n in ("task", "command", "control", "peer")]
    assert protoc.main(["protoc", f"-I{ROOT}/proto", f"--python_out={out}",
                        f"--grpc_python_out={out}", *names]) == 0
    sys.path.insert(0, out)


load_stubs()
from nodelink.v1 import command_pb2, control_pb2, control_pb2_grpc, task_pb2, task_pb2_grpc  # noqa

TOKEN = "an-admin-token"


given_ports = set()


def free_port():
    """Below the range that the kernel gives to outgoing connections: it is free later, too. Never
    the same twice: a node whose port another one has ends, and that one answers in its place."""
    while True:
        port = random.randint(10000, 32000)
        with socket.socket() as s, contextlib.suppress(OSError):
            s.bind(("127.0.0.1", port))
            if port not in given_ports:
                given_ports.add(port)
                return port


def wait_for(what, condition, seconds=20):
    end = time.monotonic() + seconds * SLOW
    while True:
        try:
            value = condition()
            if value:
                return value
        except grpc.RpcError as e:
            last = e
            value = f"{last.code()} {last.details()}"
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds * SLOW} s: {what}: {value}")
        time.sleep(0.03)


class Node:
    def __init__(self, cluster, number):
        self.cluster, self.id, self.name = cluster, number, f"n{number}"
        self.raft, self.grpc = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        self.dir = os.path.join(cluster.dir, self.name)
        self.log = os.path.join(cluster.dir, f"{self.name}.log")
        self.conf = os.path.join(cluster.dir, f"{self.name}.conf")
        self.process = None

    def write_conf(self, extra):
        members = ", ".join(f"{n.name}/{n.id}/{n.raft}/{n.grpc}" for n in self.cluster.nodes)
        with open(self.conf, "w") as f:
            f.write(f"node-id = {self.id}\ndata-dir = {self.dir}\nmembers = {members}\n"
                    f"bootstrap = true\ninsecure = true\n"
                    f"cluster-secret-file = {self.cluster.dir}/secret\n"
                    f"admin-token-sha256 = {hashlib.sha256(TOKEN.encode()).hexdigest()}\n{extra}")

    def start(self):
        log = open(self.log, "ab")
        self.process = subprocess.Popen([BIN, "--config", self.conf], stdout=log, stderr=log,
                                        stdin=subprocess.DEVNULL)
        wait_for(f"{self.name} listens", self.listens)
        # The first is also the time that a connection may take: a busy machine is slow.
        channel = grpc.insecure_channel(self.grpc, options=[
            ("grpc.min_reconnect_backoff_ms", 3000), ("grpc.initial_reconnect_backoff_ms", 100),
            ("grpc.max_reconnect_backoff_ms", 300)])
        self.stub = control_pb2_grpc.ControlServiceStub(channel)
        wait_for(f"{self.name} answers", self.status)

    def listens(self):
        assert self.process.poll() is None, open(self.log).read()
        host, port = self.grpc.split(":")
        with socket.socket() as s:
            return s.connect_ex((host, int(port))) == 0

    def call(self, method, request, timeout=10):
        return getattr(self.stub, method)(request, timeout=timeout * SLOW,
                                          metadata=(("authorization", f"Bearer {TOKEN}"),))

    def status(self):
        return self.call("GetStatus", control_pb2.GetStatusRequest())

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30 * SLOW)


class Cluster:
    def __init__(self, nodes=3, extra=""):
        self.temp = tempfile.TemporaryDirectory(prefix="nl-smoke-")
        self.dir = self.temp.name
        secret = os.path.join(self.dir, "secret")
        with open(os.open(secret, os.O_WRONLY | os.O_CREAT, 0o600), "w") as f:
            f.write("a secret of the nodes\n")
        self.nodes = [Node(self, i + 1) for i in range(nodes)]
        for node in self.nodes:
            node.write_conf(extra)

    def __enter__(self):
        try:
            for node in self.nodes:
                node.start()
            wait_for("a leader", lambda: all(n.status().leader_id for n in self.nodes), 30)
            wait_for("all nodes up",
                     lambda: all(m.up for n in self.nodes for m in n.status().members), 30)
        except BaseException:
            self.__exit__(*sys.exc_info())
            raise
        return self

    def __exit__(self, kind, value, trace):
        codes = {}
        for node in self.nodes:
            if node.process and node.process.poll() is None:
                codes[node.name] = node.stop() if not kind else node.kill()
        logs = {n.name: open(n.log, errors="replace").read() for n in self.nodes
                if os.path.exists(n.log)}
        bad = [k for k, v in logs.items()
               if "Sanitizer" in v or "runtime error" in v or "Assertion" in v]
        if kind or bad or any(codes.values()):
            for name, text in logs.items():
                print(f"---- {name}\n{text[-12000:]}")
        self.temp.cleanup()
        assert kind or not bad, bad
        assert kind or not any(codes.values()), codes

    def any(self):
        return next(n for n in self.nodes if n.process.poll() is None)

    def token(self, agent_id, node=None):
        request = control_pb2.CreateAgentTokenRequest(agent_id=agent_id)
        return (node or self.any()).call("CreateAgentToken", request).token

    def agent(self, agent_id, node=None):
        return (node or self.any()).call("GetAgent", control_pb2.GetAgentRequest(
            agent_id=agent_id)).agent

    def task(self, task_id, node=None):
        return (node or self.any()).call("GetTask", control_pb2.GetTaskRequest(
            task_id=task_id)).task


class StockAgent:
    """Knows the fixed fields only; runs commands with /bin/sh."""

    def __init__(self, node, agent_id, token):
        self.agent_id, self.out, self.requests = agent_id, queue.Queue(), []
        self.processes, self.cancelled, self.status = {}, set(), None
        self.channel = grpc.insecure_channel(node.grpc)
        self.stream = task_pb2_grpc.TaskServiceStub(self.channel).StreamTasks(
            iter(self.out.get, None), metadata=(("agent_id", agent_id), ("agent_token", token)))
        threading.Thread(target=self.serve, daemon=True).start()

    def say(self, **fields):
        self.out.put(task_pb2.TaskResponse(agent_id=self.agent_id, **fields))

    def serve(self):
        try:
            for request in self.stream:
                self.requests.append(request)
                if request.HasField("shell_execute"):
                    threading.Thread(target=self.run, args=(request,), daemon=True).start()
                elif request.HasField("task_cancel"):
                    self.cancelled.add(request.task_id)
                    process = self.processes.get(request.task_id)
                    if process:
                        os.killpg(process.pid, signal.SIGTERM)
            self.status = (grpc.StatusCode.OK, "")
        except grpc.RpcError as e:
            self.status = (e.code(), e.details())

    def run(self, request):
        task, shell = request.task_id, request.shell_execute
        process = subprocess.Popen(["/bin/sh", "-c", shell.cmd], stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, start_new_session=True)
        self.processes[task] = process
        self.say(task_id=task, status=task_pb2.TaskResponse.IN_PROGRESS)

        def pump(pipe, name):
            while data := os.read(pipe.fileno(), 30000):
                self.say(task_id=task, status=task_pb2.TaskResponse.IN_PROGRESS,
                         shell_execute=task_pb2.ShellExecuteResponse(**{name: data}))

        pumps = [threading.Thread(target=pump, args=a)
                 for a in ((process.stdout, "stdout"), (process.stderr, "stderr"))]
        for p in pumps:
            p.start()
        for p in pumps:
            p.join()
        code = process.wait()
        self.say(task_id=task, is_final=True, cancelled=task in self.cancelled,
                 status=task_pb2.TaskResponse.COMPLETED if code == 0
                 else task_pb2.TaskResponse.FAILURE,
                 shell_execute=task_pb2.ShellExecuteResponse(exit_code=code))

    def close(self):
        self.out.put(None)
        self.channel.close()


class JournalAgent:
    """Speaks the extensions. What it "runs" is a byte string that grows when told: the spool
    outlives the stream, so it can move between nodes in the middle of a chunk."""

    def __init__(self, agent_id, token, capacity=0):
        self.agent_id, self.token, self.capacity = agent_id, token, capacity
        self.tasks, self.epoch, self.acks, self.starts = {}, 0, [], []
        self.lock = threading.RLock()
        self.stream = None

    def connect(self, node):
        self.out, self.subs, self.status, self.drained = queue.Queue(), {}, None, False
        self.channel = grpc.insecure_channel(node.grpc)
        self.stream = task_pb2_grpc.TaskServiceStub(self.channel).StreamTasks(
            iter(self.out.get, None), metadata=(
                ("agent_id", self.agent_id), ("agent_token", self.token),
                ("nodelink-protocol", "1")))
        with self.lock:
            refs = [task_pb2.TaskRef(task_id=t, attempt=1,
                                     phase=task_pb2.TaskRef.FINISHED if s["result"]
                                     else task_pb2.TaskRef.RUNNING)
                    for t, s in self.tasks.items() if not s["acked"]]
            self.say(hello=task_pb2.Hello(version="test", boot_id="b1", journal_id="j1",
                                          hostname="here", capacity=self.capacity,
                                          last_epoch=self.epoch, tasks=refs))
        self.welcomed = threading.Event()
        threading.Thread(target=self.serve, args=(self.stream, self.out), daemon=True).start()
        return self

    def join(self, node):
        """Connects, again if the node is not ready to take agents yet."""
        def welcomed():
            self.connect(node)
            while not self.welcomed.wait(0.05):
                if self.status:
                    assert self.status[0] == grpc.StatusCode.UNAVAILABLE, self.status
                    return False
            return True
        wait_for(f"{self.agent_id} joins {node.name}", welcomed)
        return self

    def say(self, **fields):
        self.out.put(task_pb2.TaskResponse(agent_id=self.agent_id, **fields))

    def serve(self, stream, out):
        try:
            for request in stream:
                with self.lock:
                    if self.out is out:
                        self.handle(request)
            self.status = (grpc.StatusCode.OK, "")
        except grpc.RpcError as e:
            self.status = (e.code(), e.details())

    def handle(self, request):
        if request.HasField("welcome"):
            assert request.welcome.epoch > self.epoch
            self.epoch = request.welcome.epoch
            for task, s in self.tasks.items():
                if s["result"] and not s["acked"]:
                    self.send_result(task)
            self.welcomed.set()
        elif request.HasField("shell_execute"):
            assert request.epoch == self.epoch
            if request.task_id not in self.tasks:
                self.starts.append(request.task_id)
                self.tasks[request.task_id] = {"out": [b"", b""], "result": None, "acked": False,
                                               "cancel": False, "cmd": request.shell_execute.cmd}
            self.say(task_id=request.task_id, attempt=1, epoch=self.epoch,
                     status=task_pb2.TaskResponse.IN_PROGRESS,
                     started=task_pb2.TaskStarted(started_ms=1, pid=4711))
        elif request.HasField("task_cancel"):
            if request.task_id in self.tasks:
                self.tasks[request.task_id]["cancel"] = True
        elif request.HasField("result_ack"):
            self.acks.append(request.result_ack.task_id)
            if request.result_ack.task_id in self.tasks:
                self.tasks[request.result_ack.task_id]["acked"] = True
        elif request.HasField("output_open"):
            o = request.output_open
            self.subs[o.sub] = [o.task_id, [o.stdout_offset, o.stderr_offset], o.credit]
            self.pump(o.sub)
        elif request.HasField("output_credit"):
            if request.output_credit.sub in self.subs:
                self.subs[request.output_credit.sub][2] += request.output_credit.bytes
                self.pump(request.output_credit.sub)
        elif request.HasField("output_close"):
            self.subs.pop(request.output_close.sub, None)
        elif request.HasField("drain"):
            self.drained = True
        elif request.HasField("ping"):
            self.say(pong=task_pb2.Pong(nonce=request.ping.nonce))

    def pump(self, sub):
        task, at, _ = self.subs[sub]
        if task not in self.tasks:
            self.subs.pop(sub)
            self.say(sub=sub, task_id=task, output_end=task_pb2.OutputEnd(
                sub=sub, why=task_pb2.OutputEnd.GONE, message="no such task"))
            return
        s = self.tasks[task]
        for i, name in ((0, "stdout"), (1, "stderr")):
            while at[i] < len(s["out"][i]) and self.subs[sub][2] > 0:
                data = s["out"][i][at[i]:at[i] + min(50000, self.subs[sub][2])]
                self.say(sub=sub, task_id=task, epoch=self.epoch,
                         stdout_offset=at[0] if i == 0 else 0, stderr_offset=at[1] if i else 0,
                         shell_execute=task_pb2.ShellExecuteResponse(**{name: data}))
                at[i] += len(data)
                self.subs[sub][2] -= len(data)
        if s["result"] and at == [len(s["out"][0]), len(s["out"][1])]:
            self.subs.pop(sub)
            self.say(sub=sub, task_id=task, output_end=task_pb2.OutputEnd(
                sub=sub, why=task_pb2.OutputEnd.COMPLETE, stdout_bytes=at[0], stderr_bytes=at[1]))

    def write(self, task, data, stream=0):
        with self.lock:
            self.tasks[task]["out"][stream] += data
            for sub in list(self.subs):
                if self.subs[sub][0] == task:
                    self.pump(sub)

    def finish(self, task, kind=task_pb2.TaskResult.EXITED, exit_code=0):
        with self.lock:
            s = self.tasks[task]
            out = s["out"]
            s["result"] = task_pb2.TaskResult(
                kind=kind, exit_code=exit_code, stdout_bytes=len(out[0]), stderr_bytes=len(out[1]),
                stdout_sha256=hashlib.sha256(out[0]).digest(),
                stderr_sha256=hashlib.sha256(out[1]).digest())
            self.send_result(task)
            for sub in list(self.subs):
                if self.subs[sub][0] == task:
                    self.pump(sub)

    def send_result(self, task):
        result = self.tasks[task]["result"]
        ok = result.kind == task_pb2.TaskResult.EXITED and result.exit_code == 0
        self.say(task_id=task, attempt=1, epoch=self.epoch, is_final=True, result=result,
                 cancelled=result.kind == task_pb2.TaskResult.CANCELLED,
                 status=task_pb2.TaskResponse.COMPLETED if ok else task_pb2.TaskResponse.FAILURE)

    def leave(self):
        self.channel.close()


class Watch:
    """Collects the events of one WatchTask in a thread."""

    def __init__(self, node, task_id, offsets=(0, 0), no_follow=False):
        self.out, self.events, self.ended, self.error = [b"", b""], [], False, None
        self.offsets = list(offsets)
        request = control_pb2.WatchTaskRequest(
            task_id=task_id, output=True, stdout_offset=offsets[0], stderr_offset=offsets[1],
            no_follow=no_follow)
        self.call = node.stub.WatchTask(request,
                                        metadata=(("authorization", f"Bearer {TOKEN}"),))
        self.thread = threading.Thread(target=self.read, daemon=True)
        self.thread.start()

    def read(self):
        try:
            for e in self.call:
                self.events.append(e)
                for i, (offset, data) in enumerate(((e.stdout_offset, e.stdout),
                                                    (e.stderr_offset, e.stderr))):
                    if data:
                        assert offset == self.offsets[i], (offset, self.offsets)
                        assert len(data) <= 256 << 10
                        self.offsets[i] += len(data)
                        self.out[i] += data
                self.ended = self.ended or e.end
        except grpc.RpcError as e:
            self.error = (e.code(), e.details())

    def wait(self, seconds=20):
        self.thread.join(seconds * SLOW)
        assert not self.thread.is_alive(), f"watch goes on: {self.events[-2:]}"
        return self

    def states(self):
        return [e.task.state for e in self.events if e.HasField("task")]

    def gaps(self):
        return [e.gap for e in self.events if e.HasField("gap")]
