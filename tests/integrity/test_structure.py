"""The structural check finds every way of breaking a written graph, at the right node, and nothing in whole graphs."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmpq.dialects import DIALECTS, Rewrite
from onnxmpq.errors import OnnxmpqError
from onnxmpq.integrity import CHECKS, require_whole, structure_faults
from onnxmpq.model import Model
from tests.dialects.cases import CASES, Case
from tests.dialects.test_ends import job
from tests.dialects.test_explicit import EVERY as EXPLICIT
from tests.dialects.test_explicit import Spelling
from tests.dialects.test_onnxruntime import EVERY as ORT
from tests.dialects.test_onnxruntime import Rewriting
from tests.graphs import graph
from tests.integrity.mutations import MUTATIONS, Mutation


@pytest.mark.parametrize("case", ORT, ids=lambda case: case.id)
def test_whole_graphs_for_onnxruntime(case: Rewriting) -> None:
    model = case.case.model
    assert structure_faults(case.case.rewrite(case.assignment), model.proto, model.regions) == []


@pytest.mark.parametrize("keep_io", [True, False], ids=["float32_ends", "half_ends"])
@pytest.mark.parametrize("case", EXPLICIT, ids=lambda case: case.id)
def test_whole_explicit_graphs(case: Spelling, keep_io: bool) -> None:
    model, proto = case.case.model, case.dialect.rewrite(replace(job(case), keep_io=keep_io))
    assert structure_faults(proto, model.proto, model.regions, keep_io=keep_io) == []


def test_16_bit_ends_have_to_be_asked_for() -> None:
    case = next(c for c in EXPLICIT if c.id == "gemm.fp16.portable")
    proto = case.dialect.rewrite(replace(job(case), keep_io=False))
    assert {f.check for f in structure_faults(proto, case.case.model.proto)} == {"inputs", "outputs"}


# ---- broken graphs ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """A whole graph to break."""

    id: str
    model: Model
    source: onnx.ModelProto
    proto: onnx.ModelProto


@cache
def written() -> tuple[Written, ...]:
    """One graph for every way to spell a weight or an activation, with metadata and descriptions."""
    ours = [(c.id, c.case, c.case.rewrite(c.assignment)) for c in ORT if c.id in _ORT_IDS]
    ours += [(c.id, c.case, c.dialect.rewrite(job(c))) for c in EXPLICIT if c.id in _EXPLICIT_IDS]
    assert {name for name, _, _ in ours} == {*_ORT_IDS, *_EXPLICIT_IDS}
    return tuple(Written(n, case.model, labelled(case.model.proto), labelled(proto)) for n, case, proto in ours)


_ORT_IDS = ("residual_cnn.int8", "residual_cnn.w5a8", "silu_concat.int8", "tokens.w4a8", "tokens.w4b32", "gemm.w4")
_EXPLICIT_IDS = ("residual_cnn.w8a8-fp8.portable", "tokens.w4a8-fp8.portable", "residual_cnn.w8a8-int8.tensorrt")


def labelled(proto: onnx.ModelProto) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    copy.doc_string = "a model"
    onnx.helper.set_model_props(copy, {"license": "none"})
    copy.graph.input[0].doc_string = "an input"
    return copy


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.id)
@settings(max_examples=20, deadline=None)
@given(data=st.data())
def test_broken_graphs(mutation: Mutation, data: st.DataObject) -> None:
    graphs = {w.id: w for w in written() if mutation.sites(w.proto)}
    whole = graphs[data.draw(st.sampled_from(sorted(graphs)))]
    broken = onnx.ModelProto()
    broken.CopyFrom(whole.proto)
    named = mutation.apply(broken, data.draw(st.sampled_from(list(mutation.sites(whole.proto)))))
    faults = structure_faults(broken, whole.source, whole.model.regions)
    assert {f.node for f in faults if f.check == mutation.check} & named, [named, *map(str, faults)]


def test_unbroken_ones_are_whole() -> None:
    assert [f for w in written() for f in structure_faults(w.proto, w.source, w.model.regions)] == []


def test_every_check_is_broken_by_a_mutation() -> None:
    """But for the opset of Q/DQ nodes, which `opset` of `check` covers in tests/lint."""
    assert {*CHECKS, "inputs", "outputs", "metadata"} - {m.check for m in MUTATIONS} == {"opset"}


# ---- regions ------------------------------------------------------------------------------------


@pytest.mark.parametrize("tensor", ["w1/scale", "w1/bias_scale"])
def test_a_weight_is_attributed_to_its_layer(tensor: str) -> None:
    case = CASES["residual_cnn"]
    proto = case.rewrite(case.everywhere("int8"))
    damaged = next(t for t in proto.graph.initializer if t.name == tensor)
    damaged.CopyFrom(onnx.numpy_helper.from_array(np.full(tuple(damaged.dims), np.nan, np.float32), tensor))
    faults = structure_faults(proto, case.model.proto, case.model.regions)
    assert {f.region for f in faults} == {case.model.layers[1].name}


def test_a_pair_is_attributed_to_the_region_that_writes_or_reads_it() -> None:
    case = CASES["conv"]
    [region] = case.model.layers
    proto = case.rewrite(case.everywhere("int8"))
    for node in proto.graph.node:
        if node.op_type == "DequantizeLinear" and node.name in ("x/DQ", "y/DQ"):
            node.input[1] = proto.graph.node[0].input[1] if node.name == "y/DQ" else f"{node.input[1]}"
            node.input[0] = next(n.input[0] for n in proto.graph.node if node.input[0] in n.output)
    faults = structure_faults(proto, case.model.proto, case.model.regions)
    assert {(f.node, f.region) for f in faults if f.check == "pairs"} >= {("x/DQ", region.name), ("y/DQ", region.name)}


def test_without_regions_the_node_of_the_source_is_named() -> None:
    case = CASES["conv"]
    proto = case.rewrite(case.everywhere("int8"))
    next(t for t in proto.graph.initializer if t.name == "w0/codes").raw_data = b"too short"
    faults = structure_faults(proto, case.model.proto)
    assert {f.region for f in faults if f.check == "stored"} == {case.model.layers[0].nodes[0]}


def test_damaged_graphs_are_not_handed_out() -> None:
    case = CASES["conv"]
    proto = case.rewrite(case.everywhere("int8"))
    require_whole(proto, case.model.proto, case.model.regions)
    proto.graph.initializer[0].name = "nobody's"
    with pytest.raises(OnnxmpqError, match=r"the converted graph is damaged: .*fault of onnxmpq"):
        require_whole(proto, case.model.proto, case.model.regions)


# ---- faults of the source, bodies ---------------------------------------------------------------


def test_what_the_source_broke_is_not_reported() -> None:
    """A source with an initializer that nothing reads, two nodes of one name and a stale value_info."""
    case = CASES["residual_cnn"]
    source, proto = (onnx.ModelProto() for _ in range(2))
    source.CopyFrom(case.model.proto)
    proto.CopyFrom(case.rewrite(case.everywhere("int8")))
    for model in (source, proto):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(3, np.float32), "left over"))
        gemm = next(n for n in model.graph.node if n.op_type == "Gemm")
        gemm.name = next(n.name for n in model.graph.node if n.op_type == "Flatten")
    assert structure_faults(proto, source) == []


def branched() -> onnx.ModelProto:
    return graph(
        """c = MatMul (x, w)
           r = ReduceMax <keepdims = 0> (c)
           b = Greater (r, zero)
           y = If (b) <then_branch = yes () => (float[N, 8] t) { t = Relu (c) },
                       else_branch = no () => (float[N, 8] e) { e = Neg (c) }>""",
        "float[N, 16] x",
        "float[N, 8] y",
        "float[16, 8] w, float zero = {0.0}",
    )


def in_body(proto: onnx.ModelProto) -> onnx.NodeProto:
    node: onnx.NodeProto = next(n for n in proto.graph.node if n.op_type == "If").attribute[0].g.node[0]
    return node


@pytest.mark.parametrize(
    ("check", "field", "value"),
    [("node-names", "name", "w0/w"), ("tensor-names", "output", "w0/w"), ("dangling", "input", "nowhere")],
)
def test_bodies_are_part_of_the_graph(check: str, field: str, value: str) -> None:
    case = Case("branched", branched())
    proto = case.rewrite(case.everywhere("int8"))
    assert structure_faults(proto, case.model.proto, case.model.regions) == []
    node = in_body(proto)
    if field == "name":
        node.name = value
    else:
        getattr(node, field)[0] = value
    assert check in {f.check for f in structure_faults(proto, case.model.proto, case.model.regions)}


def test_a_body_that_reads_what_is_made_later() -> None:
    case = Case("branched", branched())
    proto = case.rewrite(case.everywhere("int8"))
    last = next(i for i, n in enumerate(proto.graph.node) if n.op_type == "If")
    made = onnx.helper.make_node("Identity", ["x"], ["late"], "late")
    proto.graph.node.insert(last + 1, made)
    in_body(proto).input[0] = "late"
    faults = structure_faults(proto, case.model.proto)
    assert ("order", proto.graph.node[last].name) in {(f.check, f.node) for f in faults}


def test_nothing_chosen_is_whole_in_every_dialect() -> None:
    for case in CASES.values():
        for dialect in DIALECTS.values():
            proto = dialect.rewrite(Rewrite(case.model, {}, {}, {}))
            assert structure_faults(proto, case.model.proto, case.model.regions) == []
