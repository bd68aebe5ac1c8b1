"""A program under test that is stopped, made to fail or killed at a named step of its start.

Steps are fail points (common/base/failpoint.h), so a stop at one is no matter of luck: the program
waits there until the test has sent its signal.
"""

import collections
import os
import pathlib
import re
import signal
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "tests/integration"))

from harness import BIN, SLOW, Timeout, wait_for  # noqa: E402

HAS_FAILPOINTS = os.environ.get("NL_FAILPOINTS") == "ON"
REPORTS = ("Sanitizer", "runtime error:", "Assertion", "assertion failed")
# libuv's pipe for signals; gRPC's two pollers, each with its wake-up. Once in a process.
LIBRARIES = collections.Counter({"pipe": 2, "anon_inode:[eventpoll]": 2, "anon_inode:[eventfd]": 2})
KILLED, TERMINATED = -signal.SIGKILL, -signal.SIGTERM


def steps_in_source(prefix, *folders):
    """Names of the points that the source has, so that no step is forgotten here."""
    found = set()
    for folder in folders:
        for path in (ROOT / folder).rglob("*.c"):
            found |= set(re.findall(rf'"{re.escape(prefix)}([a-z_]+)"', path.read_text()))
    return found


class Program:
    """One directory of state, and the starts of one program on it, one after the other."""

    def __init__(self, directory, prefix, *args, may_keep=()):
        self.directory = pathlib.Path(directory)
        self.points = self.directory / "points"
        self.points.mkdir(parents=True, exist_ok=True)
        self.prefix = prefix
        self.args = [str(a) for a in args]
        self.log = self.directory / "log"
        self.may_keep = LIBRARIES + collections.Counter(may_keep)
        self.process = None

    # ---- a start

    def start(self, limits=None, **actions):
        """Action of each step: kill, error, or stop. `error@2` fails at the second hit."""
        for old in self.points.iterdir():
            old.unlink()
        env = dict(os.environ, NODELINK_FAILPOINT_DIR=str(self.points))
        env["TSAN_OPTIONS"] = env.get("TSAN_OPTIONS", "") + ":report_thread_leaks=1"
        counted = {s: a for s, a in actions.items() if "@" in a}
        if counted:
            env["NODELINK_FAILPOINTS"] = ",".join(f"{self.name(s)}={a}" for s, a in counted.items())
        for step in actions.keys() - counted.keys():
            self.point(step).write_text(actions[step])
        self.log.write_text("")
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                self.args,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                preexec_fn=limits,
            )
        return self

    def name(self, step):
        return step if "." in step else self.prefix + step

    def point(self, step):
        return self.points / self.name(step)

    def text(self):
        return self.log.read_text(errors="replace")

    def wait_text(self, words):
        def there():
            text = self.text()
            assert words in text or not self.is_over(), text
            return words in text

        try:
            wait_for(words, there)
        except Timeout as e:
            raise Timeout(f"{e}\n{self.text()}") from None

    def wait_at(self, step):
        """Until the program stands at the step; the file that keeps it there."""

        def arrived():
            at = self.held_at(step)
            assert at or not self.is_over(), f"it never came to {step}\n{self.text()}"
            return at

        return wait_for(f"step {step}", arrived)

    def held_at(self, step):
        return next(self.points.glob(f"{self.name(step)}.[0-9]*"), None)

    def is_over(self):
        return self.process.poll() is not None or self.held_at("ended")

    def terminate_at(self, step):
        held = self.wait_at(step)
        self.process.send_signal(signal.SIGTERM)
        held.unlink()

    def terminate(self):
        self.process.send_signal(signal.SIGTERM)

    # ---- its end

    def wait(self, code):
        """Ends in time, with this exit code, without a finding of a sanitizer. Stops at its last
        line if it gets there, where everything must have been closed."""
        try:
            ended = self.wait_ended()
            if ended is not None:
                left = self.open_files()
                assert not left, f"left open: {left}\n{self.text()}"
                ended.unlink()
            got = self.process.wait(30 * SLOW)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
        text = self.text()
        assert not any(r in text for r in REPORTS), text
        assert got == code, f"exit code {got}, not {code}\n{text}"
        return text

    def wait_ended(self):
        """The file that holds it at its last line, None when it is gone without coming there."""
        wait_for("its end", self.is_over)
        return self.held_at("ended")

    def open_files(self):
        """What it has open beside its standard descriptors and what libraries never close."""
        files = pathlib.Path(f"/proc/{self.process.pid}/fd").iterdir()
        found = collections.Counter(
            re.sub(r"^pipe:.*", "pipe", os.readlink(f)) for f in files if int(f.name) > 2
        )
        return dict(found - self.may_keep)


def run_step(program, step, stopped, failed, at_hit=None):
    """The step fails, then the program is killed there, then told to stop there: each start finds
    what the one before has left."""
    if failed is not None:
        action = f"error@{at_hit}" if at_hit else "error"
        text = program.start(**{step: action, "ended": "stop"}).wait(failed)
        assert f"name={program.name(step)}" in text, text
        said = [line for line in text.splitlines() if "failpoint: hit" not in line]
        assert said and all(len(line.split()) > 1 for line in said), f"no word of it\n{text}"
    program.start(**{step: "kill"}).wait(KILLED)
    program.start(**{step: "stop", "ended": "stop"}).terminate_at(step)
    return program.wait(stopped)
