"""nodelink bench: each kind runs, measures, and leaves nothing behind but names."""

import json
import signal

import pytest

from harness import Cluster, wait_for

KEYS = {"ops_per_s", "p50_us", "p99_us", "max_us", "errors"}


@pytest.fixture(scope="module")
def cluster():
    with Cluster(nodes=3, agents=1) as c:
        yield c


def bench(cluster, kind, *args, timeout=60):
    r = cluster.nl("bench", kind, "-o", "json", *args, timeout=timeout)
    assert r.returncode == 0, f"{kind} {args}: exit {r.returncode}: {r.stdout}{r.stderr}"
    result = json.loads(r.stdout)
    assert KEYS <= set(result), result
    assert result["errors"] == 0, result
    assert result["ops_per_s"] > 0
    assert 0 < result["p50_us"] <= result["p99_us"] <= result["max_us"]
    assert len(result["nodes"]) == 3 and all(n["rss_bytes"] > 0 for n in result["nodes"])
    return result


def tokens(cluster):
    """Benchmark agents that may still connect."""
    agents = cluster.json("agent", "list")
    return [a["id"] for a in agents if a["id"].startswith("bench-") and a["has_token"]]


def active(cluster):
    return [
        t["id"]
        for state in ("pending", "dispatched", "running", "unknown")
        for t in cluster.json("task", "list", "--state", state)
    ]


def test_submit(cluster):
    r = bench(cluster, "submit", "--clients", "8", "--duration", "1", "--warmup", "200ms")
    assert r["clients"] == 8 and r["ops"] == pytest.approx(r["ops_per_s"] * r["seconds"], abs=1)
    assert active(cluster) == []
    assert tokens(cluster) == []


def test_submit_through_each_node(cluster):
    for name in cluster.names():
        bench(
            cluster, "submit", "--duration", "1", "--warmup", "100ms", "--addr", cluster.addr(name)
        )


def test_submit_on_streams(cluster):
    r = bench(cluster, "submit", "--stream", "--clients", "32", "--duration", "1")
    assert r["stream"] and r["ops"] > 32
    assert active(cluster) == []


def test_submit_count_and_agents(cluster):
    before = len(cluster.json("task", "list", "--state", "completed"))
    args = ("--count", "50", "--duration", "30", "--warmup", "0", "--agents", "4")
    r = bench(cluster, "submit", *args)
    assert r["ops"] == 50 and r["seconds"] < 20
    assert active(cluster) == []
    assert len(cluster.json("task", "list", "--state", "completed")) == before + 50


def test_task(cluster):
    r = bench(cluster, "task", "--clients", "4", "--duration", "1", "--warmup", "200ms")
    assert r["submit"]["p50_us"] < r["p50_us"]  # the submit is a part of the task
    assert active(cluster) == [] and tokens(cluster) == []


def test_task_on_a_real_agent(cluster, tmp_path):
    starts = tmp_path / "starts"
    command = f"echo x >> {starts}; echo out"
    r = bench(
        cluster,
        *("task", "--count", "5", "--duration", "30", "--warmup", "0", "--agent", "a1"),
        *("--", command),
    )
    assert r["ops"] == 5
    assert starts.read_text() == "x\n" * 5


def test_failing_command_is_an_error(cluster):
    r = cluster.nl(
        *("bench", "task", "--agent", "a1", "--count", "2", "--duration", "30", "--warmup", "0"),
        *("-o", "json", "--", "exit 3"),
    )
    assert r.returncode == 1
    result = json.loads(r.stdout)
    assert result["errors_by_code"] == {"TASK_FAILED": 2}
    assert "TASK_FAILED" in r.stderr


def test_watch(cluster):
    args = ("--clients", "12", "--tasks", "3", "--rate", "50", "--size", "300", "--duration", "1")
    r = bench(cluster, "watch", *args, "--warmup", "200ms")
    # Each of 12 watchers gets the 50 chunks of a second, less what is at the edges.
    assert 12 * 40 <= r["ops"] <= 12 * 52
    assert active(cluster) == [] and tokens(cluster) == []


def test_agents(cluster):
    r = bench(cluster, "agents", "--agents", "40", "--hold", "2", "--ping", "100ms")
    assert r["agents"] == r["connected"] == 40 and r["streams_lost"] == 0
    assert r["connect"]["count"] == 40
    assert r["ping"]["count"] >= 40 * 10
    assert sum(n["agents"] for n in r["nodes"]) == 41  # and a1
    assert tokens(cluster) == []


def test_interrupt_cleans_up(cluster):
    p = cluster.spawn("bench", "submit", "--duration", "60", "--warmup", "0", "-o", "json")
    wait_for("tasks of the benchmark", lambda: active(cluster))
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=60)
    assert p.returncode == 130, err
    assert json.loads(out)["ops"] > 0
    assert active(cluster) == [] and tokens(cluster) == []


def test_wrong_use(cluster):
    for args in (
        ("submit", "--clients", "0"),
        ("task", "--agent", "a1"),
        ("task", "--", "true"),
        ("watch", "--clients", "1", "--tasks", "2"),
        ("submit", "--duration", "soon"),
    ):
        r = cluster.nl("bench", *args)
        assert r.returncode == 2, (args, r.stderr)
    r = cluster.nl("bench", "submit", "--addr", "127.0.0.1:1")
    assert r.returncode == 3 and "127.0.0.1:1" in r.stderr and "next:" in r.stderr


def test_a_node_dies(cluster):
    """Agents of a dead node are back at another one and get tasks again. Last: it kills a node."""
    victim = next(n for n in cluster.names() if n != cluster.leader())
    p = cluster.spawn(
        *("bench", "agents", "--agents", "30", "--hold", "8", "--check", "-o", "json")
    )
    wait_for("all connected", lambda: cluster.status()["agents"]["connected"] == 31)
    cluster.kill(victim)
    out, err = p.communicate(timeout=120)
    r = json.loads(out)
    assert p.returncode == 0, err
    assert r["connected"] == 30 and r["errors"] == 0
    assert r["streams_lost"] == r["usable"]["count"] == r["away"]["count"] > 0
    cluster.start(victim)


def test_the_cluster_dies(cluster):
    """It does not try to cancel thousands of tasks one by one where nobody answers. Very last."""
    p = cluster.spawn("bench", "submit", "--clients", "64", "--duration", "60", "--warmup", "0")
    wait_for("tasks of the benchmark", lambda: len(active(cluster)) >= 50)
    for name in cluster.names():
        cluster.kill(name)
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=60)
    assert p.returncode != 0 and b"can't connect" in err, (p.returncode, err)
