"""Explicit quantization: valid graphs within each dialect's rules that compute what NumPy says, region by region.

The reference is written from the definitions, with ml_dtypes for fp8 and bfloat16: each region is computed in double
precision from the values that onnxruntime itself has at the region's inputs, so that errors do not add up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
import onnx
import pytest

from onnxmpq.dialects import DIALECTS, Dialect, Rewrite
from onnxmpq.execution import with_outputs
from onnxmpq.model import Region
from onnxmpq.ranges import ESTIMATORS, QuantParams, observe
from onnxmpq.rounding import Fp8, Fp8Dual, PerBlock, QuantizedWeight
from onnxmpq.runtimes.onnxruntime import probes
from onnxmpq.schemes import SCHEMES, Format, Scheme
from tests.dialects.cases import CASES, Case, _double, _run, real_weight
from tests.graphs import graph, outputs_of

GPU_SCHEMES = ("fp16", "bf16", "w4a16", "w8a8-int8", "w8a8-fp8", "w4a8-fp8")
SPELLED = {
    "tensorrt": GPU_SCHEMES,
    "portable": (*GPU_SCHEMES, "w8a16"),
    "onnxruntime-cuda": ("fp16", "w4a16", "w8a16"),
}
HALF = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
FLOAT_STEP = {None: 2e-6, "float16": 4e-3, "bfloat16": 3e-2}
"""Relative error allowed, by the type that a region computes in (its last step, and sums of rounded products)."""


@dataclass(frozen=True)
class Spelling:
    """A graph, a dialect, and the scheme of everything that takes it."""

    case: Case
    dialect: Dialect
    scheme: Scheme

    @property
    def id(self) -> str:
        return f"{self.case.id}.{self.scheme.name}.{self.dialect.name}"

    @property
    def assignment(self) -> dict[str, Scheme]:
        model = self.case.model
        return {r.name: self.scheme for r in model.regions if self.dialect.supports(r, self.scheme, model.opset)}

    @property
    def activations(self) -> dict[str, QuantParams]:
        model = self.case.model
        tensors = dict.fromkeys(t for r in model.regions for t in (*r.inputs, *r.outputs))
        kind = self.scheme.reads.element if self.scheme.reads.quantized else "uint8"
        found = observe(model, self.case.feeds, list(tensors)).histograms
        return {t: ESTIMATORS["mse"](h, kind=kind) for t, h in found.items()}

    def rewrite(self, *, halved: bool = False) -> onnx.ModelProto:
        weights = self.case.weights(self.assignment, halved)
        model = self.case.model
        return self.dialect.rewrite(Rewrite(model, self.assignment, self.activations, weights, model.roots))


def spellings() -> list[Spelling]:
    every = [
        Spelling(case, DIALECTS[dialect], SCHEMES[name])
        for case in CASES.values()
        for dialect, names in SPELLED.items()
        for name in names
    ]
    return [s for s in every if any(s.case.model.region(r).layer for r in s.assignment)]


EVERY = spellings()
parametrized = pytest.mark.parametrize("case", EVERY, ids=lambda case: case.id)


@parametrized
def test_valid_and_keeps_its_interface(case: Spelling) -> None:
    proto, before = case.rewrite(), case.case.model.proto.graph
    onnx.checker.check_model(proto, full_check=True)
    assert [(i.name, i.type) for i in proto.graph.input] == [(i.name, i.type) for i in before.input]
    assert [(o.name, o.type) for o in proto.graph.output] == [(o.name, o.type) for o in before.output]
    assert {n.name for n in before.node} <= {n.name for n in proto.graph.node}


@parametrized
def test_every_region_computes_what_numpy_does(case: Spelling) -> None:
    model, assignment, inputs = case.case.model, case.assignment, case.case.feeds.arrays
    proto = case.rewrite()
    made = {t for n in proto.graph.node for t in n.output}
    tensors = [t for r in model.regions for t in r.outputs if t in made]
    found = {**inputs, **outputs_of(with_outputs(proto, tensors), inputs, optimize=False)}
    weights = case.case.weights(assignment)
    assert any(r.name in assignment for r in model.regions)
    for region in model.regions:
        scheme = assignment.get(region.name, SCHEMES["fp32"])
        if not all(t in found for t in region.inputs):
            continue  # a 16-bit tensor between two 16-bit regions; those with both ends in sight are compared
        values = region_in_numpy(case, region, scheme, weights, found)
        for tensor in (t for t in region.outputs if t in made):
            reach = float(np.abs(values[tensor]).max())
            step = 1e-3 if scheme.reads.quantized else FLOAT_STEP[scheme.half]
            allowed = step * (1 if region.layer is None else 3) * reach
            wrong = np.abs(values[tensor] - found[tensor]) > allowed
            assert wrong.mean() < 0.002, f"{tensor}: {np.abs(values[tensor] - found[tensor]).max() / reach:.2g}"


def region_in_numpy(
    case: Spelling,
    region: Region,
    scheme: Scheme,
    weights: Mapping[tuple[str, str], QuantizedWeight],
    found: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """Every tensor that the region's nodes make, float64."""
    model = case.case.model
    values = {t.name: _double(onnx.numpy_helper.to_array(t)) for t in model.proto.graph.initializer}
    quantized = residual_read_quantized(case, region)
    for tensor in {t for n in model.proto.graph.node if n.name in region.nodes for t in n.input} & found.keys():
        value = _double(found[tensor])
        if tensor in region.inputs and (scheme.reads.quantized or tensor in quantized):
            value = rounded(case.activations[model.roots.get(tensor, tensor)], value)
        values[tensor] = value
    if scheme.half is not None and not scheme.reads.quantized:
        values = {
            t: v.astype(HALF[scheme.half]).astype(v.dtype) if v.dtype == np.float64 else v for t, v in values.items()
        }
    if region.layer is not None and scheme.weight is not None:
        weight = weights[region.name, scheme.weight.name]
        values[region.layer.weight] = np.asarray(region.layer.stored(weight_in_numpy(weight)), np.float64)
    for node in (n for n in model.proto.graph.node if n.name in region.nodes):
        given = {t: values[t] for t in node.input if t}
        values |= zip(node.output, _run(node, given, model.opset), strict=True)
    if scheme.half is not None:
        values |= {t: values[t].astype(HALF[scheme.half]).astype(np.float64) for t in region.outputs}
    return values


def rounded(params: QuantParams, value: np.ndarray) -> np.ndarray:
    scaled = value.astype(np.float32) / np.float32(params.scale)
    if params.type == "int8":
        return np.clip(np.rint(scaled), -128, 127) * np.float64(np.float32(params.scale))
    largest = float(ml_dtypes.finfo(ml_dtypes.float8_e4m3fn).max)
    codes = np.clip(scaled, -largest, largest).astype(ml_dtypes.float8_e4m3fn)
    return codes.astype(np.float64) * np.float64(np.float32(params.scale))


def weight_in_numpy(weight: QuantizedWeight) -> np.ndarray:
    if isinstance(weight.format, Fp8):
        return weight.codes.view(ml_dtypes.float8_e4m3fn).astype(np.float64) * weight.scales[:, None]
    if isinstance(weight.format, Fp8Dual):
        blocks = real_weight(replace(weight, format=PerBlock(4, weight.block), tensor_scale=1.0))
        scaled = blocks.astype(np.float32) / np.float32(weight.tensor_scale)
        return scaled.astype(ml_dtypes.float8_e4m3fn).astype(np.float64) * weight.tensor_scale
    real = real_weight(weight)
    return real.astype(np.float16).astype(np.float64) if weight.format.scale_type == "float16" else real


def residual_read_quantized(case: Spelling, region: Region) -> set[str]:
    """What a float Add behind a quantized layer reads through the pair of another reader."""
    model, assignment = case.case.model, case.assignment
    if region.op_type != "Add" or region.name in assignment or len(region.inputs) != 2:
        return set()
    quantized = {r.name for r in model.regions if (s := assignment.get(r.name)) is not None and s.reads.quantized}
    read = {t for r in model.regions if r.name in quantized for t in r.inputs}
    for own, other in (region.inputs, region.inputs[::-1]):
        source = model.producers.get(own)
        if source is not None and source.name in quantized and other in read:
            return {other}
    return set()


@parametrized
def test_default_session_computes_the_same(case: Spelling) -> None:
    """With Q/DQ kept as they are for fp8, which `open_session` sees to. Weights as in test_onnxruntime.py."""
    proto, inputs = case.rewrite(halved=probes.saturates()), case.case.feeds.arrays
    fused, plain = outputs_of(proto, inputs), outputs_of(proto, inputs, optimize=False)
    for name, value in plain.items():
        noise = float(np.square(fused[name] - value).sum()) / float(np.square(value).sum())
        assert noise < 3e-4, "onnxruntime's fused int4 kernels compute in int8"


@parametrized
def test_symmetric_and_constant(case: Spelling) -> None:
    proto = case.rewrite()
    constants = {t.name: t for t in proto.graph.initializer}
    made = {t: n for n in proto.graph.node for t in n.output}
    for node in proto.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        assert (onnx.numpy_helper.to_array(constants[node.input[1]]) > 0).all()
        if len(node.input) > 2:
            zero = constants[node.input[2]]
            assert not any(zero.raw_data) and zero.data_type != onnx.TensorProto.UINT8
        if node.op_type == "DequantizeLinear" and node.input[0] not in constants:
            assert made[node.input[0]].op_type == "QuantizeLinear"


def test_int4_and_fp8_are_stored_as_such() -> None:
    proto = Spelling(CASES["matmul"], DIALECTS["tensorrt"], SCHEMES["w4a8-fp8"]).rewrite()
    types = {t.data_type for t in proto.graph.initializer}
    assert {onnx.TensorProto.INT4, onnx.TensorProto.FLOAT8E4M3FN} <= types
    quantizers = [n for n in proto.graph.node if n.op_type == "QuantizeLinear"]
    assert len(quantizers) == 2, "the activation, and int4 weights on their way to fp8"
    unfold = next(n for n in proto.graph.node if any(a.name == "block_size" for a in n.attribute))
    attributes = {a.name: a.i for a in unfold.attribute}
    assert attributes == {"axis": 0, "block_size": 64}, "along K of a weight [K, N]"


def test_gemm_with_transposed_weights_has_its_blocks_on_axis_1() -> None:
    proto = Spelling(CASES["gemm"], DIALECTS["tensorrt"], SCHEMES["w4a16"]).rewrite()
    unfold = next(n for n in proto.graph.node if n.op_type == "DequantizeLinear")
    assert {a.name: a.i for a in unfold.attribute} == {"axis": 1, "block_size": 64}
    scales = next(t for t in proto.graph.initializer if t.name == unfold.input[1])
    assert scales.data_type == onnx.TensorProto.FLOAT16 and list(scales.dims) == [24, 2]


def test_neighbours_in_float16_share_no_casts() -> None:
    proto = Spelling(CASES["residual_cnn"], DIALECTS["portable"], SCHEMES["fp16"]).rewrite()
    made = {t: n for n in proto.graph.node for t in n.output}
    casts = [n for n in proto.graph.node if n.op_type == "Cast"]
    assert casts
    for cast in casts:
        source = made.get(cast.input[0])
        assert source is None or source.op_type != "Cast"


def test_a_residual_is_read_through_the_pair_of_its_other_reader() -> None:
    """s0 = Add (r2, p): r2 comes from an int8 convolution, p is read by another one."""
    proto = Spelling(CASES["residual_cnn"], DIALECTS["tensorrt"], SCHEMES["w8a8-int8"]).rewrite()
    add = next(n for n in proto.graph.node if n.op_type == "Add")
    made = {t: n.op_type for n in proto.graph.node for t in n.output}
    assert sorted(made[t] for t in add.input) == ["Cast", "DequantizeLinear"]


@dataclass(frozen=True)
class Refusal:
    """What TensorRT does not take although it could be spelled."""

    id: str
    proto: onnx.ModelProto
    refused: frozenset[str]


REFUSALS = [
    Refusal(
        "conv1d",
        graph("y = Conv <kernel_shape = [3]> (x, w)", "float[N, 16, 9] x", "float[N, 16, 7] y", "float[16, 16, 3] w"),
        frozenset({"fp16", "bf16", "w8a8-int8", "w8a8-fp8"}),
    ),
    Refusal(
        "channels_for_fp8",
        graph(
            "y = Conv <kernel_shape = [3, 3]> (x, w)",
            "float[N, 3, 9, 9] x",
            "float[N, 16, 7, 7] y",
            "float[16, 3, 3, 3] w",
        ),
        frozenset({"w8a8-fp8"}),
    ),
    Refusal(
        "inputs_no_multiple_of_the_block",
        graph("y = MatMul (x, w)", "float[N, 100] x", "float[N, 24] y", "float[100, 24] w"),
        frozenset({"w4a16", "w4a8-fp8"}),
    ),
    Refusal(
        "products_too_small_for_8_bits",
        graph("y = MatMul (x, w)", "float[N, 64] x", "float[N, 8] y", "float[64, 8] w"),
        frozenset({"w8a8-int8", "w8a8-fp8", "w4a8-fp8"}),
    ),
]


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.id)
def test_tensorrt_refuses_what_its_rules_forbid(case: Refusal) -> None:
    """The portable dialect spells it; int4 with a shorter last block."""
    whole = Case(case.id, case.proto)
    [layer] = whole.model.layers
    spelled = {n for n in GPU_SCHEMES if DIALECTS["portable"].supports(layer, SCHEMES[n], 21)}
    taken = {n for n in GPU_SCHEMES if DIALECTS["tensorrt"].supports(layer, SCHEMES[n], 21)}
    assert spelled - taken == case.refused
    for name in case.refused:
        test_every_region_computes_what_numpy_does(Spelling(whole, DIALECTS["portable"], SCHEMES[name]))


@pytest.mark.parametrize("dialect", ["tensorrt", "portable"])
def test_old_opsets_offer_what_they_can_hold(dialect: str) -> None:
    [layer] = CASES["matmul"].model.layers

    def held(opset: int) -> set[str]:
        return {n for n in GPU_SCHEMES if DIALECTS[dialect].supports(layer, SCHEMES[n], opset)}

    assert held(21) == set(GPU_SCHEMES)
    assert held(19) == {"fp16", "bf16", "w8a8-int8", "w8a8-fp8"}
    assert held(18) == {"fp16", "bf16", "w8a8-int8"}


def test_other_dialects_schemes_are_not_taken() -> None:
    [layer] = CASES["matmul"].model.layers
    for name in ("int8", "w4", "w4b128"):
        assert not DIALECTS["tensorrt"].supports(layer, SCHEMES[name], 21)
    assert not any(DIALECTS["onnxruntime"].supports(layer, SCHEMES[n], 21) for n in GPU_SCHEMES)
    assert SCHEMES["w8a8-fp8"].reads is Format.FP8


def test_a_float16_add_takes_a_quantized_residual() -> None:
    case = CASES["residual_cnn"]
    int8, half = SCHEMES["w8a8-int8"], SCHEMES["fp16"]
    names = {r.name: r.op_type for r in case.model.regions}
    assignment = {n: int8 for n, op in names.items() if op == "Conv"} | {
        n: half for n, op in names.items() if op == "Add"
    }
    spelling = Spelling(case, DIALECTS["tensorrt"], int8)
    job = Rewrite(case.model, assignment, spelling.activations, case.weights(assignment), case.model.roots)
    proto, inputs = DIALECTS["tensorrt"].rewrite(job), case.feeds.arrays
    onnx.checker.check_model(proto, full_check=True)
    add = next(n for n in proto.graph.node if n.op_type == "Add")
    made = {t: n for n in proto.graph.node for t in n.output}
    assert {made[made[t].input[0]].op_type for t in add.input} == {"Conv", "DequantizeLinear"}
    [reference], [found] = outputs_of(case.model.proto, inputs).values(), outputs_of(proto, inputs).values()
    assert np.square(reference - found).sum() < 1e-3 * np.square(reference).sum()
