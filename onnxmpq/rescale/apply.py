"""The rescaled model: other constants, the same function."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from onnxmpq.errors import PlanError
from onnxmpq.model import Model
from onnxmpq.rescale.channels import Channels, find_channels
from onnxmpq.rounding import FloatArray
from onnxmpq.weights import unpack_array


def rescaled(model: Model, channels: Channels, factors: FloatArray) -> Model:
    """The model with channels divided by `factors` (float32 [channels.count], > 0) where they are made.

    Its outputs are those of `model` but for rounding in float32. The same bytes for the same factors.
    """
    by_id = np.append(factors, 1).astype(np.float32)
    changed: dict[str, NDArray[np.floating]] = {}
    for role in channels.roles:  # a constant may have two: it reads channels and makes others
        values: NDArray[Any] = changed.get(role.constant, model.store.array(role.constant))
        factor = by_id[role.ids]
        changed[role.constant] = model.store.kept(values * factor if role.consumes else values / factor)
    return model.with_tensors(changed)


def restore_factors(model: Model, text: str) -> Model:
    """The model rescaled by the factors of a plan, packed as text; as it is where there are none. Raises PlanError."""
    if not text:
        return model
    channels = find_channels(model.structure)
    factors = unpack_array(text, "<f4", channels.count, "factors").astype(np.float32)
    if not (np.isfinite(factors) & (factors > 0)).all():
        raise PlanError("factors: values that are not positive numbers; convert again instead of editing")
    return rescaled(model, channels, factors)
