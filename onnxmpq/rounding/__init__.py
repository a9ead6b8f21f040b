"""Weights in, quantized weights out: pure array functions, no ONNX graph in this room."""

from onnxmpq.rounding.equalize import cross_layer_factors, smoothing_factors
from onnxmpq.rounding.formats.affine_block import AffineBlock
from onnxmpq.rounding.formats.block import PerBlock
from onnxmpq.rounding.formats.channel import PerChannel
from onnxmpq.rounding.formats.dual import Dual
from onnxmpq.rounding.formats.fp8 import Fp8
from onnxmpq.rounding.formats.fp8_dual import Fp8Dual
from onnxmpq.rounding.fp8 import E4M3FN_LARGEST, round_to_fp8
from onnxmpq.rounding.layer import LayerToRound, parts, working_bytes
from onnxmpq.rounding.overflow import LARGEST_CODE, LARGEST_SUM, SMALLEST_SUM, overflowing_channels, overflowing_pairs
from onnxmpq.rounding.pairs import ALONE, PairBound
from onnxmpq.rounding.parallel import MOST_BYTES, rounded_layers
from onnxmpq.rounding.quantize import METHODS, quantize_weight
from onnxmpq.rounding.second_order import corrected_target, joined
from onnxmpq.rounding.types import DoubleArray, FloatArray, Grid, MultiplierArray, QuantizedWeight, WeightFormat

__all__ = [
    "ALONE",
    "E4M3FN_LARGEST",
    "LARGEST_CODE",
    "LARGEST_SUM",
    "METHODS",
    "MOST_BYTES",
    "SMALLEST_SUM",
    "AffineBlock",
    "DoubleArray",
    "Dual",
    "FloatArray",
    "Fp8",
    "Fp8Dual",
    "Grid",
    "LayerToRound",
    "MultiplierArray",
    "PairBound",
    "PerBlock",
    "PerChannel",
    "QuantizedWeight",
    "WeightFormat",
    "corrected_target",
    "cross_layer_factors",
    "joined",
    "overflowing_channels",
    "overflowing_pairs",
    "parts",
    "quantize_weight",
    "round_to_fp8",
    "rounded_layers",
    "smoothing_factors",
    "working_bytes",
]
