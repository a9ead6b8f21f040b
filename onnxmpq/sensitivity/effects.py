"""One-at-a-time effects: how the outputs change when one weight or one activation tensor alone is quantized.

This is the finite difference of the outputs along the actual quantization perturbation, step 1 (DESIGN §4), kept as
a vector per sample so that effects of several decisions can be added. Weights and activations are separate effects:
an activation tensor counts once, however many int8 regions touch it. What a layer reads in fewer than 8 bits is an
effect of that layer alone, since each reader of a tensor may ask for other bits.

Only the part of the graph behind the perturbed tensor is run, on prefix activations that are computed once for a
group of neighbouring tensors and held in bounded memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray

from onnxmpq.errors import ModelError
from onnxmpq.feeds.types import Array, Feeds
from onnxmpq.model import Model, Region
from onnxmpq.ranges import QuantParams, with_outputs
from onnxmpq.ranges.observe import CHUNK_BYTES
from onnxmpq.rounding.types import FloatArray
from onnxmpq.runtime import SessionSettings, open_session, run
from onnxmpq.schemes import Scheme
from onnxmpq.sensitivity.divergence import Code, Divergence, OutputKind, guess_kind, make_view
from onnxmpq.sensitivity.suffix import Cutter, Part

GROUP = 16  # targets that share one session for the rest of the graph
MEMORY_BYTES = 256 * 2**20  # for all stored effects
_SMALLEST_SKETCH = 512
Tick = Callable[[int], None]
WeightKey = tuple[str, str]  # region, weight format
InputKey = tuple[str, int]  # region, bits in which it reads
HalfKey = tuple[str, str]  # region, scheme


@dataclass(frozen=True, eq=False)
class Effects:
    """Change of the coded outputs for every quantized weight, activation tensor, and input read in few bits.

    reference: float32 [samples, width], codes of the fp32 outputs. weights, activations, inputs: same shape, the
    change. params: the activation parameters that each effect belongs to (of several candidates the one of least
    effect). halves: divergence caused by a region's scheme for its 16 bits; so small that nothing is superposed.
    """

    divergence: Divergence
    reference: Code
    weights: dict[WeightKey, Code]
    activations: dict[str, Code]
    params: dict[str, QuantParams]
    inputs: dict[InputKey, Code] = field(default_factory=dict)
    halves: dict[HalfKey, float] = field(default_factory=dict)

    def own(self, region: str, scheme: Scheme) -> list[Code]:
        """The changes that come with one region's scheme: of its weight, and of reading its input in few bits."""
        weight = self.weights.get((region, scheme.weight.name)) if scheme.weight else None
        narrow = self.inputs.get((region, scheme.activation_bits))
        return [change for change in (weight, narrow) if change is not None]

    def of_half(self, region: str, scheme: Scheme) -> float:
        """Divergence caused by the 16 bits in which the region computes or writes, 0 where it does not."""
        return self.halves.get((region, scheme.name), 0.0)

    def alone(self, change: Code) -> NDArray[np.float64]:
        """Divergence of one of the changes, float64 [samples]; computed once."""
        if id(change) not in self._alone:
            self._alone[id(change)] = self.divergence.per_sample(self.reference, change)
        return self._alone[id(change)]

    @cached_property
    def _alone(self) -> dict[int, NDArray[np.float64]]:
        return {}

    def of_scheme(self, region: str, scheme: Scheme) -> float:
        """Divergence (nats, or relative squared error) caused by each of a scheme's own changes, summed."""
        own = sum(float(self.alone(change).mean()) for change in self.own(region, scheme))
        return own + self.of_half(region, scheme)

    def of_weight(self, key: WeightKey) -> float:
        """Divergence (nats, or relative squared error) caused by this weight alone."""
        return self.divergence.mean(self.reference, self.weights[key])

    def of_activation(self, tensor: str) -> float:
        """Divergence caused by quantizing this tensor alone."""
        return self.divergence.mean(self.reference, self.activations[tensor])


@dataclass(frozen=True, eq=False)
class Frame:
    """What changes are measured against. reference: float32 [samples, width], codes of the fp32 outputs."""

    divergence: Divergence
    reference: Code


class Rounded(Protocol):
    """A weight as it will be read; a dataclass, as the cache wants it."""

    def dequantize(self) -> FloatArray:
        """float32 [O, K]."""
        ...


@dataclass(frozen=True)
class Perturbations:
    """What to try: weights by (region, format), candidate parameters by activation tensor, parameters of fewer than
    8 bits by (layer, bits) in which it reads."""

    weights: Mapping[WeightKey, Rounded]
    activations: Mapping[str, Sequence[QuantParams]]
    inputs: Mapping[InputKey, QuantParams] = field(default_factory=dict)

    @property
    def count(self) -> int:
        return len(self.weights) + sum(len(c) for c in self.activations.values()) + len(self.inputs)


def sketch_width(samples: int, entries: int) -> int:
    """Most numbers kept of one output for one sample, with `entries` effects in memory.

    A power of two: menus of about the same length then give codes that can be compared, and cached.
    """
    most = max(MEMORY_BYTES // (4 * samples * max(entries, 1)), _SMALLEST_SKETCH)
    return 1 << (most.bit_length() - 1)


def make_divergence(
    model: Model, feeds: Feeds, entries: int, *, threads: int, kinds: Mapping[str, OutputKind], seed: int = 0
) -> tuple[Divergence, list[list[Array]]]:
    """Views fitted to the fp32 outputs on these samples, and those outputs (one list per batch)."""
    session = open_session(model.proto, SessionSettings(threads=threads))
    singles = [run(session, feeds.batch([i])) for i in range(len(feeds))]
    limit = sketch_width(len(feeds), entries)
    views = []
    for position, name in enumerate(model.output_names):
        samples = [np.asarray(s[position], dtype=np.float32) for s in singles]
        kind = kinds.get(name) or guess_kind(model.proto, name, samples[0])
        views.append(make_view(name, kind, samples, limit, seed))
    if not any(v.width for v in views):
        raise ModelError(
            "no output has the same shape for all samples, so there is nothing to compare; cut the model before the "
            "nodes that select results, such as NonMaxSuppression"
        )
    return Divergence(tuple(views)), singles


def fit_frame(model: Model, feeds: Feeds, entries: int, *, threads: int, kinds: Mapping[str, OutputKind]) -> Frame:
    """The frame for `entries` effects on these samples."""
    divergence, singles = make_divergence(model, feeds, entries, threads=threads, kinds=kinds)
    return Frame(divergence, np.concatenate([divergence.encode(s, 1) for s in singles]))


def measure_effects(
    model: Model,
    feeds: Feeds,
    tries: Perturbations,
    *,
    threads: int = 1,
    batch: int = 8,
    kinds: Mapping[str, OutputKind] | None = None,
    frame: Frame | None = None,
    tick: Tick = lambda _: None,
) -> Effects:
    """Effects of all perturbations on these samples; `tick` counts perturbations done.

    frame: fitted on the same samples before, for effects that are to be added to others'.
    """
    frame = frame or fit_frame(model, feeds, tries.count, threads=threads, kinds=kinds or {})
    worker = _Worker(model, feeds, tries, frame, threads, batch, tick)
    return worker.run()


class _Worker:
    """Walks the targets in graph order, a group of neighbours at a time.

    A group ends at a checkpoint: a place in the node order. For each target a small session runs the nodes between
    it and the checkpoint; one large session, shared by the group, runs the rest from the tensors that are live there.
    """

    def __init__(
        self,
        model: Model,
        feeds: Feeds,
        tries: Perturbations,
        frame: Frame,
        threads: int,
        batch: int,
        tick: Tick,
    ) -> None:
        self.model, self.tries, self.divergence, self.reference = model, tries, frame.divergence, frame.reference
        self.settings, self.tick = SessionSettings(threads=threads), tick
        self.cutter = Cutter(model.proto)
        self.one, self.batches = feeds.batch([0]), list(feeds.batches(batch))
        step = batch if feeds.batchable else 1
        self.sizes = [min(step, len(feeds) - start) for start in range(0, len(feeds), step)]
        self.starts = np.cumsum([0, *self.sizes])
        self.effects = Effects(frame.divergence, frame.reference, {}, {}, {})
        self.by_region: dict[str, list[WeightKey]] = {}
        for key in tries.weights:
            self.by_region.setdefault(key[0], []).append(key)
        self.narrow: dict[str, list[InputKey]] = {}
        for reader in tries.inputs:
            self.narrow.setdefault(reader[0], []).append(reader)
        self.targets = self._targets()

    def run(self) -> Effects:
        for group in self._groups():
            checkpoint = max(self.cutter.position(t) for t in group) + 1
            suffix = self.cutter.after(checkpoint)
            middles = {t: self.cutter.between(t, checkpoint, suffix.inputs) for t in group}
            values = self._prefix(self._needs(group, suffix, middles))
            session = open_session(suffix.proto, self.settings) if suffix.proto.graph.node else None
            for tensor in group:
                self._target(tensor, _Route(middles[tensor], suffix, session), values)
        return self.effects

    def _targets(self) -> dict[str, Region | None]:
        """Tensors to perturb in graph order, each with the layer whose weights and inputs show up there."""
        found: dict[str, Region | None] = {}
        for tensor in (i.name for i in self.model.proto.graph.input):
            if tensor in self.tries.activations:
                found[tensor] = None
        for region in self.model.regions:
            for tensor in region.outputs:
                tried = region.name in self.by_region or region.name in self.narrow
                own = tried and tensor == region.outputs[0]
                if own or tensor in self.tries.activations:
                    found[tensor] = region if own else None
        return found

    def _groups(self) -> list[list[str]]:
        """Neighbouring targets, as many as fit the memory allowed for the tensors they need, at most GROUP."""
        ordered = sorted(self.targets, key=self.cutter.position)
        sizes = self._bytes()
        groups: list[list[str]] = [[]]
        for tensor in ordered:
            held = sum(sizes.get(t, 0) for t in [*groups[-1], tensor])
            if groups[-1] and (len(groups[-1]) >= GROUP or held > CHUNK_BYTES):
                groups.append([])
            groups[-1].append(tensor)
        return [g for g in groups if g]

    def _bytes(self) -> dict[str, int]:
        """Twice the bytes of each target over all samples: itself and what is kept beside it."""
        inner = [t for t in self.targets if t not in self.one]
        values = run(open_session(with_outputs(self.model.proto, inner), self.settings), self.one, inner)
        return {t: 2 * v.nbytes * int(self.starts[-1]) for t, v in zip(inner, values, strict=True)}

    def _needs(self, group: Sequence[str], suffix: Part, middles: Mapping[str, Part]) -> set[str]:
        needed = {*suffix.inputs, *group}
        for tensor in group:
            needed.update(middles[tensor].inputs)
            region = self.targets[tensor]
            if region is not None:
                needed.update(t for t in self._layer_part(region).inputs if t != region.params.weight)
        return needed

    def _layer_part(self, region: Region) -> Part:
        return self.cutter.only(region.nodes, region.outputs[:1], [region.params.weight])

    def _prefix(self, needed: set[str]) -> list[dict[str, Array]]:
        """Per batch, the fp32 values of these tensors."""
        inner = sorted(needed - set(self.batches[0]))
        if not inner:
            return [dict(b) for b in self.batches]
        session = open_session(with_outputs(self.model.proto, inner), self.settings)
        return [b | dict(zip(inner, run(session, b, inner), strict=True)) for b in self.batches]

    def _target(self, tensor: str, route: _Route, values: list[dict[str, Array]]) -> None:
        middle = open_session(route.middle.proto, self.settings) if route.middle.proto.graph.node else None
        region = self.targets[tensor]
        if region is not None:
            self._layer(region, tensor, route, middle, values)
        best = np.inf
        for params in self.tries.activations.get(tensor, ()):
            rounded = [params.simulate(np.asarray(v[tensor], np.float32)) for v in values]
            change = self._change(tensor, route, middle, values, rounded)
            effect = self.divergence.mean(self.reference, change)
            if effect < best:
                best = effect
                self.effects.activations[tensor], self.effects.params[tensor] = change, params
            self.tick(1)

    def _layer(
        self,
        region: Region,
        tensor: str,
        route: _Route,
        middle: ort.InferenceSession | None,
        values: list[dict[str, Array]],
    ) -> None:
        """Effects of a layer's weights and of the bits it reads in, both seen at its result."""
        layer, part = region.params, self._layer_part(region)
        fp32 = self.cutter.index.constants[layer.weight]
        session, original = open_session(part.proto, self.settings), onnx.numpy_helper.to_array(fp32)

        def effect(weight: Array, narrow: QuantParams | None) -> Code:
            results = []
            for batch in values:
                given = {n: weight if n == layer.weight else batch[n] for n in part.inputs}
                if narrow is not None:
                    source = region.inputs[0]
                    given[source] = narrow.simulate(np.asarray(given[source], np.float32))
                results.append(run(session, given)[0])
            self.tick(1)
            return self._change(tensor, route, middle, values, results)

        for key in self.by_region.get(region.name, ()):
            stored = np.ascontiguousarray(layer.stored(self.tries.weights[key].dequantize()))
            self.effects.weights[key] = effect(stored, None)
        for reader in self.narrow.get(region.name, ()):
            self.effects.inputs[reader] = effect(original, self.tries.inputs[reader])

    def _change(
        self,
        tensor: str,
        route: _Route,
        middle: ort.InferenceSession | None,
        values: list[dict[str, Array]],
        perturbed: Sequence[Array],
    ) -> Code:
        """Codes with the tensor replaced, less the reference codes; outputs out of its reach do not change."""
        changed = self.reference.copy()
        for number, (given, instead) in enumerate(zip(values, perturbed, strict=True)):
            rows = slice(self.starts[number], self.starts[number + 1])
            made = route.outputs(tensor, instead, given, middle)
            start = 0
            for view in self.divergence.views:
                if view.name in made:
                    code = view.encode(np.asarray(made[view.name], np.float32), self.sizes[number])
                    changed[rows, start : start + view.width] = code
                start += view.width
        return changed - self.reference


@dataclass(frozen=True)
class _Route:
    """From a perturbed tensor to the outputs: the middle part up to the checkpoint, then the shared suffix."""

    middle: Part
    suffix: Part
    session: ort.InferenceSession | None

    def outputs(
        self, tensor: str, instead: Array, given: Mapping[str, Array], middle: ort.InferenceSession | None
    ) -> dict[str, Array]:
        """Every output (of the graph, or live at the checkpoint) that the perturbation reaches."""
        made = {tensor: instead}
        if middle is not None:
            made |= _run_part(middle, self.middle, {**given, **made})
        if self.session is not None:
            made |= _run_part(self.session, self.suffix, {**given, **made})
        return made


def _run_part(session: ort.InferenceSession, part: Part, values: Mapping[str, Array]) -> dict[str, Array]:
    names = [o.name for o in part.proto.graph.output]
    return dict(zip(names, run(session, {n: values[n] for n in part.inputs}), strict=True))
