"""Kernels of onnxruntime that quantize what they read themselves, in each run: operators of its own domain.

Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from onnxmpq.model import LayerWeight, Region, Spelling
from onnxmpq.rounding import PerChannel, QuantizedWeight
from onnxmpq.schemes import Scheme

_DOMAIN = "com.microsoft"
_SCALES = (8, 10)
"""Slots of the scales of both weights of DynamicQuantizeLSTM; a zero point follows each."""


def offers(region: Region, scheme: Scheme) -> bool:
    """True where the scheme has a kernel for the region."""
    whole = region.layer is not None and len(region.layer.weights) == len(_SCALES)
    return whole and region.op_type in _SPELLED and type(scheme.weight) is PerChannel and scheme.weight.bits == 8


def spelled(region: Region, scheme: Scheme, weights: Sequence[QuantizedWeight]) -> Spelling:
    """The region's head node as the operator that computes with these weights."""
    return _SPELLED[region.op_type](region.params.weights, weights)


def _lstm(places: Sequence[LayerWeight], weights: Sequence[QuantizedWeight]) -> Spelling:
    """DynamicQuantizeLSTM, which takes int8 weights [directions, inputs, 4·H] and scales [directions, 4·H]."""
    constants = {}
    for slot, place, weight in zip(_SCALES, places, weights, strict=True):
        constants[place.slot] = np.ascontiguousarray(place.stored(weight.codes).astype(np.int8).swapaxes(1, 2))
        constants[slot] = weight.scales.reshape(place.shape[:2]).astype(np.float32)
        constants[slot + 1] = np.zeros(place.shape[:2], np.int8)
    return Spelling(constants, "DynamicQuantizeLSTM", _DOMAIN)


_SPELLED: Mapping[str, Callable[[Sequence[LayerWeight], Sequence[QuantizedWeight]], Spelling]] = {"LSTM": _lstm}
"""Layer operator -> its kernel."""
