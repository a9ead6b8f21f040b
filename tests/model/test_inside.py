"""Operators that hold weights are named and left alone; what is around them is planned."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxmpq
from onnxmpq.dialects import DIALECTS
from onnxmpq.errors import ModelError
from onnxmpq.menu import candidates
from onnxmpq.model import prepare, weights_inside
from onnxmpq.runtimes import open_session
from onnxmpq.target import load_target
from tests.conftest import QUICK

EXPERTS, WIDTH, HIDDEN = 4, 32, 64


def routed(*, quantized: bool = False) -> onnx.ModelProto:
    """Experts behind a router, between two layers. quantized: QMoE with int4 weights."""
    generator = np.random.default_rng(0)
    constants: dict[str, np.ndarray] = {
        name: (generator.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
        for name, shape in (("w0", (WIDTH, WIDTH)), ("router", (WIDTH, EXPERTS)), ("w9", (WIDTH, 8)))
    }
    shapes = {"fc1": (EXPERTS, HIDDEN, WIDTH), "fc2": (EXPERTS, WIDTH, HIDDEN)}
    for name, shape in shapes.items():
        if quantized:
            constants[name] = generator.integers(0, 256, (*shape[:2], shape[2] // 2)).astype(np.uint8)
            constants[f"{name}/scale"] = np.full(shape[:2], 0.01, np.float32)
        else:
            constants[name] = (generator.standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)
    given = ["fc1", "fc1/scale", "", "fc2", "fc2/scale"] if quantized else ["fc1", "", "fc2"]
    more = {"expert_weight_bits": 4} if quantized else {}
    domain = {"domain": "com.microsoft", "k": 2, "activation_type": "silu", "normalize_routing_weights": 1}
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["a"], "first"),
        helper.make_node("MatMul", ["a", "router"], ["p"], "router"),
        helper.make_node("QMoE" if quantized else "MoE", ["a", "p", *given], ["m"], "experts", **domain, **more),
        helper.make_node("Add", ["a", "m"], ["b"], "skip"),
        helper.make_node("MatMul", ["b", "w9"], ["y"], "last"),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["N", s]) for n, s in (("x", WIDTH), ("y", 8))]
    held = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "routed", ends[:1], ends[1:], held)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=10)


@pytest.mark.parametrize("quantized", [False, True], ids=["MoE", "QMoE"])
def test_experts_are_left_alone_with_a_reason(quantized: bool) -> None:
    model = prepare(routed(quantized=quantized))
    operator = "QMoE" if quantized else "MoE"
    size = 2 * EXPERTS * WIDTH * HIDDEN * 4 // (8 if quantized else 1)
    assert weights_inside(model.structure) == {"experts": size}
    menu = candidates(model, load_target("cpu"), DIALECTS["onnxruntime"])
    assert [s.name for s in menu["experts"]] == ["fp32"]
    assert menu.reasons["experts"] == f"{operator} holds its weights itself, which no scheme reaches"
    assert all(len(menu[name]) > 1 for name in ("first", "router", "last"))
    assert any(f"weights inside {operator}: 1 node of" in note for note in model.notes)


def test_what_is_around_experts_is_converted() -> None:
    try:
        open_session(routed())
    except ModelError:
        pytest.skip("this onnxruntime has no kernel for MoE on CPUs (1.23)")
    given = {"x": np.random.default_rng(1).standard_normal((24, WIDTH)).astype(np.float32)}
    result = onnxmpq.convert(
        routed(), calibration=given, size="90%", samples=16, guard=False, best_effort=True, effort=QUICK
    )
    assert [n.op_type for n in result.model.graph.node].count("MoE") == 1
    assert {row.scheme for row in result.plan.layers if row.node in ("first", "last")} != {"fp32"}
    assert any("weights inside MoE" in note for note in result.report.notes)


def test_tables_of_positions_are_no_weights() -> None:
    proto = routed()
    proto.graph.node[2].op_type = "RotaryEmbedding"
    assert weights_inside(proto) == {}
