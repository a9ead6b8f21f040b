"""The method by which a model that is never whole in memory is rounded for its inputs: the best that time allows."""

from __future__ import annotations

from pathlib import Path

import pytest

from onnxmpq.model import Model, prepare
from onnxmpq.progress import Silent
from onnxmpq.weights import Techniques, in_sequence, plan_within_time, quick_enough, within_time, without
from onnxmpq.weights.reuse import VALUE_S, rounding_seconds
from tests.graphs import graph, prepared
from tests.model.test_spill import LAYERS, split


class Heard(Silent):
    """Keeps what is said and warned of."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)

    def warn(self, message: str) -> None:
        self.lines.append(f"warning: {message}")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    monkeypatch.setattr("onnxmpq.model.spill.NEVER_WHOLE", 0)
    return prepare(split(LAYERS, tmp_path))


@pytest.mark.parametrize(
    ("allowed", "said"),
    [
        ("best", "the plan's weights are rounded for their inputs: "),
        ("gptq", "the plan's weights are rounded for their inputs by GPTQ alone: "),
        ("nearest", "warning: weights are rounded to nearest: "),
    ],
)
def test_a_plan_is_rounded_by_the_best_method_that_time_allows(allowed: str, said: str, model: Model) -> None:
    heard, seconds = Heard(), rounding_seconds(model, model.weights, allowed)
    found = plan_within_time(model, model.weights, Techniques(), heard, seconds)
    assert found.method == allowed and len(heard.lines) == 1 and heard.lines[0].startswith(said)
    assert ("cross" in found) == (allowed != "nearest")


def test_before_any_plan_all_formats_are_rounded_as_asked_or_to_nearest(model: Model) -> None:
    keys, heard = [*model.weights, *model.weights], Heard()
    seconds = rounding_seconds(model, keys)
    assert within_time(model, keys, Techniques(), heard, seconds) == Techniques()
    assert within_time(model, keys, Techniques(), heard, seconds / 2).method == "nearest"
    rounded, compared = heard.lines
    assert rounded.startswith("weights are rounded for their inputs: ")
    assert compared.startswith("plans are compared with weights rounded to nearest: ")


def test_a_better_method_takes_longer_than_the_next(model: Model) -> None:
    assert list(VALUE_S) == ["best", "gptq", "nearest"]
    seconds = [rounding_seconds(model, model.weights, method) for method in VALUE_S]
    assert seconds == sorted(seconds, reverse=True) and seconds[-1] == 0
    assert quick_enough(model, list(model.weights), "gptq", seconds[1] / 2) == ("nearest", 0)


def test_tables_take_no_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmpq.model.spill.NEVER_WHOLE", 0)
    proto = graph(
        "e = Gather (table, x) y = MatMul (e, w)",
        "int64[N, 6] x",
        "float[N, 6, 80] y",
        "float[96, 64] table, float[64, 80] w",
    )
    model = prepare(split(proto, tmp_path))
    (table,) = [key for key, (region, _) in model.weights.items() if region.operator.looks_up]
    assert len(model.weights) == 2 and rounding_seconds(model, [table]) == 0
    assert rounding_seconds(model, model.weights) > 0


@pytest.mark.parametrize("asked", ["best", "gptq", "nearest"])
def test_no_better_method_than_that_asked_for_is_taken(asked: str, model: Model) -> None:
    techniques = without({"best": (), "gptq": ("descent",), "nearest": ("gptq",)}[asked])
    heard = Heard()
    assert within_time(model, model.weights, techniques, heard) == techniques
    assert len(heard.lines) == (asked != "nearest")


def test_a_model_in_memory_is_rounded_as_asked_for_however_long_that_takes() -> None:
    small, heard = prepared(LAYERS), Heard()
    assert within_time(small, small.weights, Techniques(), heard, 0.0) == Techniques()
    assert in_sequence(small, small.weights, Techniques(), heard) == Techniques()
    assert not heard.lines


def test_rounding_in_sequence_is_left_out_where_one_weight_takes_much_memory(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard()
    assert in_sequence(model, model.weights, Techniques(), heard) == Techniques() and not heard.lines
    monkeypatch.setattr("onnxmpq.weights.reuse.MOST_IN_SEQUENCE_BYTES", 1.0)
    assert "cross" not in in_sequence(model, model.weights, Techniques(), heard)
    assert "GB of memory" in heard.lines[0]


def test_rounding_in_sequence_is_left_out_where_it_takes_long_on_one_core(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard = Heard()
    monkeypatch.setattr("onnxmpq.weights.reuse.LONGEST_IN_SEQUENCE_S", rounding_seconds(model, model.weights, "gptq"))
    found = in_sequence(model, model.weights, Techniques(), heard)
    assert "cross" in found and found.method == "gptq"
    monkeypatch.setattr("onnxmpq.weights.reuse.LONGEST_IN_SEQUENCE_S", 0.0)
    assert "cross" not in in_sequence(model, model.weights, Techniques(), heard)
