"""The cost table: what is counted, how often, and its file."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.cost.table import CostTable, Transition, edges_of
from onnxmpq.errors import TargetError
from onnxmpq.runtimes import Rules
from onnxmpq.schemes import SCHEMES, Format
from tests.cost.synthetic import INT8, assignments, formats_on_edges, names, random_table, setting


@given(names, st.integers(0, 100), st.data())
def test_file_round_trip(name: str, seed: int, data: st.DataObject) -> None:
    case = setting(name)
    model, menu, table = case.model, case.menu, random_table(case, seed)
    back = CostTable.from_json(table.to_json())
    assert back == replace(table, rules=Rules(table.rules.layout))
    plan = data.draw(assignments(menu))
    assert back.predict_s(model, plan) == table.predict_s(model, plan)


@pytest.mark.parametrize(
    "text", ["", "{}", "[]", '{"schema": "other/1"}', '{"schema": "onnxmpq.cost-table/3", "nodes": 1}']
)
def test_other_files_are_refused(text: str) -> None:
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        CostTable.from_json(text)


def test_file_names_its_schema() -> None:
    assert json.loads(CostTable({}).to_json())["schema"] == "onnxmpq.cost-table/3"


def test_a_tensor_is_quantized_once_for_all_its_readers() -> None:
    model = setting("branches").model
    edges = [e for e in edges_of(model) if e.tensor == "a"]
    assert len(edges) == 2
    shared = CostTable({}, {"a": Transition(quantize_s=1.0)}, {e.key: Transition(quantize_s=0.25) for e in edges})
    one = {edges[0].consumer: INT8}
    both = {e.consumer: INT8 for e in edges}
    assert shared.predict_s(model, one) == 1.25
    assert shared.predict_s(model, both) == 1.5


@given(names, st.data())
def test_transitions_are_where_formats_differ(name: str, data: st.DataObject) -> None:
    case = setting(name)
    model, plan = case.model, data.draw(assignments(case.menu))
    table = random_table(case, 0)
    differing = [e for e, (w, r) in zip(edges_of(model), formats_on_edges(model, plan), strict=True) if w is not r]
    assert [e for e, _ in table.transitions_s(model, plan)] == differing


def test_schemes_share_their_kernel_unless_named() -> None:
    table = CostTable({"a": {"fp32": 2.0, "int8": 1.0, "w4": 3.0}})
    assert table.scheme_s("a", SCHEMES["w4a8"]) == 1.0
    assert table.scheme_s("a", SCHEMES["w8"]) == table.scheme_s("a", None) == 2.0
    assert table.scheme_s("a", SCHEMES["w4"]) == 3.0
    assert table.scheme_s("unknown", SCHEMES["w4"]) == 0.0
    assert table.offers("a", SCHEMES["int8"]) and not table.offers("a", SCHEMES["w4b32"])


def test_energy_needs_energies() -> None:
    model = setting("tokens").model
    with pytest.raises(TargetError, match="no energies"):
        CostTable({}).predict_j(model, {})


def test_matmul_hands_on_floats() -> None:
    """Its int8 kernel rescales for free, so a float reader behind it changes nothing."""
    model = setting("tokens").model
    matmul = next(r for r in model.layers if r.op_type == "MatMul")
    changes = set(formats_on_edges(model, {matmul.name: INT8}))
    assert (Format.INT8, Format.FLOAT) not in changes
