"""What the runtime would really execute: int8 chains that start where they may, and nothing left half done."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.cost.chains import legalize
from onnxmpq.cost.layout import Layouts
from onnxmpq.cost.table import edges_of
from onnxmpq.runtimes import STARTS
from onnxmpq.runtimes.onnxruntime.rules import is_chained, moves_maps
from onnxmpq.schemes import Format, writes
from tests.cost.synthetic import INT8, assignments, names, setting


@given(names, st.data())
def test_legal_plans_keep_the_rules(name: str, data: st.DataObject) -> None:
    case = setting(name)
    model, menu, rules = case.model, case.menu, case.rules
    wanted = data.draw(assignments(menu))
    legal = legalize(model, rules, wanted, menu)
    producers = model.producers
    for region in model.regions:
        scheme = legal.get(region.name)
        if scheme is None or scheme.reads is not Format.INT8:
            continue
        assert scheme in menu[region.name]
        before = [producers.get(t) for t in region.inputs]
        if is_chained(region, rules.layout):
            written = [p and (s := legal.get(p.name)) and writes(s, p.op_type) is Format.INT8 for p in before]
            assert any(written), "a chained region starts a chain"
        for producer in before:
            if producer is not None and moves_maps(producer, rules.layout):
                assert producer.name in legal, "a chain starts behind a float region that only moves values"


@given(names, st.data())
def test_layers_keep_their_scheme_or_go_back_to_float(name: str, data: st.DataObject) -> None:
    case = setting(name)
    model, menu, rules = case.model, case.menu, case.rules
    wanted = data.draw(assignments(menu))
    legal = legalize(model, rules, wanted, menu)
    for region in model.layers:
        assert legal.get(region.name) in (None, wanted.get(region.name))


@given(names, st.data())
def test_a_legal_plan_stays_as_it_is(name: str, data: st.DataObject) -> None:
    case = setting(name)
    legal = legalize(case.model, case.rules, data.draw(assignments(case.menu)), case.menu)
    assert legalize(case.model, case.rules, legal, case.menu) == legal


@given(names)
def test_everything_in_int8_is_legal_and_so_is_nothing(name: str) -> None:
    case = setting(name)
    model, menu, rules = case.model, case.menu, case.rules
    everything = {r: INT8 for r, schemes in menu.items() if INT8 in schemes}
    legal = legalize(model, rules, everything, menu)
    assert {r.name for r in model.regions if r.name in everything and not is_chained(r, rules.layout)} <= legal.keys()
    assert legalize(model, rules, {}, menu) == {}


def test_feature_maps_end_where_they_are_flattened() -> None:
    case = setting("residual")
    chained = {r.op_type for r in case.model.regions if is_chained(r, case.rules.layout)}
    assert {"MaxPool", "Add", "GlobalAveragePool", "Flatten"} == chained
    assert not setting("tokens").rules.layout


@given(names, st.data())
def test_layouts_follow_from_int8_convolutions(name: str, data: st.DataObject) -> None:
    """Without one nothing is reordered; a region that follows works in NHWC only where all its sources do."""
    case = setting(name)
    plan = legalize(case.model, case.rules, data.draw(assignments(case.menu)), case.menu)
    layouts = Layouts(case.model, case.rules.layout, plan)
    changes = [layouts.change(e.producer, e.consumer) for e in edges_of(case.model)]
    convolutions = [r.name for r in case.model.layers if r.op_type == "Conv" and r.name in plan]
    if not any(plan[c].writes is Format.INT8 for c in convolutions):
        assert not any(changes)
    into = {e.consumer for e, change in zip(edges_of(case.model), changes, strict=True) if change == "into_layout"}
    assert all(case.rules.layout[r] == STARTS for r in into if r)


@given(names, st.data())
def test_regions_that_are_merged_have_one_scheme(name: str, data: st.DataObject) -> None:
    case = setting(name)
    layers = [r.name for r in case.model.layers]
    group = tuple(data.draw(st.lists(st.sampled_from(layers), min_size=2, max_size=3, unique=True)))
    rules = replace(case.rules, together=(group,))
    plan = legalize(case.model, rules, data.draw(assignments(case.menu)), case.menu)
    shared = set.intersection(*({s.name for s in case.menu[r]} for r in group))
    assert len({s.name if (s := plan.get(r)) else "fp32" for r in group}) == 1 or not shared
    assert legalize(case.model, rules, plan, case.menu) == plan
