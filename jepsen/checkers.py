"""Judges a run. Each checker takes a Run (plain data) and returns a dict with `valid`: True, False
or "unknown", what it counted, and examples of what is wrong. Pure: no cluster, no clock, so that
test_checkers.py can plant every kind of bad history.

The promises P1-P13 are those of the design.
"""

import bisect
import collections
import dataclasses
import statistics

import evidence
from history import FAIL, INFO, OK, pairs
from harness import TERMINAL

EXAMPLES = 10
UNKNOWN = "unknown"


@dataclasses.dataclass
class Run:
    ops: list = dataclasses.field(default_factory=list)
    journal: list = dataclasses.field(default_factory=list)  # evidence.Line
    ended: list = dataclasses.field(default_factory=list)  # observe.Seen, terminal, while it ran
    final: dict = dataclasses.field(default_factory=dict)  # node -> {task: Seen}, after healing
    hashes: list = dataclasses.field(default_factory=list)  # observe.Hash
    samples: list = dataclasses.field(default_factory=list)  # observe.Sample
    took_effect: dict = dataclasses.field(default_factory=dict)  # kind of fault -> count
    faults_due: bool = True  # the run was meant to have faults
    tasks_due: int = None  # so many tasks were to be acknowledged; None: as many as there was time
    deaths: list = dataclasses.field(default_factory=list)  # processes that ended by themselves
    log_findings: str = ""  # assertions and sanitizer reports in the logs
    harness_errors: list = dataclasses.field(default_factory=list)
    not_recovered: str = ""  # after healing: what did not come back in time
    retention: int = 1 << 60  # ended tasks that a node keeps
    loaded: tuple = (0, 1 << 63)  # ns; when load was on
    standstills: list = dataclasses.field(
        default_factory=list
    )  # (begin, end), ns: nothing ran here
    # Until everything that a process keeps up to a bound has come to it; by the end of its name.
    warm_up_s: dict = dataclasses.field(default_factory=dict)
    gap_limit_s: float = 10


def verdict(problems, unknowns=(), **counts):
    """Invalid with problems, unknown with only unknowns."""
    result = {"valid": False if problems else UNKNOWN if unknowns else True, **counts}
    if problems:
        result["problem_count"] = len(problems)
        result["problems"] = problems[:EXAMPLES]
    if unknowns:
        result["unknown_count"] = len(unknowns)
        result["unknowns"] = list(unknowns)[:EXAMPLES]
    return result


# ---- what is known of each task -------------------------------------------------


def submits(run):
    """{task: set of the types of its submits' ends}; an invocation without an end is `info`."""
    found = {}
    for call, end in pairs(run.ops):
        if call.f == "submit":
            found.setdefault(call.value["task"], []).append(end.type if end else INFO)
    return found


def acknowledged(run):
    """Tasks in the order of their acknowledgement."""
    tasks = [op.value["task"] for op in run.ops if op.f == "submit" and op.type == OK]
    return list(dict.fromkeys(tasks))


def all_seen(run):
    """{task: {node: [Seen]}} of terminal states, seen at any time."""
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    finals = (s for tasks in run.final.values() for s in tasks.values() if s.state in TERMINAL)
    for seen in [*run.ended, *finals]:
        found[seen.task][seen.node].append(seen)
    return found


# ---- P1, P3: one terminal state -------------------------------------------------


def one_end(found):
    """Whether all that was seen of an ended task is one end. After it the record changes by late
    results, which it counts, and once, when its tail of output makes room for others'."""
    if len({(s.outcome(), s.attempt, s.rest) for s in found}) > 1:
        return False
    before, after = ({s.changes() for s in found if s.has_tail is has} for has in (True, False))
    if len(before) > 1 or len(after) > 1:
        return False
    return not (before and after) or before.pop() + 1 == after.pop()


def check_one_end(run):
    """P1, P3: every acknowledged task has one terminal state, the same on every node for ever."""
    problems, unknowns = [], []
    seen, nodes = all_seen(run), set(run.final)
    order = acknowledged(run)
    pruned = set(order[: max(0, len(order) - run.retention)])
    for task in order:
        by_node = seen.get(task, {})
        if not by_node:
            states = {n: t[task].state for n, t in run.final.items() if task in t}
            said = f"{task}: not ended: {states}" if states else f"{task}: lost"
            # What was pruned before anybody looked proves nothing.
            (unknowns if task in pruned and not states else problems).append(said)
        elif nodes - set(by_node):
            said = f"{task}: not ended at {sorted(nodes - set(by_node))}"
            (unknowns if task in pruned else problems).append(said)
    for task, by_node in seen.items():
        found = [s for of_node in by_node.values() for s in of_node]
        if not one_end(found):
            ends = sorted({(s.outcome(), s.attempt, s.rest, s.version) for s in found})
            problems.append(f"{task}: {len(ends)} ends: {ends}")
    return verdict(problems, unknowns, acknowledged=len(order), ended=len(seen))


def check_nothing_else(run):
    """P1: a task never submitted never appears. P13: a failed submit never took effect."""
    problems = []
    known = submits(run)
    there = {t for tasks in run.final.values() for t in tasks}
    there |= {s.task for s in run.ended} | {line.task for line in run.journal}
    there |= {op.value["task"] for op in run.ops if op.f == "read" and op.value.get("found")}
    failed = 0
    for task in there - set(known):
        problems.append(f"{task}: never submitted, but exists")
    for task, ends in known.items():
        if all(e == FAIL for e in ends):
            failed += 1
            if task in there:
                problems.append(f"{task}: said failed, but exists")
    return verdict(problems, failed=failed)


def check_nodes_equal(run):
    """P12: nodes hold the same tasks after healing, and the same hash at the same index always."""
    problems = []
    if len(run.final) > 1:
        (first, tasks), *rest = run.final.items()
        for node, others in rest:
            for task in sorted(set(tasks) ^ set(others)):
                problems.append(f"{task}: not on both of {first} and {node}")
            for task in set(tasks) & set(others):
                a, b = tasks[task], others[task]
                if (a.outcome(), a.version) != (b.outcome(), b.version):
                    problems.append(f"{task}: {first} and {node} differ: {a} {b}")
    at = collections.defaultdict(set)
    for h in run.hashes:
        at[h.index].add((h.node, h.hash))
    compared = 0
    for index, said in sorted(at.items()):
        compared += len({n for n, _ in said}) > 1
        if len({h for _, h in said}) > 1:
            problems.append(f"index {index}: hashes differ: {sorted(said)}")
    unknowns = [] if compared else ["no index at which two nodes' hashes were seen"]
    return verdict(problems, unknowns, indexes_compared=compared, hashes=len(run.hashes))


# ---- P2, P5: the command's own evidence ------------------------------------------


def check_starts(run):
    """P2: one start per task, by the commands' own journal, and none after the task had ended."""
    problems = []
    starts, ends = collections.defaultdict(list), collections.defaultdict(list)
    for line in run.journal:
        (starts if line.kind == "start" else ends)[line.task].append(line)
    for task, lines in starts.items():
        attempts = collections.Counter(l.attempt for l in lines)
        twice = {a: n for a, n in attempts.items() if n > 1}
        if twice:
            problems.append(f"{task}: starts per attempt {twice}, pids {[l.pid for l in lines]}")
        if len(attempts) > 1:
            problems.append(f"{task}: attempts {sorted(attempts)}; one was asked for")
    for task in acknowledged(run):
        if task not in starts:
            problems.append(f"{task}: acknowledged, never started")
    first_end = {}
    for task, by_node in all_seen(run).items():
        first_end[task] = min(s.time for found in by_node.values() for s in found)
    for task, lines in starts.items():
        if task in first_end and max(l.time for l in lines) > first_end[task]:
            problems.append(f"{task}: started after it was seen ended")
    return verdict(problems, started=len(starts), ended=len(ends))


def check_results(run):
    """P3, P5: exit code, sizes and digests are those of the command, by its id and its journal."""
    problems = []
    noted = {line.task: line for line in run.journal if line.kind == "end"}
    seen = all_seen(run)
    for task, by_node in seen.items():
        want = evidence.expected(task)
        state = "completed" if want.exit_code == 0 else "failed"
        good = (state, want.exit_code, want.stdout_size, want.stdout_sha, want.stderr_sha)
        for s in (s for found in by_node.values() for s in found):
            if s.outcome() != good:
                problems.append(f"{task} at {s.node}: {s.outcome()}, not {good}")
        line = noted.get(task)
        if line is None:
            problems.append(f"{task}: ended, but its command noted no end")
        elif (line.sha, line.exit_code) != (want.stdout_sha, want.exit_code):
            problems.append(f"{task}: its command noted {line}")
    return verdict(problems, results=len(seen))


def check_output(run):
    """P5: readers got every byte, in order, across failovers."""
    problems, unknowns = [], []
    whole = resumed = gaps = size = 0
    for call, end in pairs(run.ops):
        if call.f != "watch":
            continue
        task = call.value["task"]
        if end is None or end.type != OK:
            unknowns.append(f"{task}: its output was never read to the end")
            continue
        v, want = end.value, evidence.expected(task)
        resumed += v["resumed"] > 0
        size += v.get("bytes", 0)
        if v["unexpected"]:
            problems.append(f"{task}: {v['unexpected']}")
        if v["skips"] and not v["gaps"]:
            problems.append(f"{task}: bytes skipped in silence: {v['skips']}")
        elif v.get("wrong"):
            problems.append(f"{task}: other bytes than the command wrote: {v['wrong']}")
        elif v["gaps"]:
            # Nothing was dropped on purpose in these runs: a gap that is said is a loss, too.
            gaps += 1
            problems.append(f"{task}: a gap: {v['gaps']}")
        elif (v["stdout"], v["stderr"]) != (want.stdout_sha, want.stderr_sha):
            problems.append(f"{task}: other bytes than the command wrote")
        else:
            whole += 1
    return verdict(problems, unknowns, whole=whole, resumed=resumed, gaps=gaps, bytes=size)


# ---- the delivery contract, task by task --------------------------------------------


def check_tasks(run):
    """Each acknowledged task is put into one class by its commands' journal, what all nodes say of
    it, and what readers got. All but `good` are problems; what was not seen is unknown."""
    found = {k: [] for k in ("good", "lost", "twice", "corrupted", "different", "unknown")}
    starts = collections.Counter(l.task for l in run.journal if l.kind == "start")
    done = {l.task: l for l in run.journal if l.kind == "end"}
    seen, reads = all_seen(run), collections.defaultdict(list)
    for call, end in pairs(run.ops):
        if call.f == "watch":
            reads[call.value["task"]].append(end.value if end and end.type == OK else None)
    order = acknowledged(run)
    pruned = set(order[: max(0, len(order) - run.retention)])
    for task in order:
        states = [s for of_node in seen.get(task, {}).values() for s in of_node]
        if task in pruned and not states:  # before anybody looked
            found["unknown"].append(task)
            continue
        found[_class_of(task, starts[task], done.get(task), states, reads[task])].append(task)
    problems = [f"{k}: {t}" for k in ("lost", "twice", "corrupted", "different") for t in found[k]]
    return verdict(problems, found["unknown"], **{k: len(v) for k, v in found.items()})


def _class_of(task, starts, done, states, reads):
    want = evidence.expected(task)
    state = "completed" if want.exit_code == 0 else "failed"
    good = (state, want.exit_code, want.stdout_size, want.stdout_sha, want.stderr_sha)
    if starts > 1:
        return "twice"
    if starts == 0 or done is None or not states:
        return "lost"
    if not one_end(states):
        return "different"
    if states[0].outcome() != good or (done.sha, done.exit_code) != (
        want.stdout_sha,
        want.exit_code,
    ):
        return "corrupted"
    if not reads or None in reads:
        return "unknown"
    shas = {(r["stdout"], r["stderr"]) for r in reads}
    said = any(r["gaps"] or r["skips"] or r.get("wrong") for r in reads)
    return "corrupted" if said or shas != {good[3:]} else "good"


# ---- P4: reads -------------------------------------------------------------------


def check_reads(run):
    """P4: reads are linearizable.

    Index and version only grow, so it is enough that no operation sees less than one that had
    ended before it began: the index over all of them, found and version for each task.
    """
    done = [(c, e) for c, e in pairs(run.ops) if e is not None and e.type == OK]
    done = [(c, e) for c, e in done if c.f in ("read", "submit")]
    problems = []
    for c, e in done:
        if c.f == "read" and e.value.get("stale"):
            problems.append(f"{c.value}: stale without being asked")
    # Of an answer "not found" no index is known.
    indexed = [(c, e, e.value["index"]) for c, e in done if e.value.get("index", 0) > 0]
    problems += _backwards("index", [x for x in indexed])
    per_task = collections.defaultdict(list)
    for c, e in done:
        if c.f == "submit":
            per_task[c.value["task"]].append((c, e, 1))
        else:
            value = max(1, e.value["version"]) if e.value["found"] else 0
            per_task[c.value["task"]].append((c, e, value))
    for task, found in per_task.items():
        problems += _backwards(f"version of {task}", found)
    reads = sum(c.f == "read" for c, _ in done)
    return verdict(problems, [] if reads else ["no read went through"], reads=reads)


def _backwards(what, done):
    """done: [(call, end, value)]. Complaints about values below one known before the call."""
    by_end = sorted(done, key=lambda x: x[1].time)
    times, best, high = [], [], 0
    for _, end, value in by_end:
        high = max(high, value)
        times.append(end.time)
        best.append(high)
    for call, end, value in done:
        i = bisect.bisect_left(times, call.time)
        if i > 0 and value < best[i - 1]:
            yield (
                f"{what}: {value} at {end.value.get('node')}, but {best[i - 1]} was known "
                f"before (process {call.process}, {call.value.get('task')})"
            )


# ---- P10: gaps ---------------------------------------------------------------------


def stood_still(run, begin, end):
    """Of a time, what was no time for the cluster: the harness beside it was stopped, too."""
    return sum(max(0, min(end, b) - max(begin, a)) for a, b in run.standstills)


def gaps_of(run, f):
    """Longest times without an ok of f under load, and the latencies."""
    begin, end = run.loaded
    done = [(c, e) for c, e in pairs(run.ops) if c.f == f and e and e.type == OK]
    times = sorted(e.time for _, e in done if begin <= e.time <= end)
    points = [begin, *times, end] if times else []
    spans = [(b - a - stood_still(run, a, b), a) for a, b in zip(points, points[1:])]
    longest = sorted(spans, reverse=True)
    latencies = sorted((e.time - c.time) / 1e6 for c, e in done)
    result = {"ok": len(done), "longest_gap_s": longest[0][0] / 1e9 if longest else None}
    result["next_gaps_s"] = [round(g / 1e9, 3) for g, _ in longest[1:5]]
    if longest:
        result["longest_at_s"] = (longest[0][1] - begin) / 1e9
    if latencies:
        for name, q in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999)):
            result[f"{name}_ms"] = latencies[int(q * (len(latencies) - 1))]
        result["max_ms"] = latencies[-1]
    return result


def check_gaps(run):
    """P10: the loss of a minority stalls writes and reads for an election, not for good."""
    problems, figures = [], {}
    for f in ("submit", "read"):
        figures[f] = gaps_of(run, f)
        gap = figures[f]["longest_gap_s"]
        if gap is None or gap > run.gap_limit_s:
            problems.append(f"no {f} went through for {gap} s; {run.gap_limit_s} are allowed")
    figures["stood_still_s"] = stood_still(run, *run.loaded) / 1e9
    return verdict(problems, **figures)


# ---- hygiene -----------------------------------------------------------------------

# Growth that counts, of the fitted line over the measured time.
GROWTH_SHARE = 0.10  # of the median ...
GROWTH_RSS_KB = 2048  # ... and this much more
GROWTH_FDS = 4
YOUNG_S = 10  # a process that just started is still filling up
GROWTH_MIN_S = 300  # less time proves nothing
POINTS_MAX = 200


def slope(points):
    """Theil-Sen: the median of the slopes between all pairs; outliers don't move it."""
    step = max(1, len(points) // POINTS_MAX)
    points = points[::step]
    slopes = [
        (y2 - y1) / (x2 - x1)
        for i, (x1, y1) in enumerate(points)
        for x2, y2 in points[i + 1 :]
        if x2 > x1
    ]
    return statistics.median(slopes) if slopes else 0.0


def check_growth(run):
    """No growth of memory or descriptors, per name: a restarted node goes on where it was."""
    problems, figures = [], {}
    by_name = collections.defaultdict(list)
    begin = min((s.time for s in run.samples), default=0)
    for s in run.samples:
        kind = s.name.rpartition(".")[2]
        warm_up = run.warm_up_s.get(kind, run.warm_up_s.get("", 0))
        if s.time >= begin + warm_up and s.age >= YOUNG_S:
            by_name[s.name].append(s)
    for name, samples in sorted(by_name.items()):
        seconds = samples[-1].time - samples[0].time
        figure = {"seconds": round(seconds), "samples": len(samples)}
        limits = {"rss_kb": (GROWTH_SHARE, GROWTH_RSS_KB), "fds": (GROWTH_SHARE, GROWTH_FDS)}
        for field, (share, more) in limits.items():
            values = [getattr(s, field) for s in samples]
            grown = slope([(s.time, getattr(s, field)) for s in samples]) * seconds
            limit = share * statistics.median(values) + more
            figure[field] = {
                "median": statistics.median(values),
                "max": max(values),
                "grown": round(grown, 1),
                "limit": round(limit, 1),
            }
            if seconds >= GROWTH_MIN_S and grown > limit:
                problems.append(f"{name}: {field} grew by {grown:.0f} in {seconds:.0f} s")
        figures[name] = figure
    measured = min((f["seconds"] for f in figures.values()), default=0)
    return verdict(problems, measured=measured >= GROWTH_MIN_S, processes=figures)


def check_processes(run):
    """P11: no process ended by itself, no assertion, no sanitizer's report; all came back (P9)."""
    problems = list(run.deaths)
    if run.log_findings:
        problems.append(run.log_findings)
    if run.not_recovered:
        problems.append(run.not_recovered)
    return verdict(problems)


def check_errors(run):
    """Clients got no error but those that dying nodes explain."""
    problems, counts = [], collections.Counter()
    for op in run.ops:
        if op.type in (FAIL, INFO) and "code" in op.value:
            text = op.value["text"]
            counts[f"{op.f} {op.type} {op.value['code']}"] += 1
            refused = op.f == "submit" and op.type == FAIL and not text.startswith("failed:")
            if refused or op.value.get("unexpected"):
                problems.append(f"{op.f} {op.value.get('task')}: {op.value['code']}: {text}")
    return verdict(problems, errors=dict(counts))


def check_run(run):
    """The run itself: faults had an effect, something went through, the harness did not fail."""
    problems = []
    submitted = [op for op in run.ops if op.f == "submit"]
    ok = sum(op.type == OK for op in submitted)
    info = sum(op.type == INFO for op in submitted)
    if run.faults_due and not any(run.took_effect.values()):
        problems.append("no fault took effect")
    if run.faults_due:
        problems += [f"no {k} took effect" for k, n in run.took_effect.items() if n == 0]
    if ok == 0:
        problems.append("no submit went through")
    if run.tasks_due is not None and len(acknowledged(run)) != run.tasks_due:
        problems.append(f"{len(acknowledged(run))} acknowledged tasks of {run.tasks_due}")
    ends = sum(op.type != "invoke" for op in submitted)
    return verdict(
        problems,
        run.harness_errors,
        faults=dict(run.took_effect),
        ok=ok,
        fail=sum(op.type == FAIL for op in submitted),
        info=info,
        unknown_share=round(info / ends, 4) if ends else None,
    )


CHECKERS = {
    "run": check_run,
    "one-end": check_one_end,
    "nothing-else": check_nothing_else,
    "nodes-equal": check_nodes_equal,
    "tasks": check_tasks,
    "starts": check_starts,
    "results": check_results,
    "output": check_output,
    "reads": check_reads,
    "gaps": check_gaps,
    "growth": check_growth,
    "processes": check_processes,
    "errors": check_errors,
}


def judge(run):
    """{"valid": ..., checker: result}"""
    results = {n: check(run) for n, check in CHECKERS.items()}
    verdicts = [r["valid"] for r in results.values()]
    valid = False if False in verdicts else UNKNOWN if UNKNOWN in verdicts else True
    return {"valid": valid, **results}
