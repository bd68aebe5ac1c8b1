"""`nodelink local`: the cluster for trials and drills that scripts rely on."""

import json
import os
import stat

from harness import Cluster, alive, wait_for


def state_of(pid):
    with open(f"/proc/{pid}/stat") as f:
        return f.read().rsplit(")", 1)[1].split()[0]


def test_files_and_life():
    with Cluster(nodes=3, agents=2) as c:
        config = json.loads((c.dir / "cluster.json").read_text())
        assert [n["name"] for n in config["nodes"]] == ["n1", "n2", "n3"]
        assert [a["id"] for a in config["agents"]] == ["a1", "a2"]
        for n in config["nodes"]:
            assert {"name", "id", "grpc", "raft", "http", "pid", "dir"} <= set(n) and alive(
                n["pid"]
            )
        for a in config["agents"]:
            assert {"id", "pid", "supervisor_pid", "token_file", "dir"} <= set(a)
            assert alive(a["pid"]) and alive(a["supervisor_pid"])
            assert stat.S_IMODE(os.stat(a["token_file"]).st_mode) == 0o600
        assert stat.S_IMODE(os.stat(c.dir / "env").st_mode) == 0o600
        assert c.env["NODELINK_ADDR"] == ",".join(n["grpc"] for n in config["nodes"])

        c.kill("n2")
        assert not alive(config["nodes"][1]["pid"])
        assert c.local("status").returncode in (0, 1)
        c.start("n2")
        assert c.local("pause", "n1").returncode == 0
        wait_for("n1 stands still", lambda: state_of(c.node("n1")["pid"]) == "T")
        assert c.local("resume", "n1").returncode == 0
        c.kill("a1")
        assert not alive(config["agents"][0]["pid"]) and alive(
            config["agents"][0]["supervisor_pid"]
        )
        c.start("a1")
        c.kill("a2", "--supervisor")
        assert not alive(config["agents"][1]["supervisor_pid"])
        c.wait_healthy()
        assert c.nl("run", "a2", "--", "true").returncode == 0

        pids = [n["pid"] for n in c.config()["nodes"]]
        pids += [p for a in c.config()["agents"] for p in (a["pid"], a["supervisor_pid"])]
        assert c.local("down").returncode == 0
        wait_for("all ended", lambda: not any(alive(p) for p in pids))
        assert c.local("down").returncode == 0  # again: nothing to do, no error
        c.up()  # the same directory: starts again with its data
        c.wait_healthy()
        assert c.nl("run", "a1", "--", "true").returncode == 0


def test_one_node_one_agent():
    with Cluster(nodes=1, agents=1) as c:
        assert c.nl("run", "a1", "--", "echo hi").stdout == "hi\n"


def test_unknown_name_is_said():
    with Cluster(nodes=1, agents=0) as c:
        r = c.local("kill", "n9")
        assert r.returncode != 0 and "n9" in r.stderr
