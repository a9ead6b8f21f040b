"""Weights in, quantized weights out: pure array functions, no ONNX graph in this room."""

from onnxmpq.rounding.bias import bias_correction, centred
from onnxmpq.rounding.equalize import cross_layer_factors, smoothing_factors
from onnxmpq.rounding.pairs import PairBound
from onnxmpq.rounding.quantize import METHODS, quantize_weight
from onnxmpq.rounding.types import Grid, Kind, QuantizedWeight, WeightFormat, effective_block

__all__ = [
    "METHODS",
    "Grid",
    "Kind",
    "PairBound",
    "QuantizedWeight",
    "WeightFormat",
    "bias_correction",
    "centred",
    "cross_layer_factors",
    "effective_block",
    "quantize_weight",
    "smoothing_factors",
]
