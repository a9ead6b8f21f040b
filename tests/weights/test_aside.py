"""Arrays of a plan in a file beside it: found again in the order of the plan, each written once; others are refused."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmpq.errors import PlanError
from onnxmpq.model import Spill
from onnxmpq.weights.aside import content_of_aside, found_beside, put_aside, taken_aside, written_beside
from onnxmpq.weights.packed import pack_array, unpack_array


@settings(deadline=None, max_examples=30)
@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=6))
def test_arrays_are_found_in_the_order_of_the_plan(tmp_path_factory: pytest.TempPathFactory, rows: list[bytes]) -> None:
    spill, file = Spill(), tmp_path_factory.mktemp("beside") / "plan.weights"
    arrays = [np.frombuffer(row, np.uint8) for row in (*rows, rows[0])]
    texts = [put_aside(values, spill) for values in arrays]
    file.write_bytes(b"".join(written_beside(["", "text", *texts])))
    assert file.stat().st_size == sum(text.length for text in set(texts))
    found = found_beside(["", "text", *map(str, texts)], file)
    for text, values in zip(texts, arrays, strict=True):
        np.testing.assert_array_equal(unpack_array(found[text], np.uint8, len(values), "here"), values)
        np.testing.assert_array_equal(unpack_array(copy.deepcopy(text), np.uint8, len(values), "here"), values)


def test_equal_arrays_have_equal_texts_whatever_their_file() -> None:
    values = np.arange(5000, dtype="<f4")
    assert put_aside(values, Spill()) == put_aside(values.reshape(50, 100), Spill())


@pytest.mark.parametrize(
    "text", ["", "sha256:", f"sha256:{'0' * 64}", f"sha256:{'0' * 63}g:1", pack_array(np.zeros(3))]
)
def test_other_texts_stand_for_no_array(text: str) -> None:
    assert content_of_aside(text) == "" and not found_beside([text], Path("nowhere"))


@pytest.mark.parametrize("count", [3, 5, 4000])
def test_another_number_of_values_is_refused(count: int) -> None:
    text = put_aside(np.zeros(4, np.int8), Spill())
    with pytest.raises(PlanError, match=r"here: (damaged|not the)"):
        unpack_array(text, np.int8, count, "here")


def test_a_length_that_no_file_has_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "plan.weights"
    file.write_bytes(bytes(100))
    text = f"sha256:{'0' * 64}:{10**15 - 1}"
    with pytest.raises(PlanError, match="damaged in"):
        taken_aside(found_beside([text], file)[text], 4, "here")
