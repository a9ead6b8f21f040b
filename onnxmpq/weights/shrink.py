"""The share of a correction for quantized inputs that holds on samples it was not computed from.

With few samples C = E[x_q x_fpᵀ] holds noise, and the target W* = W + D that follows from it (docs/rounding.md) fits
that noise. On other samples the best multiple of D is known in closed form: α minimises E‖W x_fp - (W + αD) x_q‖².
"""

from __future__ import annotations

import numpy as np

from onnxmpq.rounding import DoubleArray, FloatArray, corrected_target
from onnxmpq.statistics import Moments


def wanted_by(moments: Moments, w: FloatArray) -> FloatArray:
    """float32 [O, K]: W* by these moments, for a weight [O, K]."""
    assert moments.cross is not None
    return corrected_target(w, moments.hessian, moments.cross)


def trust(w: FloatArray, wanted: FloatArray, checked: Moments) -> DoubleArray:
    """float64 [G]: α in 0..1 for each group of a weight [O, K]; D = wanted - w, judged on `checked`."""
    assert checked.cross is not None
    groups = (len(checked.hessian), -1, w.shape[1])
    weight = w.reshape(groups)
    change = wanted.reshape(groups) - weight
    residual = weight @ (checked.cross.transpose(0, 2, 1) - checked.hessian)
    gain = np.einsum("gok,gok->g", residual, change, dtype=np.float64)
    power = np.einsum("gok,gok->g", change @ checked.hessian, change, dtype=np.float64)
    share: DoubleArray = np.clip(gain / np.where(power > 0, power, 1), 0, 1)
    return share


def shrunk(moments: Moments, share: DoubleArray) -> FloatArray:
    """float32 [G, K, K]: cross products that make the correction `share` [G] times as large."""
    assert moments.cross is not None
    believed = share[:, None, None].astype(np.float32)
    return believed * moments.cross + (1 - believed) * moments.hessian
