"""Second rounding, for the chosen plan: layer by layer, each for its inputs in the model as quantized so far.

E‖W x_fp - Ŵ x_q‖² is minimised, so that a layer also makes up for what the layers before it did (docs/rounding.md,
"Quantized inputs"); then biases take what is left of each layer's mean error. Either result is kept only if the whole
model is closer to the fp32 one on samples that took no part: with few samples both may fit what is noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from onnxmpq.errors import CrashError
from onnxmpq.execution import Cutter, ForwardPass
from onnxmpq.feeds import Feeds
from onnxmpq.isolation import call
from onnxmpq.model import InputView, Model, Region, Spill, WeightStore, array_of
from onnxmpq.rounding import DoubleArray, FloatArray, QuantizedWeight, quantize_weight
from onnxmpq.runtimes import SessionSettings
from onnxmpq.statistics import Moments, MomentSum, rows_per_sample
from onnxmpq.trials import run_all, single
from onnxmpq.weights.bound import pair_bound
from onnxmpq.weights.shrink import shrunk, trust, wanted_by
from onnxmpq.weights.simulate import correctable, simulated, stored_as, weight_name, with_biases
from onnxmpq.weights.techniques import Techniques

Build = Callable[[Model, Mapping[str, QuantizedWeight]], onnx.ModelProto]
"""(model, weight by key) -> the mixed-precision graph of the plan."""
Loss = Callable[[onnx.ModelProto], float]
Tick = Callable[[int], None]
First = Callable[[], Mapping[str, QuantizedWeight]]

CHECK_EVERY = 4
"""Every fourth sample judges the correction for quantized inputs that the others ask for."""


@dataclass(frozen=True)
class Compensated:
    """weights: by key. biases: float32 [O] by region, only those that changed.

    losses: divergence on the samples that decided, by step: "first" (as handed in), then each technique tried.
    kept: the techniques whose result was kept. few_rows: keys of weights that are rounded to nearest since the samples
    have too few rows of inputs for them.
    """

    weights: Mapping[str, QuantizedWeight]
    biases: Mapping[str, FloatArray]
    losses: Mapping[str, float]
    kept: tuple[str, ...]
    few_rows: tuple[str, ...] = ()


def compensate(
    model: Model,
    weights: Mapping[str, QuantizedWeight],
    build: Build,
    feeds: Feeds,
    loss: Loss,
    techniques: Techniques,
    *,
    threads: int = 1,
    tick: Tick = lambda _: None,
    first: First | None = None,
) -> Compensated:
    """The weights of a plan rounded again and its biases corrected, where that helps. `tick` counts layers.

    A step whose model crashes is left out. Raises CrashError where the model as it was handed in does.

    weights: by key, as built into the plan so far. feeds: samples for the moments. loss: of a model, least wins;
    measured on other samples. first: weights to be tried before all else, as those that are handed in were rounded to
    nearest.
    """
    state = Compensated(dict(weights), {}, {"first": loss(build(model, weights))}, ())
    again = first() if first is not None else {}
    if again:
        rounded = {**weights, **again}
        with model.store.passing():
            state = _better(state, "gptq", replace(state, weights=rounded), loss(build(model, rounded)))
    with threadpool_limits(1, user_api="blas"):  # as in the first rounding
        for name, step in STEPS.items():
            if name not in techniques or not state.weights:
                continue
            if name == "bias-correction" and not correctable(model, _regions_of(model, state.weights)):
                continue
            try:
                with model.store.passing():
                    shipped = build(with_biases(model, state.biases), state.weights)
                    tried = step(_Pass(model, state, shipped, feeds, techniques, threads, tick))
                    found = loss(build(with_biases(model, tried.biases), tried.weights))
            except CrashError:
                continue
            state = _better(state, name, tried, found)
    return state


def _better(state: Compensated, name: str, tried: Compensated, found: float) -> Compensated:
    """`tried`, the work of a technique on the state, if its loss is less than that of all before; else the state."""
    losses = {**state.losses, name: found}
    better = found < min(state.losses[k] for k in ("first", *state.kept))
    return replace(tried, losses=losses, kept=(*state.kept, name)) if better else replace(state, losses=losses)


class _Pass:
    """Both models, walked in step: fp32, and quantized with weights that change on the way."""

    def __init__(
        self,
        model: Model,
        state: Compensated,
        shipped: onnx.ModelProto,
        feeds: Feeds,
        techniques: Techniques,
        threads: int,
        tick: Tick,
    ) -> None:
        self.model, self.state, self.techniques, self.tick = model, state, techniques, tick
        self.samples = len(feeds)
        self.weights = model.weights
        self.fp32 = _walk(model.store, feeds, threads)
        changed = simulated(shipped, with_biases(model, state.biases), state.weights)
        ways = (SessionSettings(threads=threads, keep_qdq=True),)  # as the walk runs its parts, in this process
        call(run_all, changed, single(feeds.take(feeds.extremes)), ways, doing="running a plan unfused")
        self.quantized = _walk(changed, feeds, threads, model.store.spill)

    def head(self, key: str) -> str:
        return self.weights[key][0].nodes[0]

    def view(self, key: str) -> InputView | None:
        """The rows of its layer's input that a weight is multiplied with."""
        region, place = self.weights[key]
        return region.operator.input_view(self.fp32.cutter.nodes[self.head(key)], region.params, place)

    def ordered(self) -> list[str]:
        """Weights that are quantized, in the order in which the quantized model computes with them."""
        seen = [key for key in self.state.weights if self.view(key) is not None]
        return sorted(seen, key=lambda key: self.quantized.cutter.place(self.head(key)))

    def groups(self) -> list[list[str]]:
        """The same, those of layers that read the same tensor together."""
        groups: dict[str, list[str]] = {}
        for key in self.ordered():
            groups.setdefault(self.quantized.cutter.nodes[self.head(key)].input[0], []).append(key)
        return list(groups.values())

    def moments(self, group: Sequence[str]) -> dict[str, Moments]:
        """Crossed moments for weights of layers that read the same tensor, by key; `cross` as far as it can be
        believed."""
        views = {key: view for key in group if (view := self.view(key)) is not None}
        limit = rows_per_sample(self.samples)
        parts = {v: [MomentSum(v, limit, crossed=True) for _ in range(2)] for v in views.values()}
        first = self.head(group[0])
        both = zip(self.quantized.inputs_of(first), self.fp32.inputs_of(first), strict=True)
        for number, (values, fp32) in enumerate(both):
            for sums in parts.values():
                sums[number % CHECK_EVERY == CHECK_EVERY - 1].add(values, fp32)
        found: dict[str, Moments] = {}
        for view, (first_part, second_part) in parts.items():
            found |= self._believable([key for key in views if views[key] == view], first_part, second_part)
        return found

    def _believable(self, keys: Sequence[str], fitting: MomentSum, checking: MomentSum) -> dict[str, Moments]:
        """Moments of all samples, `cross` shrunk by what the second part of them makes of the first part's."""
        shares: dict[str, DoubleArray] = {}
        if self.samples >= CHECK_EVERY:
            weights = {key: self.model.matrix(self.weights[key][1]) for key in keys}
            fitted = fitting.result(believed=True)
            wanted = {key: wanted_by(fitted, w) for key, w in weights.items()}
            del fitted  # they are large
            checked = checking.result()
            shares = {key: trust(w, wanted[key], checked) for key, w in weights.items()}
            del checked
        fitting.merge(checking)
        together = fitting.result(believed=True)
        return {k: replace(together, cross=shrunk(together, shares[k])) if shares else together for k in keys}


def _round_again(walk: _Pass) -> Compensated:
    """All weights rounded for the inputs that they get, with the fp32 layer's outputs as the target."""
    weights = dict(walk.state.weights)
    for group in walk.groups():
        for key, moments in walk.moments(group).items():
            if key in walk.model.shared_weights:  # rounded for all its layers together
                continue
            region, place = walk.weights[key]
            again = quantize_weight(
                walk.model.matrix(place),
                weights[key].format,
                method=walk.techniques.method,
                hessian=moments.hessian,
                cross=moments.cross,
                bound=pair_bound(region, place, weights[key].format),
            )
            weights[key] = again.kept_by(walk.model.store.kept)
            node = walk.quantized.cutter.nodes[region.nodes[0]]
            walk.quantized.set_constant(weight_name(key), stored_as(node, region, place, weights[key].dequantize()))
        walk.tick(len(group))
    return replace(walk.state, weights=weights)


def _correct(walk: _Pass) -> Compensated:
    """Biases shifted by the mean error of their layer's outputs, layer by layer."""
    biases = dict(walk.state.biases)
    ordered = _regions_of(walk.model, walk.ordered())
    correctable_ones = set(correctable(walk.model, ordered))
    for name in ordered:
        if name not in correctable_ones:
            continue
        region = walk.weights[name][0]
        head, bias = region.nodes[0], str(region.params.bias)
        outputs = zip(walk.fp32.outputs_of(head), walk.quantized.outputs_of(head), strict=True)
        error = np.mean([_channel_means(a, region) - _channel_means(b, region) for a, b in outputs], axis=0)
        old = array_of(walk.quantized.cutter.constants[bias])
        biases[name] = (old.ravel() + error).astype(np.float32)
        walk.quantized.set_constant(bias, biases[name].reshape(old.shape))
        walk.tick(1)
    return replace(walk.state, biases=biases)


def _regions_of(model: Model, keys: Iterable[str]) -> list[str]:
    """Names of the layers that have these weights."""
    weights = model.weights
    return list(dict.fromkeys(weights[key][0].name for key in keys))


STEPS: Mapping[str, Callable[[_Pass], Compensated]] = {"cross": _round_again, "bias-correction": _correct}


def _channel_means(output: NDArray[np.generic], region: Region) -> NDArray[np.float64]:
    """float64 [O]: mean over everything but the channels."""
    axis = region.operator.result_axis(output.ndim)
    means: NDArray[np.float64] = output.mean(axis=tuple(a for a in range(output.ndim) if a != axis), dtype=np.float64)
    return means


def _walk(graph: onnx.ModelProto | WeightStore, feeds: Feeds, threads: int, spill: Spill | None = None) -> ForwardPass:
    return ForwardPass(Cutter(graph, spill=spill), feeds, SessionSettings(keep_qdq=True), threads=threads)
