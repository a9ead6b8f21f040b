"""The first node that computes NaN or infinity: for messages, on the way to an error."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmpq.execution import values_once
from onnxmpq.feeds import Array
from onnxmpq.model import array_of

NODES_AT_ONCE = 32  # whose outputs are held together


@dataclass(frozen=True)
class Finding:
    """The first node in graph order that makes a kind of value. weights: its constants that already hold it."""

    what: str
    node: str
    op_type: str
    weights: tuple[str, ...]

    def __str__(self) -> str:
        stored = f", whose weights {', '.join(map(repr, self.weights))} hold it" if self.weights else ""
        return f"{self.what} first appears at node {self.node!r} ({self.op_type}){stored}"


def explain_nonfinite(proto: onnx.ModelProto, inputs: Mapping[str, Array]) -> str:
    """The first node that makes NaN, and the first that makes infinity before it, in words; "" where none does.

    Runs the graph node for node as it is written, without the runtime's optimisations. Every node needs a name.
    """
    found: dict[str, Finding] = {}
    nodes = [n for n in proto.graph.node if any(n.output)]
    constants = {t.name: t for t in proto.graph.initializer}
    for start in range(0, len(nodes), NODES_AT_ONCE):
        part = nodes[start : start + NODES_AT_ONCE]
        tensors = [t for n in part for t in n.output if t]
        values = values_once(proto, inputs, tensors)
        for node in part:
            for what, made in _KINDS.items():
                if what not in found and any(made(values[t]) for t in node.output if t):
                    held = [t for t in node.input if t in constants and made(array_of(constants[t]))]
                    found[what] = Finding(what, node.name, node.op_type, tuple(held))
            if "NaN" in found:
                break
        if "NaN" in found:
            break
    return "; ".join(str(found[what]) for what in _KINDS if what in found)


def none_finite(values: Sequence[object]) -> bool:
    """True where all outputs of a run are float arrays, and none of those that have elements has a finite one."""
    floats = [v for v in values if _is_float(v)]
    filled = [v for v in floats if v.size]
    return len(floats) == len(values) and bool(filled) and not any(np.isfinite(v).any() for v in filled)


def _has_nan(value: object) -> bool:
    return _is_float(value) and bool(np.isnan(value).any())


def _has_infinity(value: object) -> bool:
    return _is_float(value) and bool(np.isinf(value).any())


def _is_float(value: object) -> TypeGuard[NDArray[np.floating[Any]]]:
    """Sequences and maps, which nodes of other domains make, are not looked into."""
    return isinstance(value, np.ndarray) and np.issubdtype(value.dtype, np.floating)


_KINDS = {"NaN": _has_nan, "infinity": _has_infinity}
