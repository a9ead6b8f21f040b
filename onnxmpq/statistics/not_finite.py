"""Values that arithmetic can go on with: NaN and infinity, as masks make them on purpose, count for nothing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = np.float32(1e18)  # whose square float32 holds
Float32 = NDArray[np.float32]


def finite(values: Any) -> Float32:
    """float32: 0 in the place of NaN and infinity."""
    array = np.asarray(values, np.float32)
    mask = np.isfinite(array)
    return array if mask.all() else np.where(mask, array, np.float32(0))


def squarable(values: Any) -> Float32:
    """float32: 0 in the place of NaN, infinity, and of values that are so large that their square is infinite."""
    array = np.asarray(values, np.float32)
    with np.errstate(invalid="ignore"):
        mask = np.abs(array) <= LARGEST
    return array if mask.all() else np.where(mask, array, np.float32(0))


def numbers(value: Any) -> Float32:
    """An output as `finite` numbers; empty for strings, sequences and maps, which cannot be compared as numbers."""
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub" + "V":
        return finite(value.astype(np.float32))
    return np.zeros(0, np.float32)
