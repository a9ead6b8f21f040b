"""The correction for quantized inputs is believed where other samples confirm it, and only there."""

from __future__ import annotations

import numpy as np

from onnxmpq.model import InputView
from onnxmpq.statistics import Moments, MomentSum
from onnxmpq.weights.shrink import shrunk, trust, wanted_by

W = np.random.default_rng(1).normal(size=(6, 12)).astype(np.float32)


def moments(seed: int, count: int, gain: float, noise: float) -> Moments:
    generator = np.random.default_rng(seed)
    seen = generator.normal(size=(count, 12)).astype(np.float32)
    fp32 = gain * seen + noise * generator.normal(size=seen.shape).astype(np.float32)
    total = MomentSum(InputView(12), count, crossed=True)
    total.add(seen, fp32)
    return total.result()


def test_a_systematic_error_is_corrected_in_full() -> None:
    share = trust(W, wanted_by(moments(2, 400, 1.2, 0.0), W), moments(3, 400, 1.2, 0.0))
    np.testing.assert_allclose(share, 1, atol=0.03)


def test_noise_of_few_samples_is_not_believed() -> None:
    wanted = [wanted_by(moments(s, 30, 1.0, 0.3), W) for s in range(10)]
    few = [float(trust(W, target, moments(100 + s, 400, 1.0, 0.3))[0]) for s, target in enumerate(wanted)]
    assert np.mean(few) < 0.2


def test_shrinking_ends_at_no_correction() -> None:
    found = moments(4, 50, 1.3, 0.1)
    assert found.cross is not None
    np.testing.assert_allclose(shrunk(found, np.ones(1)), found.cross)
    np.testing.assert_allclose(shrunk(found, np.zeros(1)), found.hessian)
