"""Element types of tensors: those of quantized activations, and the 16-bit floating-point types."""

from __future__ import annotations

from typing import Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto

ActivationType = Literal["uint8", "int8", "float8e4m3fn"]
HalfType = Literal["float16", "bfloat16"]
ELEMENTS: dict[HalfType, int] = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16}
DTYPES: dict[HalfType, np.dtype[np.generic]] = {h: onnx.helper.tensor_dtype_to_np_dtype(e) for h, e in ELEMENTS.items()}
"""That of bfloat16 is from ml_dtypes, which onnx brings along."""


def rounded(values: NDArray[np.float32], half: HalfType) -> NDArray[np.float32]:
    """As a Cast there and back does."""
    return values.astype(DTYPES[half]).astype(np.float32)
