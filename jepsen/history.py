"""The history of a run: who asked for what, when, and what came of it; and its EDN form.

As Jepsen's: an operation is invoked by a process, one at a time, and ends as `ok` (it happened),
`fail` (it did not) or `info` (nobody knows). After an `info` the process is retired, since its
operation may still take effect at any later time.
"""

import dataclasses
import re
import threading
import time

INVOKE, OK, FAIL, INFO = "invoke", "ok", "fail", "info"


@dataclasses.dataclass(frozen=True)
class Op:
    process: object  # a number; "nemesis"
    type: str
    f: str
    value: dict
    time: int  # ns, CLOCK_MONOTONIC


class History:
    """Thread-safe. Operations are in the order in which they were added."""

    def __init__(self, ops=()):
        self._lock = threading.Lock()
        self._next_process = 0
        self.ops = list(ops)

    def new_process(self):
        with self._lock:
            self._next_process += 1
            return self._next_process - 1

    def add(self, process, type, f, **value):
        # The time is taken under the lock so that the order of ops is the order of times.
        with self._lock:
            op = Op(process, type, f, value, time.monotonic_ns())
            self.ops.append(op)
            return op


def pairs(ops):
    """[(invocation, completion or None)] of the clients, in the order of the invocations."""
    open_ops, found = {}, []
    for op in ops:
        if isinstance(op.process, str):
            continue
        if op.type == INVOKE:
            if op.process in open_ops:
                raise ValueError(f"process {op.process} has two operations at once: {op}")
            open_ops[op.process] = len(found)
            found.append((op, None))
        elif op.process in open_ops:
            i = open_ops.pop(op.process)
            found[i] = (found[i][0], op)
        else:
            raise ValueError(f"an end without a beginning: {op}")
    return found


class Client:
    """One worker's process numbers: retires the number after an unknown result."""

    def __init__(self, history):
        self.history = history
        self.process = history.new_process()

    def invoke(self, f, **value):
        return self.history.add(self.process, INVOKE, f, **value)

    def end(self, type, f, **value):
        op = self.history.add(self.process, type, f, **value)
        if type == INFO:
            self.process = self.history.new_process()
        return op


# ---- EDN --------------------------------------------------------------------------


def edn(x):
    if x is None:
        return "nil"
    if x is True or x is False:
        return "true" if x else "false"
    if isinstance(x, (int, float)):
        return repr(x)
    if isinstance(x, str):
        return '"' + x.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    if isinstance(x, dict):
        return "{" + ", ".join(f"{_key(k)} {edn(v)}" for k, v in x.items()) + "}"
    if isinstance(x, (set, frozenset)):
        return "#{" + " ".join(edn(v) for v in sorted(x)) + "}"
    return "[" + " ".join(edn(v) for v in x) + "]"


def _key(k):
    simple = isinstance(k, str) and k and all(c.isalnum() or c in "-_.?!" for c in k)
    return f":{k}" if simple and not k[0].isdigit() else edn(k)


def op_edn(index, op, start):
    process = f":{op.process}" if isinstance(op.process, str) else op.process
    return (
        f"{{:index {index}, :time {op.time - start}, :process {process}, :type :{op.type}, "
        f":f :{op.f}, :value {edn(op.value)}}}"
    )


def write_edn(path, ops):
    start = ops[0].time if ops else 0
    with open(path, "w") as f:
        for i, op in enumerate(ops):
            f.write(op_edn(i, op, start) + "\n")


# ---- and back --------------------------------------------------------------------------

TOKEN = re.compile(r'[\s,]*([{}\[\]]|"(?:\\.|[^"\\])*"|[^\s,{}\[\]"]+)')
WORDS = {"nil": None, "true": True, "false": False}


def _value(token):
    if token.startswith('"'):
        return token[1:-1].replace("\\n", "\n").replace('\\"', '"').replace("\\\\", "\\")
    if token.startswith(":"):
        return token[1:]
    if token in WORDS:
        return WORDS[token]
    return float(token) if "." in token or "e" in token else int(token)


def parse_edn(text):
    """What edn() writes, but sets; keywords become strings."""
    stack = [[]]
    for token in TOKEN.findall(text):
        if token in "[{":
            stack.append([token])
        elif token in "]}":
            kind, *items = stack.pop()
            stack[-1].append(dict(zip(items[::2], items[1::2])) if kind == "{" else items)
        else:
            stack[-1].append(_value(token))
    return stack[0][0]


def read_edn(path):
    """Operations; their times count from the first one."""
    with open(path) as f:
        found = [parse_edn(line) for line in f]
    return [Op(o["process"], o["type"], o["f"], o["value"], o["time"]) for o in found]
