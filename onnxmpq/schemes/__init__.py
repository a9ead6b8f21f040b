"""Schemes: the number formats that a region can get, and the element types that they are written in."""

from onnxmpq.schemes.elements import DTYPES, ELEMENTS, ActivationType, HalfType, rounded
from onnxmpq.schemes.scheme import (
    BLOCK_SIZES,
    FP32,
    INT8_WEIGHTS,
    MARK,
    ROUNDS_TO_INT8,
    SCHEMES,
    Format,
    Scheme,
    hands_on_float,
    in_fitting_blocks,
    scheme_named,
    writes,
)

__all__ = [
    "BLOCK_SIZES",
    "DTYPES",
    "ELEMENTS",
    "FP32",
    "INT8_WEIGHTS",
    "MARK",
    "ROUNDS_TO_INT8",
    "SCHEMES",
    "ActivationType",
    "Format",
    "HalfType",
    "Scheme",
    "hands_on_float",
    "in_fitting_blocks",
    "rounded",
    "scheme_named",
    "writes",
]
