"""nodelinkd under TLS: what is refused, what is taken, files that change; and its signals."""

import contextlib
import hashlib
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import tempfile

import pytest

from harness import BIN, SLOW, TERMINAL, alive, wait_for

TOKEN = "a token for tests"
NODES = ("n1", "n2", "n3")


def free_port():
    """Below the range that the kernel gives to outgoing connections: it is free later, too."""
    while True:
        port = random.randint(10000, 32000)
        with contextlib.closing(socket.socket()) as s:
            with contextlib.suppress(OSError):
                s.bind(("127.0.0.1", port))
                return port


# ---- certificates by the openssl command ---------------------------------------


def openssl(*args):
    subprocess.run(["openssl", *map(str, args)], check=True, capture_output=True)


def make_ca(directory, name):
    base = ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    files = ["-keyout", directory / f"{name}.key", "-out", directory / f"{name}.pem"]
    openssl(*base, "-days", "2", "-subj", "/CN=nodelink CA", *files)


def make_cert(directory, name, ca="ca", names="IP:127.0.0.1,DNS:localhost"):
    """Replaces NAME.pem and NAME.key as a careful operator does, each at once."""
    new, request, ext = (directory / f"{name}.{s}" for s in ("new", "csr", "ext"))
    base = ["req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl(*base, "-subj", f"/CN={name}", "-keyout", f"{new}.key", "-out", request)
    ext.write_text(f"subjectAltName={names}\n")
    signer = ["-CA", directory / f"{ca}.pem", "-CAkey", directory / f"{ca}.key", "-CAcreateserial"]
    openssl("x509", "-req", "-in", request, *signer, "-days", "2", "-extfile", ext, "-out", new)
    os.rename(f"{new}.key", directory / f"{name}.key")
    os.rename(new, directory / f"{name}.pem")


# ---- a cluster with TLS --------------------------------------------------------


class TlsCluster:
    """Three nodes and two agents; every connection has TLS and both ends show a certificate."""

    def __init__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="nl-tls-"))
        self.processes = {}
        self.ports = {n: (free_port(), free_port()) for n in NODES}
        self.settings = {n: {} for n in NODES}
        for ca in ("ca", "other"):
            make_ca(self.dir, ca)
        for name in (*NODES, "a1", "a2", "client"):
            make_cert(self.dir, name)
        self.write_secret("secret", "a secret that the nodes share, long enough")
        self.env = dict(
            os.environ,
            NODELINK_ADDR=",".join(self.addr(n) for n in NODES),
            NODELINK_TOKEN=TOKEN,
            NODELINK_CACERT=str(self.dir / "ca.pem"),
            NODELINK_CLIENT_CERT=str(self.dir / "client.pem"),
            NODELINK_CLIENT_KEY=str(self.dir / "client.key"),
        )

    def __enter__(self):
        try:
            for n in NODES:
                self.start_node(n)
            self.wait_healthy()
            for a in ("a1", "a2"):
                self.start_agent(a)
            return self
        except BaseException:
            self.__exit__(True, None, None)
            raise

    def __exit__(self, kind, value, trace):
        if kind:
            for log in sorted(self.dir.glob("*.log")):
                tail = log.read_text(errors="replace").splitlines()[-40:]
                print(f"---- {log.name}", *tail, sep="\n")
        for name in reversed(list(self.processes)):
            self.stop(name, gently=name not in NODES)
        shutil.rmtree(self.dir, ignore_errors=True)

    # ---- settings

    def write_secret(self, name, text):
        path = self.dir / name
        path.write_text(text + "\n")
        path.chmod(0o600)
        return path

    def addr(self, node):
        return f"127.0.0.1:{self.ports[node][1]}"

    def tls(self, name, ca="ca"):
        files = {"tls-ca-file": f"{ca}.pem", "tls-cert-file": f"{name}.pem"}
        files["tls-key-file"] = f"{name}.key"
        return {key: self.dir / file for key, file in files.items()}

    def write_config(self, node):
        members = [
            f"{n}/{i + 1}/127.0.0.1:{self.ports[n][0]}/{self.addr(n)}" for i, n in enumerate(NODES)
        ]
        settings = {
            "node-id": NODES.index(node) + 1,
            "data-dir": self.dir / node,
            "members": ", ".join(members),
            "bootstrap": "true",
            "cluster-secret-file": self.dir / "secret",
            "admin-token-sha256": hashlib.sha256(TOKEN.encode()).hexdigest(),
            "tls-client-auth": "true",
            **self.tls(node),
            **self.settings[node],
        }
        conf = self.dir / f"{node}.conf"
        lines = [f"{key} = {value}\n" for key, value in settings.items() if value is not None]
        conf.write_text("".join(lines))
        return conf

    # ---- processes

    def spawn(self, name, *args):
        with open(self.dir / f"{name}.log", "ab") as log:
            self.processes[name] = subprocess.Popen(
                list(map(str, args)), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def start_node(self, node):
        self.spawn(node, BIN / "nodelinkd", "--config", self.write_config(node))

    def start_agent(self, agent):
        token = self.nl("agent", "token", "create", agent).stdout.strip()
        files = [x for key, file in self.tls(agent).items() for x in (f"--{key}", file)]
        args = ["--agent-id", agent, "--token-file", self.write_secret(f"{agent}.token", token)]
        where = ["--servers", self.env["NODELINK_ADDR"], "--state-dir", self.dir / agent]
        self.spawn(agent, BIN / "nodelink-agent", *args, *where, *files)
        self.wait_connected(agent)

    def signal(self, name, number):
        self.processes[name].send_signal(number)

    def stop(self, name, gently=True):
        process = self.processes.pop(name)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.send_signal(signal.SIGCONT)
            if gently:
                process.terminate()
                process.wait(20 * SLOW)
        process.kill()
        return process.wait()

    def log(self, name):
        return (self.dir / f"{name}.log").read_text(errors="replace")

    def wait_log(self, name, *words, after=0, seconds=20):
        def found():
            lines = self.log(name)[after:].splitlines()
            return next((l for l in lines if all(w in l for w in words)), None)

        return wait_for(f"{words} in the log of {name}", found, seconds)

    # ---- the command line

    def nl(self, *args, env=(), check=True):
        r = subprocess.run(
            [BIN / "nodelink", *map(str, args)],
            env={**self.env, **dict(env)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60 * SLOW,
        )
        assert r.returncode == 0 or not check, (args, r.stdout, r.stderr)
        return r

    def wait_healthy(self):
        wait_for("health", lambda: self.nl("status", check=False).returncode == 0)

    def agent(self, agent):
        r = self.nl("agent", "show", agent, "-o", "json", check=False)
        return json.loads(r.stdout) if r.returncode == 0 else {}

    def wait_connected(self, agent):
        wait_for(f"{agent}", lambda: self.agent(agent).get("state") == "connected")

    def wait_ended(self, task):
        def ended():
            r = self.nl("task", "show", task, "-o", "json", check=False)
            t = json.loads(r.stdout) if r.returncode == 0 else {}
            return t if t.get("state") in TERMINAL else None

        return wait_for(f"the end of {task}", ended, 60)

    def node_status(self, node):
        nodes = json.loads(self.nl("status", "-o", "json", check=False).stdout)["nodes"]
        return next(n for n in nodes if n["name"] == node)


@pytest.fixture
def cluster():
    with TlsCluster() as c:
        yield c


# ---- who is let in -------------------------------------------------------------


def test_mutual_tls_everywhere(cluster):
    for n in NODES:
        r = cluster.nl("run", "a1", "--addr", cluster.addr(n), "--", f"echo through {n}")
        assert r.stdout == f"through {n}\n"
    # A client without a certificate, with one of another CA, and without TLS.
    make_cert(cluster.dir, "stranger", ca="other")
    none = {"NODELINK_CLIENT_CERT": "", "NODELINK_CLIENT_KEY": ""}
    stranger = {
        "NODELINK_CLIENT_CERT": str(cluster.dir / "stranger.pem"),
        "NODELINK_CLIENT_KEY": str(cluster.dir / "stranger.key"),
    }
    for env, flags in ((none, ()), (stranger, ()), ({}, ("--insecure",))):
        r = cluster.nl("task", "list", "--timeout", "2s", *flags, env=env, check=False)
        assert r.returncode != 0 and not r.stdout, (env, flags, r.stdout)


def test_nothing_in_clear_on_the_raft_port(cluster):
    """A peer that speaks without TLS is cut off, and the log says what to do."""
    with socket.create_connection(("127.0.0.1", cluster.ports["n1"][0])) as s:
        s.sendall(b"nlraft1\n" + bytes(80))
        s.settimeout(10)
        assert s.recv(100) == b""
    cluster.wait_log("n1", "connection refused", "speaks without TLS", "tls-* settings")
    assert cluster.nl("status", check=False).returncode == 0


def refused_node(cluster, settings, words, own_words):
    """n3 comes back with these settings: it stays out, and both sides say why."""
    cluster.stop("n3")
    seen, own = len(cluster.log("n1")), len(cluster.log("n3"))
    cluster.settings["n3"] = settings
    cluster.start_node("n3")
    cluster.wait_log("n1", "connection refused", *words, after=seen)
    cluster.wait_log("n3", "connection refused", *own_words, after=own)
    assert cluster.nl("run", "a1", "--", "true").returncode == 0
    assert cluster.nl("status", check=False).returncode == 1  # degraded
    cluster.stop("n3")
    cluster.settings["n3"] = {}
    cluster.start_node("n3")
    cluster.wait_healthy()


def test_node_of_another_ca(cluster):
    make_cert(cluster.dir, "stranger", ca="other")
    refused_node(
        cluster,
        cluster.tls("stranger", ca="other"),
        ["certificate"],  # who connects looks first; the other side hears that it was refused
        ["not from the CA in our tls-ca-file"],
    )


def test_node_without_tls(cluster):
    refused_node(
        cluster,
        {"insecure": "true", "tls-client-auth": None, **dict.fromkeys(cluster.tls("n3"))},
        ["speaks without TLS"],
        ["speaks TLS, this node does not"],
    )


def test_certificate_of_another_host(cluster):
    """The others would refuse it: the node says so and doesn't start."""
    cluster.stop("n3")
    make_cert(cluster.dir, "far", names="DNS:far.example")
    cluster.settings["n3"] = cluster.tls("far")
    cluster.start_node("n3")
    assert cluster.processes.pop("n3").wait(20 * SLOW) == 1
    assert "does not name 127.0.0.1, the host of this node's raft address" in cluster.log("n3")


def test_key_that_others_can_read(cluster):
    """Node, agent and client refuse it: file, mode and what to do are said; 0600 is taken."""
    key = cluster.dir / "n3.key"
    config = cluster.write_config("n3")
    for mode in (0o640, 0o604, 0o620):
        key.chmod(mode)
        for args in (["--config", config], ["validate", config]):
            r = subprocess.run([BIN / "nodelinkd", *args], capture_output=True, text=True)
            assert r.returncode == 2, r.stderr
            for word in (str(key), f"mode {mode:04o}", "chmod 600", "tls-key-file"):
                assert word in r.stderr, r.stderr
    agent = [BIN / "nodelink-agent", "--agent-id", "a9", "--state-dir", cluster.dir / "a9"]
    agent += ["--token-file", cluster.dir / "a1.token", "--servers", cluster.env["NODELINK_ADDR"]]
    agent += [x for k, file in cluster.tls("n3").items() for x in (f"--{k}", file)]
    r = subprocess.run(agent, capture_output=True, text=True, timeout=60 * SLOW)
    assert r.returncode == 2 and f"{key}: mode 0620" in r.stderr, (r.returncode, r.stderr)
    env = {"NODELINK_CLIENT_KEY": str(key), "NODELINK_CLIENT_CERT": str(cluster.dir / "n3.pem")}
    r = cluster.nl("task", "list", env=env, check=False)
    assert r.returncode == 2 and f"{key}: mode 0620" in r.stderr, (r.returncode, r.stderr)
    # A running node keeps the key that it has.
    seen = len(cluster.log("n3"))
    cluster.signal("n3", signal.SIGHUP)
    cluster.wait_log("n3", "not", f"{key}: mode 0620", after=seen)
    assert cluster.nl("run", "a1", "--addr", cluster.addr("n3"), "--", "true").returncode == 0
    key.chmod(0o600)
    cluster.stop("n3")
    cluster.start_node("n3")
    cluster.wait_healthy()
    assert cluster.nl("task", "list", env=env).returncode == 0


# ---- files and settings that change --------------------------------------------


def test_rotation_loses_no_task(cluster):
    """All certificates are replaced under load; then every node comes back once."""
    command = "for i in $(seq 60); do echo $i; sleep 0.1; done"
    tasks = [cluster.nl("run", a, "--detach", "--", command).stdout.strip() for a in ("a1", "a2")]
    for name in (*NODES, "a1", "a2", "client"):
        make_cert(cluster.dir, name)
    for n in NODES:
        seen = len(cluster.log(n))
        cluster.signal(n, signal.SIGHUP)
        cluster.wait_log(n, "TLS files read again", after=seen)
    for n in NODES:
        cluster.stop(n)
        cluster.start_node(n)
        cluster.wait_healthy()
        tasks.append(cluster.nl("run", "a1", "--detach", "--", "echo done").stdout.strip())
    for task in tasks:
        assert cluster.wait_ended(task)["state"] == "completed"
    for task in tasks[:2]:
        lines = cluster.nl("task", "logs", task).stdout.splitlines()
        assert lines == [str(i + 1) for i in range(60)]


def test_broken_files_are_not_taken(cluster):
    seen = len(cluster.log("n2"))
    good = (cluster.dir / "n2.pem").read_text()
    (cluster.dir / "n2.pem").write_text("half a certificate\n")
    cluster.signal("n2", signal.SIGHUP)
    line = cluster.wait_log("n2", "TLS files not taken, the old ones stay", after=seen)
    assert "n2.pem holds no PEM certificate" in line
    # New connections of both kinds are served with the old files.
    cluster.stop("n3")
    cluster.start_node("n3")
    cluster.wait_healthy()
    assert cluster.nl("task", "list", "--addr", cluster.addr("n2")).returncode == 0
    (cluster.dir / "n2.pem").write_text(good)
    seen = len(cluster.log("n2"))
    cluster.signal("n2", signal.SIGHUP)
    cluster.wait_log("n2", "TLS files read again", after=seen)


def test_hangup_reloads_settings(cluster):
    other = "another token for tests"
    asked = ("task", "list", "--addr", cluster.addr("n1"))
    env = {"NODELINK_TOKEN": other}
    assert cluster.nl(*asked, env=env, check=False).returncode != 0
    both = [hashlib.sha256(t.encode()).hexdigest() for t in (TOKEN, other)]
    cluster.settings["n1"] = {
        "admin-token-sha256": ", ".join(both),
        "log-level": "debug",
        "heartbeat": "60ms",
    }
    cluster.write_config("n1")
    cluster.signal("n1", signal.SIGHUP)
    cluster.wait_log("n1", "configuration reloaded")
    cluster.wait_log("n1", "changed, but needs a restart", "key=heartbeat")
    assert cluster.nl(*asked, env=env).returncode == 0
    # A broken file: said, and the last good one stays.
    (cluster.dir / "n1.conf").write_text("no-such-key = 1\n")
    cluster.signal("n1", signal.SIGHUP)
    assert "no-such-key" in cluster.wait_log("n1", "configuration not reloaded")
    assert cluster.nl(*asked, env=env).returncode == 0
    assert alive(cluster.processes["n1"].pid)


# ---- stopping ------------------------------------------------------------------


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
def test_second_signal_ends_a_drain(cluster, second):
    """The drain waits for an agent that doesn't answer; a second signal doesn't."""
    node = cluster.agent("a1")["node"]
    cluster.settings[node] = {"drain-timeout": "120s"}
    cluster.write_config(node)
    cluster.signal(node, signal.SIGHUP)
    cluster.wait_log(node, "configuration reloaded")
    cluster.signal("a1", signal.SIGSTOP)
    cluster.signal(node, signal.SIGTERM)
    cluster.wait_log(node, "draining")
    process = cluster.processes[node]
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(second)
    assert process.wait(5 * SLOW) == 1
    assert "second signal: stopped at once" in cluster.log(node)
    assert "drained" not in cluster.log(node)
    cluster.signal("a1", signal.SIGCONT)
    cluster.wait_connected("a1")  # at another node
    assert cluster.nl("run", "a1", "--", "true").returncode == 0
