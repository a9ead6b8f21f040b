"""Attention as one operator: what is found, what is not, and that it computes the same."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from onnxmpq.model import Model, Step, prepare
from onnxmpq.target import load_target
from tests.decoders import plain
from tests.graphs import outputs_of

SIZE = 8
ALL = (Step.FUSE_ATTENTION, Step.FUSE_GROUPS)
HERE = [step for step in ALL if load_target("cpu").takes(step)]
"""Steps whose operators the onnxruntime at hand computes right."""


@dataclass(frozen=True)
class Spelled:
    """How an attention with a cache is spelled.

    masked: axes of the mask, "" for none; R stands for one row that all queries share. scaled: where the factor is.
    joined: heads are joined behind it. by_tokens: keys are turned from tokens at once, without a cache.
    """

    heads: int = 4
    pairs: int = 2
    masked: str = "B1ST"
    scaled: str = "scores"
    divided: bool = False
    computed: bool = False
    joined: bool = True
    cached: bool = True

    def graph(self) -> onnx.ModelProto:
        nodes: list[onnx.NodeProto] = []
        constants: dict[str, onnx.TensorProto] = {}

        def node(operator: str, *inputs: str, out: str = "", **attributes: object) -> str:
            made = out or f"{operator}{len(nodes)}"
            nodes.append(helper.make_node(operator, inputs, [made], f"n{len(nodes)}", **attributes))
            return made

        def constant(values: object, dtype: type = np.int64) -> str:
            name = f"c{len(constants)}"
            constants[name] = numpy_helper.from_array(np.asarray(values, dtype), name)
            return name

        def heads_of(tensor: str, heads: int) -> str:
            return node("Transpose", node("Reshape", tensor, constant([0, 0, heads, SIZE])), perm=[0, 2, 1, 3])

        def scaled(tensor: str, where: str) -> str:
            if where not in self.scaled.split("+"):
                return tensor
            value = 1 / 0.35 if self.divided else 0.35
            if self.computed:  # a scalar that is known at run time alone
                tokens = node("Cast", node("Shape", "q", start=1, end=2), to=TensorProto.FLOAT)
                zero = node("Mul", node("Squeeze", tokens), constant(0.0, np.float32))
                factor = node("Add", zero, constant(0.35, np.float32))
                return node("Mul", tensor, factor)
            return node("Div" if self.divided else "Mul", tensor, constant(value, np.float32))

        q, k, v = heads_of("q", self.heads), heads_of("k", self.pairs), heads_of("v", self.pairs)
        if self.cached:
            k = node("Concat", "past_k", k, out="present_k", axis=2)
            v = node("Concat", "past_v", v, out="present_v", axis=-2)
        if self.pairs < self.heads:
            k, v = (self._repeated(node, constant, t) for t in (k, v))
        turned = scaled(node("Transpose", scaled(k, "keys"), perm=[0, 1, 3, 2]), "turned")
        scores = scaled(node("MatMul", scaled(q, "queries"), turned), "scores")
        scores = node("Add", *(("mask", scores) if self.divided else (scores, "mask"))) if self.masked else scores
        result = node("MatMul", node("Softmax", scores, axis=-1), v, out="" if self.joined else "y")
        if self.joined:
            tokens = node("Transpose", result, perm=[0, 2, 1, 3])
            node("Reshape", tokens, constant([0, 0, self.heads * SIZE]), out="y")
        return self._model(nodes, list(constants.values()))

    def _repeated(self, node: object, constant: object, tensor: str) -> str:
        assert callable(node) and callable(constant)
        length = node("Shape", tensor, start=2, end=3)
        one, size = constant([1]), constant([SIZE])
        wide = node("Concat", one, one, constant([self.heads // self.pairs]), length, size, axis=0)
        expanded = node("Expand", node("Unsqueeze", tensor, constant([2])), wide)
        made: str = node("Reshape", expanded, constant([0, self.heads, -1, SIZE]))
        return made

    def _model(self, nodes: list[onnx.NodeProto], constants: list[onnx.TensorProto]) -> onnx.ModelProto:
        def info(name: str, *shape: object) -> onnx.ValueInfoProto:
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

        wide, narrow = self.heads * SIZE, self.pairs * SIZE
        inputs = [info("q", "B", "S", wide), info("k", "B", "S", narrow), info("v", "B", "S", narrow)]
        if self.masked:
            axes = {"B": "B", "S": "M", "T": "T", "1": 1, "R": 1, "H": self.heads}
            inputs.append(info("mask", *(axes[a] for a in self.masked)))
        outputs = [info("y", *(("B", "S", wide) if self.joined else ("B", self.heads, "S", SIZE)))]
        if self.cached:
            inputs += [info(f"past_{t}", "B", self.pairs, "P", SIZE) for t in "kv"]
            outputs += [info(f"present_{t}", "B", self.pairs, "T", SIZE) for t in "kv"]
        graph = helper.make_graph(nodes, "attention", inputs, outputs, constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)

    def inputs(self, batch: int, tokens: int, past: int) -> dict[str, NDArray[np.float32]]:
        generator = np.random.default_rng(batch + tokens + past)
        length = {"B": batch, "S": tokens, "T": tokens + past * self.cached, "1": 1, "R": 1, "H": self.heads}
        shapes = {"q": (batch, tokens, self.heads * SIZE)}
        shapes |= dict.fromkeys("kv", (batch, tokens, self.pairs * SIZE))
        if self.masked:
            shapes["mask"] = tuple(length[a] for a in self.masked)
        if self.cached:
            shapes |= {f"past_{t}": (batch, self.pairs, past, SIZE) for t in "kv"}
        return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def operators(model: Model) -> list[str]:
    return [n.op_type for n in model.structure.graph.node]


def differs(spelled: Spelled, model: Model) -> float:
    """The largest difference of any output, for sequences and for steps."""
    proto, worst = spelled.graph(), 0.0
    for batch, tokens, past in ((1, 5, 0), (2, 3, 4), (2, 1, 6)):
        inputs = spelled.inputs(batch, tokens, past)
        before, after = outputs_of(proto, inputs), outputs_of(model.proto, inputs)
        worst = max(worst, *(float(np.abs(before[name] - after[name]).max()) for name in before))
    return worst


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.sampled_from([1, 2, 4]),
    masked=st.sampled_from(["", "ST", "1ST", "B1ST", "BHST", "11ST", "B1RT", "RT", "1HRT"]),
    scaled=st.sampled_from(["scores", "queries", "keys", "queries+keys", "queries+turned", "turned"]),
    divided=st.booleans(),
    computed=st.booleans(),
    joined=st.booleans(),
)
def test_any_spelling_is_one_operator_that_computes_the_same(
    pairs: int, masked: str, scaled: str, divided: bool, computed: bool, joined: bool
) -> None:
    spelled = Spelled(4, pairs, masked, scaled, divided, computed, joined)
    found = prepare(spelled.graph(), added=ALL.__contains__)
    assert operators(found).count("Attention") == 1
    assert "Softmax" not in operators(found)
    assert not {"Transpose", "Reshape"} & set(operators(found)) or not joined
    assert found.added == (ALL if pairs < 4 else ALL[:1])
    if set(found.added) <= set(HERE):
        assert differs(spelled, found) < 1e-5


def test_origin_names_all_nodes_that_it_stands_for() -> None:
    proto = Spelled().graph()
    model = prepare(proto, added=ALL.__contains__)
    [name] = [n.name for n in model.structure.graph.node if n.op_type == "Attention"]
    softmax, concat = (next(n.name for n in proto.graph.node if n.op_type == op) for op in ("Softmax", "Concat"))
    assert {softmax, concat} <= set(model.origin[name])
    assert any("one operator of opset 23: 1" in note for note in model.notes)


@pytest.mark.parametrize("opset", [None, 21, 23])
def test_only_where_it_is_asked_for_and_the_opset_may_be(opset: int | None) -> None:
    proto = Spelled().graph()
    assert "Attention" not in operators(prepare(proto, opset))
    made = prepare(proto, opset, added=ALL.__contains__)
    assert ("Attention" in operators(made)) == (opset != 21)
    assert "Attention" not in operators(prepare(proto, opset, [Step.FUSE_ATTENTION], ALL.__contains__))
    assert "Attention" not in operators(prepare(proto, opset, added=ALL[:1].__contains__)), "its heads are grouped"


def test_without_a_cache_it_stays() -> None:
    assert operators(prepare(Spelled(cached=False).graph(), added=ALL.__contains__)).count("Softmax") == 1


def changed(spelled: Spelled, change: str) -> onnx.ModelProto:
    """An attention that something else reads, too, or that is none."""
    proto = spelled.graph()
    by_type = {n.op_type: n for n in proto.graph.node}
    if change == "scores are an output":
        proto.graph.output.append(onnx.ValueInfoProto(name=by_type["Softmax"].output[0]))
    elif change == "softmax over another axis":
        by_type["Softmax"].attribute[0].i = 1
    elif change == "one cache for both":
        softmax = next(i for i, n in enumerate(proto.graph.node) if n.op_type == "Softmax")
        proto.graph.node[softmax + 1].input[1] = "present_k"
    else:
        assert change == "the mask follows from the cache"
        length = helper.make_node("ReduceMax", ["present_k"], ["largest"], "largest", keepdims=0)
        shifted = helper.make_node("Add", ["mask", "largest"], ["shifted"], "shifted")
        by_type["Add"].input[:] = ["shifted" if t == "mask" else t for t in by_type["Add"].input]
        proto.graph.node.extend([length, shifted])
    return proto


@pytest.mark.parametrize(
    "change",
    ["scores are an output", "softmax over another axis", "one cache for both", "the mask follows from the cache"],
)
def test_what_else_is_read_stays(change: str) -> None:
    spelled = Spelled(pairs=4)
    proto = changed(spelled, change)
    model = prepare(proto, added=ALL.__contains__)
    assert "Softmax" in operators(model)
    inputs = spelled.inputs(2, 3, 4)
    before, after = outputs_of(prepare(proto).proto, inputs), outputs_of(model.proto, inputs)
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_keys_that_all_samples_share_stay() -> None:
    """A product repeats them for each sample; the operator does not."""
    proto = Spelled(pairs=4).graph()
    for entry in proto.graph.input:
        if entry.name not in ("q", "mask"):
            entry.type.tensor_type.shape.dim[0].dim_value = 1
    assert "Softmax" in operators(prepare(proto, added=ALL.__contains__))


def test_masks_of_one_length_get_their_rows_once() -> None:
    model = prepare(plain(), added=ALL.__contains__)
    assert operators(model).count("Attention") == 2
    assert operators(model).count("Expand") <= 1


def test_replacing_keeps_what_a_second_attention_reads() -> None:
    """Two attentions on one cache: the first one makes it, the other one stays as it is."""
    spelled = replace(Spelled(pairs=4), joined=False)
    proto = spelled.graph()
    again = [onnx.NodeProto.FromString(n.SerializeToString()) for n in proto.graph.node]
    twice = [n for n in again if n.op_type in ("MatMul", "Softmax", "Add", "Mul")]
    inner = {t for n in twice for t in n.output}
    for node in twice:
        node.name += "/again"
        node.input[:] = [f"{t}/again" if t in inner else t for t in node.input]
        node.output[:] = [f"{t}/again" for t in node.output]
    proto.graph.node.extend(twice)
    proto.graph.output.append(helper.make_tensor_value_info("y/again", TensorProto.FLOAT, ["B", 4, "S", SIZE]))
    model = prepare(proto, added=ALL.__contains__)
    assert operators(model).count("Attention") == 1
    assert operators(model).count("Softmax") == 1
    if set(model.added) <= set(HERE):
        outputs = outputs_of(model.proto, spelled.inputs(2, 3, 4))
        np.testing.assert_allclose(outputs["y"], outputs["y/again"], atol=1e-5)


@pytest.mark.parametrize("cut", ["none", "columns", "rows"])
def test_rows_of_a_mask_are_seen_through_slices_of_its_columns(cut: str) -> None:
    """A mask for the longest sequence, cut to what is there, as exporters write it."""
    proto = Spelled(pairs=4, masked="B1ST").graph()
    mask = next(i for i in proto.graph.input if i.name == "mask")
    dims = mask.type.tensor_type.shape.dim
    dims[2].dim_param, dims[3].dim_param = "S", "L"
    if cut != "none":
        axis, of, at = (3, "past_k", 2) if cut == "columns" else (2, "q", 1)
        names = [f"cut/{n}" for n in ("start", "end", "axis")]
        length = helper.make_node("Shape", [of], ["cut/end"], "cut/length", start=at, end=at + 1)
        nodes = [length, helper.make_node("Slice", ["whole", *names], ["mask"], "cut")]
        for name, value in ((names[0], 0), (names[2], axis)):
            proto.graph.initializer.append(numpy_helper.from_array(np.array([value]), name))
        mask.name = "whole"
        proto.graph.node.extend(nodes)
    model = prepare(proto, added=ALL.__contains__)
    assert operators(model).count("Attention") == 1
    assert operators(model).count("Expand") == (cut == "rows")
