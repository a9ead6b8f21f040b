"""HAQ's point on modelled hardware: a plan tuned for one target costs more on another than that target's own plan.

    ONNXMPQ_ZOO=path/to/zoo python -m benchmarks.hardware_matrix [MODEL ...] [--goal latency|energy] [--samples 32]

Four shipped targets, each with its own menu: BitFusion at the edge and BISMO in the cloud (HAQ, arXiv 1811.08886),
an edge NPU with compressed weights, and BISMO at the edge. Each plans the model for its own least latency (or energy)
under the same limit on the predicted effect on the outputs: the geometric mean of all-int8's effect and all-w4a4's.
Every plan is then charged with every target's costs; what a target does not offer runs there in its cheapest scheme
of no fewer bits, float where it has none. Effects are measured on a few samples (nearest rounding). No machine is
timed: the numbers are the same everywhere.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from benchmarks.stages import table_of
from benchmarks.zoo import arrays, zoo
from onnxmpq.allocate import Limits, Problem, pose, solve
from onnxmpq.cost.chains import legalize
from onnxmpq.cost.table import CostTable
from onnxmpq.dialects import DIALECTS
from onnxmpq.execution import float_shapes
from onnxmpq.feeds.types import Feeds
from onnxmpq.menu import Menu, activation_tensors, narrow_inputs
from onnxmpq.model import Model, Region, RegionKind, prepare
from onnxmpq.ranges import ESTIMATORS, Observation, observe
from onnxmpq.rounding import QuantizedWeight, quantize_weight
from onnxmpq.runtimes import input_specs, open_session
from onnxmpq.schemes import Scheme, scheme_named
from onnxmpq.sensitivity import Effects, Perturbations, measure_effects
from onnxmpq.target import Target, load_target, roofline_table

TARGETS = ("bitfusion-edge", "bismo-cloud", "edge-npu", "bismo-edge")
MODELS = ("resnet20_cifar10", "mobilenet_v1_0.25")
Goal = Literal["latency", "energy"]
Plan = dict[str, Scheme]


def menu_of(model: Model, targets: Sequence[Target]) -> Menu:
    """Per region every scheme that one of the targets lists and onnxruntime's dialect can spell, float first."""
    supports = DIALECTS["onnxruntime"].supports
    menu: dict[str, tuple[Scheme, ...]] = {}
    for region in model.regions:
        names = [n for t in targets for n in _listed(region, t)]
        schemes = [scheme_named(n) for n in dict.fromkeys(["fp32", *names])]
        menu[region.name] = tuple(s for s in schemes if s.is_fp32 or supports(region, s, model.opset))
    return Menu(menu)


def _listed(region: Region, target: Target) -> tuple[str, ...]:
    if region.kind is RegionKind.FLOAT:
        return ()
    return (target.menu if region.layer is not None else target.activation_menu).get(region.op_type, ())


Weights = dict[tuple[str, str], QuantizedWeight]


def rounded(model: Model, menu: Menu) -> Weights:
    """Every layer's weights in every format on the menu, to nearest."""
    wanted = [(r, s.weight) for r in model.layers for s in menu[r.name] if s.weight is not None]
    return {(r.name, form.name): quantize_weight(model.weight(r), form) for r, form in wanted}


def effects_of(model: Model, menu: Menu, weights: Weights, feeds: Feeds, observation: Observation) -> Effects:
    """Effects of all weights, of 8-bit activations, and of what layers read in fewer bits."""
    histograms, estimate = observation.histograms, ESTIMATORS["mse"]
    inputs = {key: estimate(histograms[t], key[1]) for key, t in narrow_inputs(model, menu).items()}
    alone = {key: (weight,) for key, weight in weights.items()}
    return measure_effects(
        model, feeds, Perturbations(alone, {t: [estimate(h)] for t, h in histograms.items()}, inputs)
    )


@dataclass(frozen=True)
class Bench:
    """A model and what all targets share: everything but costs."""

    model: Model
    feeds: Feeds
    shapes: Mapping[str, tuple[int, ...]]
    weights: Weights
    effects: Effects


def bench_of(name: str, targets: Sequence[Target], samples: int) -> Bench:
    """Ranges, rounded weights and effects for everything that one of the targets offers."""
    entry = zoo().load(name)
    model = prepare(entry.model)
    menu = menu_of(model, targets)
    feeds = Feeds(arrays(entry, "calib", samples), input_specs(open_session(model.proto)), "zoo")
    shapes, weights = float_shapes(model, feeds), rounded(model, menu)
    observation = observe(model, feeds, activation_tensors(model, menu))
    return Bench(model, feeds, shapes, weights, effects_of(model, menu, weights, feeds, observation))


def effect_limit(bench: Bench) -> tuple[float, str]:
    """Geometric mean of the effects of the two uniform plans; and both in words."""
    target = load_target("bitfusion-edge")
    menu = menu_of(bench.model, [target])
    problem = posed(bench, menu, roofline_table(bench.model, target, bench.shapes, menu))
    least, most = (problem.effect(uniform(problem, s)) for s in ("int8", "w4a4"))
    limit = float(np.sqrt(least * most))
    return limit, f"effect ≤ {limit:.3g} (all int8 {least:.3g}, all w4a4 {most:.3g})"


def uniform(problem: Problem, wanted: str) -> Plan:
    """The scheme wherever it is offered, int8 elsewhere."""
    menu = {name: tuple(o.scheme for o in row) for name, row in problem.options.items()}
    plan = {n: s for n, row in menu.items() for given in ("int8", wanted) for s in row if s.name == given}
    return legalize(problem.model, problem.table.rules, plan, menu)


def posed(bench: Bench, menu: Menu, table: CostTable) -> Problem:
    """The allocation problem on one target."""
    return pose(bench.model, menu, table, bench.effects, bench.weights)


def as_run(problem: Problem, plan: Plan) -> Plan:
    """A plan made elsewhere, as the problem's target runs it."""
    menu = {name: tuple(o.scheme for o in row) for name, row in problem.options.items()}
    taken: Plan = {}
    for name, scheme in plan.items():
        row = sorted(problem.options[name], key=lambda o: o.latency_s)
        found = next((o.scheme for o in row if o.scheme == scheme), None)
        taken[name] = found or next((o.scheme for o in row if _no_coarser(o.scheme, scheme)), scheme_named("fp32"))
    legal = legalize(problem.model, problem.table.rules, {n: s for n, s in taken.items() if not s.is_fp32}, menu)
    return {n: s for n, s in legal.items() if not s.is_fp32}


def _no_coarser(one: Scheme, other: Scheme) -> bool:
    """One quantizes the same things as the other, in as many bits or more."""
    if one.reads is not other.reads or (one.weight is None) is not (other.weight is None):
        return False
    weights = one.weight is None or other.weight is None or one.weight.bits >= other.weight.bits
    return weights and one.activation_bits >= other.activation_bits


def matrix(name: str, goal: Goal, samples: int) -> tuple[list[list[float]], list[Plan], str]:
    """Cost of the plan for target (row) on target (column); the plans; the limit in words."""
    targets = [load_target(t) for t in TARGETS]
    bench = bench_of(name, targets, samples)
    menus = [menu_of(bench.model, [t]) for t in targets]
    tables = [roofline_table(bench.model, t, bench.shapes, m) for t, m in zip(targets, menus, strict=True)]
    problems = [posed(bench, m, t) for m, t in zip(menus, tables, strict=True)]
    limit, words = effect_limit(bench)
    plans = []
    for target, problem in zip(targets, problems, strict=True):
        found = solve(problem, goal, Limits(effect=limit))
        if found is None:
            raise SystemExit(f"{name}: no plan for {target.name} has an effect below {limit:.3g}")
        plans.append(found.assignment)
    return [[cost(problem, goal, as_run(problem, plan)) for problem in problems] for plan in plans], plans, words


def cost(problem: Problem, goal: Goal, plan: Plan) -> float:
    """Seconds or joules of a plan on the problem's target."""
    predict = problem.table.predict_s if goal == "latency" else problem.table.predict_j
    return predict(problem.model, plan)


def mean_bits(model_plan: Plan) -> str:
    """Mean weight and activation bits over the layers that are not float."""
    layers = [s for s in model_plan.values() if s.weight is not None]
    weights = np.mean([s.weight.bits for s in layers if s.weight is not None])
    return f"w{weights:.1f} a{np.mean([s.activation_bits for s in layers]):.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS))
    parser.add_argument("--goal", choices=("latency", "energy"), default="latency")
    parser.add_argument("--samples", type=int, default=32)
    options = parser.parse_args()
    unit = "ms" if options.goal == "latency" else "mJ"
    for name in options.models:
        costs, plans, limit = matrix(name, options.goal, options.samples)
        own = [costs[i][i] for i in range(len(TARGETS))]
        rows = [
            [
                f"plan for {t} ({mean_bits(p)})",
                *(f"{1e3 * c:.4g} ({c / o:.2f}x)" for c, o in zip(row, own, strict=True)),
            ]
            for t, p, row in zip(TARGETS, plans, costs, strict=True)
        ]
        print(f"\n{name}: {options.goal} in {unit}, {limit}\n")
        print(table_of(("", *(f"on {t}" for t in TARGETS)), rows))


if __name__ == "__main__":
    main()
