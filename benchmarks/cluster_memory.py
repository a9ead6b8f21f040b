"""Memory of the client and of each worker of `local:N` while a model is converted, or while its moments are measured.

    python -m benchmarks.cluster_memory MODEL CALIB [--samples 4] [--workers 2] [--moments]

Conversion is without rounding for inputs, by a made-up cost table, with effects by blocks. MB are the largest resident
sets of the processes (VmHWM), from their start to the end of the work; pages of files that they map are among them.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

import distributed
import onnx

import onnxmpq
from onnxmpq.cluster import connected
from onnxmpq.feeds import Feeds, load_feeds
from onnxmpq.progress import BESIDE, COMPARING, Progress
from onnxmpq.runtimes import input_specs, open_session
from onnxmpq.statistics import spread_moments
from onnxmpq.tasks import current
from tests.graphs import prepared
from tests.tables import int8_pays

TECHNIQUES = ("gptq", "descent", "cross", "bias-correction")


def peak_mb() -> float:
    """Of this process."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) / 1e3


class Watching(Progress):
    """Asks the workers once the work that they do is over."""

    def __init__(self) -> None:
        self.address, self.workers = "", list[float]()

    def say(self, message: str) -> None:
        if found := re.match(r"cluster (\S+),", message):
            self.address = found[1]

    def ask(self) -> None:
        with distributed.Client(self.address, set_as_default=False) as client:
            self.workers = list(client.run(peak_mb).values())


class Asking(Watching):
    def stage(self, what: str, total: int):  # type: ignore[no-untyped-def]
        if what in (COMPARING, BESIDE) and not self.workers:
            self.ask()
        return super().stage(what, total)


def moments(asked: argparse.Namespace, watching: Watching) -> None:
    proto = onnx.load(asked.model)
    model, feeds = prepared(proto), _feeds(asked, proto)
    del proto
    with connected(f"local:{asked.workers}", watching):
        elsewhere = current()
        assert elsewhere is not None
        for _ in spread_moments(elsewhere, model, model.weights, feeds):
            pass
        watching.ask()


def _feeds(asked: argparse.Namespace, proto: onnx.ModelProto) -> Feeds:
    feeds = load_feeds(asked.calibration, input_specs(open_session(proto)))
    return feeds.take(range(asked.samples))


def convert(asked: argparse.Namespace, watching: Watching) -> None:
    with tempfile.TemporaryDirectory() as folder:
        onnxmpq.convert(
            asked.model,
            calibration=asked.calibration,
            samples=asked.samples,
            cost_table=int8_pays(asked.model, Path(folder)),
            latency="80%",
            effects="block",
            without=TECHNIQUES,
            guard=False,
            best_effort=True,
            cache=False,
            cluster=f"local:{asked.workers}",
            progress=watching,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("calibration")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--moments", action="store_true")
    asked = parser.parse_args()
    watching = Asking()
    work: Callable[[argparse.Namespace, Watching], None] = moments if asked.moments else convert
    work(asked, watching)
    size = asked.model.stat().st_size / 1e6
    print(f"{size:.0f} MB: client {peak_mb():.0f} MB, workers {', '.join(f'{mb:.0f}' for mb in watching.workers)} MB")


if __name__ == "__main__":
    main()
