"""Weights that several layers have are once in the file, however they come by them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest

import onnxmpq
from onnxmpq.allocate import Limits, pose, solve
from onnxmpq.cost import CostTable
from onnxmpq.dialects.sharing import share_constants
from onnxmpq.files import serialize
from onnxmpq.menu import Menu
from onnxmpq.model import WeightStore
from onnxmpq.runtimes import SessionSettings, open_session, run
from onnxmpq.schemes import SCHEMES, scheme_named
from tests.dialects.cases import Case, simulate
from tests.graphs import feeds_for, graph, prepared

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


def tied() -> onnx.ModelProto:
    return graph(
        "e = Gather (w, ids)  r = Relu (e)  t = Transpose <perm = [1, 0]> (w)  y = MatMul (r, t)",
        "int64[N, 5] ids",
        "float[N, 5, 128] y",
        "float[128, 256] w",
    )


@pytest.mark.parametrize("name", ["w4b32", "w4b128", "w8b128", "w4b32z"])
def test_a_table_in_blocks_is_stored_once_for_the_lookup_and_the_product(name: str) -> None:
    case = Case("tied", tied())
    scheme = scheme_named(name)
    chosen = {r.name: scheme for r in case.model.layers}
    proto = case.rewrite(chosen)
    [codes] = [t for t in proto.graph.initializer if t.data_type == onnx.TensorProto.UINT8 and len(t.dims) == 3]
    assert scheme.weight is not None
    assert np.prod(codes.dims) == 128 * 256 * scheme.weight.bits // 8
    readers = {n.op_type for n in proto.graph.node if codes.name in n.input}
    assert readers == {"MatMulNBits", "Reshape"} and "GatherBlockQuantized" in {n.op_type for n in proto.graph.node}
    onnx.checker.check_model(proto)
    inputs = feeds_for(case.proto).batch([0])
    expected = simulate(case, chosen, inputs)["y"]
    for settings in (SessionSettings(), SessionSettings(optimize=False)):
        found = run(open_session(proto, settings), inputs)[0]
        np.testing.assert_allclose(found, expected, atol=5e-3 * np.abs(expected).max())


@dataclass(frozen=True)
class Mixed:
    """Schemes of a table and of the layer that multiplies with it; and how many tensors hold the codes."""

    table: str
    product: str
    tensors: int

    @property
    def id(self) -> str:
        return f"{self.table} and {self.product}"


MIXED = [Mixed("w4b32", "w4b32-level0", 1), Mixed("w4b32", "w4b128", 2), Mixed("w4b32", "fp32", 1)]


@pytest.mark.parametrize("case", MIXED, ids=lambda case: case.id)
def test_one_tensor_of_codes_for_one_format(case: Mixed) -> None:
    graph_of = Case("tied", tied())
    lookup, product = graph_of.model.layers
    proto = graph_of.rewrite({lookup.name: SCHEMES[case.table], product.name: SCHEMES[case.product]})
    assert sum(t.data_type == onnx.TensorProto.UINT8 for t in proto.graph.initializer) == case.tensors
    run(open_session(proto), feeds_for(graph_of.proto).batch([0]))


def test_the_solver_knows_that_a_tied_table_is_stored_once() -> None:
    model, case = prepared(tied()), Case("tied", tied())
    blocks = SCHEMES["w4b128"]
    chosen = {r.name: blocks for r in model.layers}
    menu = {r.name: (SCHEMES["fp32"], blocks) if r.layer else (SCHEMES["fp32"],) for r in model.regions}
    table = CostTable({r.name: {"fp32": 1e-6, "w4b128": 1e-6} for r in model.regions})
    problem = pose(model, Menu(menu), table, None, case.weights(chosen))
    assert problem.size_bytes(chosen) == pytest.approx(len(serialize(case.rewrite(chosen))), rel=0.05)


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
