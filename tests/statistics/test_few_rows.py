"""Products of few rows are believed as far as they are no chance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.model import InputView
from onnxmpq.rounding import PerBlock, quantize_weight
from onnxmpq.statistics import MomentSum
from onnxmpq.statistics.few_rows import NEGLIGIBLE, chance_share, less_chance

INPUTS = 48


def inputs(count: int, seed: int, directions: int = 6) -> np.ndarray:
    """Rows with a few directions in common, on scales that are far apart. float32 [count, INPUTS]."""
    fixed, generator = np.random.default_rng(0), np.random.default_rng(seed)
    mixing, scales = fixed.normal(size=(directions, INPUTS)), np.exp(fixed.normal(size=INPUTS))
    rows = generator.normal(size=(count, directions)) @ mixing + generator.normal(size=(count, INPUTS))
    return np.asarray(scales * rows, np.float32)


def products(rows: np.ndarray) -> np.ndarray:
    return np.asarray(rows.T @ rows / len(rows), np.float32)


def correlations(hessian: np.ndarray) -> np.ndarray:
    spread = np.sqrt(np.diagonal(hessian))
    return np.asarray(hessian / np.outer(spread, spread))


@pytest.mark.parametrize("count", [4, 16, 64])
def test_what_is_left_is_almost_as_close_to_the_truth_as_it_can_be(count: int) -> None:
    off = ~np.eye(INPUTS, dtype=bool)
    truth = correlations(products(inputs(100_000, 1)))[off]
    errors: dict[str, list[float]] = {"all": [], "believed": [], "best": []}
    for seed in range(2, 12):
        hessian = products(inputs(count, seed))
        seen = correlations(hessian)[off]
        best, believed = float(seen @ truth / (seen @ seen)), 1.0 - chance_share(hessian, count)
        for name, part in (("all", 1.0), ("believed", believed), ("best", best)):
            errors[name].append(float(np.square(part * seen - truth).sum()))
    assert np.mean(errors["believed"]) < np.mean(errors["all"])
    assert np.mean(errors["best"]) <= np.mean(errors["believed"]) < 1.7 * np.mean(errors["best"])


@given(st.integers(2, 200), st.integers(0, 1000))
def test_scales_of_inputs_do_not_change_the_share(count: int, seed: int) -> None:
    hessian = products(inputs(count, seed))
    scales = np.exp2(np.random.default_rng(seed).integers(-6, 7, INPUTS)).astype(np.float32)
    assert chance_share(hessian * np.outer(scales, scales), count) == pytest.approx(chance_share(hessian, count))


def test_inputs_that_are_never_seen_do_not_count() -> None:
    hessian = products(inputs(40, 3))
    wider = np.zeros((INPUTS + 5, INPUTS + 5), np.float32)
    wider[:INPUTS, :INPUTS] = hessian
    assert chance_share(wider, 40) == pytest.approx(chance_share(hessian, 40))
    assert chance_share(np.zeros((3, 3), np.float32), 40) == 1.0


def test_the_diagonal_stays_and_so_do_products_of_many_rows() -> None:
    few, many = products(inputs(10, 4))[None], products(inputs(20_000, 4))[None]
    assert chance_share(many[0], 20_000) < NEGLIGIBLE
    for hessian, count in ((few, 10), (many, 20_000)):
        before, cross = hessian.copy(), 2 * hessian
        less_chance(hessian, count, cross)
        share = np.float32(1.0 - chance_share(before[0], count)) if hessian is few else np.float32(1.0)
        for matrix, old in ((hessian, before), (cross, 2 * before)):
            np.testing.assert_array_equal(np.diagonal(matrix[0]), np.diagonal(old[0]))
            np.testing.assert_allclose(matrix[0][0, 1:], share * old[0][0, 1:], rtol=1e-5)


def test_each_group_has_a_share_of_its_own() -> None:
    few, plain = products(inputs(10, 5)), np.eye(INPUTS, dtype=np.float32)
    both = np.stack([few, plain])
    less_chance(both, 10)
    alone = few.copy()[None]
    less_chance(alone, 10)
    np.testing.assert_array_equal(both[0], alone[0])
    np.testing.assert_array_equal(both[1], plain)


def test_sums_give_products_as_far_as_they_are_believed() -> None:
    rows, sums = inputs(10, 6), MomentSum(InputView(INPUTS), 100, crossed=True)
    sums.add(rows, rows)
    found, plain = sums.result(believed=True), sums.result()
    assert found.cross is not None
    expected = plain.hessian.copy()
    less_chance(expected, 10)
    np.testing.assert_array_equal(found.hessian, expected)
    np.testing.assert_allclose(found.cross, expected, rtol=1e-4, atol=1e-4)


def test_weights_rounded_for_few_rows_do_no_harm_on_others() -> None:
    """Without it they do worse on other rows than weights rounded to nearest."""
    weight, unseen = np.random.default_rng(7).normal(size=(32, INPUTS)).astype(np.float32), inputs(5000, 8)
    errors: dict[str, list[float]] = {"nearest": [], "averages": [], "believed": []}
    for seed in range(10, 16):
        sums = MomentSum(InputView(INPUTS), 100)
        sums.add(inputs(3, seed))
        for name, hessian in (
            ("nearest", None),
            ("averages", sums.result().hessian),
            ("believed", sums.result(believed=True).hessian),
        ):
            method = "nearest" if hessian is None else "gptq"
            rounded = quantize_weight(weight, PerBlock(4, 16), method=method, hessian=hessian)
            errors[name].append(float(np.square(unseen @ (weight - rounded.dequantize()).T).mean()))
    nearest, averages, believed = (np.mean(errors[name]) for name in ("nearest", "averages", "believed"))
    assert believed < nearest < averages
