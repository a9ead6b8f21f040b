"""Effects by blocks measured in tasks are those of one process, to the last bit."""

from __future__ import annotations

import gc
from collections import Counter

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.cache import content_hash
from onnxmpq.execution import MEMORY, ForwardPass, MemoryBudget, OpenPart, Part
from onnxmpq.keys import model_hash
from onnxmpq.runtimes import SessionSettings
from onnxmpq.sensitivity import Perturbations, fit_frame, spread_blocks
from onnxmpq.sensitivity.block_effects import measure_by_blocks
from onnxmpq.sensitivity.carry import Carried
from onnxmpq.sensitivity.measure import EffectsWorker
from onnxmpq.sensitivity.spread import MARK_BYTES
from onnxmpq.sensitivity.spread_blocks import Leg, Spread, pieces
from tests.executors import Shuffled
from tests.graphs import feeds_for, graph, prepared
from tests.sensitivity.test_block_effects import SHORT, tries_of
from tests.sensitivity.test_blocks import chain, residual, weights
from tests.sensitivity.test_spread import assert_same_bits

IO = "float[N, 4, 8] x", "float[N, 4, 8] y"


def with_a_mask() -> onnx.ModelProto:
    body = "".join(residual(n, f"s{n - 1}" if n else "x") + f"s{n} = Mul (r{n}, mask) " for n in range(4))
    return graph(f"mask = Sigmoid (x) {body} y = MatMul (s3, head)", *IO, f"{weights(4)}, float[8, 8] head")


def with_inner_outputs() -> onnx.ModelProto:
    body = "".join(residual(n, f"r{n - 1}" if n else "x") for n in range(3))
    outputs = f"{IO[1]}, float[N, 4, 8] k0, float[N, 4, 8] k1"
    return graph(f"{body} y = MatMul (r2, head)", IO[0], outputs, f"{weights(3)}, float[8, 8] head")


@pytest.mark.parametrize(
    ("proto", "tensors"),
    [
        (chain(5), ("x", "n0", "r1", "m2", "o3")),
        (with_a_mask(), ("x", "mask", "n1", "s3")),
        (with_inner_outputs(), ("n0", "r1")),
    ],
    ids=["chain", "mask", "inner outputs"],
)
@pytest.mark.parametrize("memory", [MEMORY, MemoryBudget(kept=0)], ids=["kept", "nothing kept"])
@pytest.mark.parametrize("width", [1, 2, 8])
def test_tasks_give_the_same_bits(
    proto: onnx.ModelProto, tensors: tuple[str, ...], memory: MemoryBudget, width: int
) -> None:
    model, feeds = prepared(proto), feeds_for(proto, 9)
    tries, executor = tries_of(model, tensors), Shuffled(width, seed=width)
    frame = fit_frame(model, feeds, tries.count, threads=1, kinds={})
    whole = measure_by_blocks(model, feeds, tries, frame, memory=memory)
    found = measure_by_blocks(
        model, feeds, tries, frame, memory=memory, spread=Spread(executor, content_hash(model_hash(model), memory))
    )
    assert whole.by_blocks is not None and found.by_blocks is not None
    assert_same_bits(whole, found)
    assert list(whole.by_try) == list(found.by_try)
    assert whole.by_blocks.gains == found.by_blocks.gains and whole.idle == found.idle
    code = np.concatenate([whole.pooled.encode([np.ones((1, 4, 8), np.float32)] * len(proto.graph.output), 1)] * 9)
    np.testing.assert_array_equal(*(e.pooled.per_sample(code, 0.1 * code) for e in (whole, found)))
    assert executor.done > len(whole.by_blocks.gains)


@pytest.mark.parametrize(("most", "once"), [(MARK_BYTES, True), (0, False)])
def test_who_hands_out_tasks_walks_for_all(most: int, once: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without marks each process walks as well, and anew where a task lies behind."""
    passed: list[int] = []

    def skip(self: EffectsWorker, number: int, prefix: ForwardPass) -> None:
        passed.append(number)
        original(self, number, prefix)

    original = EffectsWorker.skip
    monkeypatch.setattr(EffectsWorker, "skip", skip)
    monkeypatch.setattr("onnxmpq.sensitivity.spread.MARK_BYTES", most)
    model, feeds = prepared(chain(5)), feeds_for(chain(5), 9)
    tries, executor = tries_of(model, ("x", "n0", "r1", "m2", "o3")), Shuffled(4, 0)
    frame = fit_frame(model, feeds, tries.count, threads=1, kinds={})
    measure_by_blocks(model, feeds, tries, frame, spread=Spread(executor, f"led {most}"))
    assert (max(Counter(passed).values()) == 1) == once
    assert not executor.there


def test_tasks_that_carry_open_each_block_once(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    class Counted(OpenPart):
        def __init__(self, part: Part, settings: SessionSettings) -> None:
            opened.append(part.inputs)
            super().__init__(part, settings)

    monkeypatch.setattr("onnxmpq.sensitivity.carry.OpenPart", Counted)
    model, feeds = prepared(chain(5)), feeds_for(chain(5), 9)
    tries = tries_of(model, ("x", "n0", "r1", "m2", "o3"))
    frame = fit_frame(model, feeds, tries.count, threads=1, kinds={})
    found = measure_by_blocks(model, feeds, tries, frame, spread=Spread(Shuffled(4, 0), "opened"))
    assert found.by_blocks is not None
    assert 0 < len(opened) == len(set(opened)) <= len(found.by_blocks.gains)
    gc.collect()
    assert not spread_blocks._opened  # nobody has the way any more


@given(st.lists(st.integers(0, 22), min_size=1, max_size=90), st.integers(0, 8), st.integers(1, 12))
def test_what_is_carried_keeps_all_workers_busy(blocks: list[int], opening: int, count: int) -> None:
    """Whatever a block takes to be opened, unlike what was thought."""
    legs = [Leg(block, Carried(np.zeros((1, 1), np.float32)), (0, 1)) for block in sorted(blocks)]
    ahead, opened, busy = {id(leg): 23 - leg.block for leg in legs}, [0] * count, [0] * count
    found = pieces(legs, 24, 2, count)
    assert [leg for piece in found for leg in piece] == legs and all(found)
    for piece in found:  # each to the worker that is done first
        worker, first = min(range(count), key=busy.__getitem__), ahead[id(piece[0])]
        busy[worker] += sum(ahead[id(leg)] for leg in piece) + opening * max(first - opened[worker], 0)
        opened[worker] = max(opened[worker], first)
    whole, longest = sum(ahead.values()), (1 + opening) * max(ahead.values())
    assert max(busy) <= whole / count + longest


def test_a_graph_of_one_block_is_measured_at_the_outputs() -> None:
    model, feeds = prepared(SHORT), feeds_for(SHORT, 5)
    tries = Perturbations(tries_of(model).weights, {})
    frame = fit_frame(model, feeds, tries.count, threads=1, kinds={})
    whole = measure_by_blocks(model, feeds, tries, frame)
    executor = Shuffled(2, 0)
    found = measure_by_blocks(model, feeds, tries, frame, spread=Spread(executor, "one block"))
    assert found.by_blocks is None and executor.done
    assert_same_bits(whole, found)
