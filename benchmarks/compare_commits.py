"""Does a change of the code change results? Converts with two commits on this machine and compares what is written.

    python -m benchmarks.compare_commits [--base main] [--head worktree] [--keep FOLDER] [--zoo] [--model NAME ...]

Models: samples/*.onnx and, with ONNXMPQ_ZOO set, resnet20_cifar10 (--zoo: all of the zoo). Each is converted for every
goal in GOALS by both commits, in one process per commit and model, with a cache of its own that starts empty. Latencies
come from a cost table that the base commit measures once or from a target's model, so no clock decides anything.
Compared are the bytes of the model and of the plan, less the versions in its `runtime`; where a conversion fails, the
error. With --keep the tables stay in that folder, and so do the results of commits, which are not made again. Prints
CPU seconds (children included) and the peak of resident memory of both sides; exit code 1 if anything differs.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
WORKTREE = "worktree"
VERSIONS = "runtime"  # field of the plan
USAGE = "usage.json"  # written last
GOALS: Mapping[str, Mapping[str, Any]] = {
    "fastest": {"latency": "fastest"},
    "latency": {"latency": "80%"},
    "size": {"size": "30%"},
    "latency and size": {"latency": "90%", "size": "40%", "best_effort": True},
    "floor": {"min_sqnr": "25dB", "estimator": "percentile"},
    "without samples": {"size": "20%", "calibration": None, "samples": 16},
    "fp8 and fp16": {"target": "h100", "latency": "fastest", "batch": 64, "best_effort": True},
    "few bits": {"target": "bismo-edge", "latency": "50%", "guard": False},
}
"""Arguments of `convert`; the table is added for the measured target, samples where none are named."""


@dataclass(frozen=True)
class Subject:
    """A model with its calibration samples (.npz)."""

    name: str
    model: str
    samples: str


@dataclass(frozen=True)
class Usage:
    """CPU seconds of this process and its children, peak resident memory of the larger of the two in bytes."""

    cpu_s: float
    peak_bytes: int


def goal_arguments(goal: str, subject: Subject, table: Path) -> dict[str, Any]:
    given: dict[str, Any] = {"calibration": subject.samples, "samples": 32, **GOALS[goal]}
    return given if "target" in given else {**given, "cost_table": str(table)}


def file_stem(subject: Subject, goal: str) -> str:
    return f"{subject.name}.{goal.replace(' ', '_')}"


# ---- one commit, one model: runs with that commit's package, knows nothing else of this repository ----------------


def convert_all(asked: Mapping[str, Any]) -> None:
    """Convert one model for every goal. asked: subject, goals, table, out, root, profile (as `main` writes it)."""
    import onnxmpq  # noqa: PLC0415 (of the commit that PYTHONPATH names)

    found = Path(onnxmpq.__file__).resolve().parents[1]
    if found != Path(asked["root"]).resolve():
        raise SystemExit(f"imported onnxmpq from {found}, not from {asked['root']}")
    subject, table, out = Subject(**asked["subject"]), Path(asked["table"]), Path(asked["out"])
    if asked["profile"]:
        table.write_text(onnxmpq.profile(subject.model, calibration=subject.samples).to_json(), encoding="utf-8")
        return
    used: dict[str, Any] = {}
    for goal in asked["goals"]:
        path, before = out / f"{file_stem(subject, goal)}.onnx", usage()
        try:
            arguments = goal_arguments(goal, subject, table)
            onnxmpq.convert(subject.model, **arguments, output=path, cache=out / "cache")
        except Exception as error:  # a defect of both commits is no difference between them
            path.with_suffix(".error").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
        after = usage()
        used[goal] = after.cpu_s - before.cpu_s, after.peak_bytes
    (out / USAGE).write_text(json.dumps(used))


def usage() -> Usage:
    sides = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    kilo = 1 if sys.platform == "darwin" else 1024
    return Usage(sum(s.ru_utime + s.ru_stime for s in sides), max(s.ru_maxrss for s in sides) * kilo)


# ---- both commits ------------------------------------------------------------------------------


@contextlib.contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """The source tree of a commit, in a git worktree that is removed afterwards; WORKTREE is this one as it is."""
    if commit == WORKTREE:
        yield ROOT
        return
    git = ["git", "-C", str(ROOT), "worktree"]
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder).resolve() / "tree"
        subprocess.run([*git, "add", "--detach", "--quiet", str(tree), commit], check=True)
        try:
            yield tree
        finally:
            subprocess.run([*git, "remove", "--force", str(tree)], check=True)


def results_of(commit: str, subject: Subject, goals: Sequence[str], table: Path, folder: Path) -> Path:
    """Folder for the results of a commit, named after all that they follow from; empty for the working tree."""
    what = commit
    if commit != WORKTREE:
        done = subprocess.run(["git", "-C", str(ROOT), "rev-parse", commit], check=True, stdout=subprocess.PIPE)
        files = [p.read_bytes() for p in (Path(__file__), table, Path(subject.samples))]
        key = hashlib.sha256(b"".join([*files, repr(goals).encode()])).hexdigest()
        what = f"{done.stdout.decode()[:12]}-{key[:12]}"
    out = folder / f"{subject.name}-{what}"
    if commit == WORKTREE or not (out / USAGE).exists():
        shutil.rmtree(out, ignore_errors=True)
    return out


def run_side(root: Path, subject: Subject, goals: Sequence[str], table: Path, out: Path, *, profile: bool) -> None:
    """Convert in a process of its own, or only measure the table."""
    if (out / USAGE).exists():
        return
    out.mkdir(exist_ok=True)
    asked = {
        "subject": vars(subject),
        "goals": list(goals),
        "table": str(table),
        "out": str(out),
        "root": str(root),
        "profile": profile,
    }
    environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONSAFEPATH": "1"}
    subprocess.run([sys.executable, __file__, "--side", json.dumps(asked)], env=environment, check=True)


def differences(stem: str, base: Path, head: Path) -> list[str]:
    """Names of what differs between the results of two commits."""
    found = []
    for suffix in (".onnx", ".plan.json", ".error"):
        one, two = (side / f"{stem}{suffix}" for side in (base, head))
        if one.exists() != two.exists():
            found.append(f"{suffix} only in {'base' if one.exists() else 'head'}")
        elif one.exists() and _content(one) != _content(two):
            found.append(_fields(one, two) if suffix == ".plan.json" else suffix)
    return found


def _content(path: Path) -> bytes:
    if path.suffix != ".json":
        return path.read_bytes()
    plan = json.loads(path.read_text(encoding="utf-8"))
    return json.dumps({k: v for k, v in plan.items() if k != VERSIONS}).encode()


def _fields(one: Path, two: Path) -> str:
    plans = [json.loads(p.read_text(encoding="utf-8")) for p in (one, two)]
    names = [k for k in {**plans[0], **plans[1]} if k != VERSIONS and plans[0].get(k) != plans[1].get(k)]
    return f".plan.json: {', '.join(names) or 'order of fields'}"


def subjects(folder: Path, zoo_models: Sequence[str] | None, wanted: Sequence[str]) -> list[Subject]:
    """zoo_models: their names, None for all."""
    digits = str(ROOT / "samples" / "digits_calib.npz")
    found = [Subject(p.stem, str(p), digits) for p in sorted((ROOT / "samples").glob("*.onnx"))]
    if os.environ.get("ONNXMPQ_ZOO"):
        from benchmarks.zoo import arrays, zoo  # noqa: PLC0415 (not for the side of one commit)

        for name in zoo().names() if zoo_models is None else zoo_models:
            if not wanted or name in wanted:
                entry, path = zoo().load(name), folder / f"{name}.npz"
                np.savez(path, **arrays(entry, "calib", 48))
                found.append(Subject(name, str(entry.model), str(path)))
    return [s for s in found if not wanted or s.name in wanted]


def compare(options: argparse.Namespace, folder: Path) -> int:
    """Number of results that differ; prints a row for each."""
    every = options.zoo or options.model
    models = subjects(folder, None if every else ["resnet20_cifar10"], options.model or ())
    different, goals = 0, options.goal or list(GOALS)
    print("| model | goal | result | CPU seconds, base / head | peak MB, base / head |\n|---|---|---|---|---|")
    with checkout(options.base) as base, checkout(options.head) as head:
        for subject in models:
            table = folder / f"{subject.name}.costs.json"
            if not table.exists():
                run_side(base, subject, (), table, folder / "profiling", profile=True)
            sides = [results_of(c, subject, goals, table, folder) for c in (options.base, options.head)]
            for root, out in zip((base, head), sides, strict=True):
                run_side(root, subject, goals, table, out, profile=False)
            used = [json.loads((out / USAGE).read_text()) for out in sides]
            for goal in goals:
                stem = file_stem(subject, goal)
                found = differences(stem, *sides)
                error = sides[0] / f"{stem}.error"
                ended = f", both end in {error.read_text(encoding='utf-8'):.60}..." if error.exists() else ""
                said = f"DIFFERENT: {'; '.join(found)}" if found else f"identical{ended}"
                seconds = " / ".join(f"{u[goal][0]:.1f}" for u in used)
                peaks = " / ".join(f"{u[goal][1] / 1e6:.0f}" for u in used)
                print(f"| {subject.name} | {goal} | {said} | {seconds} | {peaks} |", flush=True)
                different += bool(found)
    return different


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="main", metavar="COMMIT")
    parser.add_argument("--head", default=WORKTREE, metavar="COMMIT", help="default: this working tree")
    parser.add_argument("--zoo", action="store_true", help="all models of the zoo")
    parser.add_argument("--model", action="append", metavar="NAME", help="only these")
    parser.add_argument("--goal", action="append", choices=list(GOALS), help="only these")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="for results and cost tables, which stay there")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = options.keep or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder.mkdir(exist_ok=True)
        different = compare(options, folder.resolve())
    print(f"{different} different" if different else "all identical")
    raise SystemExit(different > 0)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        convert_all(json.loads(sys.argv[2]))
    else:
        main()
