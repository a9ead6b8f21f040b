"""Each node of a region says its scheme; runtimes compute the same with and without."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from onnxmpq.dialects import marked
from onnxmpq.dialects.marks import mark
from onnxmpq.model import subgraphs
from onnxmpq.schemes import MARK, SCHEMES
from tests.dialects.cases import CASES, LAYERS, NETWORKS, Case
from tests.graphs import outputs_of, prepared

NETWORK = NETWORKS["residual_cnn"]


def without_marks(proto: onnx.ModelProto) -> onnx.ModelProto:
    plain = onnx.ModelProto()
    plain.CopyFrom(proto)
    for graph in subgraphs(plain.graph):
        for node in graph.node:
            del node.metadata_props[:]
            node.doc_string = ""
    return plain


@pytest.mark.parametrize("name", ["int8", "w4a8", "w4"])
def test_nodes_of_regions_are_marked_and_no_others(name: str) -> None:
    assignment = NETWORK.everywhere(name)
    proto = NETWORK.rewrite(assignment)
    there = {n.name for n in proto.graph.node}
    wanted = {n: s.name for r, s in assignment.items() for n in NETWORK.model.region(r).nodes if n in there}
    assert marked(proto) == wanted
    assert {r.name for r in NETWORK.model.layers} <= wanted.keys()


def test_what_stays_in_float32_is_not_marked() -> None:
    assert not marked(NETWORK.rewrite({}))
    assert not marked(NETWORK.rewrite({r.name: SCHEMES["fp32"] for r in NETWORK.model.regions}))


@pytest.mark.parametrize("case", [NETWORK, LAYERS["matmul"], CASES["tokens"]], ids=lambda case: case.id)
def test_marks_change_no_output(case: Case) -> None:
    proto = case.rewrite(case.everywhere("int8"))
    assert marked(proto)
    onnx.checker.check_model(proto, full_check=True)
    inputs = case.feeds.batch([0])
    with_marks, without = (outputs_of(p, inputs) for p in (proto, without_marks(proto)))
    assert all(np.array_equal(with_marks[name], without[name]) for name in without)


def test_older_files_have_the_mark_in_the_description() -> None:
    model = prepared(NETWORK.proto)
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    proto.ir_version = 9
    [layer, *_] = model.layers
    first, *others = layer.nodes
    next(n for n in proto.graph.node if n.name == first).doc_string = "line 7 of net.py"
    mark(proto, [(layer, SCHEMES["int8"])])
    described = {n.name: n.doc_string for n in proto.graph.node if n.doc_string}
    assert described == {first: f"line 7 of net.py\n{MARK}: int8"} | {n: f"{MARK}: int8" for n in others}
    assert not any(n.metadata_props for n in proto.graph.node)
    assert marked(proto) == dict.fromkeys(layer.nodes, "int8")
