"""The weights of a layer, each as stored in the graph and as a matrix [out_channels, fan_in]."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class LayerWeight:
    """One constant weight of a layer.

    key: names it in tables and plans: the region's name for its first weight, and one that no region has for others.
    tensor: the initializer. slot: the input of the head node that reads it. shape: as stored in the graph.
    channel_axes: leading axes that count output channels, once the last two are swapped where `swapped`.
    """

    key: str
    tensor: str
    slot: int
    shape: tuple[int, ...]
    channel_axes: int = 1
    swapped: bool = False

    @property
    def view_shape(self) -> tuple[int, ...]:
        """The stored shape, the last two axes swapped where they are in the matrix view."""
        return (*self.shape[:-2], self.shape[-1], self.shape[-2]) if self.swapped else self.shape

    @property
    def out_channels(self) -> int:
        """Rows of the matrix view."""
        return math.prod(self.view_shape[: self.channel_axes])

    @property
    def fan_in(self) -> int:
        """Columns of the matrix view: products that are summed to one value."""
        return math.prod(self.view_shape[self.channel_axes :])

    @property
    def parameters(self) -> int:
        return math.prod(self.shape)

    @property
    def channel_axis(self) -> int | None:
        """The axis of the stored weight that counts output channels; None where it is not one axis alone."""
        if self.channel_axes != 1:
            return None
        return 1 if self.swapped and len(self.shape) == 2 else 0

    @property
    def scale_shape(self) -> tuple[int, ...]:
        """A number per output channel in this shape is broadcast over the stored weight."""
        kept = self.view_shape[: self.channel_axes]
        shape = (*kept, *[1] * (len(self.shape) - len(kept)))
        return (*shape[:-2], shape[-1], shape[-2]) if self.swapped else shape

    def matrix(self, weight: NDArray[np.generic]) -> NDArray[np.generic]:
        """Stored weight -> [out_channels, fan_in]."""
        turned = np.ascontiguousarray(weight.swapaxes(-1, -2)) if self.swapped else weight
        return turned.reshape(self.out_channels, self.fan_in)

    def rows(self, weight: NDArray[np.generic], rows: slice) -> NDArray[np.generic]:
        """Some rows of `matrix`; of most weights the others are not read."""
        if self.channel_axes != 1:
            return self.matrix(weight)[rows]
        turned = weight.swapaxes(-1, -2) if self.swapped else weight
        return np.ascontiguousarray(turned[rows]).reshape(-1, self.fan_in)

    def stored(self, matrix: NDArray[np.generic]) -> NDArray[np.generic]:
        """[out_channels, fan_in] -> the stored weight's shape."""
        turned = matrix.reshape(self.view_shape)
        return np.ascontiguousarray(turned.swapaxes(-1, -2)) if self.swapped else turned


@dataclass(frozen=True, eq=False)
class Spelling:
    """The head node of a layer with other constants.

    constants: by the input of the node that reads them. op_type, domain: of the operator that computes it then; empty
    where that is the same. attributes: of that operator; None where they are the node's own. moved: input -> the input
    of the original node that it takes over.
    """

    constants: Mapping[int, NDArray[np.generic]]
    op_type: str = ""
    domain: str = ""
    attributes: Mapping[str, int] | None = None
    moved: Mapping[int, int] = field(default_factory=dict)

    def kept_by(self, keep: Callable[[NDArray[Any]], NDArray[Any]]) -> Spelling:
        """The same with each constant as `keep` holds it, such as mapped from a file."""
        return replace(self, constants={slot: keep(values) for slot, values in self.constants.items()})


@dataclass(frozen=True)
class Layer:
    """The weights of a layer region. Most layers have one; what is said of "the weight" is said of the first.

    bias: its initializer. bias_slot: the input of the head node that reads it; None where another node of the region
    does. storage_only: no kernel computes with its weights as they are stored, they are unfolded to floats.
    macs: multiply-accumulates for one sample; 0 where shapes are unknown.
    """

    weights: tuple[LayerWeight, ...]
    bias: str | None = None
    bias_slot: int | None = None
    groups: int = 1
    macs: int = 0
    storage_only: bool = False

    @property
    def parameters(self) -> int:
        """Of all weights together."""
        return sum(w.parameters for w in self.weights)

    @property
    def mean_fan_in(self) -> float:
        """Products that are summed to one value, averaged over the rows of all weights."""
        return self.parameters / max(sum(w.out_channels for w in self.weights), 1)

    @property
    def weight(self) -> str:
        """The weight's initializer."""
        return self.weights[0].tensor

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """The weight's shape as stored in the graph."""
        return self.weights[0].shape

    @property
    def out_channels(self) -> int:
        return self.weights[0].out_channels

    @property
    def fan_in(self) -> int:
        return self.weights[0].fan_in

    def matrix(self, weight: NDArray[np.generic]) -> NDArray[np.generic]:
        """Stored weight -> [out_channels, fan_in]."""
        return self.weights[0].matrix(weight)

    def stored(self, matrix: NDArray[np.generic]) -> NDArray[np.generic]:
        """[out_channels, fan_in] -> the stored weight's shape."""
        return self.weights[0].stored(matrix)
