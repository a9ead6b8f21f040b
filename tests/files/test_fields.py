"""Misspelt names: the nearest known one, several only if they are equally near."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.files.fields import LISTED, SUGGESTED, nearest, nearest_names

NAMES = st.text("abcd-_", min_size=1, max_size=8)


@pytest.mark.parametrize(
    ("given_name", "known", "found"),
    [
        ("latncy", ["latency", "labels", "lateral"], ["latency"]),
        ("LATENCY", ["latency", "latency-2"], ["latency", "latency-2"]),
        ("bismo", ["h100", "bismo-edge", "bismo-cloud"], ["bismo-edge", "bismo-cloud"]),
        ("conv_12", ["Conv_1", "Conv_2", "Conv_112"], ["Conv_112"]),
        ("axb", ["aab", "acb", "zzz"], ["aab", "acb"]),
        ("w", ["w8", "weights", "int8"], ["w8"]),
        ("qqq", ["latency"], []),
    ],
)
def test_the_nearest_alone(given_name: str, known: list[str], found: list[str]) -> None:
    assert nearest_names(given_name, known) == found


@given(NAMES, st.lists(NAMES, unique=True, max_size=12))
def test_few_are_suggested_and_a_name_suggests_itself(name: str, known: list[str]) -> None:
    found = nearest_names(name, known)
    assert len(found) <= SUGGESTED and set(found) <= set(known)
    assert name in nearest_names(name, [*(k for k in known if not k.startswith(name)), name])


def test_a_long_list_is_cut() -> None:
    known = [f"{i:04d}" for i in range(LISTED + 7)]
    assert nearest("zz", known, "there are").endswith(f"{known[LISTED - 1]} and 7 more")
    assert nearest("zz", known[:3], "there are") == "there are 0000, 0001, 0002"
