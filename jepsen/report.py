"""Where a run's files go, and what a person reads first."""

import dataclasses
import datetime
import json
import shutil

import checkers
from evidence import Line
from history import edn, read_edn, write_edn
from observe import Hash, Sample, Seen

# Fields of a Run that are not lists of things seen.
REST = [
    "took_effect",
    "faults_due",
    "tasks_due",
    "deaths",
    "log_findings",
    "harness_errors",
    "not_recovered",
] + ["retention", "warm_up_s", "gap_limit_s"]
EXIT = {True: 0, False: 1, "unknown": 2}
WORDS = {True: "valid", False: "INVALID", "unknown": "UNKNOWN"}


class Store:
    """DIR/NAME/TIME/, and DIR/latest that points to it."""

    def __init__(self, top, name):
        now = datetime.datetime.now().strftime("%Y%m%dT%H%M%S")
        self.dir = top.resolve() / name / now
        self.dir.mkdir(parents=True)
        latest = top.resolve() / "latest"
        latest.unlink(missing_ok=True)
        latest.symlink_to(self.dir.relative_to(top.resolve()))

    def say(self, text):
        line = f"{datetime.datetime.now():%H:%M:%S} {text}"
        print(line, flush=True)
        with open(self.dir / "run.log", "a") as f:
            f.write(line + "\n")

    def raw(self, run):
        """What was seen, before it is judged."""
        write_edn(self.dir / "history.edn", run.ops)
        with open(self.dir / "observed.jsonl", "w") as f:
            for kind in ("journal", "ended", "hashes", "samples"):
                for item in getattr(run, kind):
                    f.write(json.dumps({"what": kind, **dataclasses.asdict(item)}) + "\n")
            for tasks in run.final.values():
                for seen in tasks.values():
                    f.write(json.dumps({"what": "final", **dataclasses.asdict(seen)}) + "\n")
        rest = {k: getattr(run, k) for k in REST}
        begin = run.ops[0].time if run.ops else 0
        rest["loaded"] = [t - begin for t in run.loaded]
        rest["standstills"] = [[t - begin for t in span] for span in run.standstills]
        (self.dir / "run.json").write_text(json.dumps(rest, indent=1) + "\n")

    def logs(self, cluster):
        for path in cluster.log_files():
            name = "-".join(path.relative_to(cluster.dir).parts)
            shutil.copyfile(path, self.dir / name)

    def results(self, judged, options):
        """Writes results and summary, prints the latter. Returns the exit code."""
        everything = {**judged, "options": {k: str(v) for k, v in options.items()}}
        (self.dir / "results.json").write_text(json.dumps(everything, indent=1) + "\n")
        (self.dir / "results.edn").write_text(edn(everything) + "\n")
        text = summary(judged)
        (self.dir / "summary.txt").write_text(text)
        print(text, end="", flush=True)
        return EXIT[judged["valid"]]


def load(directory):
    """The Run that raw() wrote."""
    run = checkers.Run(**json.loads((directory / "run.json").read_text()))
    run.ops = read_edn(directory / "history.edn")
    kinds = {"journal": Line, "ended": Seen, "hashes": Hash, "samples": Sample, "final": Seen}
    with open(directory / "observed.jsonl") as f:
        for line in f:
            fields = json.loads(line)
            what = fields.pop("what")
            item = kinds[what](**fields)
            if what == "final":
                run.final.setdefault(item.node, {})[item.task] = item
            else:
                getattr(run, what).append(item)
    return run


def summary(judged):
    text = ""
    for name, result in judged.items():
        if not isinstance(result, dict):
            continue
        text += f"{name:13} {WORDS[result['valid']]:8} {facts(name, result)}\n"
        for p in result.get("problems", []) + result.get("unknowns", []):
            text += f"    {p}\n"
    if "error" in judged:
        text += judged["error"] + "\n"
    return text + f"verdict: {WORDS[judged['valid']]}\n"


def facts(name, result):
    if name == "growth":
        lines = []
        for process, f in result["processes"].items():
            rss, fds = f["rss_kb"], f["fds"]
            lines.append(
                f"\n    {process:16} {f['seconds']:5} s: RSS {rss['median']:.0f} KiB "
                f"{rss['grown']:+.0f} (limit {rss['limit']:.0f}), descriptors "
                f"{fds['median']:.0f} {fds['grown']:+.0f} (limit {fds['limit']:.0f})"
            )
        return ("measured" if result["measured"] else "too short to judge") + "".join(lines)
    left_out = ("valid", "problems", "unknowns")
    return ", ".join(f"{k} {plain(v)}" for k, v in result.items() if k not in left_out)


def plain(v):
    if isinstance(v, float):
        return f"{v:.3g}"
    if isinstance(v, dict):
        return "(" + ", ".join(f"{k} {plain(x)}" for k, x in v.items()) + ")"
    return str(v)
