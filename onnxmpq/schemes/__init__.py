"""Schemes: the number formats that a region can get, and the element types that they are written in."""

from onnxmpq.schemes.elements import DTYPES, ELEMENTS, ActivationType, HalfType, rounded
from onnxmpq.schemes.scheme import (
    FP32,
    INT8_WEIGHTS,
    MARK,
    SCHEMES,
    Format,
    Scheme,
    hands_on_float,
    scheme_named,
    writes,
)

__all__ = [
    "DTYPES",
    "ELEMENTS",
    "FP32",
    "INT8_WEIGHTS",
    "MARK",
    "SCHEMES",
    "ActivationType",
    "Format",
    "HalfType",
    "Scheme",
    "hands_on_float",
    "rounded",
    "scheme_named",
    "writes",
]
