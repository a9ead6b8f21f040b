"""Rewrite: a plan becomes a graph, spelled as one runtime fuses it. One dialect per file; `DIALECTS` names them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx

from onnxmpq.dialects import onnxruntime, onnxruntime_cuda, portable, tensorrt
from onnxmpq.dialects.marks import marked
from onnxmpq.dialects.types import Rewrite
from onnxmpq.model import Model, Region, Spelling
from onnxmpq.rounding import QuantizedWeight
from onnxmpq.schemes import Scheme

Supports = Callable[[Region, Scheme, int], bool]
Forbids = Callable[[Region, Scheme], str]
Spelled = Callable[[Region, Scheme, Sequence[QuantizedWeight]], Spelling]


def _nothing(region: Region, scheme: Scheme) -> str:
    return ""


def _nowhere(model: Model) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True)
class Dialect:
    """rewrite: writes the graph. supports: (region, scheme, opset) -> True where the dialect can spell it.
    forbids: the property of a region for which the runtime refuses a scheme, in words. in_float32: regions of a model
    that may not hand on 16 bits, and why. spelled: the head node of a region in a scheme whose kernel takes the weights
    as they are stored, with these weights."""

    name: str
    rewrite: Callable[[Rewrite], onnx.ModelProto]
    supports: Supports
    forbids: Forbids = _nothing
    in_float32: Callable[[Model], Mapping[str, str]] = _nowhere
    spelled: Spelled = onnxruntime.spelled


DIALECTS: dict[str, Dialect] = {
    "onnxruntime": Dialect("onnxruntime", onnxruntime.rewrite, onnxruntime.supports),
    "tensorrt": Dialect("tensorrt", tensorrt.rewrite, tensorrt.supports, tensorrt.forbids, tensorrt.in_float32),
    "onnxruntime-cuda": Dialect("onnxruntime-cuda", onnxruntime_cuda.rewrite, onnxruntime_cuda.supports),
    "portable": Dialect("portable", portable.rewrite, portable.supports),
}

__all__ = ["DIALECTS", "Dialect", "Forbids", "Rewrite", "Supports", "marked"]
