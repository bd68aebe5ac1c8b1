"""A cluster whose processes stop at named places (failpoints), and are killed there.

Arming, hitting and going on are files (common/base/failpoint.h); everything else goes through
python3-grpcio, because a command line per question would take most of the time.
"""

import contextlib
import os
import pathlib
import signal
import threading
import time

import grpc

from harness import SLOW, Cluster, Evidence, alive, processes_with, stubs, wait_for

RECONNECT = [("grpc.initial_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 500)]
# A node that is only slow to answer is asked again, not believed dead.
ASK_S = 5


class Points:
    """The directory of armed failpoints."""

    def __init__(self, directory):
        self.dir = pathlib.Path(directory)
        self.dir.mkdir()

    def arm(self, name, action="stop"):
        """Written aside and renamed: nobody reads half an action."""
        aside = self.dir / f".{name}"
        aside.write_text(action)
        aside.rename(self.dir / name)

    def disarm(self):
        for path in self.dir.iterdir():
            path.unlink()

    def taken(self, name):
        """Pid of the process that has come there, or None."""
        for path in self.dir.glob(f"{name}.*"):
            pid = path.name.removeprefix(f"{name}.")
            if pid.isdigit():
                return int(pid)
        return None

    def wait(self, name, seconds=30):
        return wait_for(f"somebody at {name}", lambda: self.taken(name), seconds, every=0.005)

    def go_on(self, name):
        for path in self.dir.glob(f"{name}.*"):
            path.unlink()


class States(threading.Thread):
    """Every state of one task that a node tells, in order."""

    def __init__(self, control, task):
        super().__init__(daemon=True)
        request = stubs()["control"].WatchTaskRequest(task_id=task, stale=True)
        self.call = control.WatchTask(request, timeout=120)
        self.seen = []
        self.start()

    def run(self):
        names = stubs()["control"].TaskState
        with contextlib.suppress(grpc.RpcError):
            for event in self.call:
                if event.HasField("task"):
                    state = names.Name(event.task.state).removeprefix("TASK_").lower()
                    if self.seen[-1:] != [state]:
                        self.seen.append(state)

    def end(self):
        self.call.cancel()
        self.join()
        return self.seen


class World:
    """Three nodes and their agents, asked through whichever node answers."""

    def __init__(self, cluster, points):
        self.cluster, self.points = cluster, points
        self.evidence = Evidence(cluster.dir)
        self.control = {n: cluster.stub(n, options=RECONNECT) for n in cluster.names()}
        self.pb = stubs()["control"]
        self.agent_count = len(cluster.config()["agents"])

    def close(self):
        for _, channel in self.control.values():
            channel.close()

    def on(self, name):
        return self.control[name][0]

    def ask(self, method, request, nodes=None):
        """The answer of the first node that gives one, None: none does now."""
        for name in nodes or self.cluster.names():
            with contextlib.suppress(grpc.RpcError):
                return getattr(self.on(name), method)(request, timeout=ASK_S)
        return None

    # ---- who is where

    def agents(self):
        reply = self.ask("ListAgents", self.pb.ListAgentsRequest())
        return {a.id: a for a in reply.agents} if reply else {}

    def term_led(self, name):
        """In which the node says that it leads, or 0."""
        with contextlib.suppress(grpc.RpcError):
            s = self.on(name).GetStatus(self.pb.GetStatusRequest(), timeout=ASK_S)
            return s.term if s.role == "leader" else 0
        return 0

    def leads(self, name):
        return self.term_led(name) > 0

    def leader(self):
        """The node that says so of itself, in the highest term."""
        term, name = max((self.term_led(n), n) for n in self.cluster.names())
        return name if term > 0 else None

    def is_healthy(self):
        streams = {}
        for name in self.cluster.names():
            try:
                s = self.on(name).GetStatus(self.pb.GetStatusRequest(), timeout=ASK_S)
            except grpc.RpcError:
                return False
            if not s.quorum or s.leader_id == 0:
                return False
            streams[name] = s.agents
        agents = self.agents().values()
        # A record may still name the node that was just killed: each node has to hold the streams.
        recorded = {name: 0 for name in streams}
        for agent in agents:
            if agent.connection == self.pb.AGENT_CONNECTED:
                recorded[agent.node] += 1
        return recorded == streams and sum(recorded.values()) == self.agent_count

    def wait_healthy(self, seconds=60):
        wait_for("healthy, all agents connected", self.is_healthy, seconds)

    def place(self):
        """(agent, its owner, the leader, the third node), owner and leader being two nodes."""

        def found():
            leader = self.leader()
            for agent in self.agents().values():
                if leader and agent.node and agent.node != leader:
                    third = [n for n in self.cluster.names() if n not in (agent.node, leader)]
                    return agent.id, agent.node, leader, third[0]
            return None

        for _ in range(20):
            place = found()
            if place:
                return place
            # All agents are at the leader: somebody else has to lead.
            leader = self.leader()
            pid = self.node_pid(leader)
            os.kill(pid, signal.SIGSTOP)
            try:
                wait_for("another leader", lambda: self.leader() not in (None, leader))
            finally:
                os.kill(pid, signal.SIGCONT)
            self.wait_healthy()
        raise AssertionError("no agent whose owner is not the leader")

    def node_pid(self, name):
        return self.cluster.node(name)["pid"]

    def agent_pid(self, agent, process):
        """process: link or supervisor."""
        path = pathlib.Path(self.cluster.agent(agent)["dir"]) / f"{process}.pid"
        return int(path.read_text())

    def kill(self, pid):
        os.kill(pid, signal.SIGKILL)
        wait_for(f"the end of {pid}", lambda: not alive(pid), every=0.005)

    # ---- tasks

    def submit(self, task, agent, command, node, **spec):
        request = self.pb.SubmitTaskRequest(
            task_id=task,
            spec=stubs()["command"].TaskSpec(agent_id=agent, cmd=command, **spec),
        )
        return self.on(node).SubmitTask(request, timeout=30)

    def task(self, task, node=None):
        reply = self.ask("GetTask", self.pb.GetTaskRequest(task_id=task), node and [node])
        return reply.task if reply else None

    def state(self, task, node=None):
        t = self.task(task, node)
        return self.pb.TaskState.Name(t.state).removeprefix("TASK_").lower() if t else None

    def wait_ended(self, task, seconds=60):
        def ended():
            t = self.task(task)
            return t if t and t.state >= self.pb.TASK_COMPLETED else None

        return wait_for(f"the end of {task}", ended, seconds)

    def output(self, task, node, seconds=30):
        """(stdout, stderr) through one node from the start; what it breaks off is asked again."""
        out = [b"", b""]
        deadline = time.monotonic() + seconds * SLOW
        while time.monotonic() < deadline:
            request = self.pb.WatchTaskRequest(
                task_id=task, output=True, stdout_offset=len(out[0]), stderr_offset=len(out[1])
            )
            with contextlib.suppress(grpc.RpcError):
                for event in self.on(node).WatchTask(request, timeout=seconds):
                    assert not event.HasField("gap"), event
                    for i, offset, data in (
                        (0, event.stdout_offset, event.stdout),
                        (1, event.stderr_offset, event.stderr),
                    ):
                        assert not data or offset == len(out[i]), (i, offset, len(out[i]))
                        out[i] += data
                    if event.end:
                        return tuple(out)
            time.sleep(0.05)
        raise AssertionError(f"no end of the output of {task} through {node}")

    def processes(self, task):
        return processes_with(f"NODELINK_TASK_ID={task}")


@contextlib.contextmanager
def world(**kw):
    """A cluster with failpoints; kw as for Cluster."""
    cluster = Cluster(**kw)
    points = Points(cluster.dir / "failpoints")
    cluster.env["NODELINK_FAILPOINT_DIR"] = str(points.dir)
    with cluster:
        w = World(cluster, points)
        try:
            yield w
        finally:
            w.close()
            points.disarm()
