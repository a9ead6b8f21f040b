"""Memory and time of a conversion, stage by stage, for decoders of different depth or size.

    python -m benchmarks.large_models [--blocks 4 8 16 32] [--width 128] [--vocabulary 2048] [--budget size=20%]
    python -m benchmarks.large_models --blocks 20 --width 2048 --vocabulary 32000 --as-it-is

Writes each decoder (benchmarks/big_decoder.py) into a temporary folder, converts it in a process of its own, and
samples the anonymous memory (RssAnon of /proc/PID/status) of that process, of all its children, and of all of them at
one moment (less than the sum of both peaks where these do not meet), and the bytes of its temporary files. Mapped files
are not in it: the system takes their pages back when it needs them. Models are treated as those of 2 GB or more are,
however small; --as-it-is for what their size asks for. Prints a table, and for a series the exponents of CPU time over
depth: CPU time, since wall time depends on what else runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.big_decoder import Shape, write_decoder, write_samples
from onnxmpq.progress import ROUNDING, SENSITIVITY, Progress, Tick

ROOT = Path(__file__).resolve().parents[1]
EVERY_S = 0.05
ANALYSIS = ("rounding weights", ROUNDING, SENSITIVITY)
"""Stages whose time depends on the number of layers and not on how long plans are timed."""
MB = 1e6


class Watcher:
    """Peaks of anonymous memory (here, in children, and in all of them at one moment), wall and CPU seconds by what is
    being done; and the peak of temporary files."""

    def __init__(self, scratch: Path) -> None:
        self.scratch, self.what, self.done = scratch, "starting", threading.Event()
        self.peaks: dict[str, tuple[float, float, float]] = defaultdict(lambda: (0.0, 0.0, 0.0))
        self.seconds: dict[str, float] = defaultdict(float)
        self.cpu: dict[str, float] = defaultdict(float)
        self.files = 0.0
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watcher:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self._thread.join()

    @property
    def together(self) -> float:
        """Most anonymous memory of all processes at one moment, in any stage."""
        return max((both for _, _, both in self.peaks.values()), default=0.0)

    def _watch(self) -> None:
        last, looked, used = time.perf_counter(), 0.0, {os.getpid(): 0.0}
        while not self.done.wait(EVERY_S):
            children = _below(os.getpid())
            own, others = _anonymous(os.getpid()), sum(map(_anonymous, children))
            for pid in (os.getpid(), *children):  # the end of one that ends between two looks is lost
                before, used[pid] = used.get(pid, 0.0), max(_cpu(pid), used.get(pid, 0.0))
                self.cpu[self.what] += used[pid] - before
            now, (mine, theirs, both) = time.perf_counter(), self.peaks[self.what]
            self.peaks[self.what] = max(mine, own), max(theirs, others), max(both, own + others)
            self.seconds[self.what] += now - last
            last = now
            if now - looked > 1.0:
                looked = now
                mapped = _unlinked(self.scratch, (os.getpid(), *children))
                self.files = max(self.files, float(_taken(self.scratch) + mapped))


def _taken(folder: Path) -> int:
    """Bytes of the files below a folder, of which some go at any moment."""
    return sum(_size(os.path.join(at, name)) for at, _, names in os.walk(folder) for name in names)


def _unlinked(folder: Path, processes: Iterable[int]) -> int:
    """Bytes of files that were in a folder and that processes still have mapped: they take room without a name."""
    found: dict[str, int] = {}
    for pid in processes:
        try:
            lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
        except OSError:
            continue
        for line in lines:
            if not line.endswith("(deleted)") or f" {folder}/" not in line:
                continue
            span, _, offset, _, inode = line.split()[:5]
            first, last = (int(end, 16) for end in span.split("-"))
            found[inode] = max(found.get(inode, 0), int(offset, 16) + last - first)
    return sum(found.values())


def _size(path: str) -> int:
    try:
        return os.lstat(path).st_blocks * 512
    except OSError:
        return 0


def _anonymous(pid: int) -> float:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0.0
    return 1024.0 * sum(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def _cpu(pid: int) -> float:
    """CPU seconds of a process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _below(pid: int) -> list[int]:
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        found = [int(c) for t in threads for c in (t / "children").read_text().split()]
    except OSError:
        return []
    return [p for child in found for p in (child, *_below(child))]


class Stages(Progress):
    """Tells a watcher of the stages, and the screen too."""

    def __init__(self, watcher: Watcher) -> None:
        self.watcher = watcher

    @contextmanager
    def stage(self, what: str, total: int) -> Iterator[Tick]:
        before, self.watcher.what = self.watcher.what, what
        print(f"  {time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)
        with super().stage(what, total) as tick:
            yield tick
        self.watcher.what = f"after: {what}" if before.startswith(("after", "starting")) else before

    def warn(self, message: str) -> None:
        print(f"  warning: {message}", file=sys.stderr, flush=True)

    def say(self, message: str) -> None:
        print(f"  {message}", file=sys.stderr, flush=True)


def convert_one(folder: Path, options: dict[str, Any], longest_s: float | None, *, as_it_is: bool) -> dict[str, Any]:
    """In a process of its own."""
    import onnxmpq  # noqa: PLC0415 (after TMPDIR is set)
    from onnxmpq.model import spill  # noqa: PLC0415
    from onnxmpq.weights import reuse  # noqa: PLC0415

    if not as_it_is:
        spill.NEVER_WHOLE = 0
    if longest_s is not None:
        reuse.LONGEST_S = longest_s
    start, output = time.perf_counter(), folder / "decoder.mpq.onnx"
    with Watcher(Path(tempfile.gettempdir())) as watcher:
        result = onnxmpq.convert(
            folder / "decoder.onnx",
            calibration=folder / "samples.npz",
            output=output,
            cache=False,
            progress=Stages(watcher),
            **options,
        )
    schemes: dict[str, int] = defaultdict(int)
    for row in result.plan.layers:
        schemes[row.scheme] += 1
    return {
        "seconds": time.perf_counter() - start,
        "stages": {k: [watcher.seconds[k], watcher.cpu[k], *watcher.peaks[k]] for k in watcher.peaks},
        "together": watcher.together,
        "scratch": watcher.files,
        "written": sum(p.stat().st_size for p in folder.glob("decoder.mpq.onnx*")),
        "schemes": schemes,
        "measured": dict(result.plan.measured),
        "quality": dict(result.plan.quality),
        "compensation": dict(result.plan.compensation),
        "steps": [step.figures() for step in result.report.validation.steps],
    }


def measured(
    shape: Shape, options: dict[str, Any], samples: int, length: int, longest_s: float | None, *, as_it_is: bool
) -> dict[str, Any]:
    """A decoder written, converted and removed."""
    with tempfile.TemporaryDirectory(prefix="large-") as name:
        folder, scratch = Path(name) / "model", Path(name) / "tmp"
        folder.mkdir()
        scratch.mkdir()
        write_decoder(folder / "decoder.onnx", shape)
        write_samples(folder / "samples.npz", shape, samples, length=length)
        asked = json.dumps({"folder": str(folder), "options": options, "longest_s": longest_s, "as_it_is": as_it_is})
        path = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
        environment = {**os.environ, "TMPDIR": str(scratch), "PYTHONPATH": path}
        command = [sys.executable, "-m", "benchmarks.large_models", "--one", asked]
        answer = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(answer.stdout)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", type=int, nargs="+", default=[4, 8, 16, 32])
    for name, value in (("width", 128), ("vocabulary", 2048), ("samples", 16), ("length", 12)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--budget", nargs="+", default=["size=20%"])
    parser.add_argument("--schemes", nargs="+", default=[])
    parser.add_argument("--without", nargs="+", default=[])
    parser.add_argument("--effects", default="auto")
    parser.add_argument("--best-effort", action="store_true")
    parser.add_argument("--rounding-seconds", type=float, help="in the place of the hour that rounding may take")
    parser.add_argument("--as-it-is", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        asked = json.loads(given.one)
        found = convert_one(Path(asked["folder"]), asked["options"], asked["longest_s"], as_it_is=asked["as_it_is"])
        print(json.dumps(found))
        return
    options = dict(budget.split("=", 1) for budget in given.budget)
    options |= {
        "schemes": given.schemes,
        "without": given.without,
        "effects": given.effects,
        "best_effort": given.best_effort,
    }
    analysis = []
    for blocks in given.blocks:
        shape = Shape.of(blocks, given.width, given.vocabulary)
        found = measured(shape, options, given.samples, given.length, given.rounding_seconds, as_it_is=given.as_it_is)
        stages = found["stages"]
        analysis.append([sum(stages[k][1] for k in ANALYSIS if k in stages), sum(row[1] for row in stages.values())])
        own, children = (max(row[n] for row in stages.values()) for n in (2, 3))
        print(
            f"\n{blocks} blocks, {4 * shape.parameters / MB:.0f} MB: {found['seconds']:.0f} s, anonymous memory "
            f"{own / MB:.0f} MB here, {children / MB:.0f} MB in children, {found['together'] / MB:.0f} MB in all at "
            f"one moment, {found['scratch'] / MB:.0f} MB of temporary files, {found['written'] / MB:.0f} MB written, "
            f"{dict(found['schemes'])}, {found['measured']}, {found['quality']}, "
            f"second rounding {found['compensation']}"
        )
        print("  seconds  CPU s  MB here  in children  in all at one moment  stage")
        for what, (seconds, cpu, *peaks) in stages.items():
            mine, theirs, both = (round(peak / MB) for peak in peaks)
            print(f"  {seconds:7.1f}{cpu:7.1f}{mine:9}{theirs:13}{both:22}  {what}", flush=True)
    if len(analysis) > 1:
        rows = np.log(np.array(analysis)).T
        exponents = [float(np.polyfit(np.log(given.blocks), row, 1)[0]) for row in rows]
        print(f"\nexponent of CPU time over depth: analysis {exponents[0]:.2f}, whole conversion {exponents[1]:.2f}")


if __name__ == "__main__":
    main()
