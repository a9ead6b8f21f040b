"""Anonymous memory of a conversion on `local:N`: of the client, of its workers, of all its processes at one moment.

    python -m benchmarks.cluster_memory MODEL CALIB [--samples 4] [--workers 2] [--every 0.2] [--json FILE]
        [--made-up | --moments] [-- OPTIONS OF convert]

Without further options: `--size 40%`. --made-up: a cost table that is made up, so that nothing is timed before a plan
is chosen. --moments: only moments are measured. The conversion is a process of its own, looked at every 0.2 s from
outside with all that it starts; a model of any size may be given by path.

MB are memory that is no file's (Pss_Anon of smaps_rollup: what processes share counts once), the largest seen, by
stage. "all at one moment" is the largest sum, not the sum of the columns. "workers" are the server that forks them and
all workers; "largest" is one of them; "others" is what the client has started beside them: the process that measures.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Thread

import onnx

import onnxmpq
from benchmarks.stages import table_of
from onnxmpq.cluster import connected
from onnxmpq.feeds import load_feeds
from onnxmpq.progress import Progress
from onnxmpq.runtimes import input_specs, open_session
from onnxmpq.statistics import spread_moments
from onnxmpq.tasks import current
from tests.graphs import prepared
from tests.tables import int8_pays

_STAGE = re.compile(r"(start|done|stopped): (.*?)(?: \(\d+ steps\)| in [\d.]+ s| after [\d.]+ s)?$")
_BETWEEN = "between stages"


@dataclass
class Peak:
    """Largest MB seen."""

    client: float = 0.0
    workers: float = 0.0
    largest: float = 0.0
    others: float = 0.0
    all: float = 0.0

    def raised(self, seen: Peak) -> None:
        for name, value in asdict(seen).items():
            setattr(self, name, max(getattr(self, name), value))


# ---- processes ---------------------------------------------------------------------------------


def children() -> dict[int, list[int]]:
    """Processes of this machine, by the one that started them."""
    found: dict[int, list[int]] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                parent = int((folder / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[1])
            except OSError:  # it has just ended
                continue
            found.setdefault(parent, []).append(int(folder.name))
    return found


def below(process: int, tree: dict[int, list[int]]) -> Iterator[int]:
    """This process, and all that it has started, directly or not."""
    yield process
    for child in tree.get(process, []):
        yield from below(child, tree)


def anonymous_mb(process: int) -> float:
    """0 for one that has ended."""
    try:
        found = re.search(r"Pss_Anon:\s+(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text(encoding="utf-8"))
    except OSError:
        return 0.0
    return int(found[1]) * 1024 / 1e6 if found else 0.0


def command_of(process: int) -> bytes:
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:
        return b""


def seen(client: int) -> Peak:
    """Memory at this moment. A child with the command of the client is its copy, the server that forks workers."""
    tree, own = children(), command_of(client)
    workers, others = list[float](), 0.0
    for child in tree.get(client, []):
        mb = [anonymous_mb(process) for process in below(child, tree)]
        if (command := command_of(child)) == own or b"forkserver" in command:
            workers += mb
        else:
            others += sum(mb)
    mine = anonymous_mb(client)
    return Peak(mine, sum(workers), max(workers, default=0.0), others, mine + sum(workers) + others)


# ---- what is looked at -------------------------------------------------------------------------


def watched(command: Sequence[str], every_s: float) -> tuple[dict[str, Peak], int]:
    """Largest memory by stage, and the exit code. Stages are read from what the process says on stderr."""
    peaks: dict[str, Peak] = {}
    stage = [_BETWEEN]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as process:
        stderr = process.stderr
        assert stderr is not None

        def listen() -> None:
            for line in stderr:
                if found := _STAGE.match(line.rstrip()):
                    stage[0] = found[2] if found[1] == "start" else _BETWEEN
                elif "error" in line or "warning" in line:
                    print(line, end="", file=sys.stderr)

        listening = Thread(target=listen)
        listening.start()
        while process.poll() is None:
            now = stage[0]
            peaks.setdefault(now, Peak()).raised(seen(process.pid))
            time.sleep(every_s)
        listening.join()
    return peaks, process.returncode


class Said(Progress):
    def say(self, message: str) -> None: ...


def moments(asked: argparse.Namespace) -> None:
    proto = onnx.load(asked.model)
    feeds = load_feeds(asked.calibration, input_specs(open_session(proto))).take(range(asked.samples))
    model = prepared(proto)
    del proto
    with connected(f"local:{asked.workers}", Said()):
        elsewhere = current()
        assert elsewhere is not None
        for _ in spread_moments(elsewhere, model, model.weights, feeds):
            pass


def command(asked: argparse.Namespace, folder: Path) -> list[str]:
    if asked.moments:
        return [sys.executable, "-m", "benchmarks.cluster_memory", *sys.argv[1:], "--one"]
    given = ["--calib", asked.calibration, "--samples", str(asked.samples), "--cluster", f"local:{asked.workers}"]
    if asked.made_up:
        given += ["--cost-table", str(int8_pays(asked.model, folder))]
    output = ["--no-cache", "-o", str(folder / "made.onnx"), *(asked.options or ["--size", "40%"])]
    return [sys.executable, "-m", "onnxmpq", "convert", str(asked.model), *given, *output]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("calibration")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--every", type=float, default=0.2, help="seconds")
    parser.add_argument("--json", type=Path, help="where to write the figures as well")
    parser.add_argument("--made-up", action="store_true")
    parser.add_argument("--moments", action="store_true")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)  # in the process of its own
    cut = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    asked = parser.parse_args(sys.argv[1:cut], argparse.Namespace(options=sys.argv[cut + 1 :]))
    if asked.one:
        moments(asked)
        return
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        peaks, code = watched(command(asked, Path(folder)), asked.every)
    whole = Peak()
    for peak in peaks.values():
        whole.raised(peak)
    size = sum(f.stat().st_size for f in asked.model.parent.glob(f"{asked.model.name}*")) / 1e6
    where, seconds = f"onnxmpq {onnxmpq.__version__}, local:{asked.workers}", time.perf_counter() - start
    print(f"{asked.model.name}, {size:.0f} MB; {where}; {seconds:.0f} s, exit code {code}")
    rows = [[stage, *(f"{mb:.0f}" for mb in asdict(p).values())] for stage, p in {**peaks, "whole": whole}.items()]
    print(table_of(["stage", "client", "workers", "largest", "others", "all at one moment"], rows))
    if asked.json is not None:
        found = {stage: asdict(peak) for stage, peak in {**peaks, "whole": whole}.items()}
        asked.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    raise SystemExit(code)


if __name__ == "__main__":
    main()
