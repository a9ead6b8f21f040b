"""Arrays for samples: their size follows from what files and models claim."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence

import numpy as np

from onnxmpq.errors import CalibrationError
from onnxmpq.feeds.types import Array


def room_for(shape: Sequence[int], dtype: np.dtype[np.generic], where: str) -> Array:
    """An array whose values are not set yet. CalibrationError where it is larger than the memory of this machine, or
    than what is left of it."""
    size = math.prod(shape) * dtype.itemsize
    try:
        if size > _memory_bytes():
            raise MemoryError
        return np.empty(tuple(shape), dtype)
    except MemoryError:
        taken = f"{min(size, 2**99) / 1e9:.4g} GB"
        raise CalibrationError(
            f"{where}: {shape[0] if shape else 1} samples of {list(shape[1:])} {dtype} take {taken}, more memory than "
            "there is; give smaller or fewer ones"
        ) from None


def _memory_bytes() -> int:
    """Of the machine; where it does not tell, what one array may have at most."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 2**40
