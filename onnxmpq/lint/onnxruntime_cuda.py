"""Rules of onnxruntime's CUDA provider, as measured (docs/gpu.md)."""

from __future__ import annotations

from collections.abc import Iterator

from onnxmpq.lint.graph import Graph, type_name
from onnxmpq.lint.types import Hit


def executed_pairs(graph: Graph) -> Iterator[Hit]:
    """Activations are not quantized: the provider runs QuantizeLinear and DequantizeLinear as kernels of their own, and
    what is behind them in float.

    Source: gpu.md#onnxruntimes-cuda-provider
    """
    for q in graph.quantizers:
        if q.quantizes and not graph.is_constant(q.data):
            yield q.name, f"a kernel of its own writes {type_name(q.element)}, and what reads it computes in float"
