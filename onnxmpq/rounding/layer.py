"""One layer, or some of its output channels, to be rounded in several formats: all that it takes, for any process."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnxmpq.rounding.pairs import PairBound
from onnxmpq.rounding.quantize import quantize_weight
from onnxmpq.rounding.second_order import ROWS_VALUES
from onnxmpq.rounding.types import FloatArray, QuantizedWeight, WeightFormat

PART_VALUES = 8 * ROWS_VALUES
"""Values of a weight that a process gets at a time."""


@dataclass(frozen=True, eq=False)
class LayerToRound:
    """weight: float32 [O, K]. hessian: float32 [G, K, K] and bounds, one per format, as in `quantize_weight`.

    first_row: of the layer's weight, where `weight` is a part of it.
    """

    name: str
    weight: FloatArray
    formats: Sequence[WeightFormat]
    method: str
    hessian: FloatArray
    bounds: Sequence[PairBound | None]
    first_row: int = 0

    def rounded(self) -> list[QuantizedWeight]:
        """One result per format."""
        return [
            quantize_weight(self.weight, f, method=self.method, hessian=self.hessian, bound=bound)
            for f, bound in zip(self.formats, self.bounds, strict=True)
        ]

    def only(self, numbers: Sequence[int]) -> LayerToRound:
        """The same layer in some of its formats."""
        return replace(self, formats=[self.formats[n] for n in numbers], bounds=[self.bounds[n] for n in numbers])

    @property
    def products(self) -> int:
        """About the number for one format: a matrix of the inputs is factored, and the weight multiplied with it."""
        channels, inputs = self.weight.shape
        return int(inputs) ** 2 * int(inputs + channels)

    @property
    def working_bytes(self) -> int:
        """Memory that rounding takes at most: two matrices of the inputs, one being factored, rows and results."""
        channels, inputs = self.weight.shape
        return working_bytes(channels, inputs, len(self.formats), len(self.hessian))


def working_bytes(channels: int, inputs: int, formats: int = 1, groups: int = 1) -> int:
    """`LayerToRound.working_bytes` for a weight [channels, inputs]."""
    values = min(channels * inputs, PART_VALUES) if groups == 1 else channels * inputs
    rows = (4 + 2 * formats) * values + 45 * min(values, ROWS_VALUES)
    return (8 * groups + 12) * inputs**2 + rows


def parts(channels: int, inputs: int, formats: Sequence[WeightFormat], groups: int = 1) -> list[slice]:
    """Output channels of a weight that are rounded at a time, with the same bits as all of them together.

    Not divided are weights with a scale of the whole tensor, and grouped ones.
    """
    size = PART_VALUES // ROWS_VALUES * max(ROWS_VALUES // max(inputs, 1), 1)
    if groups > 1 or any(f.has_tensor_scale for f in formats):
        return [slice(0, channels)]
    return [slice(start, min(start + size, channels)) for start in range(0, channels, size)]
