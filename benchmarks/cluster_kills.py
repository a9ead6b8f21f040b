"""SIGKILL to a random worker of `local:N` every few seconds of a conversion with a given cost table.

    python -m benchmarks.cluster_kills MODEL CALIB [--recipe R] [--latency 60%] [--samples 16] [--workers 2]
        [--every 10] [--seed 0] [--only]

Converts without a cluster, with one that nobody disturbs, and with one whose workers are killed (with --only, this
alone); prints seconds, kills, and the hash of the model of each. Exit code 1 if they differ.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import random
import re
import signal
import tempfile
import threading
import time
from pathlib import Path

import distributed

from benchmarks.cluster_runs import converted
from onnxmpq.progress import Progress
from tests.tables import int8_pays

Row = tuple[int, int, float, str]


class Killer(Progress):
    """Begins when it hears the address of the scheduler. every_s: between two kills; infinite for none."""

    def __init__(self, every_s: float, seed: int) -> None:
        self.every_s, self.random = every_s, random.Random(seed)
        self.stopped, self.killed = threading.Event(), 0

    def say(self, message: str) -> None:
        print(f"    {message}", flush=True)
        if found := re.match(r"cluster (\S+),", message):
            threading.Thread(target=self.kill, args=(found[1],), daemon=True).start()

    warn = say

    def kill(self, address: str) -> None:
        with distributed.Client(address, set_as_default=False) as client:
            while not self.stopped.wait(min(self.every_s, threading.TIMEOUT_MAX)):
                found = [p for p in client.run(os.getpid, on_error="ignore").values() if isinstance(p, int)]
                if found:
                    os.kill(self.random.choice(found), signal.SIGKILL)
                    self.killed += 1
                    print(f"    killed one of {len(found)}", flush=True)


def run(asked: argparse.Namespace, costs: Path, every_s: float = math.inf, workers: int = 0) -> Row:
    killer = Killer(every_s, asked.seed)
    start = time.perf_counter()
    found = converted(asked, costs, f"local:{workers}" if workers else None, killer)
    killer.stopped.set()
    seconds = time.perf_counter() - start
    return workers, killer.killed, round(seconds, 1), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("calibration")
    parser.add_argument("--recipe")
    parser.add_argument("--latency", default="60%")
    parser.add_argument("--samples", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--every", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="store_true")
    asked = parser.parse_args()
    logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # lost connections are what is asked for
    with tempfile.TemporaryDirectory() as folder:
        costs = int8_pays(asked.model, Path(folder))
        rows = []
        runs = [(math.inf, 0), (math.inf, asked.workers), (asked.every, asked.workers)]
        for every_s, workers in runs[-1:] if asked.only else runs:
            rows.append(run(asked, costs, every_s, workers))
            print("workers {}, kills {}, {} s, {}".format(*rows[-1]), flush=True)
    raise SystemExit(len({found for *_, found in rows}) > 1)


if __name__ == "__main__":
    main()
