"""Models in float16 and double are prepared in float32, with the ends that they had."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper

import onnxmpq
from onnxmpq.cost.measure import Effort
from onnxmpq.errors import NothingToQuantizeError
from onnxmpq.menu import Menu, require_candidates
from onnxmpq.model import Step, prepare
from onnxmpq.samples import agreeing
from tests.graphs import Array, feeds_for, graph, outputs_of, residual_cnn, samples_for, token_model

HALF, DOUBLE = TensorProto.FLOAT16, TensorProto.DOUBLE
TYPES = {HALF: np.float16, DOUBLE: np.float64}


def stored_as(proto: onnx.ModelProto, element: int) -> onnx.ModelProto:
    """The model with all its float32 in another type."""
    for graph_proto in [proto.graph, *(a.g for n in proto.graph.node for a in n.attribute if a.g.node)]:
        for tensor in graph_proto.initializer:
            if tensor.data_type == TensorProto.FLOAT:
                values = numpy_helper.to_array(tensor).astype(TYPES[element])
                tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
        for info in (*graph_proto.input, *graph_proto.output):
            if info.type.tensor_type.elem_type == TensorProto.FLOAT:
                info.type.tensor_type.elem_type = element
    return proto


def branches() -> onnx.ModelProto:
    return graph(
        """h = MatMul (x, w)  first = Squeeze (flag)
           y = If (first) <
               then_branch = t () => (float[N, 8] u) { u = MatMul (h, w) },
               else_branch = e () => (float[N, 8] u) { s = ConstantOfShape <value = float16[1] {2}> (k) u = Mul (h, s) }
           >""",
        "float[N, 8] x, bool[1] flag",
        "float[N, 8] y, float[N, 8] h",
        "float[8, 8] w, int64[1] k = {1}",
    )


@dataclass(frozen=True)
class Case:
    """A model in another type, and how many layers it has."""

    id: str
    proto: onnx.ModelProto
    layers: int

    @property
    def inputs(self) -> dict[str, Array]:
        wanted = {i.name: i.type.tensor_type.elem_type for i in self.proto.graph.input}
        plain = samples_for(self.proto, 1)
        found = {n: v.astype(TYPES.get(wanted[n], v.dtype)) for n, v in plain.items()}
        return {n: v > 0 if wanted[n] == TensorProto.BOOL else v for n, v in found.items()}


CASES = [
    Case("cnn", stored_as(residual_cnn(), HALF), 4),
    Case("tokens", stored_as(token_model(), HALF), 3),
    Case("branches, an output that is read", stored_as(branches(), HALF), 2),
    Case("double", stored_as(graph("y = MatMul (x, w)", "float[N, 8] x", "float[N, 4] y", "float[8,4] w"), DOUBLE), 1),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_the_same_in_float32(case: Case) -> None:
    model = prepare(case.proto)
    assert len(model.layers) == case.layers
    before, after = outputs_of(case.proto, case.inputs), outputs_of(model.proto, case.inputs)
    for name, value in before.items():
        assert after[name].dtype == value.dtype
        np.testing.assert_allclose(after[name].astype(np.float64), value.astype(np.float64), rtol=0.02, atol=0.02)
    assert model.structure.graph.input == case.proto.graph.input
    assert model.structure.graph.output == case.proto.graph.output


def test_constants_alone_are_no_reason() -> None:
    """A float16 weight behind a Cast is folded to float32; nothing is computed in 16 bits."""
    proto = graph("v = Cast <to = 1> (w)  y = MatMul (x, v)", "float[N, 8] x", "float[N, 8] y")
    proto.graph.initializer.append(numpy_helper.from_array(np.eye(8, dtype=np.float16), "w"))
    model = prepare(proto)
    assert not model.from_halves and len(model.layers) == 1


def test_it_is_a_step_that_can_be_left_out() -> None:
    model = prepare(stored_as(residual_cnn(), HALF), left_out=[Step.WIDEN])
    assert not model.layers
    with pytest.raises(NothingToQuantizeError, match="float16 constants could not be made float32: export"):
        require_candidates(model, Menu({r.name: () for r in model.regions}))


def test_a_float16_model_is_converted() -> None:
    proto = stored_as(residual_cnn(), HALF)
    samples = {n: v.astype(np.float16) for n, v in samples_for(residual_cnn(), 8).items()}
    model = prepare(proto)
    assert agreeing(proto, model, feeds_for(proto)).left_out == ()
    quick = Effort(seconds=0.02, runs=2, rounds=2)
    result = onnxmpq.convert(proto, calibration=samples, size="smallest", effort=quick, without=["gptq"], guard=False)
    assert result.report.validation.worst_sqnr_db > 8
    assert [o.type.tensor_type.elem_type for o in result.model.graph.output] == [HALF]
    assert any("float16 became float32" in note for note in result.report.notes)


def test_constants_that_are_inputs_are_widened() -> None:
    """As all are up to IR version 3."""
    proto = stored_as(residual_cnn(), HALF)
    for tensor in proto.graph.initializer:
        proto.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    model = prepare(proto)
    assert len(model.layers) == len(prepare(residual_cnn()).layers) > 0
    assert not any("left out" in note for note in model.notes)
    assert [i.name for i in model.proto.graph.input] == ["x"]
