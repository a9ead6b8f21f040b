"""One layer to be rounded in several formats: all that it takes, so that any process can do it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxmpq.rounding.quantize import quantize_weight
from onnxmpq.rounding.types import FloatArray, QuantizedWeight, WeightFormat


@dataclass(frozen=True, eq=False)
class LayerToRound:
    """weight: float32 [O, K]. hessian: float32 [G, K, K], as in `quantize_weight`."""

    name: str
    weight: FloatArray
    formats: Sequence[WeightFormat]
    method: str
    hessian: FloatArray

    def rounded(self) -> list[QuantizedWeight]:
        """One result per format."""
        return [quantize_weight(self.weight, f, method=self.method, hessian=self.hessian) for f in self.formats]
