"""uint8 weights: to the integer what the codes say, on every CPU, whatever the activations."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from onnxmpq.dialects import Rewrite
from onnxmpq.integrity import require_whole
from onnxmpq.lint import lint
from onnxmpq.model import Model
from onnxmpq.ranges import QuantParams
from onnxmpq.rounding import QuantizedWeight
from onnxmpq.rounding.overflow import overflowing_channels
from onnxmpq.runtimes import SessionSettings, open_session
from onnxmpq.schemes import INT8_WEIGHTS, SCHEMES
from tests.dialects.cases import NETWORKS, ORT
from tests.graphs import graph, outputs_of, prepared

U8U8 = SCHEMES["u8u8"]
ROWS, FILTERS = 7, 16


def product(operator: str, declared: str, inputs: int) -> onnx.ModelProto:
    return graph(f"y = {operator}", f"float[N, {inputs}] x", f"float[N, {FILTERS}] y", declared)


def windows(attributes: str, weight: str, channels: int) -> onnx.ModelProto:
    call = f"y = Conv <{attributes}> (x, w, b)"
    return graph(call, f"float[N, {channels}, 9, 9] x", "float[A, B, C, D] y", f"float{weight} w, float[{FILTERS}] b")


def followed() -> onnx.ModelProto:
    """A MatMul whose only reader quantizes its result."""
    declared = f"float[37, {FILTERS}] w, float[{FILTERS}, {FILTERS}] v"
    return graph("m = MatMul (x, w) y = MatMul (m, v)", "float[N, 37] x", f"float[N, {FILTERS}] y", declared)


@dataclass(frozen=True)
class Layer:
    """A graph of one layer or two, with the operators that the session must make of it, for a batch of `rows`."""

    id: str
    proto: onnx.ModelProto = field(repr=False)
    fused: frozenset[str]
    rows: int = ROWS


def layer(name: str, proto: onnx.ModelProto, *fused: str, rows: int = ROWS) -> Layer:
    return Layer(name, proto, frozenset(fused), rows)


LAYERS = (
    layer("MatMul", product("MatMul (x, w)", f"float[37, {FILTERS}] w", 37), "MatMulIntegerToFloat"),
    layer("MatMul of one row", product("MatMul (x, w)", f"float[37, {FILTERS}] w", 37), "MatMulIntegerToFloat", rows=1),
    layer("MatMul to uint8", followed(), "QLinearMatMul", "MatMulIntegerToFloat"),
    layer("Gemm", product("Gemm (x, w)", f"float[40, {FILTERS}] w", 40), "QGemm"),
    layer(
        "Gemm with transB and bias",
        product("Gemm <transB = 1> (x, w, b)", f"float[{FILTERS}, 37] w, float[{FILTERS}] b", 37),
        "QGemm",
    ),
    layer("Conv", windows("kernel_shape = [3, 3], pads = [1, 1, 1, 1]", f"[{FILTERS}, 5, 3, 3]", 5), "QLinearConv"),
    layer("Conv 1x1", windows("kernel_shape = [1, 1]", f"[{FILTERS}, 19, 1, 1]", 19), "QLinearConv"),
    layer("Conv, groups", windows("kernel_shape = [3, 3], group = 4", f"[{FILTERS}, 3, 3, 3]", 12), "QLinearConv"),
    layer("Conv, depthwise", windows("kernel_shape = [3, 3], group = 16", f"[{FILTERS}, 1, 3, 3]", 16), "QLinearConv"),
)
parametrized = pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer.id)


def extreme_weight(channels: int, inputs: int) -> QuantizedWeight:
    """Codes at the ends of their range, every channel far beyond the bound; scales that are powers of two."""
    generator = np.random.default_rng(0)
    codes = generator.choice([-127, -126, 126, 127], (channels, inputs)).astype(np.int8)
    codes[:, :2] = 127  # by itself beyond the bound
    scales = np.exp2(-(np.arange(channels) % 3)).astype(np.float32)
    return QuantizedWeight(INT8_WEIGHTS, codes, scales, None, inputs)


def rewritten(model: Model) -> onnx.ModelProto:
    """Every layer with extreme weights. Steps of activations are powers of two, so that every value is exact."""
    weights = {(r.name, INT8_WEIGHTS.name): extreme_weight(*model.weight(r).shape) for r in model.layers}
    steps = {t: 1.0 if t == "x" else 2.0**11 for r in model.regions for t in (*r.inputs, *r.outputs)}
    activations = {t: QuantParams(step, 0 if t == "x" else 128) for t, step in steps.items()}
    return ORT.rewrite(Rewrite(model, {r.name: U8U8 for r in model.layers}, activations, weights, model.roots))


def activations_of(layer: Layer) -> np.ndarray:
    """Codes at the ends of uint8, many of them 255."""
    shape = [d.dim_value or layer.rows for d in layer.proto.graph.input[0].type.tensor_type.shape.dim]
    codes = np.random.default_rng(1).choice([0, 1, 254, 255, 255], shape)
    codes[0] = 255
    return codes.astype(np.float32)


@parametrized
def test_exact_in_the_default_session(layer: Layer) -> None:
    model = prepared(layer.proto)
    proto = rewritten(model)
    inputs = {"x": activations_of(layer)}
    [expected] = ReferenceEvaluator(proto).run(None, inputs)
    assert len(np.unique(expected)) >= FILTERS, "it does not saturate at the ends of its grid"
    np.testing.assert_array_equal(outputs_of(proto, inputs)["y"], expected)
    for region in model.layers:
        codes = extreme_weight(*model.weight(region).shape).codes
        assert overflowing_channels(codes).all(), "as int8 they would saturate on some CPUs"


@parametrized
def test_fuses_to_integer_kernels(layer: Layer, tmp_path: Path) -> None:
    path = tmp_path / "optimized.onnx"
    open_session(rewritten(prepared(layer.proto)), SessionSettings(optimized_path=str(path)))
    found = {n.op_type for n in onnx.load(path).graph.node}
    assert layer.fused <= found
    assert not found & {"Conv", "MatMul", "Gemm"}


@parametrized
def test_clean_for_lint_and_integrity(layer: Layer) -> None:
    model = prepared(layer.proto)
    proto = rewritten(model)
    onnx.checker.check_model(proto, full_check=True)
    require_whole(proto, model.proto, model.regions)
    assert not lint(proto, "onnxruntime")
    stored = {t.name: t for t in proto.graph.initializer}
    assert {stored[n].data_type for n in stored if n.endswith("/codes")} == {onnx.TensorProto.UINT8}


def test_the_session_lays_it_out_as_int8(tmp_path: Path) -> None:
    """The same kernels, layouts and transposes, so that the rules of chains and layouts hold for both."""
    case = NETWORKS["residual_cnn"]
    int8 = case.everywhere("int8")
    unsigned = int8 | {r.name: U8U8 for r in case.model.layers}
    made = []
    for number, assignment in enumerate((int8, unsigned)):
        path = tmp_path / f"{number}.onnx"
        open_session(case.rewrite(assignment), SessionSettings(optimized_path=str(path)))
        nodes = onnx.load(path).graph.node
        made.append([(n.op_type, sorted(a.SerializeToString() for a in n.attribute)) for n in nodes])
    assert made[0] == made[1]
    assert any(op == "QLinearConv" for op, _ in made[0])
