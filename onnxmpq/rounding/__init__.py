"""Weights in, quantized weights out: pure array functions, no ONNX graph in this room."""

from onnxmpq.rounding.equalize import cross_layer_factors, smoothing_factors
from onnxmpq.rounding.formats.block import PerBlock
from onnxmpq.rounding.formats.channel import PerChannel
from onnxmpq.rounding.formats.dual import Dual
from onnxmpq.rounding.formats.fp8 import Fp8
from onnxmpq.rounding.formats.fp8_dual import Fp8Dual
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
