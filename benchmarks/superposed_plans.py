"""Plans of the separable solver against pooled, refined and re-ranked ones, at the same size, on samples none has seen.

    ONNXMPQ_ZOO=... python -m benchmarks.superposed_plans [MODEL ...] [--samples 256] [--test 400]

Per model three sizes between the smallest plan's and that of 8-bit weights everywhere. Nothing is timed. Prints a
markdown table: true divergence on test samples of the plan of least separable effect (mean divergences alone), of
least pooled effect, of least predicted divergence, and of the one of the last two that is kept after running both on
the spared quarter of the calibration samples; with the standard error of the last ratio, sample by sample.
"""

from __future__ import annotations

import argparse

import numpy as np
from numpy.typing import NDArray

from benchmarks.predictor import CLASSIFIERS
from benchmarks.prepared import Prepared, prepare_entry
from onnxmpq.allocate import Limits, solve
from onnxmpq.allocate.refine import refine
from onnxmpq.allocate.superpose import Predictor
from onnxmpq.closed_loop import SampledRefiner
from onnxmpq.context import Context
from onnxmpq.runtimes import SessionSettings
from onnxmpq.sensitivity import Evaluator
from onnxmpq.threads import workers

SHARES = (0.25, 0.5, 0.75)


def refiner_of(prepared: Prepared) -> SampledRefiner:
    """The refiner of a conversion, on the samples that rounding has not seen."""
    settings = SessionSettings(threads=workers())
    evaluator = Evaluator.of(prepared.model, prepared.effects.pooled, prepared.spared, settings)
    return SampledRefiner(prepared.effects, evaluator, Context())


def rows(name: str, samples: int, test: int) -> list[tuple[str, NDArray[np.float64]]]:
    """(size, divergence [4, samples] of the separable, the pooled, the refined and the kept plan)."""
    prepared = prepare_entry(name, samples, test, layers_only=True)
    problem, refiner, unseen = prepared.problem, refiner_of(prepared), prepared.evaluator(prepared.unseen)
    predictor = Predictor.fitted(problem, prepared.effects)
    least = solve(problem, "size", Limits())
    assert least is not None
    smallest = problem.size_bytes(least.assignment)
    eight = sum(
        max(o.size_bytes for o in row if not o.scheme.is_fp32 or len(row) == 1) for row in problem.options.values()
    )
    found = []
    for share in SHARES:
        limits = Limits(size=smallest + share * (problem.base("size") + eight - smallest))
        separable = solve(prepared.plain, "effect", limits)
        pooled = solve(problem, "effect", limits)
        assert separable is not None and pooled is not None
        better = refine(predictor, pooled, limits)
        refined = better[-1] if better else pooled
        protos = [prepared.bench.build(s.assignment) for s in (pooled, refined)]
        chosen = (pooled, refined, refined if better and refiner.prefers(protos[1], protos[0]) else pooled)
        losses = np.array([unseen.losses(prepared.bench.build(s.assignment)) for s in (separable, *chosen)])
        found.append((f"{limits.upper['size'] / 1e6:.3f}", losses))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=CLASSIFIERS)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--test", type=int, default=400)
    given = parser.parse_args()
    print("| model | MB | separable | pooled | refined | kept | kept / separable |\n|---|---|---|---|---|---|---|")
    ratios = []
    for name in given.models:
        for size, losses in rows(name, given.samples, given.test):
            means, change = losses.mean(axis=1), losses[3] - losses[0]
            ratios.append(means[3] / means[0])
            doubt = change.std() / len(change) ** 0.5 / means[0]
            cells = " | ".join(f"{m:.4g}" for m in means)
            print(f"| {name} | {size} | {cells} | {ratios[-1]:.2f} ± {doubt:.2f} |", flush=True)
    print(f"\nGeometric mean of kept / separable: {np.exp(np.mean(np.log(ratios))):.3f}")


if __name__ == "__main__":
    main()
