"""Raising a model's opset: onnx's converter, and the operators that it gets wrong or does not know.

Those are set aside under a domain of their own while the converter works, and written anew at the opset that it made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.version_converter
from numpy.typing import NDArray
from onnx import helper

from onnxmpq.model.shell import inferable, shell
from onnxmpq.model.tidy import captured, subgraphs

PER_CHANNEL_OPSET = 13  # first with DequantizeLinear(axis)
TARGET_OPSET = 21  # first with int4 tensors and blocked DequantizeLinear
_IR_VERSIONS = ((23, 11), (21, 10), (19, 9), (0, 8))  # opset, the IR version that came with it
_ASIDE = "onnxmpq.set_aside"


def opset_of(proto: onnx.ModelProto) -> int:
    """Version of the default ONNX domain; 0 where the model imports none."""
    return next((o.version for o in proto.opset_import if o.domain in ("", "ai.onnx")), 0)


def converted(proto: onnx.ModelProto, wanted: int) -> onnx.ModelProto:
    """The model at this opset; large constants are not looked at. Raises what onnx's converter and checker raise, and
    ValueError for operators that have no successor."""
    version, small = opset_of(proto), inferable(proto)
    asides = {rule.op_type: rule for rule in _RULES if version in rule.of and wanted >= rule.until}
    for graph in subgraphs(small.graph):
        for node in graph.node:
            if node.op_type in asides and node.domain in ("", "ai.onnx"):
                node.domain = _ASIDE
    if asides:
        small.opset_import.append(helper.make_opsetid(_ASIDE, 1))
    made = _raised(small, wanted)
    constants = _values(small.graph)
    for graph in subgraphs(made.graph):
        _write_anew(graph, asides, version, constants)
    kept = [o for o in made.opset_import if o.domain != _ASIDE]
    del made.opset_import[:]
    made.opset_import.extend(kept)
    _put_back(proto, small, made)
    made.ir_version = max(proto.ir_version, next(ir for least, ir in _IR_VERSIONS if wanted >= least))
    onnx.checker.check_model(shell(made))
    return made


def _raised(proto: onnx.ModelProto, wanted: int) -> onnx.ModelProto:
    """By onnx's converter. It cannot replace a node whose result a body reads; before 13 Softmax is such a node."""
    try:
        return onnx.version_converter.convert_version(proto, wanted)
    except Exception:
        apart = _apart_from_bodies(proto)
        if apart is None:
            raise
        return onnx.version_converter.convert_version(apart, wanted)


def _apart_from_bodies(proto: onnx.ModelProto) -> onnx.ModelProto | None:
    """A copy in which bodies read computed values through an Identity; None where they read none."""
    copy, found = onnx.ModelProto(), False
    copy.CopyFrom(proto)
    for graph in subgraphs(copy.graph):
        read = {tensor for node in graph.node for tensor in captured(node)}
        nodes: list[onnx.NodeProto] = []
        for node in graph.node:
            nodes.append(node)
            for slot, result in enumerate(node.output):
                if result in read:
                    found, node.output[slot] = True, f"{result}/for_bodies"
                    nodes.append(helper.make_node("Identity", [node.output[slot]], [result], f"{result}/for_bodies"))
        del graph.node[:]
        graph.node.extend(nodes)
    return copy if found else None


def _put_back(proto: onnx.ModelProto, small: onnx.ModelProto, made: onnx.ModelProto) -> None:
    """The constants that the converter did not see, and the model's own inputs and outputs."""
    seen = {t.name for t in small.graph.initializer}
    own = {i.name for i in proto.graph.input}
    if proto.ir_version < 4:  # constants had to be inputs too; later that means that a caller may give other values
        own -= {t.name for t in proto.graph.initializer}
    inputs = [i for i in made.graph.input if i.name in own]
    del made.graph.input[:]
    made.graph.input.extend(inputs)
    del made.graph.output[:]
    made.graph.output.extend(proto.graph.output)
    made.graph.initializer.extend(t for t in proto.graph.initializer if t.name not in seen)


# ---- operators that are written anew -----------------------------------------------------------


@dataclass(frozen=True)
class _Use:
    """A node that was set aside, the opset that it came from, and the values of small constants by name."""

    node: onnx.NodeProto
    version: int
    constants: Mapping[str, NDArray[np.generic]]

    def attribute(self, name: str, default: object) -> object:
        found = next((a for a in self.node.attribute if a.name == name), None)
        return default if found is None else helper.get_attribute_value(found)

    def text(self, name: str, default: str) -> str:
        value = self.attribute(name, default)
        return value.decode() if isinstance(value, bytes) else str(value)

    def new(self, suffix: str) -> str:
        return f"{self.node.output[0]}/{suffix}"

    def constant(self, suffix: str, values: Sequence[float] | Sequence[int], dtype: type) -> onnx.NodeProto:
        tensor = onnx.numpy_helper.from_array(np.array(values, dtype))
        return helper.make_node("Constant", [], [self.new(suffix)], self.new(suffix), value=tensor)


Rewriter = Callable[[_Use], list[onnx.NodeProto]]


@dataclass(frozen=True)
class _Rule:
    """An operator whose meaning in the opsets `of` is written anew for opset `until` and later."""

    op_type: str
    of: range
    until: int
    write: Rewriter


def _values(graph: onnx.GraphProto) -> dict[str, NDArray[np.generic]]:
    """Values of constants, by initializer or Constant node, all bodies included."""
    found: dict[str, NDArray[np.generic]] = {}
    for inner in subgraphs(graph):
        found |= {t.name: onnx.numpy_helper.to_array(t) for t in inner.initializer}
        for node in inner.node:
            given = [a.t for a in node.attribute if a.name == "value"] if node.op_type == "Constant" else []
            found.update((node.output[0], onnx.numpy_helper.to_array(t)) for t in given)
    return found


def _write_anew(
    graph: onnx.GraphProto, asides: dict[str, _Rule], version: int, constants: Mapping[str, NDArray[np.generic]]
) -> None:
    if not any(n.domain == _ASIDE for n in graph.node):
        return
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        nodes += asides[node.op_type].write(_Use(node, version, constants)) if node.domain == _ASIDE else [node]
    del graph.node[:]
    graph.node.extend(nodes)


def _upsample(use: _Use) -> list[onnx.NodeProto]:
    """Upsample 7 and 9: onnxruntime reads the pixel left of x / scale, and interpolates without half a pixel of shift.

    Source: onnx/defs/tensor/old.cc (Upsample-7, -9), and `UpsampleBase` in onnxruntime/core/providers/cpu/tensor of
    https://github.com/microsoft/onnxruntime.
    """
    before: list[onnx.NodeProto] = []
    scales = use.attribute("scales", None)
    if isinstance(scales, list):
        before = [use.constant("scales", scales, np.float32)]
    source = before[0].output[0] if before else use.node.input[1]
    mode = "nearest" if use.text("mode", "nearest") == "nearest" else "linear"
    return [*before, _resize(use, source, mode, "floor")]


def _resize_10(use: _Use) -> list[onnx.NodeProto]:
    """Resize 10. onnxruntime reads the nearest pixel to the left where an axis grows, to the right where it shrinks.

    Scales that are computed are taken to grow; whether they did shows when the outputs are compared.
    Source: `GetNearestPixelFromOriginal` (SIMPLE) in onnxruntime/core/providers/cpu/tensor/upsample.cc.
    """
    mode = "nearest" if use.text("mode", "nearest") == "nearest" else "linear"
    scales = np.asarray(use.constants.get(use.node.input[1], np.ones(1)), np.float64)
    if mode == "linear" or (scales >= 1).all() or (scales <= 1).all():
        return [_resize(use, use.node.input[1], mode, "floor" if (scales >= 1).all() else "ceil")]
    raise ValueError("Resize of opset 10 to a nearest pixel grows one axis and shrinks another")


def _resize(use: _Use, scales: str, mode: str, nearest: str) -> onnx.NodeProto:
    attributes = {"mode": mode, "coordinate_transformation_mode": "asymmetric"}
    if mode == "nearest":
        attributes["nearest_mode"] = nearest
    return helper.make_node(
        "Resize", [use.node.input[0], "", scales], list(use.node.output), use.node.name, **attributes
    )


def _hardmax(use: _Use) -> list[onnx.NodeProto]:
    """Hardmax before 13 sees a matrix: all axes from `axis` on are one."""
    axis, [result] = int(use.attribute("axis", 1)), use.node.output  # type: ignore[call-overload]
    shape, flat, hard = use.new("shape"), use.new("flat"), use.new("hard")
    return [
        helper.make_node("Shape", [use.node.input[0]], [shape], shape),
        helper.make_node("Flatten", [use.node.input[0]], [flat], flat, axis=axis),
        helper.make_node("Hardmax", [flat], [hard], use.node.name, axis=1),
        helper.make_node("Reshape", [hard, shape], [result], use.new("reshape")),
    ]


def _group_normalization(use: _Use) -> list[onnx.NodeProto]:
    """GroupNormalization 18 has a scale and a bias for each group, from 21 on for each channel.

    Normalised there with ones and zeros of each channel, then scaled group by group.
    """
    node, groups = use.node, int(use.attribute("num_groups", 1))  # type: ignore[call-overload]
    [result], new = node.output, use.new
    epsilon = float(use.attribute("epsilon", 1e-5))  # type: ignore[arg-type]
    grouped = use.constant("grouped", [0, groups, -1], np.int64)
    column = use.constant("column", [groups, 1], np.int64)
    return [
        grouped,
        column,
        helper.make_node("Shape", [node.input[0]], [new("shape")], new("shape")),
        helper.make_node("Shape", [node.input[0]], [new("channels")], new("channels"), start=1, end=2),
        helper.make_node("ConstantOfShape", [new("channels")], [new("ones")], new("ones"), value=_one(1.0)),
        helper.make_node("ConstantOfShape", [new("channels")], [new("zeros")], new("zeros"), value=_one(0.0)),
        helper.make_node(
            "GroupNormalization",
            [node.input[0], new("ones"), new("zeros")],
            [new("normal")],
            node.name,
            num_groups=groups,
            epsilon=epsilon,
        ),
        helper.make_node("Reshape", [new("normal"), grouped.output[0]], [new("rows")], new("rows")),
        helper.make_node("Reshape", [node.input[1], column.output[0]], [new("scale")], new("scale")),
        helper.make_node("Reshape", [node.input[2], column.output[0]], [new("bias")], new("bias")),
        helper.make_node("Mul", [new("rows"), new("scale")], [new("scaled")], new("scaled")),
        helper.make_node("Add", [new("scaled"), new("bias")], [new("shifted")], new("shifted")),
        helper.make_node("Reshape", [new("shifted"), new("shape")], [result], new("reshape")),
    ]


def _one(value: float) -> onnx.TensorProto:
    return onnx.numpy_helper.from_array(np.array([value], np.float32))


def _scan(use: _Use) -> list[onnx.NodeProto]:
    raise ValueError(f"Scan of opset {use.version} runs over a batch, which no later one does")


_RULES = (
    _Rule("Upsample", range(7, 10), 10, _upsample),
    _Rule("Resize", range(10, 11), 11, _resize_10),
    _Rule("Hardmax", range(1, 13), 13, _hardmax),
    _Rule("GroupNormalization", range(18, 21), 21, _group_normalization),
    _Rule("Scan", range(8, 9), 9, _scan),
)
