"""Effects measured in tasks are those of one process, to the last bit, in whatever order and pieces."""

from __future__ import annotations

import gc

import numpy as np
import onnx
import pytest

from onnxmpq.cache import content_hash
from onnxmpq.execution import MEMORY, MemoryBudget
from onnxmpq.keys import model_hash
from onnxmpq.sensitivity import Effects, Perturbations, fit_frame, measure_effects, spread
from onnxmpq.sensitivity.measure import EffectsWorker
from onnxmpq.sensitivity.spread import Scene, measured, spread_effects
from tests.executors import Shuffled
from tests.graphs import feeds_for, prepared, residual_cnn, token_model
from tests.sensitivity.test_effects import perturbations


def assert_same_bits(one: Effects, other: Effects) -> None:
    for name in ("weights", "activations", "inputs", "kernels"):
        mine, theirs = getattr(one, name), getattr(other, name)
        assert mine.keys() == theirs.keys(), name
        for key, change in mine.items():
            np.testing.assert_array_equal(change, theirs[key], err_msg=f"{name} {key}")
    assert one.params == other.params


@pytest.mark.parametrize("proto", [residual_cnn(), token_model()], ids=["cnn", "tokens"])
@pytest.mark.parametrize("memory", [MEMORY, MemoryBudget(kept=0)], ids=["kept", "nothing kept"])
@pytest.mark.parametrize("width", [1, 8])
def test_tasks_give_the_same_bits(
    proto: onnx.ModelProto, memory: MemoryBudget, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxmpq.sensitivity.measure.GROUP", 3)
    model, feeds = prepared(proto), feeds_for(proto, 5)
    tries = perturbations(model, feeds)
    frame = fit_frame(model, feeds, tries.count, threads=1, kinds={})
    whole = measure_effects(model, feeds, tries, frame=frame, memory=memory)
    elsewhere, parts = Shuffled(width, seed=width), list[Effects]()
    found = spread_effects(
        elsewhere, content_hash(model_hash(model), memory), model, feeds, tries, frame, memory=memory, keep=parts.append
    )
    assert_same_bits(whole, found)
    assert elsewhere.done == len(parts) and len(parts) > (2 if width == 1 else 6)


def test_only_what_is_tried_makes_tasks() -> None:
    model, feeds = prepared(residual_cnn()), feeds_for(residual_cnn(), 3)
    tries = perturbations(model, feeds)
    last = model.layers[-1].name
    few = tries.only({last}, ())
    assert few.count and few.layers == {last}
    frame = fit_frame(model, feeds, tries.count, threads=1, kinds={})
    ticks: list[int] = []
    found = spread_effects(Shuffled(4, 0), "few", model, feeds, few, frame, tick=ticks.append)
    assert set(ticks) == {few.count}  # the shuffled executor does each task twice
    assert_same_bits(measure_effects(model, feeds, few, frame=frame), found)


def test_an_error_on_the_way_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that has measured something before tries a task once more after an error that has passed."""
    monkeypatch.setattr("onnxmpq.sensitivity.measure.GROUP", 2)
    proto = residual_cnn()
    model = prepared(proto)
    scenes: dict[str, tuple[Scene, Perturbations]] = {}
    for key, seed in (("one", 1), ("other", 2)):
        feeds = feeds_for(proto, 5, seed=seed)
        tries = perturbations(model, feeds)
        scenes[key] = Scene(key, feeds, fit_frame(model, feeds, tries.count, threads=1, kinds={}), None, MEMORY), tries
    other, tries = scenes["other"]
    worker = other.worker(model, tries, [])
    last, targets = list(worker.used().items())[-1]
    task = tries.only({r.name for t in targets if (r := worker.targets[t]) is not None}, targets)
    expected = measured(model, other, last, task)[0]
    for broken in ("worker", "prefix", "skip", "measured"):
        spread._walks.of.clear()
        measured(model, scenes["one"][0], 0, scenes["one"][1])
        holder = Scene if broken == "worker" else EffectsWorker
        with monkeypatch.context() as once, pytest.raises(MemoryError):
            once.setattr(holder, broken, out_of_memory)
            measured(model, other, last, task)
        again = measured(model, other, last, task)[0]
        for name in ("weights", "activations"):
            assert again[name].keys() == expected[name].keys()
            for key, change in again[name].items():
                np.testing.assert_array_equal(change, expected[name][key], err_msg=f"{broken} {name} {key}")


def test_a_walk_ends_with_its_scene() -> None:
    """A worker may live long after its client."""
    model, feeds = prepared(residual_cnn()), feeds_for(residual_cnn(), 3)
    tries = perturbations(model, feeds)
    scene = Scene("brief", feeds, fit_frame(model, feeds, tries.count, threads=1, kinds={}), None, MEMORY)
    measured(model, scene, 0, tries)
    assert scene in spread._walks.of
    del scene
    gc.collect()
    assert not spread._walks.of


def out_of_memory(*_: object) -> None:
    raise MemoryError
