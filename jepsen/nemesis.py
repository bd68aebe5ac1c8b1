"""What goes wrong in a run. A nemesis is an object with start(), stop(), `down` and counts.

Every fault is in the history with what it did; `took_effect` says that it was seen to be there,
not only asked for.
"""

import collections
import pathlib
import random
import threading
import time

import connections
from harness import alive, wait_for
from history import INFO

NEMESIS = "nemesis"
HEAL_S = 60


# ---- faults -------------------------------------------------------------------
#
# hit() does it and returns (effect, fields for the history); `seconds` later heal() takes it back.
# `broken` is the process that is not itself meanwhile, "n1" or "a1.link".


class Fault:
    def __init__(self, cluster, seed, seconds):
        self.cluster, self.seconds = cluster, seconds
        self.rng = random.Random(f"{seed} {self.name}")
        self.broken = None

    def heal(self):
        """As hit(); None: there was nothing to take back."""
        return None


def processes(cluster):
    """{name: pid} of what may be a victim."""
    parts = cluster.config()
    links = {f"{a['id']}.link": a["pid"] for a in parts["agents"]}
    return {**{n["name"]: n["pid"] for n in parts["nodes"]}, **links}


class OfNodes:
    """The victim is a node."""

    def choose(self):
        victim = self.rng.choice(self.cluster.names())
        return victim, victim, self.cluster.node(victim)["pid"]


class OfLinks:
    """The victim is the link of an agent; its supervisor and its tasks go on."""

    def choose(self):
        agent = self.rng.choice(self.cluster.config()["agents"])
        return agent["id"], f"{agent['id']}.link", agent["pid"]


class Kill(Fault):
    """kill -9; started again later, with its data."""

    name, healed = "kill", "restart"
    starting = threading.Lock()  # `local start` writes cluster.json anew

    def hit(self):
        self.victim, broken, pid = self.choose()
        was_alive = alive(pid)
        self.broken = broken  # before: whoever looks for the dead must not blame this one
        if was_alive:
            self.cluster.kill(self.victim)
            wait_for(f"{broken} is dead", lambda: not alive(pid), 10)
        return was_alive, {"victim": broken, "pid": pid}

    def heal(self):
        with self.starting:
            self.cluster.start(self.victim)
        pid = processes(self.cluster)[self.broken]
        return alive(pid), {"victim": self.broken, "pid": pid}


class KillNode(OfNodes, Kill):
    pass


class KillLink(OfLinks, Kill):
    name, healed = "kill-link", "restart-link"


class Pause(Fault):
    """SIGSTOP: it keeps its connections and says nothing; then it goes on as if nothing was."""

    name, healed = "pause", "resume"

    def __init__(self, cluster, seed, seconds):
        super().__init__(cluster, seed, seconds)
        self.usual_seconds = seconds

    def hit(self):
        self.victim, broken, self.pid = self.choose()
        self.seconds = self.rng.uniform(0.2, 1.5) * self.usual_seconds
        fields = {"victim": broken, "pid": self.pid, "seconds": round(self.seconds, 3)}
        if not alive(self.pid):  # it ended by itself; the observer says so
            return False, fields
        self.broken = broken
        r = self.cluster.local("pause", self.victim)
        assert r.returncode == 0, r.stderr
        wait_for(f"{broken} stands still", lambda: stopped(self.pid), 10)
        return True, fields

    def heal(self):
        if not alive(self.pid):
            return False, {"victim": self.broken, "pid": self.pid}
        r = self.cluster.local("resume", self.victim)
        assert r.returncode == 0, r.stderr
        wait_for(f"{self.broken} goes on", lambda: not stopped(self.pid), 10)
        return alive(self.pid), {"victim": self.broken, "pid": self.pid}


class PauseNode(OfNodes, Pause):
    pass


class PauseLink(OfLinks, Pause):
    name, healed = "pause-link", "resume-link"


class Cut(Fault):
    """Resets all connections of a node or a link, or some of them; it may connect again at once."""

    name = "cut"

    def __init__(self, cluster, seed, _):
        super().__init__(cluster, seed, 0)

    def hit(self):
        victim, pid = self.rng.choice(sorted(processes(self.cluster).items()))
        there = connections.of_process(pid)
        chosen = [c for c in there if self.rng.random() < 0.5] if self.rng.random() < 0.5 else there
        gone = sum(connections.cut(c) for c in chosen)
        return gone > 0, {"victim": victim, "pid": pid, "of": len(there), "connections": gone}


def stopped(pid):
    """By a signal: the state of all its threads is T."""
    try:
        stats = [p.read_text() for p in pathlib.Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:
        return False
    return bool(stats) and all(s.rsplit(")", 1)[1].split()[0] == "T" for s in stats)


# In a lane one fault at a time, so that the nodes keep their majority; lanes go on beside each
# other.
KINDS = {"node": KillNode, "link": KillLink, "cut": Cut, "pause-node": PauseNode}
KINDS["pause-link"] = PauseLink
LANES = [("node", "pause-node"), ("link", "pause-link"), ("cut",)]


# ---- when they happen -----------------------------------------------------------


class Lane:
    """One of its faults about every `every` seconds."""

    def __init__(self, faults, every, rng, note):
        self.faults, self.every, self.rng, self.note = faults, every, rng, note
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.bag = []
        self.current = None  # the fault that is there now
        self.error = None

    def _run(self):
        try:
            due = time.monotonic()
            while True:
                due += self.every if self.rng is None else self.every * self.rng.uniform(0.5, 1.5)
                if self.stopping.wait(max(0, due - time.monotonic())):
                    return
                self._hit(self._next())
                if self.stopping.wait(self.current.seconds):
                    return
                self._heal()
        except Exception as error:  # shown in the verdict
            self.error = f"{self.current.name if self.current else 'lane'}: {error!r}"

    def _next(self):
        """Each kind once, in a random order, then again."""
        if not self.bag:
            self.bag = list(self.faults)
        return self.bag.pop(self.rng.randrange(len(self.bag)) if self.rng else 0)

    def _hit(self, fault):
        self.current = fault
        self.note(fault.name, fault.hit())

    def _heal(self):
        done = self.current.heal()
        if done is not None:
            self.note(self.current.healed, done)
        self.current.broken = self.current = None

    def stop(self):
        self.stopping.set()
        self.thread.join(HEAL_S)
        if self.current is not None:
            self._heal()


class Faults:
    """Faults of these kinds, chosen from the seed. One kind alone comes as regularly as a clock,
    several come at random times, so that they overlap in all ways."""

    def __init__(self, cluster, history, seed, every, seconds, kinds):
        assert seconds < every and kinds
        self.history = history
        self.took_effect = collections.Counter()
        self.lanes = []
        for lane in LANES:
            faults = [KINDS[k](cluster, seed, seconds) for k in lane if k in kinds]
            rng = random.Random(f"{seed} {lane}") if len(kinds) > 1 else None
            if faults:
                self.lanes.append(Lane(faults, every, rng, self._note))
            for fault in faults:
                self.took_effect[fault.name] = 0

    def _note(self, f, done):
        effect, fields = done
        self.took_effect[f] += effect
        self.history.add(NEMESIS, INFO, f, **fields, effect=effect)

    def start(self):
        for lane in self.lanes:
            lane.thread.start()

    def stop(self):
        """Heals: what was killed runs again."""
        for lane in self.lanes:
            lane.stop()

    @property
    def down(self):
        """Names of the processes that are not themselves on purpose."""
        return {f.broken for lane in self.lanes for f in lane.faults if f.broken}

    @property
    def errors(self):
        return [lane.error for lane in self.lanes if lane.error]
