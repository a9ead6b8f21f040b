"""The order in which onnxruntime's integer kernels walk a layer's weight.

Conv runs as a matrix product whose rows are windows in NHWC: position in the window first, input channel of the group
last; a graph in NCHW is transposed before. MatMul and Gemm walk the dimension they sum over. A depthwise Conv has
kernels of its own, one window position at a time, and sums no neighbours.

Source: `ReorderFilter` in onnxruntime/core/providers/cpu/quantization/qlinearconv.cc and `MlasConvSymPackW` in
onnxruntime/core/mlas/lib/convsym.cpp of https://github.com/microsoft/onnxruntime.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from onnxmpq.model import LayerWeight


def kernel_columns(op_type: str, weight: LayerWeight) -> NDArray[np.intp]:
    """Columns of the matrix view [O, K] (`LayerWeight.matrix`) in the kernel's order: intp [K].

    `matrix[:, kernel_columns(...)]` has neighbours of the kernel side by side.
    """
    order = np.arange(weight.fan_in)
    return order.reshape(weight.shape[1], -1).T.ravel() if op_type == "Conv" else order


def kernel_rows(op_type: str, weight: NDArray[np.generic], *, trans_b: bool = False) -> NDArray[np.generic] | None:
    """A stored weight as [O, K], a row per output channel and K in the kernel's order.

    weight: of a Conv [O, channels of a group, *window], a Gemm [K, N] or with `trans_b` [N, K], a MatMul [K] or
    [..., K, N], where every matrix of a stack has its own output channels. None for another shape or operator.
    """
    if op_type == "Conv":
        if weight.ndim < 3:
            return None
        return np.moveaxis(weight, 1, -1).reshape(len(weight), -1) if weight.size else None
    if op_type not in ("MatMul", "Gemm") or weight.ndim < 1 or weight.size == 0:
        return None
    if weight.ndim == 1:
        return weight.reshape(1, -1) if op_type == "MatMul" else None
    turned = weight if trans_b else np.swapaxes(weight, -1, -2)
    return turned.reshape(-1, turned.shape[-1])


def sums_neighbours(op_type: str, weight_shape: Sequence[int], groups: int = 1) -> bool:
    """True if the kernels add products of neighbours along K: all do but those of a depthwise Conv, which has one input
    and one output channel in each group."""
    return op_type != "Conv" or tuple(weight_shape[:2]) != (groups, 1)
