"""What a task's command must do (computed from the task's id, as task.c does), and its journal."""

import dataclasses
import hashlib
import struct


@dataclasses.dataclass(frozen=True)
class Expected:
    """Of a task whose command ran to its end."""

    stdout_size: int
    stderr_size: int
    exit_code: int
    stdout_sha: str
    stderr_sha: str


def _sha(text):
    return hashlib.sha256(text.encode()).digest()


def stream(task, name, size):
    blocks = (_sha(f"{task}:{name}:{i}") for i in range((size + 31) // 32))
    return b"".join(blocks)[:size]


def expected(task):
    d = _sha(task)
    mask, large = (0x3FFF, 2048 * 1024) if task.startswith("drip-") else (0xFFF, 256 * 1024)
    out = (struct.unpack("<H", d[:2])[0] & mask) + (large if d[2] % 64 == 0 else 0)
    return Expected(
        stdout_size=out,
        stderr_size=d[3],
        exit_code=d[7] % 90 if d[6] % 4 == 0 else 0,
        stdout_sha=hashlib.sha256(stream(task, "out", out)).hexdigest(),
        stderr_sha=hashlib.sha256(stream(task, "err", d[3])).hexdigest(),
    )


@dataclasses.dataclass(frozen=True)
class Line:
    """One line of the journal that the commands write."""

    kind: str  # start, end
    task: str
    attempt: int
    pid: int
    time: int  # ns, CLOCK_MONOTONIC, as in the history
    sha: str = ""
    exit_code: int = -1


def parse(line):
    words = line.split()
    if words[:1] == ["start"] and len(words) == 5:
        return Line("start", words[1], int(words[2]), int(words[3]), int(words[4]))
    if words[:1] == ["end"] and len(words) == 7:
        numbers = [int(w) for w in words[2:5]]
        return Line("end", words[1], *numbers, words[5], int(words[6]))
    raise ValueError(f"not a line of the journal: {line!r}")


def read(path):
    with open(path) as f:
        return [parse(line) for line in f]
