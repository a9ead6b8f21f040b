"""How well a plan's divergence is predicted on samples that took no part: separable, pooled, superposed effects.

    ONNXMPQ_ZOO=... python -m benchmarks.predictor [MODEL ...] [--samples 256] [--test 400] [--plans 40]

Per model: effects on calibration samples (weights rounded for three quarters of them), then plans with a random scheme
for every layer (for a random share of them where few such plans do) whose top-1 agreement with fp32 is at least 85 %
are built and run. Kendall's tau between predicted and true divergence on test samples. separable: mean divergences of
the decisions alone, summed; pooled: the same with a share of the pooled curvature; superposed: that of the summed
effects; shrunk: what plans are refined by; ceiling: the true divergence on the calibration samples. Predicted / true:
median over the plans, truth on test samples and on further samples of the calibration split. Prints a markdown table.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from scipy.stats import kendalltau

from benchmarks.prepared import Prepared, prepare_entry
from onnxmpq.allocate.superpose import Predictor, random_plan
from onnxmpq.schemes import Scheme

CLASSIFIERS = ("resnet20_cifar10", "squeezenet1.1", "mobilenet_v1_0.25", "vit_tiny", "gpt_char")
LEAST_AGREEMENT = 0.85


def useful_plans(prepared: Prepared, count: int, seed: int) -> list[dict[str, Scheme]]:
    """Random plans that agree with fp32 on the top class of at least 85 % of the calibration samples; of a random share
    of the layers where too few plans of all of them do."""
    generator, plans, tried = np.random.default_rng(seed), [], 0
    while len(plans) < count and tried < 6 * count:
        tried += 1
        freedom = 1.0 if tried <= 2 * count else None
        plan = random_plan(prepared.problem, generator, freedom)
        if plan and agreement(prepared, plan) >= LEAST_AGREEMENT:
            plans.append(plan)
    return plans


def agreement(prepared: Prepared, plan: dict[str, Scheme]) -> float:
    """Share of rows whose largest entry is where the fp32 model has it, on calibration samples."""
    classes = prepared.effects.divergence.views[0].classes
    before = prepared.effects.reference.reshape(-1, classes)
    after = prepared.codes(prepared.bench.build(plan), prepared.samples).reshape(-1, classes)
    return float((before.argmax(axis=1) == after.argmax(axis=1)).mean())


def row(name: str, samples: int, test: int, count: int, seed: int) -> str:
    start = time.perf_counter()
    prepared = prepare_entry(name, samples, test, layers_only=True)
    plans = useful_plans(prepared, count, seed)
    predictor = Predictor.fitted(prepared.problem, prepared.effects, seed)
    pure = Predictor(prepared.problem, prepared.effects, 1.0, 1.0)
    referees = [prepared.evaluator(f) for f in (prepared.samples, prepared.unseen, prepared.alike) if len(f)]
    truth = np.array([[r.loss(prepared.bench.build(p)) for r in referees] for p in plans])
    predictions = {
        "separable": [prepared.plain.effect(p) for p in plans],
        "pooled": [prepared.problem.effect(p) for p in plans],
        "superposed": [pure.divergence(p) for p in plans],
        "shrunk": [predictor.divergence(p) for p in plans],
        "ceiling": list(truth[:, 0]),
    }
    tau = {k: float(kendalltau(v, truth[:, 1]).statistic) for k, v in predictions.items()}
    ratios = [f"{np.median(np.array(predictions['shrunk']) / t):.2f}" for t in truth.T[1:]]
    cells = [f"{tau[k]:.2f}" for k in predictions] + [" / ".join(ratios), f"{np.median(truth[:, 1]):.3g}"]
    shown = f"{name}, {len(prepared.effects.reference)}"
    spent = time.perf_counter() - start
    cells += [f"{predictor.trust:.2f}", f"{spent:.0f}"]
    return f"| {shown} | {len(plans)} | {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=CLASSIFIERS)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--test", type=int, default=400)
    parser.add_argument("--plans", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    columns = (
        "model, samples",
        "plans",
        "separable",
        "pooled",
        "superposed",
        "shrunk",
        "ceiling",
        "predicted / true",
        "true",
    )
    columns += ("trust", "s")
    print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
    for name in given.models:
        print(row(name, given.samples, given.test, given.plans, given.seed), flush=True)


if __name__ == "__main__":
    main()
