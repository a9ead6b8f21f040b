"""Weights in, quantized weights out: pure array functions, no ONNX graph in this room."""

from onnxmpq.rounding.equalize import cross_layer_factors, smoothing_factors
from onnxmpq.rounding.formats import Dual, Fp8, Fp8Dual, PerBlock, PerChannel
from onnxmpq.rounding.pairs import PairBound
from onnxmpq.rounding.quantize import METHODS, quantize_weight
from onnxmpq.rounding.types import Grid, QuantizedWeight, WeightFormat

__all__ = [
    "METHODS",
    "Dual",
    "Fp8",
    "Fp8Dual",
    "Grid",
    "PairBound",
    "PerBlock",
    "PerChannel",
    "QuantizedWeight",
    "WeightFormat",
    "cross_layer_factors",
    "quantize_weight",
    "smoothing_factors",
]
