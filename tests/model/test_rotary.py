"""Rotary positions as one operator: what is found, what is not, and that it computes the same."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxmpq.model import Step, prepare
from onnxmpq.model.rotary import fuse_rotary
from onnxmpq.runtimes import ROTARY, probes
from tests.graphs import outputs_of

HEADS, SIZE = 2, 8


@dataclass(frozen=True)
class Spelled:
    """How a rotation is spelled. cut: tokens are cut into heads in front of it. swapped: operands of sum and products.
    split: halves by Split. late: angles get their axis of heads behind the cosine. scaled: for long contexts. batch: of
    the angles."""

    cut: bool = True
    swapped: bool = False
    split: bool = False
    late: bool = True
    scaled: bool = False
    batch: str = "B"
    wrong: str = ""

    def graph(self) -> onnx.ModelProto:
        nodes: list[onnx.NodeProto] = []
        constants: dict[str, onnx.TensorProto] = {}

        def node(operator: str, *inputs: str, outputs: tuple[str, ...] = (), **attributes: object) -> str:
            made = outputs or (f"{operator}{len(nodes)}",)
            given = tuple(reversed(inputs)) if self.swapped and operator in ("Add", "Mul") else inputs
            nodes.append(helper.make_node(operator, given, made, f"n{len(nodes)}", **attributes))
            return made[0]

        def constant(values: object, dtype: type = np.int64) -> str:
            name = f"c{len(constants)}"
            constants[name] = numpy_helper.from_array(np.asarray(values, dtype), name)
            return name

        def part(tensor: str, start: int, end: int) -> str:
            return node("Slice", tensor, constant([start]), constant([end]), constant([3]))

        x = "x"
        if self.cut:
            x = node("Transpose", node("Reshape", "x", constant([0, 0, HEADS, SIZE])), perm=[0, 2, 1, 3])
        angles = node("Mul", node("Unsqueeze", "p", constant([2])), constant(0.3 ** np.arange(SIZE // 2), np.float32))
        whole = node("Concat", angles, "other" if self.wrong == "two kinds of angles" else angles, axis=-1)
        if not self.late:
            whole = node("Unsqueeze", whole, constant([1]))
        waves = [node("Cos", whole), node("Sin", whole)]
        if self.scaled:
            waves = [node("Mul", wave, constant(1.2, np.float32)) for wave in waves]
        if self.late:
            waves = [node("Unsqueeze", wave, constant([1])) for wave in waves]
        if self.split:
            first, second = "first", "second"
            node("Split", x, outputs=(first, second), axis=3, num_outputs=2)
        else:
            first, second = part(x, 0, SIZE // 2), part(x, SIZE // 2, 2**40)
        if self.wrong == "neighbours":
            first = part(x, 1, SIZE // 2 + 1)
        turned = node("Concat", *((first, node("Neg", second)) if self.wrong == "the other half is negative" else (
            node("Neg", second), first)), axis=-1)  # fmt: skip
        y = node("Add", node("Mul", x, waves[0]), node("Mul", turned, waves[1]))
        node("Identity" if not self.cut else "Abs", y, outputs=("y",))
        number = TensorProto.FLOAT
        shape = ["B", "S", HEADS * SIZE] if self.cut else ["B", HEADS, "S", SIZE]
        inputs = [helper.make_tensor_value_info("x", number, shape)]
        inputs.append(helper.make_tensor_value_info("p", number, [self.batch, "S"]))
        if self.wrong == "two kinds of angles":
            inputs.append(helper.make_tensor_value_info("other", number, [self.batch, "S", SIZE // 2]))
        outputs = [helper.make_tensor_value_info("y", number, ["B", HEADS, "S", SIZE])]
        graph = helper.make_graph(nodes, "rotary", inputs, outputs, list(constants.values()))
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=11)


def operators(proto: onnx.ModelProto) -> list[str]:
    return [n.op_type for n in proto.graph.node]


@settings(max_examples=32, deadline=None)
@given(cut=st.booleans(), swapped=st.booleans(), split=st.booleans(), late=st.booleans(), scaled=st.booleans())
def test_any_spelling_is_one_operator_that_computes_the_same(
    cut: bool, swapped: bool, split: bool, late: bool, scaled: bool
) -> None:
    proto = Spelled(cut, swapped, split, late, scaled).graph()
    fused, made_for = fuse_rotary(proto)
    onnx.checker.check_model(fused)
    assert operators(fused).count("RotaryEmbedding") == 1
    assert not {"Neg", "Slice", "Split"} & set(operators(fused))
    assert {n.name for n in proto.graph.node if n.op_type == "Neg"} <= set().union(*map(set, made_for.values()))
    if probes.holds(ROTARY):
        generator = np.random.default_rng(0)
        for batch, tokens in ((1, 1), (3, 5)):
            shape = (batch, tokens, HEADS * SIZE) if cut else (batch, HEADS, tokens, SIZE)
            inputs = {"x": generator.standard_normal(shape), "p": generator.uniform(0, 9, (batch, tokens))}
            given = {name: values.astype(np.float32) for name, values in inputs.items()}
            before, after = outputs_of(proto, given)["y"], outputs_of(fused, given)["y"]
            np.testing.assert_allclose(np.asarray(after), np.asarray(before), atol=1e-5)


@pytest.mark.parametrize("wrong", ["two kinds of angles", "neighbours", "the other half is negative"])
def test_what_is_no_rotation_stays(wrong: str) -> None:
    proto = Spelled(wrong=wrong).graph()
    assert fuse_rotary(proto) == (proto, {})


@pytest.mark.parametrize("batch", ["N", "1"])
def test_angles_of_another_batch_stay(batch: str) -> None:
    """The operator does not repeat them."""
    proto = Spelled(batch=batch).graph()
    if batch == "1":
        proto.graph.input[1].type.tensor_type.shape.dim[0].dim_value = 1
    assert fuse_rotary(proto) == (proto, {})


def test_only_in_front_of_attention_with_a_cache() -> None:
    model = prepare(Spelled().graph(), added=lambda step: True)
    assert "RotaryEmbedding" not in operators(model.structure)
    assert Step.FUSE_ROTARY not in model.added
