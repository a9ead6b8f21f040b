"""A forward pass in stretches gives the values of a run of the whole model, whatever is kept in between."""

from __future__ import annotations

import weakref
from dataclasses import dataclass

import numpy as np
import onnx
import pytest

from onnxmpq.execution import Cutter, ForwardPass, MemoryBudget, with_outputs
from onnxmpq.feeds import Feeds
from onnxmpq.runtimes import SessionSettings
from tests.graphs import feeds_for, graph, outputs_of, prepared, residual_cnn

CHAIN = graph(
    "a = MatMul (x, w)  b = Relu (a)  c = MatMul (b, w)  d = Tanh (c)  y = Add (d, b)",
    "float[N, 6] x",
    "float[N, 6] y, float[N, 6] a, float[N, 6] b, float[N, 6] c, float[N, 6] d",
    "float[6, 6] w",
)


@dataclass(frozen=True)
class Case:
    """starts: the nodes from which the three stretches begin."""

    id: str
    kept_bytes: int
    starts: list[int]


CASES = [
    Case("all kept", 2**20, [0, 1, 3]),
    Case("nothing kept", 0, [0, 0, 0]),
    Case("one tensor kept", 3 * 2 * 6 * 4, [0, 1, 1]),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_values_of_batches_are_those_of_a_full_run(case: Case) -> None:
    cutter, feeds = Cutter(CHAIN), feeds_for(CHAIN, 5)
    rows = [slice(0, 2), slice(2, 4), slice(4, 5)]
    forward = ForwardPass(cutter, feeds, SessionSettings(), rows=rows, memory=MemoryBudget(kept=case.kept_bytes))
    starts = []
    for stop, needed in ((1, ["a"]), (3, ["c"]), (4, ["d", "y"])):  # y lies behind its stop
        starts.append(forward.start)
        for inputs, values in zip(feeds.batches(2), forward.values(stop, needed, cutter.live(stop)), strict=True):
            expected = outputs_of(CHAIN, inputs)
            for tensor in needed:
                np.testing.assert_allclose(values[tensor], expected[tensor], atol=1e-5)
    assert starts == case.starts


def test_values_that_were_used_do_not_stay_in_memory() -> None:
    whole = ForwardPass(Cutter(CHAIN), feeds_for(CHAIN, 4), SessionSettings(), memory=MemoryBudget(kept=0))
    alive: list[weakref.ref[np.ndarray]] = []
    for known in whole.values(3, ["c"], ["b"]):
        alive.append(weakref.ref(known["c"]))
        del known
        assert sum(ref() is not None for ref in alive) <= 1
    assert len(alive) == 4


@pytest.mark.parametrize("kept_bytes", [0, 2**20], ids=["nothing_kept", "everything_kept"])
def test_a_skipped_stop_leaves_what_a_visited_one_does(kept_bytes: int) -> None:
    feeds, memory = feeds_for(CHAIN, 3), MemoryBudget(kept=kept_bytes)
    skipping, visiting = (ForwardPass(Cutter(CHAIN), feeds, SessionSettings(), memory=memory) for _ in range(2))
    skipping.skip(2, ["b"], ["b"])
    assert len(list(visiting.values(2, ["b"], ["b"]))) == 3
    assert skipping.start == visiting.start == (2 if kept_bytes else 0)
    for one, other in zip(skipping.values(4, ["d"], []), visiting.values(4, ["d"], []), strict=True):
        np.testing.assert_array_equal(one["d"], other["d"])


def forward(proto: onnx.ModelProto, feeds: Feeds, memory: MemoryBudget | None = None) -> ForwardPass:
    return ForwardPass(Cutter(proto), feeds, SessionSettings(keep_qdq=True), memory=memory or MemoryBudget())


@pytest.mark.parametrize("kept_bytes", [0, 2**30], ids=["nothing_kept", "everything_kept"])
def test_inputs_and_outputs_of_every_layer(kept_bytes: int) -> None:
    model = prepared(residual_cnn())
    feeds = feeds_for(model.proto)
    walk = forward(model.proto, feeds, MemoryBudget(kept=kept_bytes))
    for region in model.layers:
        node = walk.cutter.nodes[region.nodes[0]]
        for tensor, values in (
            (node.input[0], walk.inputs_of(node.name)),
            (node.output[0], walk.outputs_of(node.name)),
        ):
            for number, value in enumerate(values):
                inputs = feeds.batch([number])
                whole = inputs.get(tensor)
                if whole is None:
                    whole = outputs_of(with_outputs(model.proto, [tensor]), inputs)[tensor]
                np.testing.assert_allclose(value, whole, rtol=1e-4, atol=1e-5)


def test_kept_values_do_not_hold_the_memory_of_sessions() -> None:
    model = prepared(residual_cnn())
    walk = forward(model.proto, feeds_for(model.proto))
    for region in model.layers:
        list(walk.inputs_of(region.nodes[0]))
    kept = [values for of_sample in walk._kept for values in of_sample.values()]
    assert kept and all(values.flags.owndata for values in kept)


def test_a_changed_constant_reaches_later_stops_only() -> None:
    model = prepared(residual_cnn())
    walk = forward(model.proto, feeds_for(model.proto))
    first, *_, last = model.layers
    before = [v.copy() for v in walk.inputs_of(first.nodes[0])]
    weight = np.zeros(first.params.weight_shape, np.float32)
    walk.set_constant(first.params.weight, weight)
    changed = list(walk.inputs_of(last.nodes[0]))
    fresh = list(forward(model.proto, feeds_for(model.proto)).inputs_of(last.nodes[0]))
    assert any(not np.allclose(a, b) for a, b in zip(changed, fresh, strict=True))
    for again, kept in zip(walk.inputs_of(first.nodes[0]), before, strict=True):
        np.testing.assert_array_equal(again, kept)


@dataclass(frozen=True)
class Narrow:
    """A narrow tensor `q` that two layers share, through nodes that make it float32 again."""

    id: str
    there: str
    back: str
    error: float


NARROW = [
    Narrow("float8", "QuantizeLinear (x, s, z)", "DequantizeLinear (q, s, z)", 0.07),
    Narrow("bfloat16", "Cast <to = 16> (x)", "Cast <to = 1> (q)", 2**-8),
    Narrow("float16", "Cast <to = 10> (x)", "Cast <to = 1> (q)", 2**-11),
]


@pytest.mark.parametrize("case", NARROW, ids=lambda case: case.id)
def test_narrow_tensors_that_are_live_at_a_stop_keep_their_type(case: Narrow) -> None:
    proto = graph(
        f"""q = {case.there}
            a0 = {case.back}
            a = MatMul (a0, w)
            b0 = {case.back}
            b = MatMul (b0, w)
            y = Add (a, b)""",
        "float[N, 4] x",
        "float[N, 4] y",
        "float[4, 4] w, float s = {0.5}, float8e4m3fn z = {0}",
    )
    for node, name in zip(proto.graph.node, ("q", "a0", "first", "b0", "second", "sum"), strict=True):
        node.name = name
    feeds = feeds_for(proto)
    walk = forward(proto, feeds)
    assert "q" in walk.cutter.live(walk.cutter.place("first"))
    first, second = list(walk.inputs_of("first")), list(walk.inputs_of("second"))
    for number, (one, other) in enumerate(zip(first, second, strict=True)):
        np.testing.assert_array_equal(one, other)
        exact = feeds.batch([number])["x"]
        np.testing.assert_allclose(one, exact, rtol=case.error, atol=case.error / 7)
        assert np.abs(one - exact).max() > 0, "they went through the narrow type"
