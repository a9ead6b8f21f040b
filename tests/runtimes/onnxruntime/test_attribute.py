"""Kernels of an optimised graph, though renamed and fused, go back to the regions and tensors they serve."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import onnx
import pytest

from onnxmpq.cost.size import base_bytes, region_bytes
from onnxmpq.runtimes import SessionSettings, open_session
from onnxmpq.runtimes.onnxruntime.attribute import MOVERS, Attribution, attribute
from onnxmpq.schemes import SCHEMES
from tests.dialects.cases import CASES, Case


def optimized(case: Case, scheme: str, folder: Path) -> onnx.ModelProto:
    path = folder / "optimized.onnx"
    open_session(case.rewrite(case.everywhere(scheme)), SessionSettings(optimized_path=str(path)))
    return onnx.load(path)


def attributed(case: Case, scheme: str, folder: Path) -> tuple[onnx.ModelProto, Attribution]:
    proto = optimized(case, scheme, folder)
    return proto, attribute(case.model, proto)


@pytest.mark.parametrize("scheme", ["fp32", "int8", "w4a8", "w4b32", "w8"])
@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.id)
def test_every_kernel_is_attributed(case: Case, scheme: str, tmp_path: Path) -> None:
    proto, found = attributed(case, scheme, tmp_path)
    lost = [n.op_type for n in proto.graph.node if n.name not in found.regions and n.name not in found.tensors]
    assert not lost
    assert set(found.regions.values()) <= {r.name for r in case.model.regions}
    for node in proto.graph.node:
        if node.name in found.tensors:
            assert node.op_type in MOVERS


def test_layers_get_their_own_kernels(tmp_path: Path) -> None:
    case = CASES["residual_cnn"]
    proto, found = attributed(case, "int8", tmp_path)
    assert Counter(n.op_type for n in proto.graph.node)["QLinearConv"] == 3
    for region in case.model.layers:
        assert found.operators[region.name] & {"QLinearConv", "QGemm"}
    add = next(r for r in case.model.regions if r.op_type == "Add")
    assert "QLinearAdd" in found.operators[add.name]


def test_names_that_begin_alike_are_kept_apart(tmp_path: Path) -> None:
    """Regions conv and conv_1: the longest name that fits decides."""
    proto = onnx.ModelProto()
    proto.CopyFrom(CASES["residual_cnn"].proto)
    convs = [n for n in proto.graph.node if n.op_type == "Conv"]
    for node, name in zip(convs, ("conv", "conv_1", "conv_1_1"), strict=True):
        node.name = name
    _, found = attributed(Case("alike", proto), "int8", tmp_path)
    assert {"conv", "conv_1", "conv_1_1"} <= {r for r, ops in found.operators.items() if "QLinearConv" in ops}


@pytest.mark.parametrize("scheme", ["int8", "w4a8", "w4", "w8", "w4b32", "w8b128"])
@pytest.mark.parametrize("case", CASES.values(), ids=lambda case: case.id)
def test_predicted_size_is_that_of_the_file(case: Case, scheme: str) -> None:
    assignment = case.everywhere(scheme)
    weights = case.weights(assignment)
    predicted = base_bytes(case.model) + sum(
        region_bytes(r, assignment.get(r.name, SCHEMES["fp32"]), weights) for r in case.model.regions
    )
    actual = case.rewrite(assignment).ByteSize()
    node_overhead = 300 * len(case.model.regions) + 200
    assert abs(predicted - actual) < node_overhead
