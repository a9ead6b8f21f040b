"""Graphs with everything a dialect needs, and an independent simulation of what their quantization must compute."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from onnxmpq.dialects import DIALECTS, Rewrite
from onnxmpq.feeds.types import Feeds
from onnxmpq.model import Model, Region
from onnxmpq.ranges import ESTIMATORS, QuantParams, observe, params_key
from onnxmpq.rounding import PerBlock, PerChannel, QuantizedWeight, quantize_weight
from onnxmpq.schemes import ROUNDS_TO_INT8, SCHEMES, Format, Scheme, scheme_named, writes
from tests.graphs import conv_relu, feeds_for, graph, outputs_of, prepared, residual_cnn, token_model

ORT = DIALECTS["onnxruntime"]
Float = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """A graph by name, prepared once."""

    id: str
    proto: onnx.ModelProto = field(repr=False)

    @cached_property
    def model(self) -> Model:
        return prepared(self.proto)

    @cached_property
    def feeds(self) -> Feeds:
        return feeds_for(self.proto, 8)

    @cached_property
    def activations(self) -> dict[str, QuantParams]:
        tensors = dict.fromkeys(t for r in self.model.regions for t in (*r.inputs, *r.outputs))
        found = observe(self.model, self.feeds, list(tensors)).histograms
        eight = {t: ESTIMATORS["minmax"](h) for t, h in found.items()}
        return eight | {params_key(t, b): ESTIMATORS["mse"](h, b) for t, h in found.items() for b in range(2, 8)}

    def weights(self, assignment: Mapping[str, Scheme], halved: bool = False) -> dict[tuple[str, str], QuantizedWeight]:
        """halved: those of int8 arithmetic use half of their codes (`half_of_its_codes`)."""
        change = half_of_its_codes if halved else lambda weight: weight
        return {
            (key, s.weight.name): change(quantize_weight(self.model.matrix(place), s.weight))
            for key, (region, place) in self.model.weights.items()
            if (s := assignment.get(region.name)) is not None and s.weight is not None
        }

    def rewrite(self, assignment: Mapping[str, Scheme], *, halved: bool = False) -> onnx.ModelProto:
        weights = self.weights(assignment, halved)
        return ORT.rewrite(Rewrite(self.model, assignment, self.activations, weights, self.model.roots))

    def everywhere(self, name: str) -> dict[str, Scheme]:
        """A scheme for every layer that takes it; int8 for the regions without weights too."""
        scheme, int8 = scheme_named(name), SCHEMES["int8"]
        wanted = {r.name: scheme if r.layer else int8 for r in self.model.regions if r.layer or name == "int8"}
        return {r: s for r, s in wanted.items() if ORT.supports(self.model.region(r), s, self.model.opset)}


def conv(attributes: str, weight: str, inputs: str = "float[N, 16, 6, 6] x") -> onnx.ModelProto:
    return graph(
        f"c = Conv <{attributes}> (x, w, b)  y = Relu (c)", inputs, "float[N, C, H, W] y", f"{weight} w, float[16] b"
    )


def recurrent(made: str, gates: int, outputs: str) -> onnx.ModelProto:
    """An operator of 16 states in one direction, in which every sample is a step of one sequence."""
    weights = f"float[1, {gates}, 24] w, float[1, {gates}, 16] r, float[1, {2 * gates}] b"
    return graph(f"{made} <hidden_size = 16> (x, w, r, b)", "float[N, 1, 24] x", outputs, weights)


LAYERS = {
    case.id: case
    for case in (
        Case("conv", conv_relu()),
        Case("depthwise", conv("kernel_shape = [3, 3], group = 16", "float[16, 1, 3, 3]")),
        Case("pointwise", conv("kernel_shape = [1, 1]", "float[16, 128, 1, 1]", "float[N, 128, 4, 4] x")),
        Case(
            "conv_transpose",
            graph(
                "y = ConvTranspose <kernel_shape = [2, 2], strides = [2, 2]> (x, w, b)",
                "float[N, 16, 4, 4] x",
                "float[N, C, H, W] y",
                "float[16, 8, 2, 2] w, float[8] b",
            ),
        ),
        Case(
            "matmul",
            graph(
                "m = MatMul (x, w)  y = Add (m, b)",
                "float[N, 3, 128] x",
                "float[N, 3, 24] y",
                "float[128, 24] w, float[24] b",
            ),
        ),
        Case(
            "gemm",
            graph(
                "y = Gemm <transB = 1> (x, w, b)",
                "float[N, 128] x",
                "float[N, 24] y",
                "float[24, 128] w, float[24] b",
            ),
        ),
        Case("gemm_plain", graph("y = Gemm (x, w)", "float[N, 128] x", "float[N, 24] y", "float[128, 24] w")),
        Case("embedding", graph("y = Gather (w, x)", "int64[N, 5] x", "float[N, 5, 64] y", "float[8, 64] w")),
        Case(
            "stacked_matmul",
            graph("y = MatMul (x, w)", "float[N, 4, 3, 32] x", "float[N, 4, 3, 24] y", "float[4, 32, 24] w"),
        ),
        Case("left_matmul", graph("y = MatMul (w, x)", "float[N, 32, 3] x", "float[N, 24, 3] y", "float[24, 32] w")),
        Case("vector", graph("y = MatMul (x, w)", "float[N, 3, 64] x", "float[N, 3] y", "float[64] w")),
        Case("lstm", recurrent("y, h, c = LSTM", 64, "float[N, 1, 1, 16] y, float[1, 1, 16] h, float[1, 1, 16] c")),
        Case("gru", recurrent("y, h = GRU", 48, "float[N, 1, 1, 16] y, float[1, 1, 16] h")),
        Case("rnn", recurrent("y, h = RNN", 16, "float[N, 1, 1, 16] y, float[1, 1, 16] h")),
    )
}
NETWORKS = {
    case.id: case
    for case in (
        Case("residual_cnn", residual_cnn()),
        Case("tokens", token_model()),
        Case(
            "silu_concat",
            graph(
                """c = Conv <kernel_shape = [1, 1]> (x, w, b)
                   s = Sigmoid (c)
                   m = Mul (c, s)
                   d = Conv <kernel_shape = [1, 1]> (m, v)
                   k = Concat <axis = 1> (m, d)
                   y = GlobalAveragePool (k)""",
                "float[N, 16, 6, 6] x",
                "float[N, 32, 1, 1] y",
                "float[16, 16, 1, 1] w, float[16] b, float[16, 16, 1, 1] v",
            ),
        ),
    )
}
CASES = {**LAYERS, **NETWORKS}


def half_of_its_codes(weight: QuantizedWeight) -> QuantizedWeight:
    """Unfolded codes of -64 to 64, of which no pair of products with uint8 exceeds 16 bits: 2 x 64 x 255 = 32640."""
    if isinstance(weight.format, PerChannel):
        return replace(weight, codes=np.rint(weight.codes / 2).astype(np.int8), scales=weight.scales * 2)
    if weight.multipliers is None:
        return weight
    return replace(weight, multipliers=np.maximum(weight.multipliers // 2, 1), scales=weight.scales * 2)


# ---- the reference ------------------------------------------------------------------------------


def round_to(params: QuantParams, value: Float) -> Float:
    codes = np.clip(np.rint(value / params.scale) + params.zero_point, 0, 2**params.bits - 1)
    return (codes - params.zero_point) * params.scale


def real_weight(weight: QuantizedWeight) -> Float:
    """What the codes stand for, spelled out from the definition of each format."""
    out = np.empty(weight.codes.shape)
    for o, row in enumerate(weight.codes):
        for k, code in enumerate(row):
            block = k // weight.block
            if weight.format.blocked:
                out[o, k] = weight.scales[o, block] * code
            elif weight.multipliers is not None:
                out[o, k] = weight.scales[o] * (int(weight.multipliers[o, block]) * int(code))
            else:
                out[o, k] = weight.scales[o] * code
    return out


def simulate(
    case: Case, assignment: Mapping[str, Scheme], inputs: Mapping[str, np.ndarray], *, halved: bool = False
) -> dict[str, Float]:
    """The graph's outputs in double precision, node by node with onnx's reference operators, every tensor that an
    int8 region reads or writes rounded to its uint8 grid, or on reading to a narrower one that the reader asks for,
    weights and biases replaced by what is stored."""
    model = case.model
    weights = case.weights(assignment, halved)
    owner = {n: r for r in model.regions for n in r.nodes}
    values = {t.name: _double(onnx.numpy_helper.to_array(t)) for t in model.proto.graph.initializer}
    values |= {n: _double(v) for n, v in inputs.items()}
    computed = dict(values)  # before they are rounded

    def params(tensor: str) -> QuantParams:
        readers = [n for n in model.proto.graph.node if tensor in n.input]
        if [n.op_type for n in readers] == ["Concat"]:
            concat = assignment.get(owner[readers[0].name].name)
            if concat is not None and concat.reads is Format.INT8:
                return params(readers[0].output[0])
        return case.activations[model.roots.get(tensor, tensor)]

    def read(tensor: str, bits: int) -> QuantParams:
        return params(tensor) if bits == 8 else case.activations[params_key(model.roots.get(tensor, tensor), bits)]

    for node in model.proto.graph.node:
        region = owner.get(node.name)
        scheme = assignment.get(region.name) if region else None
        given = {t: values[t] for t in node.input if t}
        if region is not None and scheme is not None and not scheme.is_fp32:
            if scheme.reads is Format.INT8:
                source, bits = values if scheme.activation_bits == 8 else computed, scheme.activation_bits
                given |= {t: round_to(read(t, bits), source[t]) for t in node.input if t in region.inputs}
                if region.pattern == "SiLU" and node.op_type == "Mul":
                    inner = region_inner(region, model)
                    given[inner] = round_to(QuantParams(1 / 255, 0), values[inner])
            if region.layer is not None and scheme.weight is not None and node.name == region.nodes[0]:
                for place in region.layer.weights:
                    weight = weights[place.key, scheme.weight.name]
                    given[place.tensor] = np.asarray(place.stored(real_weight(weight)), np.float64)
                if scheme.reads is Format.INT8 and region.layer.bias in node.input:
                    step = read(region.inputs[0], bits).scale * weight.scales.astype(np.float64)
                    bias = given[region.layer.bias]  # of channels without weights it has a step of its own, a fine one
                    given[region.layer.bias] = np.where(weight.codes.any(axis=1), np.rint(bias / step) * step, bias)
            if scheme.accuracy_level == ROUNDS_TO_INT8 and node.op_type in ("MatMul", "Gemm") and rounds_activations():
                block = weights[node.name, scheme.weight.name].block
                given[node.input[0]] = rounded_by_block(given[node.input[0]], block)
        dynamic = scheme is not None and scheme.dynamic
        made = dynamic_lstm(node, given) if dynamic else _run(node, given, model.opset)
        for name, value in zip(node.output, made, strict=True):
            computed[name] = value
            rounds = region is not None and scheme is not None and name in region.outputs
            if rounds and writes(scheme, region.op_type) is Format.INT8:
                value = round_to(params(name), value)
            values[name] = value
    return {o.name: values[o.name] for o in model.proto.graph.output}


def region_inner(region: Region, model: Model) -> str:
    return next(n.output[0] for n in model.proto.graph.node if n.name == region.nodes[0])


def dynamic_lstm(node: onnx.NodeProto, given: Mapping[str, Float]) -> list[Float]:
    """DynamicQuantizeLSTM in one direction for one sequence, from its definition: the whole input is rounded on one
    uint8 grid, the state on one of its own in each step."""
    x, w, r, bias = (given[t] for t in node.input[:4])
    h = c = np.zeros((1, r.shape[2]))
    rows = []
    for step in on_its_own_grid(x[:, 0]):
        both = np.split(bias[0], 2)
        gates = step @ w[0].T + on_its_own_grid(h) @ r[0].T + both[0] + both[1]
        i, o, f, g = np.split(gates, 4, axis=1)
        i, o, f = (1 / (1 + np.exp(-v)) for v in (i, o, f))
        c = f * c + i * np.tanh(g)
        h = o * np.tanh(c)
        rows.append(h)
    return [np.stack(rows)[:, None], h[None], c[None]]


def on_its_own_grid(values: Float) -> Float:
    """Rounded to 256 steps from the least to the largest value, 0 included and exact."""
    low, high = min(values.min(), 0.0), max(values.max(), 0.0)
    scale = (high - low) / 255 or 1.0
    zero = np.clip(np.rint(-low / scale), 0, 255)
    return (np.clip(np.rint(values / scale) + zero, 0, 255) - zero) * scale


def rounded_by_block(values: Float, block: int) -> Float:
    """Rounded to int8 on a scale for each row and block, in float32, as MatMulNBits does it at accuracy level 4."""
    rows = values.astype(np.float32).reshape(*values.shape[:-1], -1, block)
    scales = np.abs(rows).max(axis=-1, keepdims=True) / np.float32(127)
    codes = np.rint(rows / np.where(scales > 0, scales, np.float32(1)))
    return (codes * scales).astype(np.float64).reshape(values.shape)


@functools.cache
def rounds_activations() -> bool:
    """True if the CPU at hand has kernels for accuracy level 4. Without (x86 before AVX2) it is level 0."""
    weight = quantize_weight(np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32), PerBlock(4, 32))
    proto = graph("y = MatMul (x, w)", "float[N, 32] x", "float[N, 4] y", "float[32, 4] w")
    model = prepared(proto)
    [region] = model.layers
    inputs, found = feeds_for(proto, 8).arrays, []
    for name in ("w4b32", "w4b32-level0"):
        assignment, weights = {region.name: SCHEMES[name]}, {(region.name, weight.format.name): weight}
        made = ORT.rewrite(Rewrite(model, assignment, {}, weights, model.roots))
        found.append(outputs_of(made, inputs)["y"])
    return bool(np.abs(found[0] - found[1]).max() > 1e-4 * np.abs(found[1]).max())


def _double(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float64) if array.dtype == np.float32 else array


def _run(node: onnx.NodeProto, given: Mapping[str, np.ndarray], opset: int) -> list[np.ndarray]:
    inputs = [
        onnx.helper.make_tensor_value_info(t, onnx.helper.np_dtype_to_tensor_dtype(v.dtype), v.shape)
        for t, v in given.items()
    ]
    outputs = [onnx.helper.make_tensor_value_info(t, onnx.TensorProto.DOUBLE, None) for t in node.output]
    one = onnx.helper.make_model(
        onnx.helper.make_graph([node], "one", inputs, outputs), opset_imports=[onnx.helper.make_opsetid("", opset)]
    )
    return list(ReferenceEvaluator(one).run(None, dict(given)))
