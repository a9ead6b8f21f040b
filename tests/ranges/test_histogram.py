"""Histograms count every finite value."""

from __future__ import annotations

import numpy as np
import pytest

from onnxmpq.ranges import Histogram


@pytest.mark.filterwarnings("error::RuntimeWarning")
def test_masks_of_the_smallest_float_are_counted_at_the_edge() -> None:
    histogram = Histogram()
    smallest = float(np.finfo(np.float32).min)
    histogram.add(np.array([smallest, 0.0, 0.0, 3.0], np.float32))
    assert histogram.counts.sum() == 4 and histogram.counts[0] == 1
    assert (histogram.low, histogram.high) == (smallest, 3.0)
