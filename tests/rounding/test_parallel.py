"""Rounding in processes gives what rounding here gives, whatever becomes of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from onnxmpq.isolation import launch
from onnxmpq.rounding import QuantizedWeight, WeightFormat, joined, parallel, quantize_weight
from onnxmpq.rounding.layer import LayerToRound, parts
from onnxmpq.rounding.parallel import Workers, rounded_layers
from onnxmpq.rounding.second_order import output_error
from onnxmpq.schemes import INT8_WEIGHTS, SCHEMES
from tests.executors import Shuffled

from .strategies import FORMATS as ALL_FORMATS
from .strategies import correlated_hessian, gaussian

W4 = SCHEMES["w4"].weight
assert W4 is not None
FORMATS = (INT8_WEIGHTS, W4)


def layers(count: int = 5) -> list[LayerToRound]:
    generator = np.random.default_rng(0)
    found = []
    for number in range(count):
        weight = generator.standard_normal((8, 32)).astype(np.float32)
        rows = generator.standard_normal((64, 32)).astype(np.float32)
        found.append(
            LayerToRound(f"layer {number}", weight, FORMATS, "best", (rows.T @ rows)[None], (None,) * len(FORMATS))
        )
    return found


def assert_same(one: dict[str, list[QuantizedWeight]], other: dict[str, list[QuantizedWeight]]) -> None:
    assert one.keys() == other.keys()
    for name, results in one.items():
        for mine, theirs in zip(results, other[name], strict=True):
            assert mine.format == theirs.format
            np.testing.assert_array_equal(mine.codes, theirs.codes)
            np.testing.assert_array_equal(mine.scales, theirs.scales)
            np.testing.assert_array_equal(mine.dequantize(), theirs.dequantize())


def by_name(found: Iterable[tuple[str, int, list[QuantizedWeight]]]) -> dict[str, list[QuantizedWeight]]:
    return {name: weights for name, _, weights in found}


HERE = by_name(rounded_layers(layers(), 1))


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[subprocess.Popen[bytes]]:
    """The processes that were started."""
    found: list[subprocess.Popen[bytes]] = []
    start = launch.start

    def watched(module: str) -> subprocess.Popen[bytes]:
        found.append(start(module))
        return found[-1]

    monkeypatch.setattr(launch, "start", watched)
    return found


def test_processes_give_the_same(started: Sequence[subprocess.Popen[bytes]]) -> None:
    assert_same(by_name(rounded_layers(layers(), 2)), HERE)
    assert len(started) == 2 and all(p.poll() is not None for p in started)


@pytest.mark.parametrize("products", [0, 10**12], ids=["a format", "a layer"])
def test_tasks_give_the_same(products: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmpq.rounding.parallel.ONE_FORMAT", products)
    found = list(rounded_layers(layers(), 1, executor := Shuffled(2, seed=0)))
    assert len(found) == len(HERE) and executor.done == 2 * len(HERE) * (1 if products else len(FORMATS))
    assert_same(by_name(found), HERE)


@pytest.mark.parametrize("program", ["pass", "import sys; print(sys.stdin.buffer.read(3))"], ids=["ends", "babbles"])
def test_what_a_process_fails_at_is_rounded_here(program: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = subprocess.PIPE
    monkeypatch.setattr(
        launch, "start", lambda _: subprocess.Popen([sys.executable, "-c", program], stdin=pipe, stdout=pipe)
    )
    assert_same(by_name(rounded_layers(layers(), 2)), HERE)


def test_an_error_is_the_same_error() -> None:
    first, *rest = layers()
    bad = LayerToRound(
        "bad", first.weight, FORMATS, "best", np.full_like(first.hessian, np.nan), (None,) * len(FORMATS)
    )
    for workers in (1, 2):
        with pytest.raises(ValueError, match="NaN"):
            list(rounded_layers([*rest, bad], workers))


def test_layers_that_take_much_memory_are_rounded_one_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    submit, finished = Workers.submit, parallel._finished

    def submitted(self: Workers, layer: LayerToRound) -> Any:
        held.append(held[-1] + 1 if held else 1)
        return submit(self, layer)

    def done(waiting: dict[Any, Any]) -> Iterator[Any]:
        for found in finished(waiting):
            held.append(held[-1] - 1)
            yield found

    monkeypatch.setattr(Workers, "submit", submitted)
    monkeypatch.setattr(parallel, "_finished", done)
    monkeypatch.setattr(parallel, "MOST_BYTES", 1.5 * layers()[0].working_bytes)
    assert_same(by_name(rounded_layers(layers(), 2)), HERE)
    assert max(held) == 1


@pytest.mark.parametrize("method", ["gptq", "best"])
@pytest.mark.parametrize("weight_format", ALL_FORMATS, ids=lambda f: f"{f.name}{'' if f.negative_scales else '+'}")
def test_parts_of_a_weight_have_the_bits_of_the_whole(
    method: str, weight_format: WeightFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxmpq.rounding.second_order.ROWS_VALUES", 5 * 48)
    monkeypatch.setattr("onnxmpq.rounding.layer.ROWS_VALUES", 5 * 48)
    monkeypatch.setattr("onnxmpq.rounding.layer.PART_VALUES", 10 * 48)
    w, hessian = gaussian(33, 48), correlated_hessian(48)[None]
    whole = LayerToRound("w", w, [weight_format], method, hessian, [None]).rounded()[0]
    rows = parts(33, 48, [weight_format])
    assert len(rows) == (1 if weight_format.has_tensor_scale else 4)
    layers = [LayerToRound("w", w[r], [weight_format], method, hessian, [None], r.start) for r in rows]
    together = joined([layer.rounded()[0] for layer in layers])
    np.testing.assert_array_equal(together.codes, whole.codes)
    np.testing.assert_array_equal(together.scales, whole.scales)
    np.testing.assert_array_equal(together.dequantize(), whole.dequantize())


def test_rows_at_a_time_lose_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    w, hessian = gaussian(33, 48), correlated_hessian(48)
    whole = output_error(w, quantize_weight(w, W4, method="best", hessian=hessian).dequantize(), hessian[None])
    monkeypatch.setattr("onnxmpq.rounding.second_order.ROWS_VALUES", 5 * 48)
    in_rows = output_error(w, quantize_weight(w, W4, method="best", hessian=hessian).dequantize(), hessian[None])
    np.testing.assert_allclose(in_rows.sum(), whole.sum(), rtol=0.02)


def test_stopping_early_ends_the_processes(started: Sequence[subprocess.Popen[bytes]]) -> None:
    results = rounded_layers(layers(), 2)
    next(results)
    assert any(p.poll() is None for p in started)
    results.close()
    assert all(p.poll() is not None for p in started)


def test_a_frozen_application_is_not_started_again(
    started: Sequence[subprocess.Popen[bytes]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "frozen", True, raising=False)
    assert_same(by_name(rounded_layers(layers(), 2)), HERE)
    assert not started


@pytest.mark.parametrize("allowed", [0, 1])
def test_fewer_processes_than_asked_for_do(allowed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    start, running = launch.start, []

    def refused(module: str) -> subprocess.Popen[bytes]:
        if len(running) == allowed:
            raise PermissionError(13, "Permission denied")
        running.append(start(module))
        return running[-1]

    monkeypatch.setattr(launch, "start", refused)
    assert_same(by_name(rounded_layers(layers(), 3)), HERE)
    assert len(running) == allowed and all(process.poll() is not None for process in running)
