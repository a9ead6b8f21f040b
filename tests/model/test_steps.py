"""Preparing step by step: each step can be left out, and one that fails is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx
import pytest

from onnxmpq.errors import ModelError
from onnxmpq.model import Step, prepare
from onnxmpq.model import steps as steps_module
from tests.graphs import conv_relu, feeds_for, graph, outputs_of, prepared, steps_to_take


def operators(left_out: list[Step]) -> list[str]:
    return [n.op_type for n in prepare(steps_to_take(), left_out=left_out).structure.graph.node]


@dataclass(frozen=True)
class LeftOut:
    """A step, and the operators that stay without it."""

    step: Step
    stay: tuple[str, ...]


CASES = [
    LeftOut(Step.FOLD_CONSTANTS, ("Constant", "Add", "Relu", "Conv", "Mul")),
    LeftOut(Step.SKIP_IDENTITIES, ("Relu", "Identity", "Conv")),
    LeftOut(Step.FOLD_FACTORS, ("Relu", "Conv", "Mul")),
]


def test_all_steps() -> None:
    assert operators([]) == ["Relu", "Conv"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.step.name)
def test_a_step_can_be_left_out(case: LeftOut) -> None:
    assert sorted(operators([case.step])) == sorted(case.stay)


@pytest.mark.parametrize(
    "left_out", [[s] for s in Step] + [list(Step)], ids=lambda steps: "+".join(s.name for s in steps)
)
def test_without_any_step_the_same_is_computed(left_out: list[Step]) -> None:
    proto = steps_to_take()
    inputs = feeds_for(proto, 1).batch([0])
    model = prepare(proto, left_out=left_out)
    np.testing.assert_allclose(outputs_of(model.proto, inputs)["y"], outputs_of(proto, inputs)["y"], atol=1e-5)
    wrong = set(left_out) - {Step.UNPACK_BLOCKS}  # which has nothing to do here
    assert set(model.left_out) == wrong
    assert len([note for note in model.notes if note.startswith("left out")]) == len(wrong)


@pytest.mark.parametrize(
    ("left_out", "opset"), [([Step.RAISE_TO_INT4], 13), ([Step.RAISE_TO_INT4, Step.RAISE_TO_CHANNELS], 9)], ids=str
)
def test_opset_without_raising(left_out: list[Step], opset: int) -> None:
    assert prepare(steps_to_take(), left_out=left_out).opset == opset


def failing(*_: object) -> None:
    raise RuntimeError("broken\non two lines")


@pytest.mark.parametrize("name", ["converted", "fold"])
def test_a_step_that_fails_is_left_out_and_said(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steps_module, name, failing)
    model = prepared(conv_relu(9))
    assert any("(broken)" in note for note in model.notes)
    assert "\n" not in "".join(model.notes)


def newer(change: Callable[[onnx.ModelProto], None]) -> onnx.ModelProto:
    proto = conv_relu()
    change(proto)
    return proto


def test_a_model_of_a_later_onnx_is_refused_in_a_line() -> None:
    later = onnx.IR_VERSION + 1
    with pytest.raises(ModelError, match=rf"IR version {later} is newer than {onnx.IR_VERSION}, .* update onnx"):
        prepare(newer(lambda proto: setattr(proto, "ir_version", later)))
    latest = onnx.defs.onnx_opset_version() + 1
    with pytest.raises(ModelError, match=rf"opset {latest} is newer than"):
        prepare(newer(lambda proto: setattr(proto.opset_import[0], "version", latest)))


def test_sizes_that_are_computed_with_fractions_stay_so() -> None:
    """Cast to float, times 0.5, cast back: onnx-graphsurgeon's folding of shapes takes 0.5 for the integer 0."""
    proto = graph(
        """s = Shape (x)  f = Cast <to = 1> (s)  h = Mul (f, half)  k = Cast <to = 7> (h)
           y = Resize <mode = "nearest"> (x, , , k)""",
        "float[a, b, c, d] x",
        "float[e, f, g, h] y",
        "float[4] half = {1.0, 1.0, 0.5, 0.5}",
    )
    x = np.arange(32, dtype=np.float32).reshape(1, 2, 4, 4)
    assert outputs_of(prepare(proto).proto, {"x": x})["y"].shape == (1, 2, 2, 2)


@pytest.mark.parametrize("batch", [2, "N"])
def test_known_sizes_become_constants(batch: int | str) -> None:
    proto = graph(
        """s = Shape (x)  c = Gather (s, one)  z = Unsqueeze (c, at)
           t = Concat <axis = 0> (minus, z)  y = Reshape (x, t)""",
        f"float[{batch}, 6, 4] x",
        "float[a, 6] y",
        "int64 one = {1}, int64[1] at = {0}, int64[1] minus = {-1}",
    )
    model = prepare(proto)
    assert [n.op_type for n in model.structure.graph.node] == ["Reshape"]
    assert model.store.array(model.structure.graph.node[0].input[1]).tolist() == [-1, 6]


def test_constants_that_would_take_more_room_are_not_folded() -> None:
    proto = graph(
        "t = Expand (one, shape)  y = Add (x, t)",
        "float[300, 300] x",
        "float[300, 300] y",
        "float one = {1}, int64[2] shape = {300, 300}",
    )
    assert prepare(proto).prepared_bytes < 1000


def test_factors_beyond_float32_are_not_folded() -> None:
    proto = graph(
        "c = Conv <kernel_shape = [1, 1]> (x, w)  y = Mul (c, m)",
        "float[N, 1, 2, 2] x",
        "float[N, 1, 2, 2] y",
        "float[1, 1, 1, 1] w = {1e30}, float m = {1e30}",
    )
    assert [n.op_type for n in prepare(proto).structure.graph.node] == ["Conv", "Mul"]


def test_a_graph_with_optional_ends_is_left_as_it_is() -> None:
    """onnx-graphsurgeon cannot write it: it has no layers, rather than an error when it is written."""
    proto = graph(
        "e = Identity (o)  y = MatMul (x, w)",
        "optional(seq(float[5])) o, float[N, 4] x",
        "optional(seq(float[5])) e, float[N, 4] y",
        "float[4, 4] w",
    )
    model = prepare(proto)
    assert not model.layers
    assert any("not known to onnx-graphsurgeon" in note for note in model.notes)
    assert [n.op_type for n in model.structure.graph.node] == ["Identity", "MatMul"]
