"""Weights in, quantized weights out: pure array functions, no ONNX graph in this room."""

from onnxmpq.rounding.quantize import METHODS, quantize_weight
from onnxmpq.rounding.types import Grid, Kind, QuantizedWeight, WeightFormat, effective_block

__all__ = ["METHODS", "Grid", "Kind", "QuantizedWeight", "WeightFormat", "effective_block", "quantize_weight"]
