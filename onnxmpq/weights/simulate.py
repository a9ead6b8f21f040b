"""The model of a plan as it will ship, with float32 initializers in the place of stored weights, so they can change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmpq.model import Model, Region, read_by, without_initializers
from onnxmpq.rounding import FloatArray, QuantizedWeight


def simulated(shipped: onnx.ModelProto, model: Model, weights: Mapping[str, QuantizedWeight]) -> onnx.ModelProto:
    """A copy of `shipped` whose layers in `weights` (by region) read plain float32 weights and biases.

    Stored weights, which are most of `shipped`, are not copied.
    """
    proto = without_initializers(shipped)
    nodes = {n.name: n for n in proto.graph.node}
    constants = {t.name: t for t in shipped.graph.initializer}
    for name, weight in weights.items():
        region = model.region(name)
        node = nodes[region.nodes[0]]
        node.input[0 if region.op_type == "Gather" else 1] = weight_name(name)
        values = stored_as(node, region, weight.dequantize())
        constants[weight_name(name)] = onnx.numpy_helper.from_array(values, weight_name(name))
        if weight.format.scale_type == "float16":  # the layer computes in float16, weights that change are float32
            narrow = f"{weight_name(name)}/float16"
            cast = onnx.helper.make_node("Cast", [weight_name(name)], [narrow], f"{narrow}/cast", to=_FLOAT16)
            node.input[1] = narrow
            proto.graph.node.insert(0, cast)
        bias = region.params.bias
        if bias is not None and len(node.input) > 2 and weight.format.scale_type != "float16":
            node.input[2] = bias
            constants.setdefault(bias, model.store[bias])
    needed = _drop_unused(proto.graph)
    proto.graph.initializer.extend(t for name, t in constants.items() if name in needed)
    return proto


_FLOAT16 = onnx.TensorProto.FLOAT16


def weight_name(region: str) -> str:
    """Initializer of a layer's simulated weight."""
    return f"{region}/simulated"


def stored_as(node: onnx.NodeProto, region: Region, matrix: FloatArray) -> FloatArray:
    """Matrix [O, K] as this node takes it; a dialect may have turned a Gemm into a MatMul."""
    values = matrix.T if node.op_type == "MatMul" else region.params.stored(matrix)
    return np.ascontiguousarray(values, dtype=np.float32)


def with_biases(model: Model, biases: Mapping[str, NDArray[np.generic]]) -> Model:
    """The model with other biases, by region; shapes as they were."""
    if not biases:
        return model
    changed: dict[str, NDArray[np.generic]] = {}
    for name, values in biases.items():
        bias = str(model.region(name).params.bias)
        changed[bias] = np.asarray(values, np.float32).reshape(tuple(model.store[bias].dims))
    return model.with_tensors(changed)


def correctable(model: Model, regions: Iterable[str]) -> list[str]:
    """Those of the regions that have a bias of their own."""
    readers: dict[str, int] = {}
    for node in model.structure.graph.node:
        for tensor in node.input:
            readers[tensor] = readers.get(tensor, 0) + 1
    biases = {name: model.region(name).params.bias for name in regions}
    return [name for name, bias in biases.items() if bias is not None and readers.get(bias) == 1]


def _drop_unused(graph: onnx.GraphProto) -> set[str]:
    """Remove nodes that no output needs. Returns the tensors that are needed."""
    needed = {o.name for o in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(read_by(node))
    del graph.node[:]
    graph.node.extend(kept[::-1])
    return needed
