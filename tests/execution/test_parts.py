"""Parts of a graph compute what the whole graph does, from the tensors that they ask for."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from onnxmpq.execution import NOTHING, Cutter, OpenPart, Part, with_outputs
from onnxmpq.model import Spelling, Step, prepare
from onnxmpq.runtimes import SessionSettings
from tests.graphs import feeds_for, graph, outputs_of, prepared, residual_cnn

Array = NDArray[np.generic]
MODEL = prepared(residual_cnn())
PLACES = range(len(MODEL.proto.graph.node))


def all_values(proto: onnx.ModelProto) -> dict[str, Array]:
    """Every tensor of a run of three samples."""
    inputs = feeds_for(proto, 3).arrays
    inner = [t for n in proto.graph.node for t in n.output]
    return {**inputs, **outputs_of(with_outputs(proto, inner), inputs, optimize=False)}


def ran(part: Part, values: Mapping[str, Array]) -> dict[str, Array]:
    return OpenPart(part, SessionSettings()).run({t: values[t] for t in part.inputs})


@pytest.mark.parametrize("place", PLACES)
def test_the_parts_before_and_behind_a_place_are_the_graph(place: int) -> None:
    cutter, values = Cutter(MODEL.proto), all_values(MODEL.proto)
    live = cutter.live(place)
    before = ran(cutter.segment(0, place, live), {"x": values["x"]})
    assert list(before) == live
    behind = cutter.behind([*live, "x"], place)
    assert set(behind.inputs) <= {*live, "x"}
    np.testing.assert_allclose(ran(behind, {**before, "x": values["x"]})["y"], values["y"], atol=1e-4)


@pytest.mark.parametrize("place", PLACES[:-2])
def test_from_a_changed_tensor_to_a_checkpoint_and_behind_it(place: int) -> None:
    cutter, values = Cutter(MODEL.proto), all_values(MODEL.proto)
    tensor, checkpoint = cutter.index.nodes[place].output[0], place + 2
    suffix = cutter.behind([tensor], checkpoint)
    changed = {**values, tensor: values[tensor] + np.float32(0.1)}
    made = {**changed, **ran(cutter.between([tensor], checkpoint, suffix.inputs), changed)}
    expected = outputs_of(overridden(MODEL.proto, tensor), {"x": values["x"], tensor: changed[tensor]})["y"]
    np.testing.assert_allclose(ran(suffix, made)["y"], expected, atol=1e-4)


def overridden(proto: onnx.ModelProto, tensor: str) -> onnx.ModelProto:
    """The graph with a computed tensor as an input instead."""
    changed = onnx.ModelProto()
    changed.CopyFrom(proto)
    node = next(n for n in changed.graph.node if tensor in n.output)
    changed.graph.node.remove(node)
    changed.graph.input.append(onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None))
    return changed


def test_variants_are_the_layer_with_other_weights_side_by_side() -> None:
    cutter, values, layer = Cutter(MODEL.proto), all_values(MODEL.proto), MODEL.layers[1]
    weights = [np.full(layer.params.weight_shape, v, np.float32) for v in (0.0, 0.5)]
    part = cutter.variants(layer, [Spelling({layer.params.weights[0].slot: w}) for w in weights])
    assert set(part.inputs) == cutter.reads(layer)
    for weight, found in zip(weights, ran(part, values).values(), strict=True):
        other = Cutter(MODEL.proto)
        other.set_constant(layer.params.weight, weight)
        expected = ran(other.segment(0, len(MODEL.proto.graph.node), [layer.outputs[0]]), values)
        np.testing.assert_allclose(found, expected[layer.outputs[0]], atol=1e-4)


def test_a_part_without_nodes_makes_nothing() -> None:
    assert OpenPart(NOTHING, SessionSettings()).run({}) == {}


def test_what_a_subgraph_reads_at_any_depth_is_live() -> None:
    branch = """If (c) <
        then_branch = inner () => (float[N, 4] {0}) {{ {0} = Identity (a) }},
        else_branch = other () => (float[N, 4] {1}) {{ {1} = Neg (a) }}>"""
    outer = f"""y = If (c) <
        then_branch = one () => (float[N, 4] p) {{ p = {branch.format("q", "r")} }},
        else_branch = two () => (float[N, 4] s) {{ s = {branch.format("t", "u")} }}>"""
    proto = graph(f"a = Relu (x)  {outer}", "float[N, 4] x, bool c", "float[N, 4] y")
    cutter = Cutter(proto)
    assert cutter.live(1) == ["a"]
    x, c = np.ones((2, 4), np.float32), np.array(True)
    part = cutter.segment(1, 2, ["y"])
    assert set(part.inputs) >= {"a", "c"}
    np.testing.assert_array_equal(ran(part, {"a": x, "c": c})["y"], x)


def with_branches() -> onnx.ModelProto:
    """A body inside a body, both of which read tensors of the graph around them."""
    return graph(
        """h = MatMul (x, w)  g = Relu (h)
           o = If (flag) <
               then_branch = t () => (float[a, b] u) { m = Neg (g)
                   u = If (flag) <
                       then_branch = tt () => (float[c, d] v) { v = MatMul (m, w) },
                       else_branch = te () => (float[c, d] v) { v = Add (m, h) }
                   > },
               else_branch = e () => (float[a, b] u) { m = Neg (h) u = Add (m, g) }
           >
           y = MatMul (o, w)""",
        "float[N, 8] x",
        "float[N, 8] y",
        "float[8, 8] w, bool flag = {1}",
    )


@pytest.mark.parametrize("tensor", ["x", "h", "g"])
@pytest.mark.parametrize("checkpoint", [2, 3])
def test_nodes_with_bodies_are_cut_like_others(tensor: str, checkpoint: int) -> None:
    steps = Step.FOLD_CONSTANTS, Step.HOIST_WEIGHTS  # the first takes the branch that is always taken
    model = prepare(with_branches(), left_out=steps)
    cutter = Cutter(model.store)
    assert [n.op_type for n in cutter.index.nodes] == ["MatMul", "Relu", "If", "MatMul"]
    x = feeds_for(with_branches(), 3).arrays["x"]
    tensors = ["h", "g", "o", "y"]
    values = {"x": x, **outputs_of(with_outputs(model.proto, tensors), {"x": x}, optimize=False)}
    suffix = cutter.behind([tensor], checkpoint)
    made = {**values, **ran(cutter.between(tensor, checkpoint, suffix.inputs), values)}
    np.testing.assert_allclose(ran(suffix, made)["y"], values["y"], atol=1e-5)
