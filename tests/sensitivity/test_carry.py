"""What is carried on of the changes in a block."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmpq.sensitivity.carry import Catcher
from onnxmpq.sensitivity.effects import Try

TRIED = Try("activation", "t")


@pytest.mark.parametrize(("rows", "kept"), [(slice(0, 2), slice(0, 2)), (slice(2, 6), slice(2, 3))])
def test_of_a_batch_the_first_samples_are_caught(rows: slice, kept: slice) -> None:
    """Each sample has two entries of the first axis."""
    values = np.arange(12 * 5, dtype=np.float32).reshape(12, 5)
    found = Catcher(frozenset([TRIED]), 3, "x").caught(TRIED, rows, {"x": values[2 * rows.start : 2 * rows.stop]})
    assert found is not None and found[0] == kept
    np.testing.assert_array_equal(found[1], values[2 * kept.start : 2 * kept.stop])


def test_later_batches_and_other_perturbations_are_left() -> None:
    catcher, made = Catcher(frozenset([TRIED]), 3, "x"), {"x": np.zeros((2, 5), np.float32)}
    assert catcher.caught(TRIED, slice(3, 5), made) is None
    assert catcher.caught(Try("activation", "u"), slice(0, 2), made) is None
    assert catcher.caught(TRIED, slice(0, 2), {"y": made["x"]}) is None
