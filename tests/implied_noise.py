"""The error of a converted model that its scales imply: another rounding to steps of the same size.

Rounding to steps of size s adds an error that is nearly uniform in ±s/2 and independent of the value (Widrow and
Kollár, Quantization Noise, 2008), wherever the grid begins. A twin of the converted graph computes in floats, with each
activation clipped to its range and rounded on a shifted grid; weights are as stored. What it is apart from a twin
without either is what the activations' scales imply; the twin without is apart from the original by what the weights'
rounding does. A kernel, a zero point or a scale that is wrong makes a larger error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import helper, numpy_helper

from onnxmpq.runtimes import SessionSettings, open_session, run
from tests.graphs import Array

SHIFT = 0.37  # of a step
ROUNDED_INSIDE = frozenset({"DynamicQuantizeLinear", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM", "MatMulNBits"})
"""Operators that round what they read by scales that no constant holds."""


def implied_sqnr_db(proto: onnx.ModelProto, result: onnx.ModelProto, samples: Sequence[Mapping[str, Array]]) -> float:
    """SQNR of the worst float output over all samples that is to be expected of a result; -inf where a scale is not in
    the file."""
    if any(node.op_type in ROUNDED_INSIDE for node in result.graph.node):
        return -math.inf
    sessions = [open_session(m, SessionSettings(optimize=False)) for m in (proto, twin(result), twin(result, SHIFT))]
    power: dict[str, list[float]] = {}
    for sample in samples:
        runs = [run(session, dict(sample)) for session in sessions]
        for info, before, exact, noisy in zip(proto.graph.output, *runs, strict=True):
            if not isinstance(before, np.ndarray) or before.dtype.kind != "f":
                continue
            finite = np.isfinite(before)
            total = power.setdefault(info.name, [0.0, 0.0])
            total[0] += _energy(before[finite])
            total[1] += _energy(before[finite] - exact[finite]) + _energy(noisy[finite] - exact[finite])
    return min((_db(*total) for total in power.values()), default=math.inf)


def twin(result: onnx.ModelProto, shift: float | None = None) -> onnx.ModelProto:
    """The graph with activations as they are; with `shift`, clipped and rounded on a grid shifted by so many steps."""
    copy = onnx.ModelProto()
    copy.CopyFrom(result)
    constants = {t.name: numpy_helper.to_array(t) for t in copy.graph.initializer}
    floats: dict[str, str] = {}  # quantized activation -> the same in floats
    nodes: list[onnx.NodeProto] = []
    for node in copy.graph.node:
        scales = len(node.input) > 1 and node.input[1] in constants
        if node.op_type == "QuantizeLinear" and node.input[0] not in constants and scales:
            floats[node.output[0]] = node.input[0] if shift is None else f"{node.output[0]}/twin"
            nodes += [] if shift is None else _rounded(node, constants, shift)
        elif node.op_type == "DequantizeLinear" and node.input[0] in floats:
            nodes.append(helper.make_node("Identity", [floats[node.input[0]]], node.output))
        else:
            nodes.append(node)
    # other readers of codes, such as a Reshape between both, read floats
    for node in nodes:
        node.input[:] = [floats.get(t, t) for t in node.input]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def _rounded(node: onnx.NodeProto, constants: Mapping[str, Array], shift: float) -> list[onnx.NodeProto]:
    scale = np.asarray(constants[node.input[1]])
    zero = np.asarray(constants[node.input[2]]) if len(node.input) > 2 else np.zeros((), np.uint8)
    bits = np.iinfo(zero.dtype)
    low, high = ((end - zero.astype(np.float64)) * scale for end in (bits.min, bits.max))
    name, source = f"{node.output[0]}/twin", node.input[0]
    values = {"low": low, "high": high, "scale": scale, "half": 0.5 + shift, "shift": shift}

    def step(op: str, inputs: Sequence[str], result: str, **more: object) -> onnx.NodeProto:
        return helper.make_node(op, [t if t == source else f"{name}/{t}" for t in inputs], [f"{name}/{result}"], **more)

    nodes = [
        step("Constant", [], k, value=numpy_helper.from_array(np.asarray(v, scale.dtype))) for k, v in values.items()
    ]
    nodes += [
        step("Max", [source, "low"], "above"),
        step("Min", ["above", "high"], "within"),
        step("Div", ["within", "scale"], "codes"),
        step("Add", ["codes", "half"], "raised"),
        step("Floor", ["raised"], "rounded"),
        step("Sub", ["rounded", "shift"], "back"),
        step("Mul", ["back", "scale"], "values"),
        step("Cast", [source], "not_zero", to=onnx.TensorProto.BOOL),  # 0 is a code of every range
        step("Cast", ["not_zero"], "mask", to=helper.np_dtype_to_tensor_dtype(scale.dtype)),
    ]
    return [*nodes, helper.make_node("Mul", [f"{name}/values", f"{name}/mask"], [name])]


def _energy(values: Array) -> float:
    return float(np.square(values, dtype=np.float64).sum())


def _db(signal: float, noise: float) -> float:
    if noise == 0.0:
        return math.inf
    return -math.inf if signal == 0.0 or not math.isfinite(noise) else 10.0 * math.log10(signal / noise)
