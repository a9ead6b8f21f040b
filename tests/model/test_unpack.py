"""Models that have weights in blocks already: kept, with all around them free, or unfolded to be planned anew."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import onnxmpq
from onnxmpq.model import Model, RegionKind, Step, prepare
from tests.graphs import feeds_for, outputs_of

KEPT = (Step.UNPACK_BLOCKS,)


@dataclass(frozen=True)
class Blocks:
    """A weight [24, width] in blocks of 16, as MatMulNBits and GatherBlockQuantized hold it."""

    bits: int
    zero_points: str = ""
    width: int = 48
    element: int = TensorProto.FLOAT
    level: int = 0

    @property
    def id(self) -> str:
        zeros = f", {self.zero_points} zero points" if self.zero_points else ""
        return (
            f"{self.bits} bits, {self.width} wide{zeros}, {TensorProto.DataType.Name(self.element)}, level {self.level}"
        )

    @property
    def blocks(self) -> int:
        return -(-self.width // 16)

    def constants(self) -> list[TensorProto]:
        """codes [24, blocks, bytes], scales [24, blocks], and zeros of the kind that was asked for."""
        generator, dtype = np.random.default_rng(self.bits), helper.tensor_dtype_to_np_dtype(self.element)
        codes = generator.integers(0, 256, (24, self.blocks, 2 * self.bits)).astype(np.uint8)
        scales = (generator.random((24, self.blocks)) / 2**self.bits).astype(dtype)
        named = [("codes", codes), ("scales", scales)]
        if self.zero_points == "packed":
            row = -(-self.blocks * self.bits // 8)
            named.append(("zeros", generator.integers(0, 256, (24, row)).astype(np.uint8)))
        elif self.zero_points == "float":
            named.append(("zeros", generator.integers(0, 2**self.bits, (24, self.blocks)).astype(dtype)))
        return [numpy_helper.from_array(values, name) for name, values in named]


def layer_in_blocks(blocks: Blocks, *, bias: bool = False) -> onnx.ModelProto:
    """Relu, MatMulNBits, Relu, and a MatMul in float."""
    kind, constants = blocks.element, blocks.constants()
    inputs = ["a", "codes", "scales", "zeros" if blocks.zero_points else ""]
    if bias:
        inputs += ["", "bias"]
        constants.append(numpy_helper.from_array(_values(24, kind), "bias"))
    constants.append(numpy_helper.from_array(_values((24, 32), kind), "w"))
    attributes = {"K": blocks.width, "N": 24, "bits": blocks.bits, "block_size": 16, "accuracy_level": blocks.level}
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "first"),
        helper.make_node("MatMulNBits", inputs, ["b"], "blocks", domain="com.microsoft", **attributes),
        helper.make_node("Relu", ["b"], ["c"], "second"),
        helper.make_node("MatMul", ["c", "w"], ["y"], "last"),
    ]
    return _model(nodes, ("x", kind, ["N", blocks.width]), ("y", kind, ["N", 32]), constants)


def _values(shape: int | tuple[int, ...], kind: int) -> np.ndarray:
    return np.random.default_rng(3).standard_normal(shape).astype(helper.tensor_dtype_to_np_dtype(kind))


def _model(nodes: list, given: tuple, made: tuple, constants: list[TensorProto]) -> onnx.ModelProto:
    ends = [[helper.make_tensor_value_info(*end)] for end in (given, made)]
    domains = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(helper.make_graph(nodes, "g", *ends, constants), ir_version=10, opset_imports=domains)


CASES = [
    *(Blocks(bits, zeros) for bits in (4, 8) for zeros in ("", "packed")),
    Blocks(4, "float"),
    Blocks(4, "packed", 40),
    Blocks(8, "", 40),
    Blocks(4, "packed", 48, TensorProto.FLOAT16),
]


@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_an_unfolded_layer_computes_the_same(case: Blocks, bias: bool) -> None:
    proto = layer_in_blocks(case, bias=bias)
    inputs = feeds_for(proto, 4).arrays
    model = prepare(proto)
    assert "MatMulNBits" not in {n.op_type for n in model.structure.graph.node}
    assert [r.name for r in model.layers] == ["blocks", "last"]
    before, after = outputs_of(proto, inputs)["y"], outputs_of(model.proto, inputs)["y"]
    exact = 2e-6 if case.element == TensorProto.FLOAT else 5e-3
    np.testing.assert_allclose(after.astype(np.float32), before.astype(np.float32), atol=exact * np.abs(before).max())


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("zeros", ["", "packed"])
def test_an_unfolded_table_holds_the_same(bits: int, zeros: str) -> None:
    blocks = Blocks(bits, zeros)
    codes, *others = blocks.constants()
    flat = numpy_helper.from_array(numpy_helper.to_array(codes).reshape(24, -1), "codes")
    inputs = ["codes", "x", "scales", *(["zeros"] if zeros else [])]
    node = helper.make_node(
        *("GatherBlockQuantized", inputs, ["y"], "table"), domain="com.microsoft", block_size=16, bits=bits
    )
    proto = _model([node], ("x", TensorProto.INT64, ["N"]), ("y", TensorProto.FLOAT, ["N", 48]), [flat, *others])
    ids = {"x": np.array([0, 5, 23, -1])}
    model = prepare(proto)
    assert [n.op_type for n in model.structure.graph.node] == ["Gather"]
    np.testing.assert_allclose(outputs_of(model.proto, ids)["y"], outputs_of(proto, ids)["y"], rtol=1e-6)


def regions_by_name(model: Model) -> dict[str, RegionKind]:
    return {r.name: r.kind for r in model.regions}


def test_kept_layers_leave_their_neighbours_free() -> None:
    model = prepare(layer_in_blocks(Blocks(4)), left_out=KEPT)
    assert model.already_quantized == ("blocks",)
    assert regions_by_name(model)["blocks"] is RegionKind.FLOAT
    assert regions_by_name(model)["last"] is RegionKind.LAYER
    assert any("already in blocks: 1 layers" in note and "--replan-blocks" in note for note in model.notes)
    assert model.left_out == KEPT


def test_weights_that_are_computed_stay() -> None:
    proto = layer_in_blocks(Blocks(4))
    proto.graph.input.append(helper.make_tensor_value_info("codes", TensorProto.UINT8, [24, 3, 8]))
    kept = [t for t in proto.graph.initializer if t.name != "codes"]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)
    model = prepare(proto)
    assert "MatMulNBits" in {n.op_type for n in model.structure.graph.node}
    assert any("1 stay" in note for note in model.notes)


@pytest.mark.parametrize("level", [0, 4])
@pytest.mark.parametrize("replan", [False, True], ids=["kept", "planned anew"])
def test_conversion_keeps_or_replans_blocks(replan: bool, level: int) -> None:
    """Also from kernels that round activations, which the prepared graph does not: they are compared less strictly."""
    proto = layer_in_blocks(Blocks(4, "packed", 64, level=level))
    samples = feeds_for(proto, 8).arrays
    result = onnxmpq.convert(proto, calibration=samples, size="smallest", replan_blocks=replan, cache=False)
    assert set(result.plan.schemes) >= ({"blocks", "last"} if replan else {"last"})
    kept = [n for n in result.model.graph.node if n.name == "blocks" and n.op_type == "MatMulNBits"]
    assert ("blocks" in result.plan.schemes) == replan
    if not replan:
        [node] = kept
        assert {a.name: a.i for a in node.attribute}["accuracy_level"] == level
    again = onnxmpq.apply(proto, result.plan)
    assert again.SerializeToString(deterministic=True) == result.model.SerializeToString(deterministic=True)
