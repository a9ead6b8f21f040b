"""Effects of 16 bits: the loss of a weight and of the results of a region, measured like those of 8 bits.

A tensor counts with the region that writes it, an input of the graph with the regions that read it. Left out, since
they are about as small again: what a 16-bit region loses on reading what another one wrote in float32, and constants
that are no weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from onnxmpq.menu import Menu
from onnxmpq.model import Model, Region, RegionKind
from onnxmpq.ranges import QuantParams
from onnxmpq.rounding import FloatArray
from onnxmpq.schemes import HalfType, Scheme, rounded
from onnxmpq.sensitivity.effects import Effects, HalfKey, Perturbations


@dataclass(frozen=True, eq=False)
class HalfWeight:
    """matrix: float32 [O, K]. half: the type in which it is stored."""

    matrix: FloatArray
    half: HalfType

    def dequantize(self) -> FloatArray:
        """float32 [O, K]."""
        return rounded(self.matrix, self.half)


def half_perturbations(model: Model, menu: Menu, half: HalfType) -> Perturbations:
    """Perturbations to try for one of the types; none where no scheme has it."""
    weights: dict[tuple[str, str], tuple[HalfWeight, ...]] = {}
    tensors: dict[str, tuple[QuantParams]] = {}
    given = _given(model)
    for region in model.regions:
        for scheme in (s for s in menu[region.name] if s.half == half):
            tensors |= {t: (QuantParams(1.0, 0, type=half),) for t in _rounded(region, scheme, given)}
            if region.layer is not None and scheme.weight is None:
                places = region.layer.weights
                weights[region.name, half] = tuple(
                    HalfWeight(model.store.kept(model.matrix(place)), half) for place in places
                )
    return Perturbations(weights, tensors)


def half_effects(model: Model, menu: Menu, found: Mapping[HalfType, Effects]) -> dict[HalfKey, float]:
    """Per region and scheme with 16 bits, the divergences of its weight and tensors, summed."""
    weights = {key: e.of_weight(key) for e in found.values() for key in e.weights}
    tensors = {(t, half): e.of_activation(t) for half, e in found.items() for t in e.activations}
    harm: dict[HalfKey, float] = {}
    given = _given(model)
    for region in model.regions:
        for scheme in menu[region.name]:
            if (half := scheme.half) is not None:
                own = weights.get((region.name, half), 0.0) if scheme.weight is None else 0.0
                harm[region.name, scheme.name] = own + sum(tensors[t, half] for t in _rounded(region, scheme, given))
    return harm


def _given(model: Model) -> dict[str, str]:
    """Tensor -> the input of the graph that it is, or whose values it merely moves."""
    inputs = [i.name for i in model.structure.graph.input]
    return dict(zip(inputs, inputs, strict=True)) | {t: r for t, r in model.roots.items() if r in inputs}


def _rounded(region: Region, scheme: Scheme, given: Mapping[str, str]) -> tuple[str, ...]:
    """Tensors that are rounded to 16 bits for the sake of this region."""
    if region.kind is RegionKind.PASSTHROUGH:  # moves what has been rounded
        return ()
    read = {given[t] for t in region.inputs if t in given} if not scheme.reads.quantized else set[str]()
    return (*region.outputs, *sorted(read))
