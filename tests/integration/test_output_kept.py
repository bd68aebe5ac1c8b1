"""A task's output after its end: through any node, from any offset, while the agent keeps it, and
what is left when the agent is gone. Readers that do not read."""

import json
import shutil
import time

import pytest

from harness import SLOW, Cluster, alive, new_id, sha256, wait_for

TAIL = 64 * 1024


def digits(n):
    """n bytes that compress badly enough and say where they are."""
    return "".join(f"{i:9d}\n" for i in range(n // 10))


def write_digits(n):
    """A shell command that writes digits(n)."""
    return f"seq 0 {n // 10 - 1} | awk '{{printf \"%9d\\n\", $1}}'"


@pytest.fixture
def kept():
    sets = [f"unreachable-after={SLOW}s", f"disconnect-grace={2 * SLOW}s", "reader-timeout=2s"]
    with Cluster(sets=sets) as c:
        yield c


def destroy(cluster, agent):
    """The agent and all it had are gone for good."""
    a = cluster.agent(agent)
    cluster.kill(agent)
    cluster.kill(agent, "--supervisor")
    wait_for("its end", lambda: not alive(a["pid"]) and not alive(a["supervisor_pid"]))
    shutil.rmtree(a["dir"])
    wait_for("lost", lambda: cluster.json("agent", "show", agent)["state"] == "lost")


def run_detached(cluster, agent, command, seconds=60):
    task = cluster.submit(agent, command)
    t = cluster.wait_task(task, seconds)
    return task, t


def test_small_output_outlives_its_agent(kept):
    """All of it, byte by byte, through every node, also after the nodes were started again."""
    command = "printf 'a\\000b\\377c'; echo problem >&2; exit 3"
    task, t = run_detached(kept, "a1", command)
    quiet, _ = run_detached(kept, "a1", "true")
    destroy(kept, "a1")

    def check(name):
        r = kept.nl("logs", "-f", task, "--addr", kept.addr(name), text=False)
        assert (r.stdout, r.stderr, r.returncode) == (b"a\0b\377c", b"problem\n", 3)
        r = kept.nl("logs", task, "--from", 2, "--addr", kept.addr(name), text=False)
        assert (r.stdout, r.stderr, r.returncode) == (b"b\377c", b"oblem\n", 0)
        r = kept.nl("logs", quiet, "--addr", kept.addr(name))
        assert (r.stdout, r.stderr, r.returncode) == ("", "", 0)

    for name in kept.names():
        check(name)
    for name in kept.names():
        kept.kill(name)
    for name in kept.names():
        kept.start(name)
    kept.wait_healthy(60, agents=["a2", "a3"])
    for name in kept.names():
        check(name)
    kept.verify()


def test_large_output_in_full_and_its_tail(kept):
    """While the agent keeps it: all of it, from any offset, through any node. When the agent is
    gone: a gap that is said, then the last 64 KiB."""
    size = 600_000
    want = digits(size)
    task, t = run_detached(kept, "a1", f"{write_digits(size)}; echo short >&2")
    assert t["stdout_sha256"] == sha256(want.encode())
    for name in kept.names():
        for offset in (0, 1, 123_456, size - 10, size):
            r = kept.nl("logs", task, "--stdout-from", offset, "--addr", kept.addr(name))
            assert r.stdout == want[offset:] and r.stderr == "short\n"
    destroy(kept, "a1")
    base = size - (TAIL - len("short\n"))
    for name in kept.names():
        r = kept.nl("logs", "-f", task, "--addr", kept.addr(name))
        assert r.stdout == want[base:] and r.returncode == 0
        assert f"bytes 0 to {base} are gone" in r.stderr and "short\n" in r.stderr
        r = kept.nl("logs", task, "--from", size - 100, "--addr", kept.addr(name))
        assert r.stdout == want[-100:] and "gone" not in r.stderr
    lines = [json.loads(s) for s in kept.nl("logs", task, "-o", "json").stdout.splitlines()]
    gap = next(x for x in lines if "gap" in x)
    assert (gap["gap"], gap["from"], gap["to"]) == ("stdout", 0, base)
    assert "".join(x["data"] for x in lines if x.get("stream") == "stdout") == want[base:]


def test_spool_is_kept_for_a_time():
    """spool-keep over: the agent is there, its output is not; a tail of the size set is."""
    with Cluster(agents=2, agent_sets=["spool-keep=1s", "tail-max=1000"]) as c:
        want = digits(20_000)
        task, _ = run_detached(c, "a1", write_digits(20_000))
        spool = next(p for p in [c.dir / "a1"] if p.exists())

        def gone():
            return not any(task in str(p) for p in spool.rglob("stdout"))

        wait_for("the spool is gone", gone, 30)
        r = c.nl("logs", task)
        assert r.stdout == want[-1000:], r.stderr
        assert "bytes 0 to 19000 are gone" in r.stderr


def test_follow_across_failovers(kept):
    """logs -f --from, begun while the task runs: the node asked, the owner and the leader die."""
    size = 400_000
    pieces = f"for i in 0 1 2 3 4 5 6 7; do {write_digits(size // 8)}; sleep 0.5; done; exit 5"
    want = digits(size // 8) * 8
    task = kept.submit("a2", pieces)
    wait_for("running", lambda: kept.task(task)["state"] == "running")
    owner = kept.owner("a2")
    other = next(n for n in kept.names() if n != owner)
    addresses = ",".join(kept.addr(n) for n in [other] + [n for n in kept.names() if n != other])
    p = kept.spawn("logs", "-f", task, "--from", 777, "--addr", addresses)
    first = p.stdout.read(1000)
    kept.kill(owner)
    wait_for("another owner", lambda: kept.owner("a2") != owner)
    kept.start(owner)
    kept.wait_healthy(60)
    kept.kill(other)
    out = p.stdout.read()  # not communicate: it would leave out what is buffered
    err = p.stderr.read()
    p.wait()
    kept.start(other)
    assert (first + out).decode() == want[777:], err.decode()
    assert p.returncode == 5, err.decode()
    kept.wait_healthy()


def test_reader_that_does_not_read(kept):
    """It is cut off, holds nobody up, and goes on where it was when it reads again."""
    size = 30_000_000
    task = kept.submit("a1", f"{write_digits(size)}; exit 4")
    stuck = kept.spawn("logs", "-f", task)
    begun = time.monotonic()
    t = kept.wait_task(task, 120)  # the task is not slowed, it ends
    assert t["exit_code"] == 4

    def cut_off():
        texts = [p.read_text(errors="replace") for p in kept.log_files()]
        return any("reader cut off" in x for x in texts)

    wait_for("the reader is cut off", cut_off, 60)
    r = kept.nl("logs", task, text=False, timeout=120)
    assert sha256(r.stdout) == t["stdout_sha256"]
    out, err = stuck.communicate(timeout=120 * SLOW)
    assert sha256(out) == t["stdout_sha256"], (len(out), err.decode()[-500:], begun)
    assert stuck.returncode == 4


def test_no_tail_if_none_is_wanted():
    with Cluster(
        nodes=1,
        agents=1,
        sets=[f"unreachable-after={SLOW}s", f"disconnect-grace={2 * SLOW}s"],
        agent_sets=["tail-max=0"],
    ) as c:
        task, _ = run_detached(c, "a1", "echo hello")
        assert c.nl("logs", task).stdout == "hello\n"
        destroy(c, "a1")
        r = c.nl("logs", task)
        assert r.stdout == "" and "bytes 0 to 6 are gone" in r.stderr
