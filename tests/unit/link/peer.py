"""Test servers and an agent process for test_agent.py.

`Node` speaks the extensions, from our .proto files through Debian's python3-grpcio, so by an
implementation of gRPC and protobuf that shares no line with ours. `Stock` is the server of
tests/integration/stock, which knows only the fixed fields.
"""

import atexit
import base64
import importlib
import json
import os
import pathlib
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent import futures

import grpc
from grpc_tools import protoc

ROOT = pathlib.Path(__file__).resolve().parents[3]
AGENT = pathlib.Path(os.environ["NL_BIN"]) / "nodelink-agent"
DEADLINE_S = 30 * (3 if os.environ.get("NL_SANITIZE") else 1)

_out = tempfile.mkdtemp(prefix="nl-link-")
atexit.register(shutil.rmtree, _out, True)
if protoc.main(["protoc", f"-I{ROOT}/proto", f"--python_out={_out}", f"--grpc_python_out={_out}",
                "nodelink/v1/task.proto"]):
    raise SystemExit("protoc failed")
sys.path.insert(0, _out)
pb = importlib.import_module("nodelink.v1.task_pb2")
rpc = importlib.import_module("nodelink.v1.task_pb2_grpc")


def wait_for(what, condition, deadline_s=DEADLINE_S):
    """Polls: what is waited for happens in another process. Returns the condition's value."""
    until = time.monotonic() + deadline_s
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > until:
            raise AssertionError(f"not within {deadline_s} s: {what}")
        time.sleep(0.01)


class Epochs:
    """What the cluster's state machine would count."""

    def __init__(self, first=1):
        self.last = first - 1
        self.lock = threading.Lock()

    def next(self):
        with self.lock:
            self.last += 1
            return self.last


class Stream:
    """One agent stream, as the node sees it."""

    def __init__(self, metadata):
        self.metadata = metadata
        self.requests = queue.Queue()
        self.responses = []
        self.hello = None
        self.epoch = 0
        self.ended = False
        self.welcomed = False

    def send(self, **fields):
        self.requests.put(pb.TaskRequest(epoch=self.epoch, **fields))

    def run(self, task, cmd, attempt=1, **options):
        self.send(agent_id="a1", task_id=task, attempt=attempt,
                  shell_execute=pb.ShellExecute(cmd=cmd),
                  shell_options=pb.ShellOptions(**options) if options else None)

    def cancel(self, task):
        self.send(agent_id="a1", task_id=task, attempt=1, task_cancel=pb.TaskCancel(reason="test"))

    def ack(self, task):
        self.send(result_ack=pb.ResultAck(task_id=task, attempt=1))

    def open(self, sub, task, stdout=0, stderr=0, credit=1 << 40):
        self.send(output_open=pb.OutputOpen(sub=sub, task_id=task, attempt=1, stdout_offset=stdout,
                                            stderr_offset=stderr, credit=credit))

    def credit(self, sub, count):
        self.send(output_credit=pb.OutputCredit(sub=sub, bytes=count))

    def end(self):
        self.requests.put(None)

    def started(self, task):
        return next((r.started for r in self.responses
                     if r.task_id == task and r.WhichOneof("control") == "started"), None)

    def final(self, task):
        return next((r for r in self.responses if r.task_id == task and r.is_final), None)

    def wait_started(self, task):
        return wait_for(f"start of {task}", lambda: self.started(task))

    def wait_final(self, task):
        return wait_for(f"result of {task}", lambda: self.final(task))

    def output(self, sub):
        """(stdout, stderr, OutputEnd or None) of a subscription; offsets must have no gap."""
        data, end, at = [b"", b""], None, [None, None]
        for r in list(self.responses):
            if r.WhichOneof("control") == "output_end" and r.output_end.sub == sub:
                end = r.output_end
            elif r.sub == sub:
                parts = (r.shell_execute.stdout, r.shell_execute.stderr)
                for i, offset in enumerate((r.stdout_offset, r.stderr_offset)):
                    if parts[i]:
                        assert at[i] in (None, offset), "gap or repetition inside a subscription"
                        assert len(parts[i]) <= 256 * 1024
                        data[i] += parts[i]
                        at[i] = offset + len(parts[i])
        return data[0], data[1], end

    def wait_end(self, sub):
        return wait_for(f"end of subscription {sub}",
                        lambda: (lambda o: o if o[2] else None)(self.output(sub)))


class Node(rpc.TaskServiceServicer):
    """A node that speaks the extensions."""

    def __init__(self, name="n1", epochs=None, port=0, token="secret", servers=(), tls=None):
        self.name = name
        self.epochs = epochs or Epochs()
        self.token = token
        self.servers = list(servers)
        self.welcome = True
        self.ping_interval_ms = 1000
        self.streams = []
        self.server = grpc.server(futures.ThreadPoolExecutor(16),
                                  options=[("grpc.so_reuseport", 0)])
        rpc.add_TaskServiceServicer_to_server(self, self.server)
        if tls:  # (key, certificate, CA of the clients)
            credentials = grpc.ssl_server_credentials([tls[:2]], tls[2], tls[2] is not None)
            self.port = self.server.add_secure_port(f"127.0.0.1:{port}", credentials)
        else:
            self.port = self.server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"127.0.0.1:{self.port}"
        self.server.start()

    def stop(self):
        self.server.stop(None).wait()

    def StreamTasks(self, responses, context):
        metadata = dict(context.invocation_metadata())
        if metadata.get("agent_token") != self.token:
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "bad token")
        context.send_initial_metadata((("nodelink-protocol", "1"), ("nodelink-node", self.name)))
        stream = Stream(metadata)
        self.streams.append(stream)
        threading.Thread(target=self._read, args=(stream, responses), daemon=True).start()
        context.add_callback(stream.end)
        while (request := stream.requests.get()) is not None:
            yield request
        stream.ended = True

    def _read(self, stream, responses):
        try:
            for r in responses:
                kind = r.WhichOneof("control")
                if kind == "hello":
                    stream.hello = r.hello
                    if self.welcome:
                        stream.epoch = self.epochs.next()
                        stream.send(welcome=pb.Welcome(
                            epoch=stream.epoch, node=self.name, servers=self.servers,
                            ping_interval_ms=self.ping_interval_ms))
                        stream.welcomed = True
                elif kind == "ping":
                    stream.send(pong=pb.Pong(nonce=r.ping.nonce))
                stream.responses.append(r)
        except grpc.RpcError:
            pass
        stream.end()

    def wait_stream(self, number=0):
        """The stream number `number` of this node, once welcomed."""
        def there():
            welcomed = [s for s in list(self.streams) if s.welcomed]
            return welcomed[number] if len(welcomed) > number else None
        return wait_for(f"stream {number} of {self.name}", there)


class Stock:
    """The stock server as a process."""

    def __init__(self, port=0):
        self.process = subprocess.Popen(
            ["/usr/bin/python3", ROOT / "tests/integration/stock/server.py", str(port)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.events = []
        threading.Thread(target=self._read, daemon=True).start()
        self.port = wait_for("stock server", lambda: self.find("listening"))["port"]
        self.address = f"127.0.0.1:{self.port}"

    def _read(self):
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def find(self, event):
        return next((e for e in list(self.events) if e["event"] == event), None)

    def say(self, **command):
        self.process.stdin.write(json.dumps(command) + "\n")
        self.process.stdin.flush()

    def responses(self, task):
        return [e for e in list(self.events) if e["event"] == "response" and e["task"] == task]

    def wait_final(self, task):
        return wait_for(f"final response of {task}",
                        lambda: next((e for e in self.responses(task) if e["final"]), None))

    def output(self, task, stream="stdout"):
        return b"".join(base64.b64decode(e[stream]) for e in self.responses(task))

    def stop(self):
        self.process.kill()
        self.process.wait()


class Agent:
    """nodelink-agent as a process, with its state directory."""

    def __init__(self, directory, servers, *flags, token="secret", insecure=True):
        self.directory = pathlib.Path(directory)
        self.state = self.directory / "state"
        self.token_file = self.directory / "token"
        self.log_file = self.directory / "agent.log"
        self.set_token(token)
        self.args = [AGENT, "--agent-id", "a1", "--token-file", self.token_file, "--servers",
                     ",".join(servers), "--state-dir", self.state,
                     "--backoff-start", "50ms", "--backoff-cap", "500ms", "--kill-grace", "1s",
                     "--log-level", "debug", *(["--insecure"] if insecure else []), *flags]
        self.process = None
        self.start()

    def set_token(self, token):
        self.token_file.write_text(token + "\n")
        self.token_file.chmod(0o600)

    def start(self):
        with open(self.log_file, "ab") as log:
            self.process = subprocess.Popen(self.args, stderr=log, stdin=subprocess.DEVNULL)

    def log(self):
        return self.log_file.read_text(errors="replace")

    def kill(self, number=signal.SIGKILL):
        self.process.send_signal(number)
        return self.process.wait(DEADLINE_S)

    def supervisor_pid(self):
        def look():
            for entry in pathlib.Path("/proc").iterdir():
                try:
                    args = (entry / "cmdline").read_bytes().split(b"\0")
                    state = (entry / "stat").read_text().rsplit(")", 1)[1].split()[0]
                except (OSError, ValueError, IndexError):
                    continue
                if b"supervisor" in args and str(self.state).encode() in args and state != "Z":
                    return int(entry.name)
            return None
        return look()

    def close(self):
        if self.process.poll() is None:
            self.kill()
        pid = self.supervisor_pid()
        if pid:
            os.kill(pid, signal.SIGQUIT)
            wait_for("supervisor's end", lambda: self.supervisor_pid() != pid)


def alive(pid):
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rsplit(")", 1)[1].split()[0] not in "ZX"


def pids_with(marker):
    """Processes whose environment has the marker."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and marker.encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            pass
    return found
