"""One layer to be rounded in several formats: all that it takes, so that any process can do it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnxmpq.rounding.pairs import PairBound
from onnxmpq.rounding.quantize import quantize_weight
from onnxmpq.rounding.types import FloatArray, QuantizedWeight, WeightFormat


@dataclass(frozen=True, eq=False)
class LayerToRound:
    """weight: float32 [O, K]. hessian: float32 [G, K, K] and bounds, one per format, as in `quantize_weight`."""

    name: str
    weight: FloatArray
    formats: Sequence[WeightFormat]
    method: str
    hessian: FloatArray
    bounds: Sequence[PairBound | None]

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
