"""Effects block by block against effects at the outputs: predictions, plans and cost; and their cost by depth.

    ONNXMPQ_ZOO=... python -m benchmarks.block_effects [MODEL] [--samples 64] [--effort 40] [--test 100] [--plans 30]
        [--schemes int8 w8 ...]
    python -m benchmarks.block_effects --depth [--blocks 4,8,16,32]

Per model both methods measure the same perturbations on the same samples: as many as the full method can afford in
`--effort` seconds by estimate, of those that weights are rounded for.
Prints Kendall's tau between predicted and true divergence of random plans on test samples (as `benchmarks.predictor`
does), the median of predicted / true there, true divergence on test samples of the plans of least effect at three
sizes (as `benchmarks.superposed_plans`), and CPU seconds on one thread of the measurement alone, also in forward
passes per perturbation and sample.

--depth: transformers with random weights, whose layers have the same size. CPU seconds of both methods by the number
of layers, and the exponents of a power law fitted to them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import onnx
from scipy.stats import kendalltau

from benchmarks.predictor import useful_plans
from benchmarks.prepared import Prepared, prepare_entry
from benchmarks.stages import machine, table_of
from onnxmpq.allocate import Limits, Predictor, solve
from onnxmpq.feeds import Feeds, load_feeds
from onnxmpq.model import Model, prepare
from onnxmpq.ranges import params_for
from onnxmpq.rounding import quantize_weight
from onnxmpq.runtimes import SessionSettings, input_specs, open_session, run
from onnxmpq.schemes import SCHEMES
from onnxmpq.sensitivity import Effects, Frame, Perturbations, fit_frame, measure_effects
from onnxmpq.sensitivity import method as choice
from onnxmpq.sensitivity import reuse as effects_reuse
from onnxmpq.sensitivity.block_effects import measure_by_blocks
from onnxmpq.sensitivity.method import BLOCK
from onnxmpq.threads import with_one_blas_thread

MODELS = ("gpt_char", "vit_tiny")
SHARES = (0.25, 0.5, 0.75)
SCHEMES_TRIED = ("int8", "w8", "w4", "w4a8", "w4b32", "w5", "w6")
HIDDEN, TOKENS, HEADS, WIDE = 64, 16, 4, 256  # of the transformers with random weights
DEPTH_SAMPLES = 16


@dataclass
class Spent:
    """CPU seconds of the last measurement of each method, judging of every change included."""

    full: float = 0.0
    block: float = 0.0
    perturbations: int = 0

    def watch(self) -> None:
        """Both methods report here from now on, measured on one thread."""
        for name in ("full", "block"):
            home = "measure_effects" if name == "full" else "measure_by_blocks"
            setattr(effects_reuse, home, partial(self._timed, name, getattr(effects_reuse, home)))

    def _timed(self, name: str, measure: Callable[..., Effects], *given: Any, **options: Any) -> Effects:
        start = time.process_time()
        effects = measure(*given, **{**options, "threads": 1})
        for change in effects.by_try.values():
            effects.alone(change)
        setattr(self, name, time.process_time() - start)
        self.perturbations = given[2].count
        return effects


def pass_seconds(model: Model, feeds: Feeds) -> float:
    """CPU seconds of a run of the fp32 model, one sample at a time; the median of five times over all samples."""
    session, inputs = open_session(model.proto, SessionSettings()), [feeds.batch([i]) for i in range(len(feeds))]
    found = []
    for _ in range(5):
        start = time.process_time()
        for one in inputs:
            run(session, one)
        found.append((time.process_time() - start) / len(inputs))
    return float(np.median(found))


def predictions(prepared: Prepared, plans: Sequence[Mapping[str, Any]], seed: int) -> dict[str, list[float]]:
    predictor = Predictor.fitted(prepared.problem, prepared.effects, seed)
    return {
        "separable": [prepared.problem.effect(p) for p in plans],
        "shrunk": [predictor.divergence(dict(p)) for p in plans],
    }


def held_out(prepared: Prepared, judge: Callable[[onnx.ModelProto], float]) -> list[float]:
    """True divergence on test samples of the plans of least effect, at three sizes."""
    problem = prepared.problem
    least = solve(problem, "size", Limits())
    assert least is not None
    smallest = problem.size_bytes(least.assignment)
    eight = sum(
        max(o.size_bytes for o in row if not o.scheme.is_fp32 or len(row) == 1) for row in problem.options.values()
    )
    found = []
    for share in SHARES:
        limit = smallest + share * (problem.base("size") + eight - smallest)
        plan = solve(problem, "effect", Limits(size=limit))
        assert plan is not None
        found.append(judge(prepared.bench.build(plan.assignment)))
    return found


def compared(name: str, samples: int, test: int, count: int, seed: int, schemes: Sequence[str]) -> list[list[object]]:
    """A row for each method."""
    spent = Spent()
    spent.watch()
    full = prepare_entry(name, samples, test, layers_only=True, schemes=schemes)
    block = full.again(BLOCK, full.samples)
    plans = useful_plans(full, count, seed)
    judge = full.evaluator(full.unseen)
    truth = np.array([judge.loss(full.bench.build(p)) for p in plans])
    runs = pass_seconds(full.model, full.samples) * len(full.samples) * spent.perturbations
    rows: list[list[object]] = []
    for method, prepared, seconds in (("full", full, spent.full), ("block", block, spent.block)):
        found = predictions(prepared, plans, seed)
        tau = [f"{kendalltau(values, truth).statistic:.3f}" for values in found.values()]
        ratio = f"{np.median(np.array(found['shrunk']) / truth):.2f}"
        losses = " / ".join(f"{loss:.3g}" for loss in held_out(prepared, judge.loss))
        about = f"{name}, {len(full.samples)} samples, {spent.perturbations} perturbations"
        rows.append([about, method, len(plans), *tau, ratio, losses, f"{seconds:.1f}", f"{seconds / runs:.2f}"])
    return rows


HEADER = (
    "model", "effects", "plans", "tau, separable", "tau, shrunk", "predicted / true",
    "divergence of plans of three sizes", "CPU s", "passes per perturbation",
)  # fmt: skip


def transformer(layers: int, seed: int = 0) -> onnx.ModelProto:
    """Pre-norm layers of attention and MLP with random weights; the second projection of each branch is small, as in
    trained networks."""
    generator = np.random.default_rng(seed)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def weight(name: str, *shape: int, scale: float = 1.0) -> str:
        values = generator.standard_normal(shape) * scale / np.sqrt(shape[0])
        weights.append(onnx.numpy_helper.from_array(values.astype(np.float32), name))
        return name

    def add(operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        nodes.append(onnx.helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    for name, values in (("heads", [0, TOKENS, HEADS, HIDDEN // HEADS]), ("flat", [0, TOKENS, HIDDEN])):
        weights.append(onnx.numpy_helper.from_array(np.array(values, np.int64), name))
    weights.append(onnx.numpy_helper.from_array(np.ones(HIDDEN, np.float32), "ones"))
    weights.append(onnx.numpy_helper.from_array(np.float32((HIDDEN // HEADS) ** -0.5), "scale"))
    small, x = float((2 * layers) ** -0.5), "x"
    for n in range(layers):
        h = add("LayerNormalization", [x, "ones"], f"{n}.n1")
        parts = {}
        for part in "qkv":
            y = add("MatMul", [h, weight(f"{n}.w{part}", HIDDEN, HIDDEN)], f"{n}.{part}")
            y = add("Reshape", [y, "heads"], f"{n}.{part}4")
            order = [0, 2, 3, 1] if part == "k" else [0, 2, 1, 3]
            parts[part] = add("Transpose", [y], f"{n}.{part}t", perm=order)
        s = add("Mul", [add("MatMul", [parts["q"], parts["k"]], f"{n}.s"), "scale"], f"{n}.ss")
        a = add("MatMul", [add("Softmax", [s], f"{n}.p", axis=-1), parts["v"]], f"{n}.a")
        a = add("Reshape", [add("Transpose", [a], f"{n}.at", perm=[0, 2, 1, 3]), "flat"], f"{n}.af")
        o = add("MatMul", [a, weight(f"{n}.wo", HIDDEN, HIDDEN, scale=small)], f"{n}.o")
        x = add("Add", [x, o], f"{n}.x1")
        h = add("LayerNormalization", [x, "ones"], f"{n}.n2")
        h = add("Relu", [add("MatMul", [h, weight(f"{n}.w1", HIDDEN, WIDE)], f"{n}.f1")], f"{n}.r")
        x = add("Add", [x, add("MatMul", [h, weight(f"{n}.w2", WIDE, HIDDEN, scale=small)], f"{n}.f2")], f"{n}.x2")
    add("MatMul", [add("LayerNormalization", [x, "ones"], "n"), weight("head", HIDDEN, 32)], "y")
    kind, shape = onnx.TensorProto.FLOAT, ["N", TOKENS, HIDDEN]
    ends = [onnx.helper.make_tensor_value_info(n, kind, s) for n, s in (("x", shape), ("y", ["N", TOKENS, 32]))]
    graph = onnx.helper.make_graph(nodes, "transformer", ends[:1], ends[1:], weights)
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)


def depth_seconds(layers: int) -> tuple[int, float, float, float]:
    """(perturbations, CPU seconds of the full method and by blocks, tau between their single effects)."""
    model = prepare(transformer(layers))
    specs = input_specs(open_session(model.proto))
    values = np.random.default_rng(1).standard_normal((DEPTH_SAMPLES, TOKENS, HIDDEN)).astype(np.float32)
    feeds = load_feeds({"x": values}, specs, limit=DEPTH_SAMPLES)
    formats = [w for name in ("int8", "w4b32", "w4a8") if (w := SCHEMES[name].weight) is not None]
    weights = {(r.name, f.name): (quantize_weight(model.weight(r), f),) for r in model.layers for f in formats}
    tensors = dict.fromkeys(model.roots.get(t, t) for r in model.layers for t in r.inputs)
    tries = Perturbations(weights, {t: [params_for(-4.0, 4.0)] for t in tensors})
    frame = fit_frame(model, feeds, tries.count, threads=1, kinds={"y": "logits"})
    measured: list[tuple[Effects, float]] = []
    for measure in (_full, measure_by_blocks):
        start = time.process_time()
        measured.append((measure(model, feeds, tries, frame), time.process_time() - start))
    (full, full_s), (block, block_s) = measured
    alone = [[float(e.alone(change).mean()) for change in e.by_try.values()] for e in (full, block)]
    return tries.count, full_s, block_s, float(kendalltau(*alone).statistic)


def _full(model: Model, feeds: Feeds, tries: Perturbations, frame: Frame) -> Effects:
    return measure_effects(model, feeds, tries, frame=frame)


def by_depth(depths: Sequence[int]) -> None:
    depth_seconds(2)  # what happens once
    rows = [(d, *depth_seconds(d)) for d in depths]
    shown = [[d, t, f"{f:.2f}", f"{b:.2f}", f"{b / f:.2f}", f"{tau:.2f}"] for d, t, f, b, tau in rows]
    print(table_of(("layers", "perturbations", "full, CPU s", "block, CPU s", "block / full", "tau of effects"), shown))
    for name, column in (("full", 2), ("block", 3)):
        exponent = np.polyfit(np.log([r[0] for r in rows]), np.log([r[column] for r in rows]), 1)[0]
        print(f"exponent, {name}: {exponent:.2f}")


@with_one_blas_thread
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--test", type=int, default=100)
    parser.add_argument("--plans", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--effort", type=float, default=choice.EFFECT_SECONDS)
    parser.add_argument("--schemes", nargs="+", default=SCHEMES_TRIED)
    parser.add_argument("--depth", action="store_true")
    parser.add_argument("--blocks", default="4,8,16,32")
    given = parser.parse_args()
    choice.EFFECT_SECONDS = given.effort
    print(machine())
    if given.depth:
        by_depth([int(d) for d in given.blocks.split(",")])
        return
    for name in given.models:
        rows = compared(name, given.samples, given.test, given.plans, given.seed, given.schemes)
        print(table_of(HEADER, rows), flush=True)


if __name__ == "__main__":
    main()
