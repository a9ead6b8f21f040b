"""The model as the rest of the package sees it: regions, the tensors between them, and the prepared graph.

A *layer* is a compute node with constant weights; a *region* is a head node together with the nodes that the
runtime computes in the same kernel (an activation that a quantizer absorbs, a bias). Every node of the graph
that touches a float tensor is in exactly one region.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmpq.model.batchnorm import ChannelStatistics
from onnxmpq.model.layers import Layer, LayerWeight
from onnxmpq.model.operators import HEADS, LayerOperator
from onnxmpq.model.store import WeightStore

Float32 = NDArray[np.float32]
SHARED_BYTES = 4096
"""Equal constants of fewer bytes are not looked for: they stay in the file as often as there are layers."""


class RegionKind(StrEnum):
    """The part that a region may take in an int8 chain."""

    LAYER = "layer"  # constant weights: has weight formats
    ARITHMETIC = "arithmetic"  # no weights, computes in int8 with output parameters of its own (Add, Concat, ...)
    PASSTHROUGH = "passthrough"  # moves values only: output has the input's scale (Reshape, MaxPool, ...)
    FLOAT = "float"  # float only


@dataclass(frozen=True)
class Region:
    """A unit of decision: one scheme for all its nodes.

    name: the head node's name. nodes: node names in topological order, head first.
    inputs: float tensors read from outside the region, constants excluded; outputs: float tensors that are read
    outside it or are outputs of the graph.
    """

    name: str
    op_type: str
    kind: RegionKind
    nodes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    layer: Layer | None = None
    pattern: str = ""  # e.g. "Conv+Relu", "SiLU"

    @property
    def params(self) -> Layer:
        """The layer's weights; only for layer regions."""
        if self.layer is None:
            raise ValueError(f"region {self.name} has no weights")
        return self.layer

    @property
    def operator(self) -> LayerOperator:
        """The row of the head node's operator; only for layer regions."""
        return HEADS[self.op_type]


@dataclass(frozen=True)
class Model:
    """A prepared fp32 graph: constants and BatchNorm folded, nodes named, opset raised.

    store: the prepared graph's structure and constants, which are nowhere else.
    source_sha256: of the file (or bytes) it came from.
    origin: prepared node name -> names of the original nodes it stands for.
    notes: what was done or left alone on the way, a line each.
    batchnorm: tensor -> what a BatchNorm, now folded, remembers of it. left_out: steps of preparing that were left out
    on purpose, since they changed an output. added: optional ones that were taken. from_halves: True where the original
    computes in 16 bits, or from activations rounded to 8, what this graph computes in float32.
    """

    store: WeightStore
    regions: tuple[Region, ...]
    origin: dict[str, tuple[str, ...]]
    source_sha256: str
    source_bytes: int
    opset: int
    prepared_bytes: int = 0
    notes: tuple[str, ...] = ()
    already_quantized: tuple[str, ...] = ()
    batchnorm: dict[str, ChannelStatistics] = field(default_factory=dict, repr=False, compare=False)
    left_out: tuple[str, ...] = ()
    from_halves: bool = False
    added: tuple[str, ...] = ()

    @property
    def structure(self) -> onnx.ModelProto:
        """The prepared graph, its large constants without values; not to be modified."""
        return self.store.structure

    @property
    def proto(self) -> onnx.ModelProto:
        """The whole prepared graph, put together anew: for a session or a file, not to look at nodes."""
        return self.store.assembled()

    @cached_property
    def layers(self) -> tuple[Region, ...]:
        return tuple(r for r in self.regions if r.kind is RegionKind.LAYER)

    def region(self, name: str) -> Region:
        """Raises KeyError where there is none."""
        return self._by_name[name]

    @cached_property
    def _by_name(self) -> dict[str, Region]:
        return {r.name: r for r in self.regions}

    @cached_property
    def producers(self) -> dict[str, Region]:
        """Tensor -> the region that computes it."""
        return {t: r for r in self.regions for t in r.outputs}

    @cached_property
    def consumers(self) -> dict[str, list[Region]]:
        """Tensor -> regions that read it, in graph order."""
        found: dict[str, list[Region]] = {}
        for region in self.regions:
            for tensor in region.inputs:
                found.setdefault(tensor, []).append(region)
        return found

    @cached_property
    def roots(self) -> dict[str, str]:
        """Tensor -> the tensor whose values it merely moves: passthrough regions followed back to their source."""
        found: dict[str, str] = {}
        for region in self.regions:
            if region.kind is RegionKind.PASSTHROUGH:
                source = found.get(region.inputs[0], region.inputs[0])
                found.update({t: source for t in region.outputs})
        return found

    @property
    def output_names(self) -> tuple[str, ...]:
        return tuple(o.name for o in self.structure.graph.output)

    @property
    def weights(self) -> dict[str, tuple[Region, LayerWeight]]:
        """Key of a weight -> its region, and the weight; in graph order."""
        return {w.key: (r, w) for r in self.layers for w in r.params.weights}

    @cached_property
    def shared_weights(self) -> dict[str, str]:
        """Key of a weight that other layers have as well -> key of the first of them.

        Weights are the same where their matrix views are, whatever way they took through Identity, Transpose or
        Reshape. Those of fewer than `SHARED_BYTES` are not looked at.
        """
        alike: dict[tuple[int, int], list[LayerWeight]] = {}
        for _, place in self.weights.values():
            if 4 * place.parameters >= SHARED_BYTES:
                alike.setdefault((place.out_channels, place.fan_in), []).append(place)
        found: dict[str, str] = {}
        for places in (p for p in alike.values() if len(p) > 1):
            groups: dict[str, list[str]] = {}
            for place in places:
                groups.setdefault(self._matrix_hash(place), []).append(place.key)
            found |= {key: keys[0] for keys in groups.values() if len(keys) > 1 for key in keys}
        return found

    def _matrix_hash(self, place: LayerWeight) -> str:
        """Of a matrix view; one of a constant in a file is computed once, whatever models have it."""
        known = {} if self.store.spill is None else self.store.spill.hashes
        stored = (self.store.content(place.tensor), place.shape, place.channel_axes, place.swapped)
        if stored[0] and stored in known:
            return known[stored]
        found = hashlib.sha256(self.matrix(place).data).hexdigest()
        if stored[0]:
            known[stored] = found
        return found

    def matrix(self, weight: LayerWeight, rows: slice | None = None) -> Float32:
        """A layer's fp32 weight as a matrix [out_channels, fan_in], or some rows of it."""
        stored = self.store.array(weight.tensor)
        found = weight.matrix(stored) if rows is None else weight.rows(stored, rows)
        return np.asarray(found, dtype=np.float32)

    def weight(self, region: Region) -> Float32:
        """The matrix of the first weight, which most layers have alone."""
        return self.matrix(region.params.weights[0])

    def with_tensors(self, changes: Mapping[str, NDArray[np.generic]]) -> Model:
        """The model with other values of these constants; see `WeightStore.with_tensors`."""
        return replace(self, store=self.store.with_tensors(changes))
