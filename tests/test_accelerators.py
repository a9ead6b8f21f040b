"""Conversions for modelled accelerators: their schemes, their dialects, and what cannot be done on them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

import onnxmpq
from onnxmpq.cli import app
from onnxmpq.cost.measure import Effort
from onnxmpq.dialects import DIALECTS
from onnxmpq.errors import ModelError, NothingToQuantizeError, OnnxmpqError, TargetError, UsageError
from onnxmpq.files import serialize
from onnxmpq.menu import Menu, candidates, one_activation_format, within_float16, without_underflow
from onnxmpq.model import prepare
from onnxmpq.ranges import observe
from onnxmpq.rounding import quantize_weight
from onnxmpq.runtimes import SessionSettings, holds_fp8, open_session, run
from onnxmpq.schemes import SCHEMES, Format, Scheme
from onnxmpq.target.load import load_target
from tests.graphs import feeds_for, graph, prepared, residual_cnn, samples_for

QUICK = Effort(seconds=0.02, runs=2, rounds=2)


def mlp(inputs: int = 64) -> onnx.ModelProto:
    """Two MatMul layers with a residual Add around the second one and a norm in front of it."""
    return graph(
        """m0 = MatMul (x, w0)  h = Add (m0, b0)  r = Relu (h)
           n = LayerNormalization (r, g, o)
           m1 = MatMul (n, w1)  k = Add (m1, b1)
           s = Add (k, r)
           y = MatMul (s, w2)""",
        f"float[N, 4, {inputs}] x",
        "float[N, 4, 16] y",
        f"float[{inputs}, 128] w0, float[128] b0, float[128] g, float[128] o, float[128, 128] w1, float[128] b1, "
        "float[128, 16] w2",
    )


@dataclass(frozen=True)
class Conversion:
    target: str
    budget: dict[str, str]
    schemes: tuple[str, ...]
    expected: frozenset[int]  # types that initializers of the result must have

    @property
    def id(self) -> str:
        return f"{self.target}-{'-'.join(self.schemes) or 'all'}"


T = onnx.TensorProto
CONVERSIONS = [
    Conversion("h200", {"size": "smallest", "latency": "200%"}, ("w4a8-fp8",), frozenset({T.INT4, T.FLOAT8E4M3FN})),
    Conversion("h200", {"latency": "fastest"}, (), frozenset()),
    Conversion("h100", {"latency": "100%", "size": "30%"}, ("w8a8-fp8", "w4a16"), frozenset()),
    Conversion("l4", {"latency": "100%", "size": "40%"}, ("w8a8-int8",), frozenset({T.INT8})),
    Conversion("orin", {"energy": "90%"}, (), frozenset()),
    Conversion("gaudi2", {"latency": "100%", "size": "30%"}, ("w4a8-fp8", "w8a8-fp8"), frozenset({T.FLOAT8E4M3FN})),
    Conversion("gaudi2", {"latency": "fastest"}, ("bf16",), frozenset({T.BFLOAT16})),
    Conversion("h200-cuda", {"latency": "200%", "size": "30%"}, ("w4a16",), frozenset({T.UINT8, T.FLOAT16})),
    Conversion("h200-cuda", {"latency": "200%", "size": "40%"}, ("fp16", "w8a16"), frozenset({T.UINT8, T.FLOAT16})),
]


@pytest.mark.parametrize("case", CONVERSIONS, ids=lambda case: case.id)
def test_converts_and_applies_again(case: Conversion, tmp_path: Path) -> None:
    proto = mlp()
    result = onnxmpq.convert(
        proto,
        **case.budget,
        target=case.target,
        schemes=case.schemes,
        batch=64,
        calibration=samples_for(proto, 24),
        output=tmp_path / "m.onnx",
        effort=QUICK,
    )
    onnx.checker.check_model(result.model, full_check=True)
    used = set(result.plan.schemes.values())
    assert used and (not case.schemes or used <= set(case.schemes))
    assert case.expected <= {t.data_type for t in result.model.graph.initializer}
    assert [o.type.tensor_type.elem_type for o in result.model.graph.output] == [T.FLOAT]
    assert result.report.validation.worst_sqnr_db > 12
    assert result.report.validation.emulated == holds_fp8(result.model)
    assert serialize(onnxmpq.apply(proto, tmp_path / "m.plan.json")) == (tmp_path / "m.onnx").read_bytes()


def test_a_file_with_fp8_is_validated_and_says_so(tmp_path: Path) -> None:
    proto, path = mlp(), tmp_path / "m.onnx"
    onnx.save(proto, path)
    samples = samples_for(proto, 16)
    result = onnxmpq.convert(path, size="30%", latency="100%", target="h200", schemes=["w8a8-fp8"], calibration=samples)
    converted = tmp_path / "q.onnx"
    onnx.save(result.model, converted)
    found = onnxmpq.validate(path, converted, feeds_for(proto, 4))
    assert found.emulated and found.timing is None and found.worst_sqnr_db > 20
    done = CliRunner().invoke(app, ["validate", str(path), str(converted), "--samples", "4"])
    assert done.exit_code == 0 and "session.disable_quant_qdq=1" in " ".join(done.output.split())


def test_fp8_behind_a_relu_is_computed_as_written() -> None:
    """onnxruntime 1.31 drops the Relu in a default session; `open_session` switches that optimiser off."""
    proto = onnx.parser.parse_model(
        """<ir_version: 10, opset_import: ["" : 21]> g (float[N, 4] x) => (float[N, 4] y)
        <float scale = {0.01}> { r = Relu (x)  q = QuantizeLinear (r, scale, zero)  y = DequantizeLinear (q, scale) }"""
    )
    proto.graph.initializer.append(onnx.helper.make_tensor("zero", T.FLOAT8E4M3FN, (), b"\0", raw=True))
    x = np.array([[-1.0, 0.5, -0.25, 2.0]], np.float32)
    assert holds_fp8(proto)
    for optimize in (True, False):
        [y] = run(open_session(proto, SessionSettings(optimize=optimize)), {"x": x})
        assert (y[x < 0] == 0).all() and (y[x > 0] > 0).all()


@dataclass(frozen=True)
class HalfEnds:
    target: str
    scheme: str
    element: int

    @property
    def id(self) -> str:
        return f"{self.target}-{self.scheme}"


HALF_ENDS = [
    HalfEnds("h200", "fp16", T.FLOAT16),
    HalfEnds("gaudi2", "bf16", T.BFLOAT16),
    HalfEnds("h100", "w8a8-fp8", T.FLOAT16),
]


@pytest.mark.parametrize("case", HALF_ENDS, ids=lambda case: case.id)
def test_half_ends_are_planned_validated_and_applied_again(case: HalfEnds, tmp_path: Path) -> None:
    proto, path = mlp(), tmp_path / "m.onnx"
    onnx.save(proto, path)
    result = onnxmpq.convert(
        path,
        size="smallest",
        latency="100%",
        keep_io=False,
        target=case.target,
        schemes=[case.scheme],
        batch=64,
        calibration=samples_for(proto, 24),
        output=tmp_path / "q.onnx",
        metric=lambda outputs, labels: -float(np.square(outputs["y"]).sum(dtype=np.float64)),
    )
    ends = {e.name: e.type.tensor_type.elem_type for e in (*result.model.graph.input, *result.model.graph.output)}
    assert ends == {"x": case.element, "y": case.element}
    onnx.checker.check_model(result.model, full_check=True)
    assert any("inputs and outputs in 16 bits: x" in note for note in result.report.notes)
    assert serialize(onnxmpq.apply(proto, tmp_path / "q.plan.json")) == (tmp_path / "q.onnx").read_bytes()
    found = onnxmpq.validate(path, tmp_path / "q.onnx", feeds_for(proto, 4))
    assert found.worst_sqnr_db > 20 and result.report.validation.worst_sqnr_db > 20
    assert (found.timing is None) == holds_fp8(result.model)


def test_nothing_in_16_bits_at_the_ends_is_said() -> None:
    proto = mlp()
    first, last = "MatMul_0", "MatMul_7"
    result = onnxmpq.convert(
        proto,
        size="90%",
        latency="100%",
        keep_io=False,
        target="h200",
        schemes=["fp16"],
        exclude=[first, last],
        batch=64,
        calibration=samples_for(proto, 24),
    )
    assert {e.type.tensor_type.elem_type for e in (*result.model.graph.input, *result.model.graph.output)} == {T.FLOAT}
    assert any("--no-keep-io changes nothing here" in note for note in result.report.notes)


def offered(proto: onnx.ModelProto, target: str, opset: int | None = None, *requested: str) -> dict[str, set[str]]:
    model, device = prepare(proto, opset), load_target(target)
    menu = candidates(model, device, DIALECTS[device.dialect], (), requested)
    return {name: {s.name for s in row} for name, row in menu.items()}


def test_opset_19_holds_fp8_but_no_int4() -> None:
    old = offered(mlp(), "h200", 19)
    assert {"w8a8-fp8", "fp16", "w8a8-int8"} <= old["MatMul_0"]
    assert not {"w4a16", "w4a8-fp8"} & old["MatMul_0"]
    result = onnxmpq.convert(
        mlp(), size="40%", latency="100%", target="h200", schemes=["w8a8-fp8"], opset=19, calibration=None, samples=8
    )
    assert result.model.opset_import[0].version == result.plan.opset == 19
    onnx.checker.check_model(result.model, full_check=True)
    assert serialize(onnxmpq.apply(mlp(), result.plan)) == serialize(result.model)


@dataclass(frozen=True)
class Refused:
    id: str
    arguments: dict[str, object]
    error: type[OnnxmpqError]
    says: str
    proto: onnx.ModelProto | None = None


def one_matmul(inputs: int, outputs: int, scale: float = 1.0) -> onnx.ModelProto:
    proto = graph(
        "y = MatMul (x, w)", f"float[N, {inputs}] x", f"float[N, {outputs}] y", f"float[{inputs}, {outputs}] w"
    )
    values = onnx.numpy_helper.to_array(proto.graph.initializer[0]) * np.float32(scale)
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(values, "w"))
    return proto


REFUSED = [
    Refused(
        "lacking", {"schemes": ["w4a16"], "target": "gaudi2"}, TargetError, "gaudi2 does not offer 'w4a16'; it has"
    ),
    Refused("unknown", {"schemes": ["w4a17"]}, UsageError, "no scheme is called 'w4a17'"),
    Refused("opset", {"schemes": ["w4a16"], "opset": 19}, TargetError, "opset 19 does not have the types of 'w4a16'"),
    Refused(
        "block",
        {"schemes": ["w4a16"]},
        TargetError,
        r"does not take 100 inputs, no multiple of the block of 64 \(as in 1 of them\); use another scheme",
        one_matmul(100, 32),
    ),
    Refused(
        "small",
        {"schemes": ["w8a8-fp8"]},
        TargetError,
        "does not take products in 8 bits of fewer than 16 inputs or outputs",
        one_matmul(64, 8),
    ),
    Refused(
        "rank",
        {},
        NothingToQuantizeError,
        "Conv_0: target h200 has no scheme for convolutions in other than 2 or 3 dimensions",
        graph("y = Conv <kernel_shape = [3]> (x, w)", "float[N, 16, 9] x", "float[N, 16, 7] y", "float[16, 16, 3] w"),
    ),
    Refused(
        "overflow",
        {"schemes": ["fp16"]},
        NothingToQuantizeError,
        r"MatMul_0: values up to .* do not fit float16\)",
        one_matmul(64, 32, 1e6),
    ),
    Refused("no_opset", {"opset": 7}, UsageError, r"opset 7 is not in 13\.\."),
    Refused("batch", {"batch": 4, "target": "cpu"}, UsageError, "targets with a roofline"),
    Refused("ends_cpu", {"keep_io": False, "target": "cpu"}, UsageError, "target cpu computes in 16 bits"),
    Refused(
        "ends_scheme",
        {"keep_io": False, "target": "gaudi2", "schemes": ["w8"]},
        UsageError,
        "leave it out, or use another target or scheme",
    ),
    Refused("empty_batch", {"batch": 0}, UsageError, "at least one sample"),
]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: case.id)
def test_refusals_say_why(case: Refused) -> None:
    with pytest.raises(case.error, match=case.says):
        onnxmpq.convert(case.proto or mlp(), **{"target": "h200", **case.arguments}, samples=8)  # type: ignore[arg-type]


def test_a_model_that_cannot_go_back_to_an_older_opset() -> None:
    with pytest.raises(ModelError, match="cannot be converted from opset 21 to 13"):
        onnxmpq.convert(mlp(), target="h200", opset=13, samples=8)


def test_blocks_that_do_not_divide_the_inputs_leave_8_bits() -> None:
    rows = offered(mlp(100), "h200")
    assert not {"w4a16", "w4a8-fp8"} & rows["MatMul_0"], "100 inputs, blocks of 64"
    assert {"w8a8-fp8", "w8a8-int8"} <= rows["MatMul_0"]
    assert "w4a16" in rows["MatMul_4"]


def schemes(*names: str) -> tuple[Scheme, ...]:
    return tuple(SCHEMES[n] for n in names)


def test_one_format_of_activations_for_the_whole_graph() -> None:
    model, device = prepared(residual_cnn()), load_target("h200")
    menu = candidates(model, device, DIALECTS[device.dialect])
    assert {s.reads for row in menu.values() for s in row if s.reads.quantized} == {Format.FP8, Format.SYMMETRIC_INT8}
    found = one_activation_format(model, menu)
    kinds = Counter(s.reads for row in found.values() for s in row if s.reads.quantized)
    assert set(kinds) == {Format.SYMMETRIC_INT8}, "the first convolution has too few channels for fp8"


def test_float16_is_not_offered_near_its_end() -> None:
    proto = graph(
        "m = MatMul (x, w)  y = Mul (m, c)", "float[N, 64] x", "float[N, 8] y", "float[64, 8] w, float c = {1e5}"
    )
    model = prepared(proto)
    histograms = observe(model, feeds_for(proto, 8), ["x", "m", "y"]).histograms
    [layer] = model.layers
    rest = Menu({r.name: schemes("fp32", "fp16", "bf16") for r in model.regions})
    menu = within_float16(model, rest, histograms)
    assert [s.name for s in menu[layer.name]] == ["fp32", "fp16"], "where float16 will do, bfloat16 is worse"
    product = next(r.name for r in model.regions if r.op_type == "Mul")
    assert [s.name for s in menu[product]] == ["fp32", "bf16"]
    only = Menu({r.name: schemes("fp32", "fp16") for r in model.regions})
    assert "do not fit float16" in within_float16(model, only, histograms).reasons[product]
    assert not menu.reasons


def test_weights_that_would_vanish_choose_another_scheme() -> None:
    """One output channel 1e8 times smaller than the others: below fp8's smallest step on the tensor's one scale."""
    proto = graph("y = MatMul (x, w)", "float[N, 64] x", "float[N, 8] y", "float[64, 8] w")
    values = onnx.numpy_helper.to_array(proto.graph.initializer[0]).copy()
    values[:, 3] *= 1e-8
    proto.graph.initializer[0].CopyFrom(onnx.numpy_helper.from_array(values, "w"))
    model = prepared(proto)
    [layer] = model.layers
    weights = {
        (layer.name, s.weight.name): quantize_weight(model.weight(layer), s.weight)
        for s in schemes("w4a8-fp8", "w8a8-fp8")
        if s.weight is not None
    }
    menu = without_underflow(model, Menu({layer.name: schemes("fp32", "w4a8-fp8", "w8a8-fp8")}), weights)
    assert [s.name for s in menu[layer.name]] == ["fp32", "w8a8-fp8"], "a scale per channel still holds it"
    assert not menu.reasons
    empty = without_underflow(model, Menu({layer.name: schemes("fp32", "w4a8-fp8")}), weights)
    assert "underflow in w4a8-fp8" in empty.reasons[layer.name]
