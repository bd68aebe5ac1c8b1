"""What goes wrong in a run. A nemesis is an object with start(), stop() and counts.

Every fault is in the history with what it did; `took_effect` says that it was seen to be there,
not only asked for.
"""

import random
import threading
import time

from harness import alive, wait_for
from history import INFO

NEMESIS = "nemesis"


class Kill:
    """kill -9 of a random node every `every` seconds; it is started again `restart_after` later."""

    def __init__(self, cluster, history, seed, every, restart_after):
        assert restart_after < every
        self.cluster, self.history = cluster, history
        self.every, self.restart_after = every, restart_after
        self.rng = random.Random(f"{seed} kill")
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.down = None  # name of the node that is down on purpose
        self.took_effect = {"kill": 0, "restart": 0}
        self.errors = []

    def start(self):
        self.thread.start()

    def stop(self):
        """Heals: what was killed runs again."""
        self.stopping.set()
        self.thread.join(60)
        if self.down is not None:
            self._start()

    def _note(self, f, **value):
        self.history.add(NEMESIS, INFO, f, **value)

    def _run(self):
        try:
            due = time.monotonic()
            while True:
                due += self.every
                if self.stopping.wait(max(0, due - time.monotonic())):
                    return
                self._kill(self.rng.choice(self.cluster.names()))
                if self.stopping.wait(self.restart_after):
                    return
                self._start()
        except Exception as error:  # shown in the verdict
            self.errors.append(f"kill: {error!r}")

    def _kill(self, name):
        pid = self.cluster.node(name)["pid"]
        was_alive = alive(pid)
        self.down = name  # before: whoever looks for dead nodes must not blame this one
        self.cluster.kill(name)
        wait_for(f"{name} is dead", lambda: not alive(pid), 10)
        self.took_effect["kill"] += was_alive
        self._note("kill", node=name, pid=pid, effect=was_alive)

    def _start(self):
        name = self.down
        self.cluster.start(name)
        pid = self.cluster.node(name)["pid"]
        up = alive(pid)
        self.took_effect["restart"] += up
        self._note("restart", node=name, pid=pid, effect=up)
        self.down = None
