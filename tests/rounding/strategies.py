"""Weights and formats for the property tests."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from onnxmpq.rounding import AffineBlock, Dual, PerBlock, PerChannel

FORMATS = (
    *(PerChannel(bits) for bits in (2, 3, 4, 5, 6, 8)),
    *(PerBlock(bits, 16) for bits in (2, 4, 8)),
    PerBlock(4, 32, negative_scales=False),
    AffineBlock(16),
    AffineBlock(32),
    Dual(4, 16),
    Dual(4, 64),
    *(Dual(bits, 16) for bits in (5, 6)),
)

formats = st.sampled_from(FORMATS)
weights = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=70),
    elements=st.floats(-1e3, 1e3, width=32),
    fill=st.just(0.0),
)


def gaussian(channels: int, inputs: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((channels, inputs)).astype(np.float32)


def correlated_hessian(inputs: int, seed: int = 0, samples: int | None = None) -> np.ndarray:
    """float32 [K, K]: E[x xᵀ] of inputs that share a few strong directions, as activations do."""
    rng = np.random.default_rng(seed)
    mixing = rng.standard_normal((inputs, inputs)) * 0.3 + rng.standard_normal((inputs, 1)) * np.geomspace(
        3, 0.1, inputs
    )
    x = np.maximum(rng.standard_normal((samples or 4 * inputs, inputs)) @ mixing.T, 0)
    return (x.T @ x / len(x)).astype(np.float32)
