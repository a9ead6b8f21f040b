"""The model of a plan as it will ship, with float32 initializers in the place of stored weights, so they can change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmpq.model import LayerWeight, Model, Region, read_by, without_initializers
from onnxmpq.rounding import FloatArray, QuantizedWeight


def simulated(shipped: onnx.ModelProto, model: Model, weights: Mapping[str, QuantizedWeight]) -> onnx.ModelProto:
    """A copy of `shipped` whose layers read plain float32 values for `weights` (by key), and float32 biases.

    Stored weights, which are most of `shipped`, are not copied.
    """
    proto = without_initializers(shipped)
    nodes = {n.name: n for n in proto.graph.node}
    constants = {t.name: t for t in shipped.graph.initializer}
    places, originals = model.weights, {n.name: n for n in model.structure.graph.node}
    for key, weight in weights.items():
        region, place = places[key]
        if region.nodes[0] not in nodes:  # it handed a weight to a body, which has it now as it is stored
            continue
        node, name = nodes[region.nodes[0]], weight_name(key)
        if node.domain != originals[node.name].domain:  # a kernel of the runtime that takes no float weights
            _plain_again(node, originals[node.name], region, in_half=weight.format.scale_type == "float16")
        values = stored_as(node, region, place, weight.dequantize())
        tensor = onnx.numpy_helper.from_array(values, name)
        constants[name] = tensor if model.store.spill is None else model.store.spill.put(tensor)
        given = {place.slot: name}
        bias, bias_slot = region.params.bias, region.params.bias_slot
        if bias is not None and bias_slot is not None and bias_slot < len(node.input):
            given[bias_slot] = bias
            constants.setdefault(bias, model.store[bias])
        for slot, constant in given.items():
            node.input[slot] = constant
            if weight.format.scale_type == "float16":  # the layer computes in float16, what changes is float32
                node.input[slot] = narrow = f"{name}/{slot}/float16"
                cast = onnx.helper.make_node("Cast", [constant], [narrow], f"{narrow}/cast", to=_FLOAT16)
                proto.graph.node.insert(0, cast)
    needed = _drop_unused(proto.graph)
    proto.graph.initializer.extend(t for name, t in constants.items() if name in needed)
    return proto


_FLOAT16 = onnx.TensorProto.FLOAT16


def _plain_again(node: onnx.NodeProto, original: onnx.NodeProto, region: Region, *, in_half: bool) -> None:
    """Makes the original's operator of a kernel that takes weights as they are stored (MatMulNBits and others).

    in_half: it computes in float16, so that what it reads and writes are the dialect's tensors: the data first, the
    bias last.
    """
    data, bias = node.input[0], node.input[-1]
    results = list(node.output)
    node.CopyFrom(original)
    if not in_half:
        return
    node.input[0] = data
    if region.params.bias_slot is not None and region.params.bias is not None:
        node.input[region.params.bias_slot] = bias
    node.output[:] = results


def weight_name(key: str) -> str:
    """Initializer of a simulated weight."""
    return f"{key}/simulated"


def stored_as(node: onnx.NodeProto, region: Region, place: LayerWeight, matrix: FloatArray) -> FloatArray:
    """Matrix [O, K] as this node takes it; a dialect may have turned a Gemm into a MatMul, which takes [K, O]."""
    values = place.stored(matrix) if node.op_type == region.op_type else matrix.T
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
