"""Short ways to declare model inputs in tests."""

from __future__ import annotations

import numpy as np

from onnxmpq.feeds import InputSpec


def spec(name: str, *shape: int | str | None, dtype: str = "float32") -> InputSpec:
    return InputSpec(name, np.dtype(dtype), shape)


BERT = (
    spec("input_ids", "batch", "sequence", dtype="int64"),
    spec("attention_mask", "batch", "sequence", dtype="int64"),
    spec("token_type_ids", "batch", "sequence", dtype="int64"),
)
