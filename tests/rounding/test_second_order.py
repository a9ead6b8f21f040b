from __future__ import annotations

import numpy as np
import pytest

from onnxmpq.rounding import PerChannel, quantize_weight
from onnxmpq.rounding.second_order import corrected_target, coupling, damped, output_error

from .strategies import correlated_hessian, gaussian


def test_coupling_rebuilds_the_hessian() -> None:
    hessian = damped(correlated_hessian(40)[None])[0]
    factors, pivots = coupling(hessian)
    np.testing.assert_allclose((factors * pivots) @ factors.T, hessian, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(factors, np.triu(factors))
    np.testing.assert_allclose(np.diagonal(factors), 1, rtol=1e-6)
    # p_0 is the variance of the first input given all others: 1 / (H⁻¹)_00, as GPTQ has it
    np.testing.assert_allclose(pivots[0], 1 / np.linalg.inv(hessian.astype(np.float64))[0, 0], rtol=1e-3)


def test_a_matrix_factored_in_panels_has_the_same_factor(monkeypatch: pytest.MonkeyPatch) -> None:
    hessian = damped(correlated_hessian(45)[None])[0]
    whole = coupling(hessian)
    monkeypatch.setattr("onnxmpq.rounding.second_order.FACTORED_WHOLE", 10)
    monkeypatch.setattr("onnxmpq.rounding.second_order.FACTOR_PANEL", 8)
    for expected, found in zip(whole, coupling(hessian), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="positive definite"):
        coupling(np.diag(np.r_[np.ones(39), -1.0]).astype(np.float32))


def test_coupling_refuses_what_is_not_positive_definite() -> None:
    with pytest.raises(ValueError, match="positive definite"):
        coupling(-np.eye(3, dtype=np.float32))


def test_output_error_is_the_mean_squared_difference_of_outputs() -> None:
    rng = np.random.default_rng(0)
    w, q = gaussian(6, 10), gaussian(6, 10, seed=1)
    x = rng.standard_normal((2, 500, 10)).astype(np.float32)  # two groups
    hessian = np.einsum("gnk,gnl->gkl", x, x) / 500
    difference = np.concatenate([x[g] @ (w - q)[3 * g : 3 * g + 3].T for g in range(2)], axis=1)
    np.testing.assert_allclose(output_error(w, q, hessian), np.mean(difference**2, axis=0), rtol=1e-4)


def test_corrected_target_is_the_damped_regression_onto_fp32_outputs() -> None:
    rng = np.random.default_rng(0)
    w = gaussian(5, 12)
    x_fp = rng.standard_normal((400, 12)).astype(np.float32)
    x_q = x_fp + 0.3 * rng.standard_normal((400, 12)).astype(np.float32) + 0.2
    hessian, cross = x_q.T @ x_q / 400, x_q.T @ x_fp / 400
    target = corrected_target(w, hessian[None], cross[None])
    # independent: least squares of [x_q; √λ·I] onto [x_fp·Wᵀ; √λ·Wᵀ]
    ridge = 0.01 * np.mean(np.diag(hessian)) * 400
    inputs = np.concatenate([x_q, np.sqrt(ridge) * np.eye(12)])
    outputs = np.concatenate([x_fp @ w.T, np.sqrt(ridge) * w.T])
    expected = np.linalg.lstsq(inputs, outputs, rcond=None)[0].T
    np.testing.assert_allclose(target, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["nearest", "best"])
def test_cross_products_bring_the_layer_closer_to_its_fp32_outputs(method: str) -> None:
    rng = np.random.default_rng(0)
    w = gaussian(16, 48)
    x_fp = np.maximum(rng.standard_normal((4000, 48)) @ rng.standard_normal((48, 48)) / 5, 0).astype(np.float32)
    x_q = np.maximum(0.9 * x_fp + 0.1 * x_fp[:, ::-1] + 0.05, 0).astype(np.float32)
    hessian, cross = (x_q[:2000].T @ x[:2000] / 2000 for x in (x_q, x_fp))
    error = [
        np.mean((x_fp[2000:] @ w.T - x_q[2000:] @ q.dequantize().T) ** 2)
        for q in (quantize_weight(w, PerChannel(6), method=method, hessian=hessian, cross=c) for c in (None, cross))
    ]
    assert error[1] < 0.7 * error[0]


def test_cross_products_need_the_hessian() -> None:
    with pytest.raises(ValueError, match="hessian"):
        quantize_weight(gaussian(2, 4), PerChannel(8), cross=np.eye(4, dtype=np.float32))
