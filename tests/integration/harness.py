"""A cluster on loopback for tests, evidence that commands write themselves, conditions."""

import base64
import contextlib
import hashlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid

import grpc

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
BIN = pathlib.Path(os.environ.get("NL_BIN", ROOT / "build/release/bin"))
SANITIZED = bool(os.environ.get("NL_SANITIZE"))
SLOW = 4 if SANITIZED else 1  # deadlines are longer in a sanitizer's build
TERMINAL = {"completed", "failed", "timed_out", "cancelled"}


class Timeout(AssertionError):
    pass


def wait_for(what, condition, seconds=30, every=0.05):
    """Calls condition until it returns something true, which is returned."""
    deadline = time.monotonic() + seconds * SLOW
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise Timeout(f"not within {seconds * SLOW} s: {what}")
        time.sleep(every)


def stubs():
    """Generated modules of control.proto and its imports: (control_pb2, control_pb2_grpc, ...)."""
    if not hasattr(stubs, "modules"):
        from grpc_tools import protoc

        out = tempfile.mkdtemp(prefix="nl-stubs-")
        names = ["task", "command", "control", "peer"]
        args = ["protoc", f"-I{ROOT / 'proto'}", f"--python_out={out}", f"--grpc_python_out={out}"]
        assert protoc.main(args + [f"nodelink/v1/{n}.proto" for n in names]) == 0
        sys.path.insert(0, out)
        import importlib

        stubs.modules = {}
        for n in names:
            stubs.modules[n] = importlib.import_module(f"nodelink.v1.{n}_pb2")
        stubs.modules["control_grpc"] = importlib.import_module("nodelink.v1.control_pb2_grpc")
        stubs.modules["task_grpc"] = importlib.import_module("nodelink.v1.task_pb2_grpc")
        stubs.modules["peer_grpc"] = importlib.import_module("nodelink.v1.peer_pb2_grpc")
    return stubs.modules


class Evidence:
    """A file that commands append to: one line per start, written by the command itself."""

    def __init__(self, directory):
        self.path = pathlib.Path(directory) / "evidence"
        self.path.touch()

    def command(self, key, rest="true"):
        """A shell command that first notes its start (one write, so lines don't mix)."""
        return f'printf "%s\\n" "{key} $NODELINK_ATTEMPT $$" >> {self.path}; {rest}'

    def pid(self, key):
        """Pid of the shell that the first start of key noted."""
        lines = self.path.read_text().splitlines()
        return next(int(words[2]) for words in map(str.split, lines) if words[0] == key)

    def starts(self):
        """{key: number of starts}"""
        count = {}
        for line in self.path.read_text().splitlines():
            key = line.split()[0]
            count[key] = count.get(key, 0) + 1
        return count


class Cluster:
    def __init__(self, nodes=3, agents=3, sets=(), agent_sets=(), keep=None):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="nl-cluster-"))
        self.keep = os.environ.get("NL_KEEP") if keep is None else keep
        self.args = ["--nodes", str(nodes), "--agents", str(agents)]
        for s in sets:
            self.args += ["--set", s]
        for s in agent_sets:
            self.args += ["--agent-set", s]
        if SANITIZED:
            self.args += ["--timeout", f"{60 * SLOW}s"]
            # An instrumented node on a busy machine can't keep 300 ms: nobody would lead for long.
            if not any("election-timeout" in s for s in sets):
                self.args += ["--election-timeout", "1200ms", "--heartbeat", "200ms"]
        self.env = dict(os.environ)

    def __enter__(self):
        try:
            self.up()
        except BaseException:
            self.close(failed=True)
            raise
        return self

    def __exit__(self, kind, value, trace):
        self.close(failed=kind is not None)

    def up(self):
        r = self.local("up", *self.args, timeout=120 * SLOW)
        assert r.returncode == 0, f"local up: {r.stdout}{r.stderr}\n{self.logs()}"
        # By a shell: what is started again from here needs the whole PATH that the file extends.
        env = subprocess.run(
            ["sh", "-c", '. "$0" && env -0', self.dir / "env"],
            env=self.env,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        self.env = dict(entry.split("=", 1) for entry in env.stdout.split("\0") if entry)

    def close(self, failed=False):
        if failed:
            sys.stderr.write(self.logs())
        r = self.local("down", timeout=90 * SLOW)
        sanitizer = self.sanitizer_reports()
        if self.keep:
            sys.stderr.write(f"kept: {self.dir}\n")
        else:
            shutil.rmtree(self.dir, ignore_errors=True)
        if not failed:
            assert r.returncode == 0, f"local down: {r.stdout}{r.stderr}"
            assert not sanitizer, sanitizer

    def log_files(self):
        # os.walk: spools come and go while the cluster runs, and rglob stumbles over that.
        found = (pathlib.Path(d, f) for d, _, names in os.walk(self.dir) for f in names)
        return sorted(p for p in found if p.name.endswith("log"))

    def logs(self, lines=60):
        text = ""
        for path in self.log_files():
            tail = path.read_text(errors="replace").splitlines()[-lines:]
            text += f"---- {path.relative_to(self.dir)}\n" + "\n".join(tail) + "\n"
        return text

    def sanitizer_reports(self):
        """Lines that no healthy run prints: sanitizer findings, assertions."""
        bad = (
            "ERROR: AddressSanitizer",
            "ERROR: LeakSanitizer",
            "runtime error:",
            "WARNING: ThreadSanitizer",
            "Assertion `",
            "assertion failed",
        )
        found = ""
        for path in self.log_files():
            text = path.read_text(errors="replace")
            if any(b in text for b in bad):
                found += f"---- {path.relative_to(self.dir)}\n{text[-6000:]}\n"
        return found

    # ---- nodelink, the command line

    def nl(self, *args, timeout=60, input=None, text=True, env=None):
        return subprocess.run(
            [BIN / "nodelink", *map(str, args)],
            env=dict(self.env, **(env or {})),
            capture_output=True,
            text=text,
            timeout=timeout * SLOW,
            **({"input": input} if input is not None else {"stdin": subprocess.DEVNULL}),
        )

    def local(self, *args, timeout=60):
        return self.nl("local", *args, "--dir", self.dir, timeout=timeout)

    def json(self, *args, **kw):
        r = self.nl(*args, "-o", "json", **kw)
        assert r.stdout.strip(), f"{args}: exit {r.returncode}: {r.stderr}"
        return json.loads(r.stdout)

    def spawn(self, *args, **kw):
        return subprocess.Popen(
            [BIN / "nodelink", *map(str, args)],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **kw,
        )

    def submit(self, agent, *command, addr=None, options=()):
        args = ["run", agent, "--detach", *options]
        if addr:
            args += ["--addr", addr]
        r = self.nl(*args, "--", *command)
        assert r.returncode == 0, r.stderr
        return r.stdout.strip()

    def task(self, task_id, addr=None):
        return self.json("task", "show", task_id, *(["--addr", addr] if addr else []))

    def wait_task(self, task_id, seconds=60, states=TERMINAL):
        def ended():
            r = self.nl("task", "show", task_id, "-o", "json")
            if r.returncode == 0 and (t := json.loads(r.stdout))["state"] in states:
                return t

        return wait_for(f"task {task_id} in {states}", ended, seconds, every=0.1)

    # ---- the parts

    def config(self):
        return json.loads((self.dir / "cluster.json").read_text())

    def node(self, name):
        return next(n for n in self.config()["nodes"] if n["name"] == name)

    def agent(self, agent_id):
        return next(a for a in self.config()["agents"] if a["id"] == agent_id)

    def names(self):
        return [n["name"] for n in self.config()["nodes"]]

    def addr(self, name):
        return self.node(name)["grpc"]

    def status(self):
        return self.json("status")

    def leader(self):
        def known():
            s = self.status()
            return s["leader"] if s["leader"] else None

        return wait_for("a leader", known)

    def owner(self, agent_id):
        """Name of the node that holds the agent's stream."""

        def connected():
            r = self.nl("agent", "show", agent_id, "-o", "json")
            a = json.loads(r.stdout) if r.returncode == 0 else {}
            return a["node"] if a.get("state") == "connected" else None

        return wait_for(f"{agent_id} connected", connected)

    def kill(self, name, *flags):
        r = self.local("kill", name, *flags)
        assert r.returncode == 0, r.stderr

    def start(self, name):
        r = self.local("start", name)
        assert r.returncode == 0, r.stderr

    def wait_healthy(self, seconds=30, agents=None):
        agents = [a["id"] for a in self.config()["agents"]] if agents is None else agents

        def healthy():
            if self.nl("status", "-o", "json").returncode != 0:
                return False
            return all(
                self.nl("agent", "show", a, "-o", "json").returncode == 0
                and self.json("agent", "show", a)["state"] == "connected"
                for a in agents
            )

        return wait_for("healthy, all agents connected", healthy, seconds, every=0.2)

    def verify(self):
        """P12: replicas at the same applied index hold the same state."""
        r = self.nl("cluster", "verify", timeout=60)
        assert r.returncode == 0, r.stdout + r.stderr

    def stub(self, name, token=None, options=()):
        """ControlService of one node by python3-grpcio, with the credential."""
        m = stubs()
        token = self.env["NODELINK_TOKEN"] if token is None else token
        channel = grpc.insecure_channel(
            self.addr(name), options=[("grpc.max_send_message_length", -1), *options]
        )
        return Control(m["control_grpc"].ControlServiceStub(channel), token), channel


class Control:
    """Adds the credential and a deadline to each call of a ControlService stub."""

    def __init__(self, stub, token):
        self._stub = stub
        self._metadata = (("authorization", f"Bearer {token}"),) if token else ()

    def __getattr__(self, method):
        call = getattr(self._stub, method)
        return lambda request, timeout=15: call(
            request, timeout=timeout * SLOW, metadata=self._metadata
        )

    def ask(self, method, request, timeout=15):
        """The call's future."""
        call = getattr(self._stub, method)
        return call.future(request, timeout=timeout * SLOW, metadata=self._metadata)


class JsonProcess:
    """A helper program that speaks JSON lines (stock/agent.py, stock/server.py)."""

    def __init__(self, script, *args):
        self.process = subprocess.Popen(
            ["/usr/bin/python3", HERE / "stock" / script, *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.events = []
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def send(self, line):
        self.process.stdin.write((line if isinstance(line, str) else json.dumps(line)) + "\n")
        self.process.stdin.flush()

    def wait(self, seconds=20, **fields):
        def found():
            return next(
                (e for e in list(self.events) if all(e.get(k) == v for k, v in fields.items())),
                None,
            )

        try:
            return wait_for(f"event {fields}", found, seconds)
        except Timeout as e:
            raise Timeout(f"{e}; events: {self.events[-20:]}") from None

    def of(self, **fields):
        return [e for e in list(self.events) if all(e.get(k) == v for k, v in fields.items())]

    def close(self):
        self.process.kill()
        self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def new_id(prefix="t"):
    return f"{prefix}-{uuid.uuid4().hex[:12]}"


def sha256(data):
    return hashlib.sha256(data).hexdigest()


def alive(pid):
    """Also of a zombie whose other threads have not ended: they hold its ports."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            fields = f.read().rsplit(")", 1)[1].split()
            return fields[0] != "Z" or int(fields[17]) > 1
    except OSError:
        return False


def processes_with(marker):
    """Pids of live processes whose environment holds marker (NODELINK_TASK_ID=...)."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            with contextlib.suppress(OSError):
                data = pathlib.Path(f"/proc/{entry}/environ").read_bytes()
                if marker.encode() in data.split(b"\0") and alive(entry):
                    found.append(int(entry))
    return found
