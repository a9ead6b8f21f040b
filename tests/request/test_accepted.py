"""Values of Python callers: what can be meant is taken, and the rest is told what to write."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxmpq
from onnxmpq.errors import ModelError, UsageError
from onnxmpq.feeds import parse_fields, parse_shapes
from onnxmpq.request import GROUPS, GateOptions, Request, SampleOptions, options_of
from onnxmpq.request.accepted import DATA, accepted
from onnxmpq.request.config import parse_kinds
from onnxmpq.request.patterns import parse_patterns


@dataclass(frozen=True)
class Taken:
    """Arguments, and the values that the request has then."""

    id: str
    given: dict[str, Any]
    values: dict[str, Any]


TAKEN = [
    Taken("a text for a list", {"schemes": "w8", "exclude": "Conv_0"}, {"schemes": ("w8",), "exclude": ("Conv_0",)}),
    Taken("any iterable", {"schemes": {"w8": 1}.keys()}, {"schemes": ("w8",)}),
    Taken("NumPy's numbers", {"samples": np.int64(8), "keep_io": np.bool_(False)}, {"samples": 8, "keep_io": False}),
    Taken("an array of numbers", {"mean": np.array([0.5, 0.25])}, {"mean": [0.5, 0.25]}),
    Taken("None for the default", {"exclude": None, "latency": None}, {"exclude": (), "latency": None}),
    Taken(
        "a floor as a number",
        {"min_sqnr": 30, "max_divergence": np.float32(0.5)},
        {"min_sqnr": 30, "max_divergence": 0.5},
    ),
    Taken("a path for a target", {"target": Path("a/b.toml")}, {"target": "a/b.toml"}),
]


@pytest.mark.parametrize("case", TAKEN, ids=lambda case: case.id)
def test_what_can_be_meant_is_taken(case: Taken) -> None:
    made = Request(**case.given)
    assert {name: getattr(made, name) for name in case.values} == case.values


REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {"latency": 0.5},
        r'latency=0.5: a number without a unit; write latency="500ms" for 0.5 s, or latency="50%" for a',
    ),
    ({"latency": 5}, r'latency=5: a number without a unit; write latency="5000ms" for 5 s$'),
    ({"size": 3e6}, r'size=3000000.0: a number without a unit; write size="3MB" for 3e\+06 bytes$'),
    ({"size": 0.3}, r'size=0.3: a number without a unit; write size="30%" for a share of the original$'),
    ({"progress": print}, "must be of class Progress: subclass onnxmpq.Progress, and give an object of it"),
    ({"size": [1]}, r'size=\[1\]: write a number with a unit, such as size="3MB"'),
    ({"latency": -1}, 'latency=-1: write a number with a unit, such as latency="5ms"'),
    ({"schemes": [8]}, r"schemes: 8 is no text; give names in a list, such as schemes=\['first'\]"),
    ({"schemes": 8}, "schemes: 8 is no text"),
    ({"samples": 2.5}, "samples=2.5: must be a whole number"),
    ({"samples": True}, "samples=True: must be a whole number"),
    ({"samples": None}, "samples=None: leave it out for the default, 64"),
    ({"keep_io": "no"}, "keep_io='no': must be True or False"),
    ({"outputs": ["y"]}, r"outputs=\['y'\]: must be a dict, such as \{'name': 'logits'\}"),
    ({"cost_table": {"a": 1}}, r"cost_table=\{'a': 1\}: must be the path of a file"),
    ({"target": 3}, "target=3: must be a text"),
    ({"recipe": 3}, "recipe=3: must be the name of a recipe, a .toml file, or a recipe"),
    ({"ranges": 3}, "ranges=3: must be the path of a file, or a Calibration"),
    ({"metric": 3}, "metric=3: must be a function, or module:function as a text"),
    ({"effort": 3}, "effort=3: must be of class Effort"),
    ({"cache": 3}, "cache=3: must be a folder, or True or False"),
    ({"shape": [1, 3]}, r"shape=\[1, 3\]: must be a dict, such as"),
    ({"mean": {1}}, r"mean=\{1\}: must be a number, or one for each channel"),
    ({"min_sqnr": [30]}, r"min_sqnr=\[30\]: must be a text"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED, ids=[str(given) for given, _ in REFUSED])
def test_what_cannot_be_meant_is_told_what_to_write(given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        Request(**given)
    assert "\n" not in str(caught.value)


def test_a_misspelt_argument() -> None:
    with pytest.raises(
        TypeError, match=r"convert\(\) got an unexpected keyword argument 'latncy'; did you mean latency"
    ):
        onnxmpq.convert("model.onnx", latncy="5ms")  # type: ignore[call-arg]


@pytest.mark.parametrize("function", [onnxmpq.convert, onnxmpq.predict])
def test_help_lists_every_argument_in_its_group(function: Any) -> None:
    text = inspect.getdoc(function) or ""
    declared = options_of(Request)
    assert list(inspect.signature(function).parameters)[1:] == list(declared)
    places = [text.index(f"\n{group}\n{'-' * len(group)}\n") for group in GROUPS]
    assert places == sorted(places)
    for name, option in declared.items():
        section = text[places[GROUPS.index(option.option.group)] :]
        assert f"\n{name} : " in section, name
    assert max(map(len, text.splitlines())) <= 120


TYPED: dict[str, Any] = {
    "kinds": parse_kinds(["y=logits"]),
    "patterns": parse_patterns(["head*=int8|w8"]),
    "fields": parse_fields(["resize=exact"]),
    "shapes": parse_shapes(["x=1x16@0.7,1x128@0.3"]),
    "texts": ["w8"],
    "whole": 1,
    "switch": True,
    "numbers": "0.5,0.25,0.5",
    "file": Path("a.json"),
    "cache": Path("folder"),
    "text": "a",
}
"""A value of each kind as the command line hands it to the request."""


@pytest.mark.parametrize("request_type", [Request, GateOptions, SampleOptions])
def test_a_value_that_was_accepted_is_accepted_again(request_type: type[Any]) -> None:
    """Commands hand values of their request on to functions that check their arguments by the same rules."""
    for name, declared in options_of(request_type).items():
        if declared.option.kind == "python":
            continue
        once = accepted(declared, TYPED[declared.option.kind])
        assert accepted(declared, once) == once, name
        assert accepted(options_of(Request)[name], once) == once, name


def test_a_recipe_with_overrides_is_accepted_by_the_functions_that_take_it() -> None:
    asked = SampleOptions(calibration="a.npz", mean="0.5,0.5,0.5", scale=255)
    recipe = asked.effective_recipe
    assert not isinstance(recipe, str) and recipe is not None
    assert accepted(options_of(Request)["recipe"], recipe) is recipe


PATHS = [name for name, d in options_of(Request).items() if d.option.kind in ("file", "cache") or name in DATA]


@pytest.mark.parametrize("name", PATHS)
@pytest.mark.parametrize("value", ["", "a\0b", Path("a\0b")], ids=["empty", "nul", "nul in a path"])
def test_no_path(name: str, value: str | Path) -> None:
    with pytest.raises(UsageError, match=rf"^{name}=.*: must be"):
        Request(**{name: value, "min_sqnr": "30dB"})


@pytest.mark.parametrize(
    "command", [onnxmpq.convert, onnxmpq.inspect, onnxmpq.check, onnxmpq.calibrate, onnxmpq.profile]
)
@pytest.mark.parametrize("path", ["", "a\0b", "x" * 300], ids=["empty", "nul", "long"])
def test_no_model(command: Callable[[str], object], path: str) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        command(path)
