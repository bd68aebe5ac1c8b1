"""The phases of a run: quiet, load, load and faults, heal, recover, final reads, verdict."""

import os
import pathlib
import time
import traceback

import grpc

import checkers
import evidence
import observe
import report
import workload
from harness import BIN, SANITIZED, SLOW, TERMINAL, Cluster, Timeout, wait_for
from history import FAIL, INFO, OK, History

QUIET_S = 5  # load without faults, at the beginning
RECOVER_S = 60
ENDS_S = 60
PROGRESS_S = 30
REMEMBERED = 4096  # tasks, by each supervisor (agent/supervisor/README.md)
TASK = pathlib.Path(os.environ.get("NL_JEPSEN_TASK", BIN.parent / "tests/jepsen_task"))


def settings(args):
    """Snapshots and pruning happen all the time, and memory has a level that it must keep."""
    ours = [f"retention-count={args.retention}", "snapshot-threshold=1024", "snapshot-trailing=256"]
    # Of N tasks every byte is read, however late.
    return ours + args.set, [f"spool-keep={'1h' if args.tasks else '2m'}"]


def run(name, args, make_nemesis):
    """make_nemesis(cluster, history, args): a nemesis, or None. Returns the exit code."""
    store = report.Store(args.store, name)
    length = f"{args.tasks} tasks" if args.tasks else f"{args.minutes} minutes"
    store.say(f"seed {args.seed}, {length}, into {store.dir}")
    assert TASK.exists(), f"{TASK} is not built"
    sets, agent_sets = settings(args)
    cluster = Cluster(args.nodes, args.agents, sets, agent_sets, keep=True)
    try:
        cluster.up()
        judged = one_run(cluster, args, make_nemesis, store)
    except Exception:  # the run proves nothing
        judged = {"valid": checkers.UNKNOWN, "error": traceback.format_exc()[-4000:]}
    finally:
        cluster.keep = os.environ.get("NL_KEEP")
        store.logs(cluster)
        ending = end(cluster)
    if ending:
        judged = {**judged, "valid": False, "end": {"valid": False, "problems": [ending]}}
    return store.results(judged, vars(args))


def end(cluster):
    """Also how the processes end is judged: exit codes, leaks that a sanitizer reports."""
    try:
        cluster.close()
    except AssertionError as error:
        return str(error)[-4000:]
    return ""


def one_run(cluster, args, make_nemesis, store):
    history = History()
    journal = cluster.dir / "journal"
    journal.touch()
    load = workload.Tasks(
        cluster,
        history,
        lambda task: [str(TASK), str(journal), task],
        args.rate,
        args.seed,
        clients=args.concurrency,
        count=args.tasks,
        kind=workload.COUNTED if args.tasks else workload.TIMED,
    )
    nemesis = make_nemesis(cluster, history, args)
    watcher = observe.Observer(cluster, lambda: nemesis.down if nemesis else set())
    run = checkers.Run(
        retention=args.retention,
        faults_due=nemesis is not None,
        tasks_due=args.tasks,
        warm_up_s=warm_up(args),
        gap_limit_s=10.0 * SLOW,
    )
    begin = time.monotonic_ns()
    watcher.start()
    load.start()
    loaded(args, store, history, load, nemesis)
    run.loaded = (begin, last_submit(history) if args.tasks else time.monotonic_ns())
    if nemesis:
        store.say("heal")
        nemesis.stop()
    load.stop()
    recover(cluster, run, store)
    watcher.stop()
    final_reads(cluster, run, store.say)
    run.log_findings = cluster.sanitizer_reports()[:4000]
    collect(run, history, journal, load, nemesis, watcher)
    store.raw(run)
    return checkers.judge(run)


def warm_up(args):
    """Seconds until everything that is kept up to a bound has come to it: ended tasks by the nodes,
    what they must not start again by the supervisors."""
    supervisors = max(60, 1.2 * REMEMBERED * args.agents / args.rate)
    return {"": max(60, 1.2 * args.retention / args.rate), "supervisor": supervisors}


def loaded(args, store, history, load, nemesis):
    """The load: quiet, then with faults, for the time or until all tasks are done."""
    seconds = float("inf") if args.tasks else args.minutes * 60
    progress(store, history, load, QUIET_S, after=seconds - QUIET_S)
    if nemesis:
        nemesis.start()
    progress(store, history, load, seconds - QUIET_S)


def last_submit(history):
    """When it ended: what is left of a load of N tasks is readers only."""
    return max((o.time for o in list(history.ops) if o.f == "submit"), default=0)


def progress(store, history, load, seconds, after=0):
    """Waits for that much of the run, which then goes on for `after` seconds; not longer than the
    clients work."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and load.busy(min(left, PROGRESS_S)):
        ops = history.ops
        ends = {t: sum(o.f == "submit" and o.type == t for o in ops) for t in (OK, FAIL, INFO)}
        left = max(0, end - time.monotonic()) + after
        to_go = f"{left / 60:.1f} minutes" if load.count is None else f"{load.left()} tasks"
        store.say(f"submits {ends}, {to_go} to go")


def recover(cluster, run, store):
    began = time.monotonic()
    try:
        cluster.wait_healthy(RECOVER_S)
        store.say(f"healthy, all agents connected {time.monotonic() - began:.1f} s after healing")
    except Timeout as error:
        run.not_recovered = str(error)


def final_reads(cluster, run, say=lambda text: None):
    """Each node's own list, once every task has ended there, and hashes at one index."""
    nodes = workload.Nodes(cluster)

    def lists():
        run.final = {n: observe.all_tasks(s, n) for n, s in nodes.stub.items()}
        return run.final

    def ended():
        return all(t.state in TERMINAL for tasks in lists().values() for t in tasks.values())

    def one_index():
        found = [observe.hash_of(s, n) for n, s in nodes.stub.items()]
        return found if len({h.index for h in found}) == 1 else None

    try:
        wait_for("every task has ended on every node", ended, ENDS_S, every=0.2)
        cluster.verify()
        run.hashes += wait_for("all nodes at one index", one_index, ENDS_S)
        lists()  # nothing is under way now, so the lists of one moment can be compared
    except (AssertionError, grpc.RpcError) as error:
        run.not_recovered += f" final reads: {str(error)[:500]}"
    finally:
        nodes.close()
    say("final reads: " + ", ".join(f"{n} {len(t)}" for n, t in run.final.items()))


def collect(run, history, journal, load, nemesis, watcher):
    run.ops = list(history.ops)
    run.journal = evidence.read(journal)
    run.ended = [s for seen in watcher.ended.values() for s in seen]
    run.hashes += watcher.hashes
    run.samples = watcher.samples
    run.deaths = watcher.deaths
    run.standstills = watcher.standstills
    run.harness_errors = load.errors + watcher.errors + (nemesis.errors if nemesis else [])
    run.took_effect = nemesis.took_effect if nemesis else {}
