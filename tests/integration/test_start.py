"""A node that can't start says what is wrong and what to do, and changes nothing."""

import hashlib
import os
import pathlib
import shutil
import signal
import subprocess

import pytest

from harness import BIN, SLOW, Cluster, wait_for


def start(*args, timeout=30, **kw):
    return subprocess.run(
        [BIN / "nodelinkd", *map(str, args)],
        capture_output=True,
        text=True,
        timeout=timeout * SLOW,
        stdin=subprocess.DEVNULL,
        **kw,
    )


def config_of(cluster, name):
    return next(pathlib.Path(cluster.node(name)["dir"]).rglob("nodelinkd.conf"))


def digest(directory):
    """Names and contents of all files below, but the lock, which holds the last pid."""
    h = hashlib.sha256()
    for path in sorted(pathlib.Path(directory).rglob("*")):
        if path.is_file() and path.name != "lock" and not path.name.endswith("log"):
            h.update(str(path).encode() + path.read_bytes())
    return h.hexdigest()


def data_dir(cluster, name):
    for line in config_of(cluster, name).read_text().splitlines():
        if line.startswith("data-dir"):
            return pathlib.Path(line.split("=", 1)[1].strip())
    raise AssertionError("no data-dir")


@pytest.fixture
def stopped():
    """A cluster that was used, then n3 ended; the others run on."""
    with Cluster(agents=1) as c:
        assert c.nl("run", "a1", "--", "true").returncode == 0
        c.kill("n3")
        yield c


@pytest.mark.parametrize(
    "text,words",
    [
        ("no-such-key = 1\n", ["no-such-key", ":1"]),
        ("node-id = 1\nnode-id = 2\n", ["node-id", ":2"]),
        ("node-id = x\n", ["node-id", ":1"]),
        ("heartbeat = fast\n", ["heartbeat", ":1"]),
        ("just words\n", [":1"]),
        ("grpc-address = nohost\n", ["grpc-address"]),
    ],
)
def test_bad_config(tmp_path, text, words):
    conf = tmp_path / "bad.conf"
    conf.write_text(text)
    for args in (["validate", conf], ["--config", conf]):
        r = start(*args)
        assert r.returncode == 2, r.stderr
        for w in ["bad.conf", *words]:
            assert w in r.stderr + r.stdout, (w, r.stderr)


def test_good_config_validates(stopped):
    r = start("validate", config_of(stopped, "n1"))
    assert r.returncode == 0, r.stderr + r.stdout


def test_missing_config_file(tmp_path):
    r = start("--config", tmp_path / "none.conf")
    assert r.returncode == 2 and "none.conf" in r.stderr


def test_directory_in_use(stopped):
    r = start("--config", config_of(stopped, "n1"))
    assert r.returncode == 1 and r.stderr.strip()
    assert stopped.nl("run", "a1", "--", "true").returncode == 0


def test_port_in_use(stopped, tmp_path):
    used = stopped.addr("n1")
    conf = tmp_path / "n3.conf"
    text = config_of(stopped, "n3").read_text()
    conf.write_text(
        "\n".join(
            f"grpc-address = {used}" if l.startswith("grpc-address") else l
            for l in text.splitlines()
        )
        + "\n"
    )
    before = digest(data_dir(stopped, "n3"))
    r = start("--config", conf)
    assert r.returncode == 1 and used in r.stderr, r.stderr
    assert digest(data_dir(stopped, "n3")) == before


def test_another_nodes_directory(stopped, tmp_path):
    """A node started on another node's data would vote twice: refused, nothing changed."""
    copy = tmp_path / "copy"
    shutil.copytree(data_dir(stopped, "n3"), copy)
    conf = tmp_path / "n3.conf"
    text = config_of(stopped, "n3").read_text()
    conf.write_text(
        "\n".join(
            "node-id = 2"
            if l.startswith("node-id")
            else "node-name = n2"
            if l.startswith("node-name")
            else f"data-dir = {copy}"
            if l.startswith("data-dir")
            else l
            for l in text.splitlines()
        )
        + "\n"
    )
    before = digest(copy)
    r = start("--config", conf)
    assert r.returncode in (1, 2) and r.stderr.strip(), r.stderr
    assert digest(copy) == before


def test_empty_directory_without_bootstrap(stopped, tmp_path):
    """A wiped node must not vote again under its old id."""
    conf = tmp_path / "n3.conf"
    text = config_of(stopped, "n3").read_text()
    conf.write_text(
        "\n".join(
            f"data-dir = {tmp_path / 'new'}" if l.startswith("data-dir") else l
            for l in text.splitlines()
            if not l.startswith("bootstrap")
        )
        + "\n"
    )
    r = start("--config", conf)
    assert r.returncode == 1 and "bootstrap" in r.stderr, r.stderr


def test_corrupt_log(stopped):
    directory = data_dir(stopped, "n3")
    segments = sorted(
        p
        for p in directory.rglob("*")
        if p.is_file()
        and (p.name.startswith("open-") or "-" in p.name and p.name.replace("-", "").isdigit())
        and p.stat().st_size > 4096
    )
    assert segments, list(directory.rglob("*"))
    with open(segments[0], "r+b") as f:
        f.seek(48)
        byte = f.read(8)
        f.seek(48)
        f.write(bytes(b ^ 0xFF for b in byte))
    before = digest(directory)
    for _ in range(15):  # the other nodes' calls reach a node that is refusing at any moment
        r = start("--config", config_of(stopped, "n3"))
        assert r.returncode == 1 and str(directory) in r.stderr, (r.returncode, r.stderr)
        assert digest(directory) == before
    assert stopped.nl("run", "a1", "--", "true").returncode == 0


def test_secret_file_open_to_others(stopped, tmp_path):
    text = config_of(stopped, "n3").read_text()
    path = next(
        l.split("=", 1)[1].strip() for l in text.splitlines() if l.startswith("cluster-secret-file")
    )
    copy = tmp_path / "secret"
    shutil.copy(path, copy)
    copy.chmod(0o644)
    conf = tmp_path / "n3.conf"
    conf.write_text(text.replace(path, str(copy)))
    r = start("--config", conf)
    assert r.returncode != 0 and str(copy) in r.stderr
    assert copy.read_text().strip() not in r.stderr


def test_plain_needs_to_be_said(stopped, tmp_path):
    text = config_of(stopped, "n3").read_text()
    conf = tmp_path / "n3.conf"
    conf.write_text("\n".join(l for l in text.splitlines() if not l.startswith("insecure")) + "\n")
    r = start("--config", conf)
    assert r.returncode == 2 and "insecure" in r.stderr and "tls" in r.stderr.lower()


def test_dev_mode():
    p = subprocess.Popen(
        [BIN / "nodelinkd", "--dev"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        text = ""
        while "NODELINK_TOKEN" not in text or "NODELINK_ADDR" not in text:
            line = p.stdout.readline()
            assert line, text
            text += line
    finally:
        p.send_signal(signal.SIGTERM)
        rest, _ = p.communicate(timeout=30 * SLOW)
    assert p.returncode == 0, text + rest


def test_terminate_drains(stopped):
    """SIGTERM to a node: exit 0, its agents are elsewhere, and nobody sees a failed command."""
    owner = stopped.owner("a1")
    stopped.start("n3")
    stopped.wait_healthy()
    pid = stopped.node(owner)["pid"]
    p = stopped.spawn("run", "a1", "--", "for i in $(seq 1 60); do echo $i; sleep 0.05; done")
    first = p.stdout.readline()
    os.kill(pid, signal.SIGTERM)
    out, err = p.communicate(timeout=60 * SLOW)
    assert (first + out).decode() == "".join(
        f"{i}\n" for i in range(1, 61)
    ) and p.returncode == 0, err
    wait_for(
        "ended",
        lambda: not pathlib.Path(f"/proc/{pid}").exists()
        or open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] == "Z",
    )
    assert stopped.owner("a1") != owner
