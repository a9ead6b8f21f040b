"""The CPUs on which the int8 arithmetic of a written graph is exact, proved on the graph itself.

The proof does not trust the rounding: it is rule `overflow` of `onnxmpq check`, which reads files of any tool.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto

from onnxmpq.deployment import DeployCpu
from onnxmpq.lint import Graph, graphs, label, overflow
from onnxmpq.model import Model
from onnxmpq.runtimes import WEIGHT_ONLY, probes
from onnxmpq.schemes import ROUNDS_TO_INT8, Format, Scheme

RULE = "overflow"
"""Of `onnxmpq.lint`; what it finds in a converted graph is said here, in one line."""
_SHOWN = 3
_LOWEST = -128
_WHERE = {
    DeployCpu.ANY: "every supported CPU",
    DeployCpu.AVX2: "x86 CPUs with and without VNNI",
    DeployCpu.VNNI: "CPUs with VNNI",
    DeployCpu.ARM64: "64-bit Arm CPUs",
}


@dataclass(frozen=True)
class Exactness:
    """layers: how many compute in int8. weight_only: how many in kernels of blocked weights
    that round activations to int8, which the proof does not cover.

    saturating: nodes with weights that saturate kernels of x86 CPUs without VNNI for some input. lowest: nodes with
    weights of -128, which kernels of Arm CPUs without dot products may compute wrongly.
    """

    cpu: DeployCpu
    layers: int
    saturating: tuple[str, ...]
    lowest: tuple[str, ...]
    weight_only: int = 0

    @classmethod
    def of(cls, proto: onnx.ModelProto, model: Model, assignment: Mapping[str, Scheme], cpu: DeployCpu) -> Exactness:
        """Of a graph that `assignment` was written into. model: what it was written from."""
        parts = graphs(proto)
        found = [(r, s) for r in model.layers if (s := assignment.get(r.name)) is not None and s.weight is not None]
        chosen, multiplying = [s for _, s in found], [s for r, s in found if not r.operator.looks_up]
        return cls(
            cpu,
            sum(s.reads is Format.INT8 or s.dynamic for s in chosen),
            tuple(node for graph in parts for node, _ in overflow(graph)),
            tuple(node for graph in parts for node in _nodes_with_lowest(graph)),
            sum(s.accuracy_level == ROUNDS_TO_INT8 for s in multiplying),
        )

    @property
    def proven(self) -> bool:
        """True if no node can be wrong on the deployment CPU."""
        x86 = bool(self.saturating) and self.cpu.may_saturate
        return not x86 and not (self.lowest and self.cpu in (DeployCpu.ANY, DeployCpu.ARM64))

    @property
    def only_there(self) -> bool:
        """True if no node can be wrong on the deployment CPU, and some can on the machine at hand. False where the
        target is no CPU."""
        here = bool(self.saturating) and probes.saturates()
        return self.cpu is not DeployCpu.NONE and self.proven and here

    def in_words(self) -> str:
        """One line; empty where nothing computes in int8 or the target is no CPU."""
        if self.cpu is DeployCpu.NONE or not (self.layers or self.weight_only):
            return ""
        if not self.layers:
            return f"int8 arithmetic: {self._not_covered()}"
        everywhere = not self.saturating and not self.lowest
        where = _WHERE[DeployCpu.ANY if everywhere else self.cpu]
        if not self.proven:
            parts = [f"NOT proven exact on {where}", *self._elsewhere()]
        elif everywhere or self.cpu is DeployCpu.AVX2:
            parts = [f"exact on {where} (proven: {_layers(self.layers)})"]
        else:
            parts = [f"exact on {where}", *self._elsewhere()]
        if self.weight_only:
            parts.append(self._not_covered())
        return f"int8 arithmetic: {'; '.join(parts)}"

    def _not_covered(self) -> str:
        return (
            f"not covered: {_layers(self.weight_only)} in {' or '.join(WEIGHT_ONLY)} at accuracy level {ROUNDS_TO_INT8}"
        )

    def _elsewhere(self) -> Iterator[str]:
        """CPUs on which it may be wrong; with the nodes, if the user asked for exact results there."""
        without = "without it" if self.cpu is DeployCpu.VNNI else "without VNNI"
        for nodes, what in (
            (self.saturating, f"can saturate on x86 CPUs {without}"),
            (self.lowest, "can be wrong on Arm CPUs without dot products (weights of -128)"),
        ):
            if nodes:
                names = "" if self.proven else f": {_some(nodes)}"
                yield f"{len(nodes)} of {_layers(self.layers)} {what}{names}"


def _layers(count: int) -> str:
    return f"{count} layer{'s' if count != 1 else ''}"


def _some(names: Sequence[str]) -> str:
    more = len(names) - _SHOWN
    return ", ".join(names[:_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _nodes_with_lowest(graph: Graph) -> Iterator[str]:
    for node in graph.layers():
        weight = graph.dequantizer_of(node.input[1], frozenset({"Identity"}))
        if weight is None or weight.element != TensorProto.INT8 or weight.block_size:
            continue
        codes = graph.integers(weight.data)
        if codes is not None and codes.size and int(codes.min()) == _LOWEST:
            yield label(node)
