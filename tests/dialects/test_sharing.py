"""Weights that several layers have are once in the file, however they come by them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxmpq
from benchmarks.shared_weights import encoder
from onnxmpq.allocate import Limits, pose, solve
from onnxmpq.cost import CostTable
from onnxmpq.dialects.sharing import share_constants
from onnxmpq.files import serialize
from onnxmpq.menu import Menu
from onnxmpq.model import WeightStore
from onnxmpq.rescale import choose
from onnxmpq.runtimes import SessionSettings, open_session, run
from onnxmpq.schemes import SCHEMES
from tests.dialects.cases import Case
from tests.graphs import feeds_for, graph, prepared
from tests.outcomes import QUICK
from tests.tables import int8_pays

SIDE = 96
LAYERS = """a = MatMul (x, w)  b = Relu (a)
            c = MatMul (b, w)  d = Relu (c)
            i = Identity (w)
            e = MatMul (d, i)  f = Relu (e)
            t = Transpose <perm = [1, 0]> (w)
            y = Gemm <transB = 1> (f, t)"""


def shared() -> onnx.ModelProto:
    """Four layers, one weight: read twice, through Identity, and transposed twice."""
    return graph(LAYERS, f"float[N, {SIDE}] x", f"float[N, {SIDE}] y", f"float[{SIDE}, {SIDE}] w")


def test_the_first_of_equal_weights_is_found_through_transpose_and_identity() -> None:
    model = prepared(shared())
    keys = list(model.weights)
    assert len(keys) == 4 and model.shared_weights == dict.fromkeys(keys, keys[0])


@pytest.mark.parametrize("name", ["w8", "w4", "u8u8", "int8", "int8 bounded", "w4a8", "w4a8 bounded"])
def test_one_copy_in_the_file(name: str) -> None:
    """Codes of int8 kernels that may saturate are the exception: with `session.x64quantprecision`, onnxruntime refuses
    files in which layers share them."""
    case = Case("shared", shared())
    inputs = feeds_for(shared()).batch([0])
    scheme = SCHEMES[name.removesuffix(" bounded")]
    assert scheme.weight is not None
    if name.endswith("bounded"):
        scheme = replace(scheme, weight=scheme.weight.without_saturation)
    written = case.rewrite({r.name: scheme for r in case.model.layers})
    large = [t for t in written.graph.initializer if np.prod(t.dims) >= SIDE * SIDE]
    assert len(large) == (4 if name == "int8" else 1), [(t.name, list(t.dims)) for t in large]
    onnx.checker.check_model(written)
    plain = run(open_session(written, SessionSettings(optimize=False)), inputs)[0]
    for settings in (SessionSettings(), *([] if name.endswith("bounded") else [SessionSettings(exact_integers=True)])):
        found = run(open_session(written, settings), inputs)[0]
        assert np.abs(found - plain).max() < 0.1 * np.abs(plain).max()


def test_the_file_is_as_large_as_predicted() -> None:
    model = prepared(shared())
    case = Case("shared", shared())
    scheme = SCHEMES["w8"]
    chosen = {r.name: scheme for r in case.model.layers}
    menu = {r.name: (SCHEMES["fp32"], scheme) if r.layer else (SCHEMES["fp32"],) for r in model.regions}
    table = CostTable({r.name: {"fp32": 1e-6} for r in model.regions})
    problem = pose(model, Menu(menu), table, None, case.weights(chosen))
    for plan in ({}, chosen):
        assert problem.size_bytes(plan) == pytest.approx(len(serialize(case.rewrite(plan))), rel=0.1)
    least = solve(problem, "size", Limits())
    assert least is not None and least.assignment.keys() == chosen.keys()
    assert least.value == pytest.approx(problem.size_bytes(chosen))


def test_a_table_and_a_layer_share_their_weight() -> None:
    """The table of an embedding is, transposed, the weight of the last layer."""
    proto = graph(
        "e = Gather (w, ids)  r = Relu (e)  t = Transpose <perm = [1, 0]> (w)  y = MatMul (r, t)",
        "int64[N, 5] ids",
        "float[N, 5, 128] y",
        "float[128, 64] w",
    )
    model = prepared(proto)
    assert len(set(model.shared_weights.values())) == 1 and len(model.shared_weights) == 2
    result = onnxmpq.convert(proto, calibration=feeds_for(proto).arrays, size="smallest", schemes=["w8"], cache=False)
    assert sum(t.data_type == onnx.TensorProto.INT8 for t in result.model.graph.initializer if len(t.dims) == 2) == 1
    assert len(serialize(result.model)) < 128 * 64 * 1.2 + 4_000


def test_what_is_left_in_float_is_not_written_twice_either() -> None:
    proto = shared()
    before = run(open_session(proto), feeds_for(proto).batch([0]))
    model = prepared(proto).proto
    share_constants(model, lambda name: name, WeightStore.of(model))
    assert [list(t.dims) for t in model.graph.initializer] == [[SIDE, SIDE]]
    onnx.checker.check_model(model)
    np.testing.assert_array_equal(run(open_session(model), feeds_for(proto).batch([0]))[0], before[0])


def test_inputs_and_small_constants_stay() -> None:
    proto = graph(
        "a = Add (x, b)  c = Add (a, d)  e = MatMul (c, v)  y = MatMul (e, w)",
        "float[N, 96] x, float[96, 96] w",
        "float[N, 96] y",
        "float[96] b, float[96] d, float[96, 96] v, float[96, 96] w",
    )
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(np.ones(list(tensor.dims), np.float32), tensor.name))
    held = serialize(proto)
    share_constants(proto, lambda name: name, WeightStore.of(proto))
    assert serialize(proto) == held


def test_compilers_get_no_transposes_of_constants() -> None:
    """TensorRT's rules want a constant right before its DequantizeLinear."""
    model = graph("a = MatMul (x, w)  y = MatMul (a, turned)", "float[N, 64] x", "float[N, 64] y", "float[64, 48] w")
    table = onnx.numpy_helper.to_array(model.graph.initializer[0])
    model.graph.initializer.append(onnx.numpy_helper.from_array(table.T.copy(), "turned"))
    assert "turned" in {t.name for t in model.graph.initializer}
    share_constants(model, lambda name: name, WeightStore.of(model))
    assert [n.op_type for n in model.graph.node if "turned" in n.output] == ["Transpose"]


@pytest.mark.parametrize("spelling", ["one initializer", "behind Identity", "a copy for each layer"])
def test_rescaling_keeps_equal_weights_equal(spelling: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other factors for each layer would make as many weights as there are layers. Some factors are always kept here."""
    monkeypatch.setattr(choose, "_clearly_less", lambda *_: True)
    proto = encoder(spelling, 4)
    samples = {"x": np.random.default_rng(1).standard_normal((16, 128)).astype(np.float32)}
    samples["x"][:, 3] *= 20.0  # so that there is something to rescale
    result = onnxmpq.convert(
        proto, calibration=samples, latency="fastest", schemes=["int8"], cost_table=int8_pays(proto, tmp_path),
        effort=QUICK, cache=False, guard=False,
    )  # fmt: skip
    assert sum(t.data_type == onnx.TensorProto.INT8 and len(t.dims) == 2 for t in result.model.graph.initializer) == 2
