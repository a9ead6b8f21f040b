"""Work of a region, from the shapes of its tensors, and of bodies of If, Loop and Scan."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import onnx

from onnxmpq.model.operators import OPERATORS
from onnxmpq.model.tidy import bodies
from onnxmpq.model.types import Model, Region

MOST_ITERATIONS = 10_000  # a bound above it says that something else ends the Loop


def multiply_accumulates(region: Region, shape_of: Callable[[str], Sequence[int]]) -> int:
    """Of one run at these shapes."""
    if region.layer is not None:
        given, made = (shape_of(tensors[0]) if tensors else () for tensors in (region.inputs, region.outputs))
        return region.operator.macs(region.layer, given, made)
    if region.op_type == "MatMul":
        return math.prod(shape_of(region.outputs[0])) * int(shape_of(region.inputs[0])[-1])
    if region.op_type == "Attention" and len(region.outputs) > 1:  # with a cache: [batch, heads, tokens, size]
        ends = math.prod(shape_of(region.inputs[0])) + math.prod(shape_of(region.outputs[0]))
        return ends * int(shape_of(region.outputs[1])[2])
    return 0


def work_in_bodies(model: Model, shapes: Mapping[str, Sequence[int]]) -> tuple[int, int]:
    """(multiply-accumulates, nodes) of all bodies in one run, as far as they are known.

    shapes: of tensors of the graph. Inside of bodies they are not known: each iteration counts each weight once. The
    iterations of a Loop are those of the results that it stacks, else its constant bound.
    """
    weights = {t: region.params.parameters for region in model.layers for t in region.outputs}
    constants = {t.name: t for t in model.structure.graph.initializer}
    found = [_inside(node, weights, shapes, constants) for node in model.structure.graph.node]
    return sum(macs for macs, _ in found), sum(nodes for _, nodes in found)


def _inside(
    node: onnx.NodeProto,
    weights: Mapping[str, int],
    shapes: Mapping[str, Sequence[int]],
    constants: Mapping[str, onnx.TensorProto],
) -> tuple[int, int]:
    work = [(0, 0)]
    for body in bodies(node):
        macs, nodes = 0, len(body.node)
        for inner in body.node:
            if inner.op_type in OPERATORS and not OPERATORS[inner.op_type].looks_up:
                macs += sum(weights.get(t, 0) for t in inner.input)
            further = _inside(inner, weights, shapes, constants)
            macs, nodes = macs + further[0], nodes + further[1]
        work.append((macs, nodes))
    macs, nodes = max(work)  # of an If the branch with more
    times = _iterations(node, shapes, constants)
    return times * macs, times * nodes


def _iterations(
    node: onnx.NodeProto, shapes: Mapping[str, Sequence[int]], constants: Mapping[str, onnx.TensorProto]
) -> int:
    """1 where they are not known."""
    attributes = {a.name: a for a in node.attribute}
    if node.op_type == "Scan":
        first = node.input[len(node.input) - attributes["num_scan_inputs"].i]
        axes = attributes["scan_input_axes"].ints if "scan_input_axes" in attributes else [0]
        return int(shapes[first][axes[0]]) if first in shapes else 1
    if node.op_type == "Loop":
        stacked = next((t for t in node.output[len(node.input) - 2 :] if t in shapes), None)
        if stacked is not None:
            return int(shapes[stacked][0])
        bound = onnx.numpy_helper.to_array(constants[node.input[0]]) if node.input[0] in constants else None
        return int(bound) if bound is not None and bound.size == 1 and 0 <= bound <= MOST_ITERATIONS else 1
    return 1
