"""Losses of whole models come from the cache where the same model was measured on the same samples, and only there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxmpq.cache import Cache
from onnxmpq.context import Context
from onnxmpq.errors import ModelError
from onnxmpq.feeds import Feeds
from onnxmpq.model import Model
from onnxmpq.runtimes import SessionSettings
from onnxmpq.sensitivity import Evaluator, make_divergence
from onnxmpq.sensitivity import evaluator as home
from tests.graphs import feeds_for, prepared, residual_cnn

MODEL = prepared(residual_cnn())
FEEDS = feeds_for(residual_cnn(), 6)


def scaled(model: Model, factor: float) -> onnx.ModelProto:
    """The model with its first weight times a factor."""
    name = next(place.tensor for _, place in model.weights.values())
    return model.with_tensors({name: model.store.array(name) * np.float32(factor)}).proto


def evaluator(cache: Cache, feeds: Feeds = FEEDS, **settings: bool | int) -> Evaluator:
    divergence, _ = make_divergence(MODEL, FEEDS, 1, threads=1, kinds={"y": "values"})
    return Evaluator.of(MODEL, divergence, feeds, SessionSettings(**settings), Context(cache=cache))  # type: ignore[arg-type]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was run: "running the original", "running a plan on samples"."""
    found: list[str] = []
    inner: Callable[..., object] = home.call

    def spied(*arguments: object, doing: str, **more: object) -> object:
        found.append(doing)
        return inner(*arguments, doing=doing, **more)

    monkeypatch.setattr(home, "call", spied)
    return found


def test_a_model_that_was_measured_is_not_run_again(tmp_path: Path, runs: list[str]) -> None:
    broken = scaled(MODEL, 1.5)
    first = evaluator(Cache(tmp_path)).losses(broken)
    assert first.shape == (6,) and (first > 0).all()
    assert runs == ["running the original", "running a plan on samples"]
    again = evaluator(Cache(tmp_path), threads=2).losses(broken)
    np.testing.assert_array_equal(first, again)
    assert len(runs) == 2


@dataclass(frozen=True)
class Other:
    """Something that is not as it was when the losses were kept."""

    id: str
    factor: float = 1.5
    feeds: Feeds = FEEDS
    exact: bool = False


@pytest.mark.parametrize(
    "other",
    [
        Other("model", factor=1.25),
        Other("samples", feeds=FEEDS.take([5, 4, 3, 2, 1, 0])),
        Other("sessions", exact=True),
    ],
    ids=lambda other: other.id,
)
def test_whatever_else_is_asked_is_measured(other: Other, tmp_path: Path, runs: list[str]) -> None:
    evaluator(Cache(tmp_path)).losses(scaled(MODEL, 1.5))
    evaluator(Cache(tmp_path), other.feeds, exact_integers=other.exact).losses(scaled(MODEL, other.factor))
    assert runs.count("running a plan on samples") == 2


def test_without_a_cache_each_is_run(runs: list[str]) -> None:
    asked = evaluator(Cache(None))
    for _ in range(2):
        asked.losses(scaled(MODEL, 1.5))
    assert runs == ["running the original", *["running a plan on samples"] * 2]


def test_losses_that_are_none_are_measured_again(tmp_path: Path, runs: list[str]) -> None:
    broken = scaled(MODEL, 1.5)
    first = evaluator(Cache(tmp_path)).losses(broken)
    evaluator(Cache(tmp_path), FEEDS.take([0, 1])).losses(broken)
    long, short = sorted(tmp_path.glob("*/*.npz"), key=lambda path: path.stat().st_size, reverse=True)
    long.write_bytes(short.read_bytes())
    np.testing.assert_array_equal(evaluator(Cache(tmp_path)).losses(broken), first)
    assert runs.count("running a plan on samples") == 3


def test_a_model_that_does_not_run_is_tried_each_time(tmp_path: Path, runs: list[str]) -> None:
    broken = replace_op(MODEL.proto)
    for _ in range(2):
        with pytest.raises(ModelError):
            evaluator(Cache(tmp_path)).losses(broken)
    assert runs.count("running a plan on samples") == 2


def replace_op(proto: onnx.ModelProto) -> onnx.ModelProto:
    other = onnx.ModelProto()
    other.CopyFrom(proto)
    other.graph.node[0].op_type = "Unheard"
    return other
