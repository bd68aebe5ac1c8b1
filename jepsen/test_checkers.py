"""The checkers find a good run valid and each planted defect invalid: a checker that can't fail
proves nothing. No cluster, no clock."""

import copy
import dataclasses
import os
import pathlib
import random
import socket
import subprocess
import sys
import types

import pytest

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests/integration")]

import checkers  # noqa: E402
import connections  # noqa: E402
import evidence  # noqa: E402
import history  # noqa: E402
import nemesis  # noqa: E402
import report  # noqa: E402
import runner  # noqa: E402
import workload  # noqa: E402
from checkers import Run  # noqa: E402
from evidence import Line  # noqa: E402
from history import FAIL, INFO, INVOKE, OK, Op  # noqa: E402
from observe import Hash, Sample, Seen  # noqa: E402

NODES = ["n1", "n2", "n3"]
MS = 1_000_000


def seen(task, node, **changes):
    want = evidence.expected(task)
    good = Seen(
        node=node,
        task=task,
        state="completed" if want.exit_code == 0 else "failed",
        exit_code=want.exit_code,
        stdout_size=want.stdout_size,
        stdout_sha=want.stdout_sha,
        stderr_sha=want.stderr_sha,
        attempt=1,
        version=5,
        time=10_000 * MS,
    )
    return dataclasses.replace(good, **changes)


def good_run():
    """Tasks t0 to t3 acknowledged, t4 unknown and not there, t5 failed and not there."""
    ops, journal = [], []

    def add(process, type, f, at_ms, **value):
        ops.append(Op(process, type, f, value, at_ms * MS))

    for i in range(4):
        task, at = f"t{i}", 100 * i
        fields = {"task": task, "node": NODES[i % 3]}
        add(i, INVOKE, "submit", at, **fields)
        add(i, OK, "submit", at + 10, **fields, index=10 + i, term=1, existed=False)
        want = evidence.expected(task)
        add(i, INVOKE, "watch", at + 11, task=task)
        got = {"stdout": want.stdout_sha, "stderr": want.stderr_sha, "resumed": i}
        add(i, OK, "watch", at + 50, task=task, **got, gaps=[], skips=[], unexpected=[])
        add(9, INVOKE, "read", at + 60, **fields)
        read = {"found": True, "version": 5, "index": 11 + i, "stale": False, "state": "running"}
        add(9, OK, "read", at + 70, **fields, **read)
        journal.append(Line("start", task, 1, 100 + i, (at + 20) * MS))
        end = ((at + 40) * MS, want.stdout_sha, want.exit_code)
        journal.append(Line("end", task, 1, 100 + i, *end))
    add(20, INVOKE, "submit", 500, task="t4", node="n1")
    add(20, INFO, "submit", 510, task="t4", node="n1", code="UNAVAILABLE", text="unknown: x")
    add(21, INVOKE, "submit", 520, task="t5", node="n1")
    add(21, FAIL, "submit", 530, task="t5", node="n1", code="UNAVAILABLE", text="failed: x")
    return Run(
        ops=ops,
        journal=journal,
        ended=[seen(f"t{i}", n) for i in range(4) for n in NODES],
        final={n: {f"t{i}": seen(f"t{i}", n) for i in range(4)} for n in NODES},
        hashes=[Hash(n, 40, "aa") for n in NODES],
        samples=[Sample("n1", 7, t, t, 9000 + t % 3, 40) for t in range(0, 900, 5)],
        took_effect={"kill": 1},
        loaded=(0, 500 * MS),
    )


def change(ops, type, f, task, **changes):
    """Changes the value of the first such operation."""
    i = next(i for i, op in enumerate(ops) if (op.type, op.f, op.value["task"]) == (type, f, task))
    ops[i] = dataclasses.replace(ops[i], value={**ops[i].value, **changes})


def test_good_run_is_valid():
    judged = checkers.judge(good_run())
    assert judged["valid"] is True, judged
    assert judged["growth"]["measured"]
    assert judged["gaps"]["submit"]["longest_gap_s"] == pytest.approx(0.19)
    assert report.summary(judged).endswith("verdict: valid\n")


# ---- planted defects ---------------------------------------------------------------


def lost(run):
    run.ended = [s for s in run.ended if s.task != "t1"]
    for tasks in run.final.values():
        del tasks["t1"]


def lost_on_one_node(run):
    run.ended = [s for s in run.ended if (s.node, s.task) != ("n2", "t1")]
    del run.final["n2"]["t1"]


def never_ended(run):
    run.ended = [s for s in run.ended if s.task != "t1"]
    for n in NODES:
        run.final[n]["t1"] = seen("t1", n, state="running")


def second_end(run):
    run.ended.append(seen("t1", "n2", state="cancelled"))


def end_changed_version(run):
    run.ended.append(seen("t1", "n2", version=6))


def end_changed_rest(run):
    run.ended.append(seen("t1", "n2", rest="signal 0, 1-3 ''"))


def tail_came_back(run):
    run.ended.append(seen("t1", "n2", version=6, has_tail=True))


def never_submitted(run):
    for n in NODES:
        run.final[n]["t9"] = seen("t9", n)


def never_submitted_but_started(run):
    run.journal.append(Line("start", "t9", 1, 5, 1))


def failed_but_there(run):
    for n in NODES:
        run.final[n]["t5"] = seen("t5", n)


def failed_but_started(run):
    run.journal.append(Line("start", "t5", 1, 5, 1))


def final_lists_differ(run):
    run.final["n3"]["t4"] = seen("t4", "n3")


def final_versions_differ(run):
    run.final["n3"]["t2"] = seen("t2", "n3", version=8)


def hash_differs(run):
    run.hashes.append(Hash("n3", 40, "bb"))


def started_twice(run):
    run.journal.append(Line("start", "t1", 1, 999, 130 * MS))


def second_attempt(run):
    run.journal.append(Line("start", "t1", 2, 999, 130 * MS))


def never_started(run):
    run.journal = [l for l in run.journal if l.task != "t1"]


def started_after_its_end(run):
    i = next(i for i, l in enumerate(run.journal) if (l.kind, l.task) == ("start", "t1"))
    run.journal[i] = dataclasses.replace(run.journal[i], time=10_001 * MS)


def _ends_everywhere(run, **changes):
    run.ended = [dataclasses.replace(s, **changes) if s.task == "t1" else s for s in run.ended]
    for n in NODES:
        run.final[n]["t1"] = seen("t1", n, **changes)


def wrong_exit_code(run):
    _ends_everywhere(run, exit_code=91, state="failed")


def wrong_digest(run):
    _ends_everywhere(run, stdout_sha="00" * 32)


def wrong_total(run):
    _ends_everywhere(run, stdout_size=1)


def command_never_ended(run):
    run.journal = [l for l in run.journal if (l.kind, l.task) != ("end", "t1")]


def output_differs(run):
    change(run.ops, OK, "watch", "t1", stdout="00" * 32)


def output_skips(run):
    change(run.ops, OK, "watch", "t1", skips=["stdout: 10 after 5"])


def output_gap(run):
    change(run.ops, OK, "watch", "t1", gaps=["gone"])


def other_bytes(run):
    change(run.ops, OK, "watch", "t1", wrong=["stdout: 5 bytes at 10"])


def read_is_behind_a_submit(run):
    change(run.ops, OK, "read", "t2", found=False, version=0, index=0)


def read_index_goes_back(run):
    change(run.ops, OK, "read", "t3", index=11)


def read_version_goes_back(run):
    at, fields = 800, {"task": "t1", "node": "n2"}
    run.ops.append(Op(9, INVOKE, "read", fields, at * MS))
    old = {"found": True, "version": 4, "index": 90, "stale": False}
    run.ops.append(Op(9, OK, "read", {**fields, **old}, (at + 1) * MS))


def read_is_stale_unasked(run):
    change(run.ops, OK, "read", "t2", stale=True)


def long_gap(run):
    run.loaded = (0, 30_000 * MS)


def memory_grows(run):
    run.samples = [dataclasses.replace(s, rss_kb=9000 + int(10 * s.time)) for s in run.samples]


def descriptors_grow(run):
    run.samples = [dataclasses.replace(s, fds=40 + int(s.time / 60)) for s in run.samples]


def node_died(run):
    run.deaths.append("n1 (pid 5) ended by itself")


def assertion_in_a_log(run):
    run.log_findings = "raft.c: Assertion `x' failed"


def not_recovered(run):
    run.not_recovered = "not within 60 s: healthy"


def strange_error(run):
    change(run.ops, FAIL, "submit", "t5", code="INTERNAL", text="oops")


def strange_error_of_a_read(run):
    change(run.ops, INVOKE, "read", "t3")
    i = next(i for i, o in enumerate(run.ops) if (o.type, o.f) == (OK, "read"))
    run.ops[i] = dataclasses.replace(
        run.ops[i],
        type=FAIL,
        value={"task": "t0", "code": "INTERNAL", "text": "oops", "unexpected": True},
    )


def no_fault_took_effect(run):
    run.took_effect = {"kill": 0}


def one_kind_took_no_effect(run):
    run.took_effect = {"kill": 1, "cut": 0}


def fewer_tasks_than_due(run):
    run.tasks_due = 5


def nothing_went_through(run):
    run.ops = [op for op in run.ops if op.value["task"] in ("t4", "t5")]
    run.journal, run.ended = [], []
    run.final = {n: {} for n in NODES}


PLANTED = [
    (lost, "one-end"),
    (lost_on_one_node, "one-end"),
    (never_ended, "one-end"),
    (second_end, "one-end"),
    (end_changed_version, "one-end"),
    (end_changed_rest, "one-end"),
    (tail_came_back, "one-end"),
    (never_submitted, "nothing-else"),
    (never_submitted_but_started, "nothing-else"),
    (failed_but_there, "nothing-else"),
    (failed_but_started, "nothing-else"),
    (final_lists_differ, "nodes-equal"),
    (final_versions_differ, "nodes-equal"),
    (hash_differs, "nodes-equal"),
    (started_twice, "starts"),
    (second_attempt, "starts"),
    (never_started, "starts"),
    (started_after_its_end, "starts"),
    (wrong_exit_code, "results"),
    (wrong_digest, "results"),
    (wrong_total, "results"),
    (command_never_ended, "results"),
    (output_differs, "output"),
    (output_skips, "output"),
    (output_gap, "output"),
    (other_bytes, "output"),
    (read_is_behind_a_submit, "reads"),
    (read_index_goes_back, "reads"),
    (read_version_goes_back, "reads"),
    (read_is_stale_unasked, "reads"),
    (long_gap, "gaps"),
    (memory_grows, "growth"),
    (descriptors_grow, "growth"),
    (node_died, "processes"),
    (assertion_in_a_log, "processes"),
    (not_recovered, "processes"),
    (strange_error, "errors"),
    (strange_error_of_a_read, "errors"),
    (no_fault_took_effect, "run"),
    (one_kind_took_no_effect, "run"),
    (fewer_tasks_than_due, "run"),
    (nothing_went_through, "run"),
]


@pytest.mark.parametrize("plant,checker", PLANTED, ids=[p.__name__ for p, _ in PLANTED])
def test_planted_defect_is_found(plant, checker):
    run = copy.deepcopy(good_run())
    plant(run)
    judged = checkers.judge(run)
    assert judged["valid"] is False
    assert judged[checker]["valid"] is False, judged
    assert judged[checker]["problems"]


# ---- the class of each task ----------------------------------------------------------


@pytest.mark.parametrize(
    "plant,kind",
    [
        (lost, "lost"),
        (never_ended, "lost"),
        (never_started, "lost"),
        (command_never_ended, "lost"),
        (started_twice, "twice"),
        (second_attempt, "twice"),
        (second_end, "different"),
        (end_changed_version, "different"),
        (end_changed_rest, "different"),
        (wrong_exit_code, "corrupted"),
        (wrong_digest, "corrupted"),
        (wrong_total, "corrupted"),
        (output_differs, "corrupted"),
        (output_skips, "corrupted"),
        (output_gap, "corrupted"),
        (other_bytes, "corrupted"),
    ],
)
def test_class_of_a_task(plant, kind):
    run = good_run()
    plant(run)
    judged = checkers.check_tasks(run)
    assert judged["valid"] is False and judged["problems"] == [f"{kind}: t1"]
    assert (judged["good"], judged[kind]) == (3, 1)


# ---- unknown is never a pass -----------------------------------------------------


def unread_output(run):
    change(run.ops, OK, "watch", "t1")
    i = next(i for i, o in enumerate(run.ops) if (o.type, o.f) == (OK, "watch"))
    run.ops[i] = dataclasses.replace(run.ops[i], type=INFO)


def pruned_before_anybody_looked(run):
    run.retention = 2
    lost(run)
    run.ended = [s for s in run.ended if s.task != "t0"]


def no_hash_compared(run):
    run.hashes = [Hash("n1", 40, "aa"), Hash("n2", 41, "bb")]


def harness_failed(run):
    run.harness_errors = ["reader: KeyError"]


def no_read(run):
    run.ops = [op for op in run.ops if op.f != "read"]


@pytest.mark.parametrize(
    "plant,checker",
    [
        (unread_output, "output"),
        (unread_output, "tasks"),
        (pruned_before_anybody_looked, "one-end"),
        (pruned_before_anybody_looked, "tasks"),
        (no_hash_compared, "nodes-equal"),
        (harness_failed, "run"),
        (no_read, "reads"),
    ],
)
def test_unknown_is_said(plant, checker):
    run = good_run()
    plant(run)
    judged = checkers.judge(run)
    assert judged[checker]["valid"] == "unknown", judged[checker]
    assert judged["valid"] is not True
    assert report.EXIT[judged["valid"]] != 0


# ---- what is no defect --------------------------------------------------------------


def test_an_unknown_submit_may_have_happened():
    run = good_run()
    for n in NODES:
        run.final[n]["t4"] = seen("t4", n)
    run.journal.append(Line("start", "t4", 1, 5, 600 * MS))
    want = evidence.expected("t4")
    run.journal.append(Line("end", "t4", 1, 5, 601 * MS, want.stdout_sha, want.exit_code))
    assert checkers.judge(run)["valid"] is True


def test_late_results_and_the_loss_of_a_tail_are_no_second_end():
    run = good_run()
    run.ended.append(seen("t1", "n2", version=4, has_tail=True))
    run.ended.append(seen("t1", "n3", version=7, late_results=2))
    assert checkers.judge(run)["valid"] is True


def test_a_restart_is_no_growth():
    """Young processes don't count, and one that is back at its old size has not grown."""
    run = good_run()
    run.samples = [
        Sample("n1", t // 60, t, t % 60, 3000 if t % 60 < 10 else 9000, 40)
        for t in range(0, 900, 5)
    ]
    assert checkers.judge(run)["growth"]["valid"] is True


def test_what_fills_up_to_a_bound_is_no_growth():
    """But only for as long as its kind of process may take."""
    run = good_run()
    for name in ("a1.supervisor", "n1"):
        run.samples = [
            Sample(name, 7, t, t, 9000 + 10 * min(t, 500), 40) for t in range(0, 1000, 5)
        ]
        run.warm_up_s = {"": 60, "supervisor": 600}
        judged = checkers.judge(run)["growth"]
        assert judged["valid"] is (name == "a1.supervisor"), judged


def test_concurrent_reads_may_differ():
    run = good_run()
    fields = {"task": "t1", "node": "n1"}
    value = {"found": True, "index": 90, "stale": False}
    for op in (
        Op(40, INVOKE, "read", fields, 800 * MS),
        Op(41, INVOKE, "read", fields, 801 * MS),
        Op(40, OK, "read", {**fields, **value, "version": 9}, 802 * MS),
        Op(41, OK, "read", {**fields, **value, "version": 5}, 803 * MS),
    ):
        run.ops.append(op)
    assert checkers.judge(run)["reads"]["valid"] is True


def test_gaps_are_between_ends_not_beginnings():
    """A slow operation ends between others that began after it."""
    run = good_run()
    run.loaded = (0, 2000 * MS)
    fields = {"task": "t1", "node": "n1", "index": 99}
    for process, begin, end in ((50, 600, 1400), (51, 700, 900), (52, 1500, 1600)):
        run.ops.append(Op(process, INVOKE, "submit", fields, begin * MS))
        run.ops.append(Op(process, OK, "submit", fields, end * MS))
    figures = checkers.gaps_of(run, "submit")
    # 310 ms (the last of good_run), 900, 1400, 1600, 2000 (the end of the load)
    assert figures["longest_gap_s"] == pytest.approx(0.59)
    assert figures["longest_at_s"] == pytest.approx(0.31)
    assert figures["next_gaps_s"][:3] == pytest.approx([0.5, 0.4, 0.2])


def test_time_that_stood_still_is_no_gap():
    for stopped, valid in ((25_000, True), (15_000, False)):
        run = good_run()
        long_gap(run)
        run.standstills = [(2_000 * MS, (2_000 + stopped) * MS)]
        judged = checkers.judge(run)["gaps"]
        assert judged["valid"] is valid, judged
        assert judged["stood_still_s"] == pytest.approx(stopped / 1000)


# ---- parts --------------------------------------------------------------------------


def test_pairs_refuses_a_broken_history():
    with pytest.raises(ValueError):
        history.pairs([Op(1, INVOKE, "f", {}, 0), Op(1, INVOKE, "f", {}, 1)])
    with pytest.raises(ValueError):
        history.pairs([Op(1, OK, "f", {}, 0)])
    found = history.pairs([Op("nemesis", INFO, "kill", {}, 0), Op(1, INVOKE, "f", {}, 1)])
    assert [end for _, end in found] == [None]


def test_process_is_retired_after_unknown():
    h = history.History()
    client = history.Client(h)
    client.invoke("submit", task="a")
    client.end(INFO, "submit", task="a")
    client.invoke("submit", task="a")
    client.end(OK, "submit", task="a")
    assert [op.process for op in h.ops] == [0, 0, 1, 1]


def test_edn():
    value = {"task": 'a"b\\', "n": 1, "x": None, "ok": True, "l": [1, "b"], "odd key": 0.5}
    text = '{:task "a\\"b\\\\", :n 1, :x nil, :ok true, :l [1 "b"], "odd key" 0.5}'
    assert history.edn(value) == text
    op = history.op_edn(3, Op(2, OK, "submit", {"task": "t"}, 15), 5)
    assert op == '{:index 3, :time 10, :process 2, :type :ok, :f :submit, :value {:task "t"}}'


def test_the_command_does_what_is_expected_of_it(tmp_path):
    journal, kinds = tmp_path / "journal", {}
    for task in (f"{p}-{i}" for p in ("t", "drip") for i in range(300)):
        want = evidence.expected(task)  # both exit codes, all sizes
        kinds.setdefault((want.exit_code > 0, want.stdout_size.bit_length() // 2), task)
    assert {k for _, k in kinds} >= {6, 7, 9, 11}
    for task in kinds.values():
        env = {"NODELINK_TASK_ID": task, "NODELINK_ATTEMPT": "1"}
        r = subprocess.run([runner.TASK, journal, task], env=env, capture_output=True)
        want = evidence.expected(task)
        assert r.returncode == want.exit_code
        assert r.stdout == evidence.stream(task, "out", want.stdout_size)
        assert r.stderr == evidence.stream(task, "err", want.stderr_size)
        start, end = evidence.read(journal)[-2:]
        assert (start.kind, start.task, start.attempt, end.sha) == (
            "start",
            task,
            1,
            want.stdout_sha,
        )
        assert start.time < end.time and end.exit_code == want.exit_code


def test_received_bytes_are_compared():
    want = evidence.stream("t0", "out", evidence.expected("t0").stdout_size)
    event = types.SimpleNamespace
    for data, at, wrong, skips in (
        (want[:9], 0, 0, 0),
        (want[1:9], 0, 1, 0),
        (want[9:12], 9, 0, 1),
        (want + b"x", 0, 1, 0),
    ):
        got = workload.Received("t0")
        got.take(
            event(
                stdout=data,
                stdout_offset=at,
                stderr=b"",
                stderr_offset=0,
                end=False,
                HasField=lambda name: False,
            )
        )
        fields = got.fields()
        assert (len(fields["wrong"]), len(fields["skips"])) == (wrong, skips), (at, fields)


@pytest.mark.skipif(not connections.possible(), reason="takes CAP_NET_ADMIN")
def test_connections_are_found_and_cut():
    with socket.create_server(("127.0.0.1", 0)) as server:
        mine = socket.create_connection(server.getsockname())
        other, _ = server.accept()
        port = server.getsockname()[1]
        found = [c for c in connections.of_process(os.getpid()) if c.remote[1] == port]
        assert [c.local[1] for c in found] == [mine.getsockname()[1]]
        assert connections.cut(found[0]) and not connections.cut(found[0])
        for s in (mine, other):
            with pytest.raises(ConnectionError):
                s.recv(1)
            s.close()


def test_each_kind_comes_before_one_comes_again():
    faults = [types.SimpleNamespace(name=n) for n in "abc"]
    lane = nemesis.Lane(faults, 1, random.Random(5), None)
    names = [lane._next().name for _ in range(30)]
    assert all(sorted(names[i : i + 3]) == ["a", "b", "c"] for i in range(0, 30, 3))
    assert len({"".join(names[i : i + 3]) for i in range(0, 30, 3)}) > 1


@pytest.mark.parametrize("kind", [nemesis.KillNode, nemesis.PauseNode])
def test_a_victim_that_ended_by_itself_is_no_effect(kind):
    """The run goes on, and its verdict names the death."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    node = {"name": "n1", "pid": dead.pid}
    started = []
    cluster = types.SimpleNamespace(
        names=lambda: ["n1"],
        node=lambda name: node,
        config=lambda: {"nodes": [node], "agents": []},
        start=started.append,
    )
    fault = kind(cluster, 1, 3)
    assert fault.hit()[0] is False
    fault.heal()
    assert started == (["n1"] if kind is nemesis.KillNode else [])


def test_the_command_refuses_to_run_without_evidence(tmp_path):
    env = {"NODELINK_TASK_ID": "t", "NODELINK_ATTEMPT": "1"}
    for journal, task in ((tmp_path / "none/journal", "t"), (tmp_path / "journal", "other")):
        r = subprocess.run([runner.TASK, journal, task], env=env, capture_output=True)
        assert r.returncode == 99 and not r.stdout


def test_a_stored_run_is_judged_the_same(tmp_path):
    for plant in (
        lambda run: None,
        lost,
        read_index_goes_back,
        hash_differs,
        memory_grows,
        long_gap,
    ):
        run = good_run()
        plant(run)
        store = report.Store(tmp_path, plant.__name__)
        store.raw(run)
        assert checkers.judge(report.load(store.dir)) == checkers.judge(run)


def test_edn_comes_back():
    value = {"a": 'x"\\ {1}\n', "b": [1, -2.5, None, True, []], "c": {"d e": {}, "f": ":g, h"}}
    assert history.parse_edn(history.edn(value)) == value


def test_journal_lines():
    assert evidence.parse("start t1 1 77 123") == Line("start", "t1", 1, 77, 123)
    assert evidence.parse("end t1 1 77 123 ab 3") == Line("end", "t1", 1, 77, 123, "ab", 3)
    for bad in ("", "start t1 1 77", "end t1 1 77 123", "start t1 x 77 123"):
        with pytest.raises(ValueError):
            evidence.parse(bad)
