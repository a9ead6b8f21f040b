"""SIGKILL to a random worker of a local cluster every few seconds of a conversion with a given cost table.

    python -m benchmarks.cluster_kills MODEL CALIB [--recipe R] [--samples 16] [--workers 2] [--every 10] [--seed 0]

Converts without a cluster, with one that nobody disturbs, and with one whose workers are killed; prints seconds, kills,
and the hash of the model of each. Exit code 1 if they differ.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import distributed

import onnxmpq
from onnxmpq.files import serialize
from tests.tables import int8_pays


class Killer(threading.Thread):
    """Kills until it is stopped. killed: so far."""

    def __init__(self, client: Any, every_s: float, seed: int) -> None:
        super().__init__(daemon=True)
        self.client, self.every_s, self.random = client, every_s, random.Random(seed)
        self.stopped, self.killed = threading.Event(), 0

    def run(self) -> None:
        while not self.stopped.wait(self.every_s):
            found = [p for p in self.client.run(os.getpid, on_error="ignore").values() if isinstance(p, int)]
            if found:
                os.kill(self.random.choice(found), signal.SIGKILL)
                self.killed += 1


def converted(asked: argparse.Namespace, costs: Path, cluster: Any = None) -> tuple[float, str]:
    start = time.perf_counter()
    made = onnxmpq.convert(
        asked.model,
        calibration=asked.calibration,
        recipe=asked.recipe,
        samples=asked.samples,
        cost_table=costs,
        latency="60%",
        guard=False,
        best_effort=True,
        cache=False,
        cluster=cluster,
    )
    return time.perf_counter() - start, hashlib.sha256(serialize(made.model)).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("calibration")
    parser.add_argument("--recipe")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--every", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        costs = int8_pays(asked.model, Path(folder))
        rows = [("no cluster", 0, *converted(asked, costs))]
        print(rows[-1], flush=True)
        with (
            distributed.LocalCluster(n_workers=asked.workers, threads_per_worker=1, dashboard_address=None) as cluster,
            distributed.Client(cluster, set_as_default=False) as client,
        ):
            rows.append(("cluster", 0, *converted(asked, costs, client)))
            print(rows[-1], flush=True)
            killer = Killer(client, asked.every, asked.seed)
            killer.start()
            seconds, found = converted(asked, costs, client)
            killer.stopped.set()
            rows.append(("killed", killer.killed, seconds, found))
            print(rows[-1], flush=True)
    raise SystemExit(len({found for *_, found in rows}) > 1)


if __name__ == "__main__":
    main()
