"""Graphs whose inputs and outputs are 16 bits wide: the same numbers, the casts at the border left to the caller."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
import pytest

from onnxmpq.dialects import DIALECTS, Rewrite
from onnxmpq.runtimes import open_session, run, widened
from onnxmpq.schemes import SCHEMES
from tests.dialects.cases import CASES, Case
from tests.dialects.test_explicit import EVERY, FLOAT_STEP, Spelling
from tests.graphs import graph

T = onnx.TensorProto
HALVES = {"float16": T.FLOAT16, "bfloat16": T.BFLOAT16}


def job(spelling: Spelling) -> Rewrite:
    model, assignment = spelling.case.model, spelling.assignment
    return Rewrite(model, assignment, spelling.activations, spelling.case.weights(assignment), model.roots)


def types(ends: object) -> dict[str, int]:
    return {e.name: e.type.tensor_type.elem_type for e in ends}  # type: ignore[attr-defined]


@pytest.mark.parametrize("case", [s for s in EVERY if s.dialect.name == "tensorrt"], ids=lambda case: case.id)
def test_half_ends_compute_the_same(case: Spelling) -> None:
    wide, narrow = (case.dialect.rewrite(replace(job(case), keep_io=keep)) for keep in (True, False))
    onnx.checker.check_model(narrow, full_check=True)
    before, after = types(wide.graph.input), types(narrow.graph.input)
    element = HALVES[str(case.scheme.half)]
    readers = case.case.model.consumers
    planned = {n: n in readers and all(r.name in case.assignment for r in readers[n]) for n in before}
    assert after == {n: element if planned[n] else e for n, e in before.items()}
    assert set(types(narrow.graph.output).values()) <= {element, T.FLOAT}
    assert {n.name for n in case.case.model.proto.graph.node} <= {n.name for n in narrow.graph.node}
    sessions, feeds = [open_session(p) for p in (wide, narrow)], case.case.feeds.batch([0, 1])
    for a, b in zip(*(run(s, feeds) for s in sessions), strict=True):
        assert a.dtype == np.float32
        # rounded to 16 bits first, then to 8; and onnxruntime drops casts to float16 and back, with their rounding
        step = 2**-3 if case.scheme.reads.quantized else FLOAT_STEP[case.scheme.half]
        np.testing.assert_allclose(a, widened(b), rtol=0, atol=step * float(np.abs(a).max()))


def casts(proto: onnx.ModelProto) -> int:
    return sum(n.op_type == "Cast" for n in proto.graph.node)


@dataclass(frozen=True)
class Ends:
    id: str
    proto: onnx.ModelProto
    half: frozenset[str]  # operators in float16
    inputs: dict[str, int]
    outputs: dict[str, int]
    saved: int  # casts


ENDS = [
    Ends(
        "moved_on_the_way",
        graph(
            "f = Flatten (x)  m = MatMul (f, w)  y = Reshape <allowzero = 0> (m, s)",
            "float[N, 4, 4] x",
            "float[N, 2, 4] y",
            "float[16, 8] w, int64[3] s = {-1, 2, 4}",
        ),
        frozenset({"MatMul"}),
        {"x": T.FLOAT16},
        {"y": T.FLOAT16},
        2,
    ),
    Ends(
        "also_read_in_float32",
        graph("m = MatMul (x, w)  y = Sub (m, x)", "float[N, 8] x", "float[N, 8] y", "float[8, 8] w"),
        frozenset({"MatMul"}),
        {"x": T.FLOAT},
        {"y": T.FLOAT},
        0,
    ),
    Ends(
        "an_output_that_is_read_on",
        graph("m = MatMul (x, w)  y = Sub (m, m)", "float[N, 8] x", "float[N, 8] m, float[N, 8] y", "float[8, 8] w"),
        frozenset({"MatMul"}),
        {"x": T.FLOAT16},
        {"m": T.FLOAT16, "y": T.FLOAT},
        1,
    ),
    Ends(
        "integers_stay",
        graph(
            "e = Gather (w, x)  y = MatMul (e, v)", "int64[N, 3] x", "float[N, 3, 8] y", "float[8, 8] w, float[8, 8] v"
        ),
        frozenset({"Gather", "MatMul"}),
        {"x": T.INT64},
        {"y": T.FLOAT16},
        1,
    ),
]


@pytest.mark.parametrize("case", ENDS, ids=lambda case: case.id)
def test_ends_follow_the_plan(case: Ends) -> None:
    whole = Case(case.id, case.proto)
    assignment = {r.name: SCHEMES["fp16"] for r in whole.model.regions if r.op_type in case.half}
    wide, narrow = (
        DIALECTS["tensorrt"].rewrite(Rewrite(whole.model, assignment, {}, {}, whole.model.roots, keep))
        for keep in (True, False)
    )
    onnx.checker.check_model(narrow, full_check=True)
    assert types(narrow.graph.input) == case.inputs and types(narrow.graph.output) == case.outputs
    assert casts(wide) - casts(narrow) == case.saved
    sessions, feeds = [open_session(p) for p in (wide, narrow)], whole.feeds.batch([0, 1])
    for a, b in zip(*(run(s, feeds) for s in sessions), strict=True):
        np.testing.assert_allclose(a, widened(b), rtol=0, atol=FLOAT_STEP["float16"] * float(np.abs(a).max()))


def test_float32_plans_keep_their_ends() -> None:
    whole = CASES["matmul"]
    narrow = DIALECTS["tensorrt"].rewrite(Rewrite(whole.model, {}, {}, {}, whole.model.roots, keep_io=False))
    assert set(types(narrow.graph.input).values()) == set(types(narrow.graph.output).values()) == {T.FLOAT}
