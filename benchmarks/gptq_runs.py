"""GPTQ's runs with several step sizes side by side, as output channels of one pass, against one after the other.

    python -m benchmarks.gptq_runs [--rounds 5]

For weights of several shapes and formats, with and without the bound for CPUs whose int8 kernels saturate: milliseconds
on one thread, the least of interleaved rounds, and the share of codes that differ.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from threadpoolctl import threadpool_limits

from onnxmpq.rounding import Dual, PairBound, PerBlock, PerChannel, QuantizedWeight, WeightFormat, gptq, quantize_weight

SHAPES = [(16, 72), (32, 144), (64, 288), (64, 576), (128, 512), (384, 384)]
FORMATS = [(PerChannel(8), False), (PerChannel(8), True), (Dual(4, 64), True), (PerBlock(4, 32), False)]


def rounded(w: np.ndarray, weight_format: WeightFormat, hessian: np.ndarray, bounded: bool) -> QuantizedWeight:
    """w float32 [O, K] by GPTQ; hessian float32 [K, K]."""
    bound = PairBound.of(np.arange(w.shape[1])) if bounded else None
    return quantize_weight(w, weight_format, method="gptq", hessian=hessian, bound=bound)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds, together, chance = parser.parse_args().rounds, gptq.SIDE_BY_SIDE, np.random.default_rng(0)
    print("| weight | format | one by one | side by side | ratio | codes that differ |\n|---|---|---|---|---|---|")
    for channels, inputs in SHAPES:
        w = (chance.normal(size=(channels, inputs)) * np.exp(chance.normal(size=(channels, 1)) / 2)).astype(np.float32)
        x = (chance.normal(size=(2 * inputs, inputs)) * np.exp(chance.normal(size=inputs))).astype(np.float32)
        hessian = x.T @ x / len(x)
        for weight_format, bounded in FORMATS:
            seconds: dict[int, list[float]] = {1: [], together: []}
            found = {}
            for _ in range(rounds):
                for values, taken in seconds.items():
                    gptq.SIDE_BY_SIDE, begun = values, time.perf_counter()
                    found[values] = rounded(w, weight_format, hessian, bounded)
                    taken.append(time.perf_counter() - begun)
            alone, beside = (1e3 * min(taken) for taken in seconds.values())
            differ = np.mean(found[1].codes != found[together].codes)
            cells = weight_format.name + (", bound" if bounded else ""), f"{alone:.1f}", f"{beside:.1f}"
            print("|", " | ".join((f"{channels} x {inputs}", *cells, f"{beside / alone:.2f}", f"{differ:.2g}")), "|")


if __name__ == "__main__":
    with threadpool_limits(1, user_api="blas"):
        main()
