"""What the runtime would really execute: int8 chains that start where they may, and nothing left half done."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.cost.chains import legalize, moves_maps
from onnxmpq.model import RegionKind
from onnxmpq.schemes import Format, writes
from tests.cost.synthetic import INT8, assignments, names, setting


@given(names, st.data())
def test_legal_plans_keep_the_rules(name: str, data: st.DataObject) -> None:
    model, menu, chained = setting(name)
    wanted = data.draw(assignments(menu))
    legal = legalize(model, chained, wanted, menu)
    producers = model.producers
    for region in model.regions:
        scheme = legal.get(region.name)
        if scheme is None or scheme.reads is not Format.INT8:
            continue
        assert scheme in menu[region.name]
        for tensor in region.inputs:
            producer = producers.get(tensor)
            before = legal.get(producer.name) if producer else None
            if region.name in chained:
                assert producer is not None and before is not None, "a chained region starts a chain"
                assert writes(before, producer.op_type) is Format.INT8
            if producer is not None and moves_maps(producer, chained):
                assert before is not None, "a chain starts behind a float region that only moves values"


@given(names, st.data())
def test_layers_keep_their_scheme_or_go_back_to_float(name: str, data: st.DataObject) -> None:
    model, menu, chained = setting(name)
    wanted = data.draw(assignments(menu))
    legal = legalize(model, chained, wanted, menu)
    for region in model.layers:
        assert legal.get(region.name) in (None, wanted.get(region.name))


@given(names, st.data())
def test_legalize_comes_to_rest(name: str, data: st.DataObject) -> None:
    """A legal plan stays as it is; reaching one takes at most as many turns as there are regions."""
    model, menu, chained = setting(name)
    plan = data.draw(assignments(menu))
    for _ in model.regions:
        again = legalize(model, chained, plan, menu)
        if again == plan:
            break
        plan = again
    assert legalize(model, chained, plan, menu) == plan


@given(names)
def test_everything_in_int8_is_legal_and_so_is_nothing(name: str) -> None:
    model, menu, chained = setting(name)
    everything = {r: INT8 for r, schemes in menu.items() if INT8 in schemes}
    legal = legalize(model, chained, everything, menu)
    assert {r for r in everything if r not in chained} <= legal.keys()
    assert legalize(model, chained, {}, menu) == {}


def test_feature_maps_end_where_they_are_flattened() -> None:
    model, _, chained = setting("residual")
    by_op = {r.op_type: r.name for r in model.regions}
    assert {by_op["MaxPool"], by_op["Add"], by_op["GlobalAveragePool"], by_op["Flatten"]} <= chained
    model, _, chained = setting("tokens")
    assert not chained & {r.name for r in model.regions if r.kind is RegionKind.LAYER}
