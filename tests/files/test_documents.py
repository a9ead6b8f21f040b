"""JSON that every parser reads."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.files import dump_json, parse_json

SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-(2**60), 2**60), st.floats(), st.text(max_size=5))
TREES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=3), inner, max_size=3)),
    max_leaves=12,
)


def strictly(text: str) -> Any:
    """As parsers read it that know the standard alone."""

    def refuse(word: str) -> NoReturn:
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


def finite(tree: Any) -> Any:
    """The tree with None for what JSON cannot say."""
    if isinstance(tree, dict):
        return {key: finite(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [finite(value) for value in tree]
    return None if isinstance(tree, float) and not math.isfinite(tree) else tree


@given(TREES)
def test_whatever_is_written_is_json_and_comes_back(tree: Any) -> None:
    assert strictly(dump_json(tree)) == parse_json(dump_json(tree)) == finite(tree)


@dataclass(frozen=True)
class Row:
    """One of each kind that has no word of its own in JSON."""

    path: Path
    ratio: np.float32
    counts: tuple[int, ...]
    names: frozenset[str]
    table: np.ndarray[Any, Any]


def test_values_of_ours() -> None:
    row = Row(Path("a/b"), np.float32(0.5), (1, 2), frozenset({"z", "a"}), np.array([1.0, math.inf]))
    assert strictly(dump_json({3: row})) == {
        "3": {"path": "a/b", "ratio": 0.5, "counts": [1, 2], "names": ["a", "z"], "table": [1.0, None]}
    }
