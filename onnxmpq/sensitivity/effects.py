"""One-at-a-time effects: how the outputs change when one weight or one activation tensor alone is quantized.

This is the finite difference of the outputs along the actual quantization perturbation, step 1, kept as
a vector per sample so that effects of several decisions can be added. Weights and activations are separate effects:
an activation tensor counts once, however many int8 regions touch it. What a layer reads in fewer than 8 bits is an
effect of that layer alone, since each reader of a tensor may ask for other bits.

Only the part of the graph behind the perturbed tensor is run (`sensitivity/measure.py`).
"""

from __future__ import annotations

from collections.abc import Collection, Container, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from onnxmpq.errors import ModelError
from onnxmpq.execution import MEMORY, run_samples
from onnxmpq.feeds import Array, Feeds
from onnxmpq.model import Model, Spelling, float_sources, random_tensors
from onnxmpq.ranges import QuantParams
from onnxmpq.rounding import FloatArray
from onnxmpq.schemes import Scheme
from onnxmpq.sensitivity.divergence import Code, Divergence, OutputView, SquaredChange, hidden, make_view
from onnxmpq.sensitivity.gains import Gain
from onnxmpq.sensitivity.output_kinds import OutputKind, guess_kind
from onnxmpq.sensitivity.pooled import PooledDivergence
from onnxmpq.statistics import numbers

LAST_BITS = 1e-5  # of the largest output: some roundings of float32
_SMALLEST_SKETCH, _MOST_OUTPUTS = 512, 8
WeightKey = tuple[str, str]  # region, weight format
InputKey = tuple[str, int]  # region, bits in which it reads
HalfKey = tuple[str, str]  # region, scheme
KernelKey = tuple[str, str]  # region, scheme


class Try(NamedTuple):
    """A perturbation: what is changed, and its key among those."""

    kind: Literal["weight", "activation", "input", "kernel"]
    key: Any


@dataclass(frozen=True, eq=False)
class ByBlocks:
    """Knowledge about effects that were measured block by block (`block_effects.py`).

    pooled: divergence of outputs. idle: see `Effects.idle`. gains: of each block, by the tensor at its exit.
    width: of the codes.
    """

    pooled: PooledDivergence
    idle: frozenset[str]
    gains: Mapping[str, Gain]
    width: int


@dataclass(frozen=True, eq=False)
class Effects:
    """Change of the coded outputs for every quantized weight, activation tensor, and input read in few bits.

    reference: float32 [samples, width], codes of the fp32 outputs. weights, activations, inputs, kernels: same shape,
    the change. params: the activation parameters that each effect belongs to (of several candidates the one of least
    effect). kernels: of regions whose kernel quantizes what it reads, weights included. halves: divergence caused by a
    region's scheme for its 16 bits; so small that nothing is superposed. pooling: whether they are judged with
    curvature pooled over samples. by_blocks: None where changes are those of the outputs; else they are scaled so that
    divergence is the sum of their squares, and `reference` is 0.
    """

    divergence: Divergence
    reference: Code
    weights: dict[WeightKey, Code]
    activations: dict[str, Code]
    params: dict[str, QuantParams]
    inputs: dict[InputKey, Code] = field(default_factory=dict)
    kernels: dict[KernelKey, Code] = field(default_factory=dict)
    halves: dict[HalfKey, float] = field(default_factory=dict)
    pooling: bool = True
    by_blocks: ByBlocks | None = None

    def update(self, part: Effects) -> None:
        """Take over all effects of a part."""
        self.weights.update(part.weights)
        self.activations.update(part.activations)
        self.params.update(part.params)
        self.inputs.update(part.inputs)
        self.kernels.update(part.kernels)

    @property
    def by_try(self) -> dict[Try, Code]:
        """All changes."""
        return {
            **{Try("weight", k): change for k, change in self.weights.items()},
            **{Try("activation", t): change for t, change in self.activations.items()},
            **{Try("input", k): change for k, change in self.inputs.items()},
            **{Try("kernel", k): change for k, change in self.kernels.items()},
        }

    def own(self, region: str, scheme: Scheme) -> list[Code]:
        """The changes that come with one region's scheme: of its kernel, or of its weights, and of reading its input in
        few bits."""
        if (region, scheme.name) in self.kernels:
            return [self.kernels[region, scheme.name]]
        weight = self.weights.get((region, scheme.weight.name)) if scheme.weight else None
        narrow = self.inputs.get((region, scheme.activation_bits))
        return [change for change in (weight, narrow) if change is not None]

    def of_half(self, region: str, scheme: Scheme) -> float:
        """Divergence caused by the 16 bits in which the region computes or writes, 0 where it does not."""
        return self.halves.get((region, scheme.name), 0.0)

    @cached_property
    def measure(self) -> Divergence:
        """The divergence of single effects and of their sums, by their changes."""
        return self.pooled if self.by_blocks is None else SquaredChange((), scale=self.divergence.scale)

    @cached_property
    def pooled(self) -> PooledDivergence:
        """Divergence of outputs, single effects and whole plans."""
        if self.by_blocks is not None:
            return replace(self.by_blocks.pooled, scale=self.divergence.scale)
        changes = [*self.weights.values(), *self.activations.values(), *self.inputs.values(), *self.kernels.values()]
        return PooledDivergence.fitted(self.divergence, self.reference, changes if self.pooling else [])

    def alone(self, change: Code) -> NDArray[np.float64]:
        """Divergence of one of the changes, float64 [samples]; computed once."""
        if id(change) not in self._alone:
            self._alone[id(change)] = self.measure.per_sample(self.reference, change)
        return self._alone[id(change)]

    @cached_property
    def _alone(self) -> dict[int, NDArray[np.float64]]:
        return {}

    @property
    def idle(self) -> frozenset[str]:
        """Regions whose weights change no output on any sample, whatever their format: their effect is not known.

        Last bits of the outputs may differ from those of the reference, as parts of the graph were run by themselves,
        but they do so in the same way for every format. So do formats that hold the same values; their changes are no
        matter of last bits.
        """
        if self.by_blocks is not None:
            return self.by_blocks.idle
        last_bits = LAST_BITS * float(np.abs(self.reference).max(initial=0.0))
        changes: dict[str, list[Code]] = {}
        for (region, _), change in (*self.weights.items(), *self.kernels.items()):
            changes.setdefault(region, []).append(change)
        return frozenset(
            region
            for region, (first, *others) in changes.items()
            if np.abs(first).max(initial=0.0) <= (last_bits if others else 0.0)
            and all(np.array_equal(first, other) for other in others)
        )

    def of_scheme(self, region: str, scheme: Scheme) -> float:
        """Divergence (nats, or relative squared error) caused by each of a scheme's own changes, summed."""
        own = sum(float(self.alone(change).mean()) for change in self.own(region, scheme))
        return own + self.of_half(region, scheme)

    def of_weight(self, key: WeightKey) -> float:
        """Divergence (nats, or relative squared error) caused by this weight alone."""
        return float(self.alone(self.weights[key]).mean())

    def of_activation(self, tensor: str) -> float:
        """Divergence caused by quantizing this tensor alone."""
        return float(self.alone(self.activations[tensor]).mean())


@dataclass(frozen=True, eq=False)
class Frame:
    """The reference of all changes. reference: float32 [samples, width], codes of the fp32 outputs."""

    divergence: Divergence
    reference: Code


class Rounded(Protocol):
    """A weight as it will be read; a dataclass, as the cache wants it."""

    def dequantize(self) -> FloatArray:
        """float32 [O, K]."""
        ...


@dataclass(frozen=True)
class Perturbations:
    """Changes to try: all weights of a layer together by (region, format), candidate parameters by activation tensor,
    parameters of fewer than 8 bits by (layer, bits) in which it reads, other kernels by (region, scheme)."""

    weights: Mapping[WeightKey, Sequence[Rounded]]
    activations: Mapping[str, Sequence[QuantParams]]
    inputs: Mapping[InputKey, QuantParams] = field(default_factory=dict)
    kernels: Mapping[KernelKey, Spelling] = field(default_factory=dict)

    @property
    def count(self) -> int:
        alone = len(self.weights) + len(self.inputs) + len(self.kernels)
        return alone + sum(len(c) for c in self.activations.values())

    @property
    def by_try(self) -> dict[Try, object]:
        """Values that are tried, all candidates of an activation tensor together."""
        return {
            **{Try("weight", k): w for k, w in self.weights.items()},
            **{Try("activation", t): row for t, row in self.activations.items()},
            **{Try("input", k): params for k, params in self.inputs.items()},
            **{Try("kernel", k): spelling for k, spelling in self.kernels.items()},
        }

    def among(self, wanted: Container[Try]) -> Perturbations:
        """Those of them that are wanted."""
        return Perturbations(
            {k: w for k, w in self.weights.items() if Try("weight", k) in wanted},
            {t: row for t, row in self.activations.items() if Try("activation", t) in wanted},
            {k: params for k, params in self.inputs.items() if Try("input", k) in wanted},
            {k: spelling for k, spelling in self.kernels.items() if Try("kernel", k) in wanted},
        )

    @cached_property
    def layers(self) -> frozenset[str]:
        """Regions of which something is tried: weights, inputs or kernels."""
        return frozenset(name for name, _ in (*self.weights, *self.inputs, *self.kernels))

    def only(self, layers: Collection[str], tensors: Collection[str]) -> Perturbations:
        """Those of these layers and activation tensors."""
        return Perturbations(
            {k: v for k, v in self.weights.items() if k[0] in layers},
            {t: row for t, row in self.activations.items() if t in tensors},
            {k: v for k, v in self.inputs.items() if k[0] in layers},
            {k: v for k, v in self.kernels.items() if k[0] in layers},
        )


def sketch_width(samples: int, entries: int, outputs: int = 1) -> int:
    """Most numbers kept of one output for one sample, with `entries` effects in memory.

    A power of two: menus of about the same length then give codes that can be compared, and cached. Many outputs, such
    as those of a decoder's cache, share what `_MOST_OUTPUTS` would have.
    """
    most = max(MEMORY.effects // (4 * samples * max(entries, 1)), _SMALLEST_SKETCH)
    share = max(most * _MOST_OUTPUTS // max(outputs, _MOST_OUTPUTS), 1)
    return 1 << (share.bit_length() - 1)


def effects_bytes(samples: int, entries: int, elements: Sequence[int]) -> int:
    """Memory that `entries` effects and their reference take. elements: of each output that is compared, for one
    sample."""
    most = sketch_width(samples, entries, len(elements))
    return 4 * samples * (entries + 1) * sum(min(size, most) for size in elements)


def make_divergence(
    model: Model, feeds: Feeds, entries: int, *, threads: int, kinds: Mapping[str, OutputKind], seed: int = 0
) -> tuple[Divergence, list[list[Array]]]:
    """Views fitted to the fp32 outputs on these samples, and those outputs (one list per batch).

    Outputs whose shape depends on the data are laid out in a row where no other output can be compared, and random ones
    taken as they come where there is nothing else. Where all outputs are integers, the float tensors that they are made
    of have views too, behind theirs, and the outputs themselves do not count. threads: samples that run side by side,
    one thread each. Raises ModelError where no output holds a number for any sample.
    """
    inner = float_sources(model.structure)
    names = [*model.output_names, *inner]
    singles = list(run_samples(model.store, feeds, names if inner else None, threads=threads))
    limit, drawn = sketch_width(len(feeds), entries, len(names)), random_tensors(model.structure.graph)
    one_shape = len({feeds.shapes(i) for i in range(len(feeds))}) == 1 and bool(feeds.ragged)  # others will come
    outputs = {name: [numbers(s[position]) for s in singles] for position, name in enumerate(names)}

    def views(*, padded: bool, random: bool) -> tuple[OutputView, ...]:
        found = []
        for name, samples in outputs.items():
            kind = kinds.get(name) or guess_kind(model.structure, name, samples[feeds.largest])
            kind = "random" if name in drawn else kind
            if (kind == "random" and not random) or kind == "cache" or (inner and name not in inner):
                found.append(hidden(name, kind))
                continue
            odd = any(s.shape != samples[0].shape for s in samples)
            follows = (odd or one_shape) and feeds.decide([s.shape for s in samples]) and kind != "random"
            laid_out = odd and padded and not follows
            view = make_view(name, kind, samples, limit, seed, padded=laid_out, ragged=follows)
            found.append(replace(view, inner=name in inner))
        return tuple(found)

    for padded, random in ((False, False), (True, False), (True, True)):
        found = views(padded=padded, random=random)
        if any(v.width for v in found):
            return Divergence(found), singles
    raise ModelError(
        "no output holds a number for any sample, so there is nothing to compare; give samples for which the model "
        "finds something, or the model a numeric output"
    )


def fit_frame(model: Model, feeds: Feeds, entries: int, *, threads: int, kinds: Mapping[str, OutputKind]) -> Frame:
    """The frame for `entries` effects on these samples."""
    divergence, singles = make_divergence(model, feeds, entries, threads=threads, kinds=kinds)
    return Frame(divergence, np.concatenate([divergence.encode(s, 1) for s in singles]))
