"""One conversion in a process of its own, on a machine that is made to look like another one.

    python -m tests.converted_once '{"target": "cpu", "workers": 4, "cache": "", "clock": 7}' folder

target: "cpu" plans the digits sample with a made-up cost table, others a small network. clock: seed of clocks that run
wildly and of runs that stall, 0 for those of the machine. Prints the hashes of the model and of its plan.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import sys
import time
from pathlib import Path
from typing import Any

import onnxmpq
from onnxmpq.files import serialize
from onnxmpq.runtimes import Call
from tests.graphs import residual_cnn, samples_for
from tests.tables import int8_pays

SAMPLE = Path(__file__).parent.parent / "samples" / "digits_cnn.onnx"
SAMPLES = 16


def upset_clocks(seed: int) -> None:
    """Clocks that jump, and runs of which every tenth takes longer, by whatever chance."""
    chance, run = random.Random(seed), Call.__call__

    def stalled(call: Call) -> list[Any]:
        if chance.random() < 0.1:
            time.sleep(0.005 * chance.random())
        return run(call)

    Call.__call__ = stalled  # type: ignore[method-assign]
    time.perf_counter = lambda: 1e3 * chance.random()
    time.process_time = lambda: 1e3 * chance.random()


def main() -> None:
    asked, folder = json.loads(sys.argv[1]), Path(sys.argv[2])
    os.cpu_count = lambda: int(asked["workers"])
    if asked["clock"]:
        upset_clocks(asked["clock"])
    modelled = asked["target"] != "cpu"
    small = residual_cnn()
    result = onnxmpq.convert(
        small if modelled else SAMPLE,
        target=asked["target"],
        cost_table=None if modelled else int8_pays(SAMPLE, folder),
        latency="fastest" if modelled else "60%",
        calibration=samples_for(small, SAMPLES) if modelled else str(SAMPLE.with_name("digits_calib.npz")),
        samples=SAMPLES,
        cache=asked["cache"] or False,
    )
    assert result.plan.schemes
    plan = result.plan.to_json().encode()
    print(hashlib.sha256(serialize(result.model)).hexdigest(), hashlib.sha256(plan).hexdigest())


if __name__ == "__main__":
    main()
