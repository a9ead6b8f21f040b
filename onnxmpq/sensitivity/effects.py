"""One-at-a-time effects: how the outputs change when one weight or one activation tensor alone is quantized.

This is the finite difference of the outputs along the actual quantization perturbation, step 1 (DESIGN §4), kept as
a vector per sample so that effects of several decisions can be added. Weights and activations are separate effects:
an activation tensor counts once, however many int8 regions touch it.

Only the part of the graph behind the perturbed tensor is run, on prefix activations that are computed once for a
chunk of neighbouring tensors and held in bounded memory.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort

from onnxmpq.feeds.types import Array, Feeds
from onnxmpq.model import Model, Region
from onnxmpq.ranges import QuantParams, with_outputs
from onnxmpq.ranges.observe import CHUNK_BYTES
from onnxmpq.rounding.types import QuantizedWeight
from onnxmpq.runtime import SessionSettings, open_session, run
from onnxmpq.sensitivity.divergence import Code, Divergence, OutputKind, guess_kind, make_view
from onnxmpq.sensitivity.suffix import Cutter, Part

MEMORY_BYTES = 256 * 2**20  # for all stored effects
_SMALLEST_SKETCH = 512
Tick = Callable[[int], None]
WeightKey = tuple[str, str]  # region, weight format


@dataclass(frozen=True, eq=False)
class Effects:
    """Change of the coded outputs for every quantized weight and activation tensor.

    reference: float32 [samples, width], codes of the fp32 outputs. weights, activations: same shape, the change.
    params: the activation parameters that each effect belongs to (of several candidates the one of least effect).
    """

    divergence: Divergence
    reference: Code
    weights: dict[WeightKey, Code]
    activations: dict[str, Code]
    params: dict[str, QuantParams]

    def of_weight(self, key: WeightKey) -> float:
        """Divergence (nats, or relative squared error) caused by this weight alone."""
        return self.divergence.mean(self.reference, self.weights[key])

    def of_activation(self, tensor: str) -> float:
        """Divergence caused by quantizing this tensor alone."""
        return self.divergence.mean(self.reference, self.activations[tensor])


@dataclass(frozen=True)
class Perturbations:
    """What to try: weights by (region, format), candidate parameters by activation tensor."""

    weights: Mapping[WeightKey, QuantizedWeight]
    activations: Mapping[str, Sequence[QuantParams]]

    @property
    def count(self) -> int:
        return len(self.weights) + sum(len(c) for c in self.activations.values())


def make_divergence(
    model: Model, feeds: Feeds, entries: int, *, threads: int, kinds: Mapping[str, OutputKind], seed: int = 0
) -> tuple[Divergence, list[list[Array]]]:
    """Views fitted to the fp32 outputs on these samples, and those outputs (one list per batch)."""
    session = open_session(model.proto, SessionSettings(threads=threads))
    singles = [run(session, feeds.batch([i])) for i in range(len(feeds))]
    limit = max(MEMORY_BYTES // (4 * len(feeds) * max(entries, 1)), _SMALLEST_SKETCH)
    views = []
    for position, name in enumerate(model.output_names):
        samples = [np.asarray(s[position], dtype=np.float32) for s in singles]
        kind = kinds.get(name) or guess_kind(model.proto, name, samples[0])
        views.append(make_view(name, kind, samples, limit, seed))
    return Divergence(tuple(views)), singles


def measure_effects(
    model: Model,
    feeds: Feeds,
    tries: Perturbations,
    *,
    threads: int = 1,
    batch: int = 8,
    kinds: Mapping[str, OutputKind] | None = None,
    tick: Tick = lambda _: None,
) -> Effects:
    """Effects of all perturbations on these samples; `tick` counts perturbations done."""
    divergence, singles = make_divergence(model, feeds, tries.count, threads=threads, kinds=kinds or {})
    reference = np.concatenate([divergence.encode(s, 1) for s in singles])
    worker = _Worker(model, feeds, tries, divergence, reference, threads, batch, tick)
    return worker.run()


class _Worker:
    def __init__(
        self,
        model: Model,
        feeds: Feeds,
        tries: Perturbations,
        divergence: Divergence,
        reference: Code,
        threads: int,
        batch: int,
        tick: Tick,
    ) -> None:
        self.model, self.tries, self.divergence, self.reference = model, tries, divergence, reference
        self.settings, self.tick = SessionSettings(threads=threads), tick
        self.cutter = Cutter(model.proto)
        self.batches = list(feeds.batches(batch))
        step = batch if feeds.batchable else 1
        self.sizes = [min(step, len(feeds) - start) for start in range(0, len(feeds), step)]
        self.effects = Effects(divergence, reference, {}, {}, {})
        self.starts = np.cumsum([0, *self.sizes])

    def run(self) -> Effects:
        todo = self._targets()
        parts = {t: self.cutter.behind(t) for t in todo}
        for chunk in self._chunks(todo, parts):
            values = self._prefix(chunk, parts)
            for tensor in chunk:
                self._tensor(tensor, todo[tensor], parts[tensor], values)
        return self.effects

    def _targets(self) -> dict[str, list[Region]]:
        """Tensors to perturb in graph order, each with the layers whose weights show up there."""
        found: dict[str, list[Region]] = {}
        for tensor in (i.name for i in self.model.proto.graph.input):
            if tensor in self.tries.activations:
                found[tensor] = []
        tried = {name for name, _ in self.tries.weights}
        for region in self.model.regions:
            for tensor in region.outputs:
                if tensor in self.tries.activations or region.name in tried:
                    found[tensor] = [region] if region.name in tried and tensor == region.outputs[0] else []
        return found

    def _needs(self, tensor: str, regions: Sequence[Region], part: Part) -> set[str]:
        needed = {t for t in part.inputs}
        for region in regions:
            needed.update(self._layer_part(region).inputs)
            needed.discard(region.params.weight)
        return needed

    def _layer_part(self, region: Region) -> Part:
        return self.cutter.only(region.nodes, region.outputs[:1], [region.params.weight])

    def _chunks(self, todo: Mapping[str, list[Region]], parts: Mapping[str, Part]) -> list[list[str]]:
        """Targets in order, cut so that the tensors one chunk needs fit the memory allowed."""
        sizes = self._bytes({t for tensor in todo for t in self._needs(tensor, todo[tensor], parts[tensor])})
        chunks: list[list[str]] = [[]]
        held: set[str] = set()
        for tensor in todo:
            needed = self._needs(tensor, todo[tensor], parts[tensor])
            if chunks[-1] and sum(sizes[t] for t in held | needed) > CHUNK_BYTES:
                chunks.append([])
                held = set()
            chunks[-1].append(tensor)
            held |= needed
        return [c for c in chunks if c]

    def _bytes(self, tensors: set[str]) -> dict[str, int]:
        fed = set(self.batches[0])
        inner = sorted(tensors - fed)
        session = open_session(with_outputs(self.model.proto, inner), self.settings) if inner else None
        values = run(session, self.batches[0], inner) if session else []
        sizes = {t: v.nbytes * len(self.batches) for t, v in zip(inner, values, strict=True)}
        return sizes | {t: v.nbytes * len(self.batches) for t, v in self.batches[0].items()}

    def _prefix(self, chunk: Sequence[str], parts: Mapping[str, Part]) -> list[dict[str, Array]]:
        todo = self._targets()
        needed = {t for tensor in chunk for t in self._needs(tensor, todo[tensor], parts[tensor])}
        inner = sorted(needed - set(self.batches[0]))
        if not inner:
            return [dict(b) for b in self.batches]
        session = open_session(with_outputs(self.model.proto, inner), self.settings)
        return [b | dict(zip(inner, run(session, b, inner), strict=True)) for b in self.batches]

    def _tensor(self, tensor: str, regions: Sequence[Region], part: Part, values: list[dict[str, Array]]) -> None:
        suffix = open_session(part.proto, self.settings) if part.proto.graph.node else None
        for region in regions:
            self._weights(region, tensor, part, suffix, values)
        best = np.inf
        for params in self.tries.activations.get(tensor, ()):
            change = self._change(
                tensor, part, suffix, values, [params.simulate(np.asarray(v[tensor], np.float32)) for v in values]
            )
            effect = self.divergence.mean(self.reference, change)
            if effect < best:
                best = effect
                self.effects.activations[tensor], self.effects.params[tensor] = change, params
            self.tick(1)

    def _weights(
        self,
        region: Region,
        tensor: str,
        part: Part,
        suffix: ort.InferenceSession | None,
        values: list[dict[str, Array]],
    ) -> None:
        layer = region.params
        own = self._layer_part(region)
        session = open_session(own.proto, self.settings)
        for key, weight in self.tries.weights.items():
            if key[0] != region.name:
                continue
            stored = np.ascontiguousarray(layer.stored(weight.dequantize()))
            results = [run(session, {n: stored if n == layer.weight else v[n] for n in own.inputs})[0] for v in values]
            self.effects.weights[key] = self._change(tensor, part, suffix, values, results)
            self.tick(1)

    def _change(
        self,
        tensor: str,
        part: Part,
        suffix: ort.InferenceSession | None,
        values: list[dict[str, Array]],
        perturbed: Sequence[Array],
    ) -> Code:
        change = np.empty_like(self.reference)
        for number, (given, instead) in enumerate(zip(values, perturbed, strict=True)):
            rows = slice(self.starts[number], self.starts[number + 1])
            change[rows] = self._code(tensor, part, suffix, given, instead, self.sizes[number], rows)
        return change - self.reference

    def _code(
        self,
        tensor: str,
        part: Part,
        suffix: ort.InferenceSession | None,
        given: Mapping[str, Array],
        instead: Array,
        samples: int,
        rows: slice,
    ) -> Code:
        """Codes of all outputs; those that the perturbation does not reach keep their reference codes."""
        made = {tensor: instead}
        if suffix is not None:
            inputs = {n: instead if n == tensor else given[n] for n in part.inputs}
            names = [o.name for o in part.proto.graph.output]
            made |= dict(zip(names, run(suffix, inputs), strict=True))
        code, start = self.reference[rows].copy(), 0
        for view in self.divergence.views:
            if view.name in made:
                code[:, start : start + view.width] = view.encode(np.asarray(made[view.name], np.float32), samples)
            start += view.width
        return code
