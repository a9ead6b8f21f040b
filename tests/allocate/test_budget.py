"""How budgets are written."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.allocate import Budgets, Limit, parse_budgets
from onnxmpq.errors import UsageError


@dataclass(frozen=True)
class Spelling:
    """A budget as the user writes it, and what it means."""

    option: str
    text: str
    limit: Limit

    @property
    def id(self) -> str:
        return f"{self.option}={self.text}"


SPELLINGS = [
    Spelling("latency", "5ms", Limit(5e-3)),
    Spelling("latency", " 5 ms ", Limit(5e-3)),
    Spelling("latency", "0.5s", Limit(0.5)),
    Spelling("latency", ".5s", Limit(0.5)),
    Spelling("latency", "250us", Limit(250e-6)),
    Spelling("latency", "250µs", Limit(250e-6)),
    Spelling("latency", "1NS", Limit(1e-9)),
    Spelling("latency", "1e-3s", Limit(1e-3)),
    Spelling("latency", "60%", Limit(0.6, relative=True)),
    Spelling("size", "3MB", Limit(3e6)),
    Spelling("size", "3MiB", Limit(3 * 2**20)),
    Spelling("size", "100b", Limit(100)),
    Spelling("size", "12.5 %", Limit(0.125, relative=True)),
    Spelling("energy", "3mJ", Limit(3e-3)),
    Spelling("energy", "2uj", Limit(2e-6)),
]


@pytest.mark.parametrize("case", SPELLINGS, ids=lambda case: case.id)
def test_spellings(case: Spelling) -> None:
    found = parse_budgets(**{case.option: case.text}).limits[case.option]
    assert found.value == pytest.approx(case.limit.value)
    assert found.relative == case.limit.relative


@dataclass(frozen=True)
class Wrong:
    """What cannot be understood, and words of the message."""

    option: str
    text: str
    message: str

    @property
    def id(self) -> str:
        return f"{self.option}={self.text}"


WRONG = [
    Wrong("latency", "", "no number with a unit"),
    Wrong("latency", "fast", "no number with a unit"),
    Wrong("latency", "5", "no number with a unit"),
    Wrong("latency", "-5ms", "no number with a unit"),
    Wrong("latency", "0ms", "must be greater than zero"),
    Wrong("latency", "5MB", "unknown unit 'MB'; use one of s, ms"),
    Wrong("latency", "1e999s", "must be a finite number"),
    Wrong("size", "3ms", "unknown unit 'ms'"),
    Wrong("size", "fastest", "no number with a unit"),
    Wrong("size", "3 M B", "no number with a unit"),
    Wrong("energy", "3W", "unknown unit 'W'"),
]


@pytest.mark.parametrize("case", WRONG, ids=lambda case: case.id)
def test_what_is_wrong_is_said_with_an_example(case: Wrong) -> None:
    with pytest.raises(UsageError, match=case.message) as caught:
        parse_budgets(**{case.option: case.text})
    assert str(caught.value).startswith(f"--{case.option} {case.text!r}")
    assert "\n" not in str(caught.value)


@given(st.text(max_size=12), st.text(max_size=12), st.text(max_size=12))
def test_any_text_is_a_budget_or_a_usage_error(latency: str, size: str, energy: str) -> None:
    try:
        found = parse_budgets(latency=latency, size=size, energy=energy)
    except UsageError:
        return
    for limit in found.limits.values():
        assert 0 < limit.value < float("inf")


def test_minima() -> None:
    assert parse_budgets(latency="Fastest") == Budgets(fastest=True)
    assert parse_budgets(size="smallest") == Budgets(smallest=True)
    with pytest.raises(UsageError, match="cannot be both"):
        parse_budgets(latency="Fastest", size="smallest")
    assert parse_budgets().empty
    assert not parse_budgets(size="1MB").empty


def test_relative_limits_are_of_the_original() -> None:
    assert Limit(0.25, relative=True).of(8e-3) == 2e-3
    assert Limit(5e-3).of(8e-3) == 5e-3
