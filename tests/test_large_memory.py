"""Memory of conversions of models that are never whole: what is open, and what is held, at the same time.

Sessions and arrays are counted, not bytes, so the models are tiny.
"""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import onnx
import pytest

import onnxmpq
from onnxmpq.cost import Effort, Profiler
from onnxmpq.execution import Cutter
from onnxmpq.feeds import Array
from onnxmpq.isolation import Kept
from onnxmpq.measuring import measured_on
from onnxmpq.model import LARGEST_KEPT, Model, Spelling, prepare
from onnxmpq.quality import time_side_by_side
from onnxmpq.runtimes import OnnxRuntime, SessionSettings, open_session
from onnxmpq.sensitivity import Perturbations
from onnxmpq.trials import OWN_THREADS, run_all
from tests.graphs import feeds_for, samples_for
from tests.model.test_spill import LAYERS, split
from tests.test_large_models import TOKENS, converted, files

R = TypeVar("R")
NEAREST = ("gptq", "smoothquant", "equalisation")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.setattr("onnxmpq.model.spill.NEVER_WHOLE", 0)
    return prepare(split(LAYERS, tmp_path))


class Opened:
    """Stands for a session."""

    def __init__(self, session: Any, settings: SessionSettings) -> None:
        self.session, self.settings = session, settings


class Counting(OnnxRuntime):
    """Notes which sessions were there when another one was opened."""

    def __init__(self) -> None:
        super().__init__()
        alive: weakref.WeakSet[Opened] = weakref.WeakSet()
        object.__setattr__(self, "alive", alive)
        object.__setattr__(self, "others", [])

    def open(self, model: Any, settings: SessionSettings) -> Any:
        self.others.append([o.settings.mapped for o in self.alive])  # type: ignore[attr-defined]
        opened = Opened(super().open(model, settings), settings)
        self.alive.add(opened)  # type: ignore[attr-defined]
        return opened

    def prepared(self, session: Any, feeds: Mapping[str, Array]) -> Callable[[], object]:
        return super().prepared(session.session, feeds)

    def run(self, session: Any, feeds: Mapping[str, Array]) -> list[Any]:
        return super().run(session.session, feeds)


class Here:
    """A device that is this process."""

    described: Mapping[str, str] = {}
    machine = "here"

    def call(self, function: Callable[..., R], *arguments: Any, doing: str, limit_s: float | None = None) -> R:
        return function(*(a.here() if isinstance(a, Kept) else a for a in arguments))


def test_ways_to_open_a_model_are_tried_one_after_the_other() -> None:
    runtime = Counting()
    run_all(LAYERS, [samples_for(LAYERS)], [SessionSettings(), SessionSettings(OWN_THREADS)], runtime)
    assert runtime.others == [[], []]  # type: ignore[attr-defined]


def test_beside_a_plan_no_other_session_has_copies_of_weights(model: Model) -> None:
    runtime, inputs = Counting(), samples_for(LAYERS)
    with measured_on(Here()):  # type: ignore[arg-type]
        profiler = Profiler(model, inputs, SessionSettings(), Effort(0.01, 2, 2), runtime)
        assert [o.settings.mapped for o in runtime.alive] == [True]  # type: ignore[attr-defined]
        profiler.again_s(model.proto)
        profiler.profile({}, model.proto)
    opened: list[list[bool]] = runtime.others  # type: ignore[attr-defined]
    assert len(opened) > 3 and all(all(others) for others in opened)


def test_of_a_model_in_memory_the_original_stays_open() -> None:
    runtime = Counting()
    with measured_on(Here()):  # type: ignore[arg-type]
        profiler = Profiler(prepare(LAYERS), samples_for(LAYERS), SessionSettings(), Effort(0.01, 2, 2), runtime)
        assert [o.settings.mapped for o in runtime.alive] == [False]  # type: ignore[attr-defined]
        assert profiler.reference_s > 0


@pytest.mark.parametrize(("large", "most"), [(True, 1), (False, 2)])
def test_the_closing_measurement_opens_large_models_one_at_a_time(
    large: bool, most: int, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()
    counts: list[int] = []

    def opened(*arguments: Any) -> Any:
        session = open_session(*arguments)
        alive.add(session)
        counts.append(len(alive))
        return session

    monkeypatch.setattr("onnxmpq.quality.timing.open_session", opened)
    proto = model.proto if large else LAYERS
    with measured_on(Here()):  # type: ignore[arg-type]
        found = time_side_by_side(proto, proto, feeds_for(LAYERS), SessionSettings(), Effort(0.01, 2, 2), passes=2)
    assert found.rounds >= 2 and max(counts) == most


def test_variants_of_a_layer_are_made_one_after_the_other(model: Model) -> None:
    layer, made = model.layers[0], list[Any]()

    def spelled() -> Iterator[Spelling]:
        for value in range(4):
            assert all(reference() is None for reference in made)
            weight = np.full(layer.params.weight_shape, value, np.float32)
            made.append(weakref.ref(weight))
            spelling = Spelling({layer.params.weights[0].slot: weight})
            del weight
            yield spelling
            del spelling

    part = Cutter(model.store).variants(layer, spelled())
    assert len(made) == len(part.files) == len(part.proto.graph.output) == 4


def test_weights_of_kernels_are_in_files_while_effects_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxmpq.model.spill.NEVER_WHOLE", 0)
    seen: list[Perturbations] = []

    def measured(context: Any, model: Model, feeds: Any, tries: Perturbations, *_: Any, **__: Any) -> Any:
        seen.append(tries)
        raise KeyboardInterrupt

    monkeypatch.setattr("onnxmpq.sensitivity.menu_effects.reused_effects", measured)
    with pytest.raises(KeyboardInterrupt):
        onnxmpq.convert(
            split(TOKENS, tmp_path), calibration=samples_for(TOKENS, 8), schemes=["w8b32"], size="40%", cache=False
        )
    large = [c for s in seen[0].kernels.values() for c in s.constants.values() if c.size > LARGEST_KEPT]
    assert len(large) >= 2 and all(isinstance(constant, np.memmap) for constant in large)


def test_constants_are_mapped_from_their_files(model: Model) -> None:
    for name in ("w0", "w1"):
        mapped = model.store.array(name)
        assert isinstance(mapped.base, np.memmap) and not mapped.flags.writeable


def test_a_plan_of_weights_rounded_to_nearest_is_small_and_makes_the_same_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxmpq.model.spill.NEVER_WHOLE", 0)
    source = tmp_path / "model"
    source.mkdir()
    path = split(TOKENS, source)
    result = converted(path, tmp_path / "first", without=(*NEAREST, "cross", "bias-correction"))
    assert any(row.scheme != "fp32" for row in result.plan.layers) and not result.plan.weights
    onnxmpq.apply(path, tmp_path / "first" / "out.plan.json", output=tmp_path / "first" / "out.again.onnx")
    found = files(tmp_path / "first")
    assert found["out.again.onnx.data"] == found["out.onnx.data"]
    plans = [json.loads(found[f"out.{name}plan.json"])["output_sha256"] for name in ("", "again.")]
    assert plans[0] == plans[1]
    assert onnx.load(tmp_path / "first" / "out.onnx").graph.node
