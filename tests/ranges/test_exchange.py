"""A calibration comes back from its file as it was; anything else in its place is refused in one line."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from onnxmpq.commands import calibrate
from onnxmpq.commands.calibration import render
from onnxmpq.errors import CalibrationError
from onnxmpq.files import Archive
from onnxmpq.ranges.exchange import Calibration, read_calibration
from tests.graphs import prepared, residual_cnn, samples_for, token_model


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return calibrate(residual_cnn(), calibration=samples_for(residual_cnn(), 8), cache=False)


def test_it_comes_back_as_it_was(calibration: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "ranges.npz"
    calibration.write(path)
    found = read_calibration(path)
    assert found.to_dict() == calibration.to_dict()
    assert found.params() == calibration.params()
    for tensor, histogram in calibration.observation.histograms.items():
        np.testing.assert_array_equal(found.observation.histograms[tensor].counts, histogram.counts)
    first = path.read_bytes()
    calibration.write(path)
    assert path.read_bytes() == first, "the same calibration gives the same bytes"


def test_headroom_of_made_up_samples_is_kept_and_shown(tmp_path: Path) -> None:
    made_up = calibrate(residual_cnn(), samples=8, cache=False)
    factors = made_up.observation.headroom
    assert max(factors.values()) > 1.0
    made_up.write(tmp_path / "ranges.npz")
    found = read_calibration(tmp_path / "ranges.npz")
    assert found.observation.headroom == factors and found.params() == made_up.params()
    for tensor, factor in factors.items():
        histogram, params = found.observation.histograms[tensor], found.params()["minmax"][tensor]
        reach = max(histogram.high, 0.0) - min(histogram.low, 0.0)
        assert params.high - params.low == pytest.approx(factor * reach, rel=1e-3)
    console = Console(width=160, record=True, file=io.StringIO())
    render(found, console)
    assert "headroom" in console.export_text()


def test_what_a_range_cuts_off_is_shown(calibration: Calibration) -> None:
    console = Console(width=160, record=True, file=io.StringIO())
    render(calibration, console)
    shown = console.export_text()
    assert "headroom" not in shown
    histogram, params = calibration.observation.histograms["x"], calibration.params()["mse"]["x"]
    expected = histogram.counts[(histogram.centers < params.low) | (histogram.centers > params.high)].sum()
    assert expected > 0
    [row] = [line for line in shown.splitlines() if line.startswith("│ x ")]
    assert f"{expected / histogram.counts.sum():.2%}" in row


def test_numpy_alone_can_read_it(calibration: Calibration, tmp_path: Path) -> None:
    calibration.write(tmp_path / "ranges.npz")
    with np.load(tmp_path / "ranges.npz") as file:
        meta, counts = json.loads(file["meta.json"]), file["counts"]
    assert meta["samples"] == {**meta["samples"], "count": 6, "made_up": False, "recipe": None}
    assert len(meta["tensors"]) == len(counts)
    assert counts[0].sum() == 6 * 3 * 16 * 16
    assert meta["tensors"][0]["shape"] == [1, 3, 16, 16]


def test_it_belongs_to_its_model(calibration: Calibration) -> None:
    calibration.require(prepared(residual_cnn()), "model.onnx")
    with pytest.raises(CalibrationError, match=r"made for model 'model' .*'other.onnx' is another"):
        calibration.require(prepared(token_model()), "other.onnx")


def test_a_tensor_that_it_does_not_have_is_named(calibration: Calibration) -> None:
    with pytest.raises(CalibrationError, match=r"no range for tensor 'r9'; run `onnxmpq calibrate` with the --target"):
        calibration.of(["a", "r9"])


@dataclass(frozen=True)
class Spoiled:
    """What is wrong with a file, and how the message says it."""

    id: str
    change: Callable[[dict[str, Any], dict[str, Any]], None]
    message: str


SPOILED = [
    Spoiled(
        "another schema",
        lambda m, a: m.update(schema="onnxmpq.calibration/9"),
        "its schema is 'onnxmpq.calibration/9', this version of onnxmpq reads",
    ),
    Spoiled("no schema", lambda m, a: m.pop("schema"), "schema"),
    Spoiled("a tensor too few", lambda m, a: m["tensors"].pop(), "tensors with counts"),
    Spoiled("counts that are floats", lambda m, a: a.update(counts=a["counts"] / 2), "counts float64"),
    Spoiled("negative counts", lambda m, a: a.update(counts=a["counts"] - 1), "impossible histogram"),
    Spoiled("an infinite end", lambda m, a: a.update(ends=a["ends"] + np.inf), "impossible histogram"),
    Spoiled("ends in disorder", lambda m, a: a.update(ends=a["ends"][:, [0, 2, 1]]), "impossible histogram"),
    Spoiled("headroom below 1", lambda m, a: m["tensors"][0].update(headroom=0.5), "headroom 0.5"),
    Spoiled("no counts", lambda m, a: a.pop("counts"), "counts"),
    Spoiled("samples that are a list", lambda m, a: m.update(samples=[]), "not a calibration"),
]


@pytest.mark.parametrize("case", SPOILED, ids=lambda c: c.id)
def test_what_cannot_be_right_is_refused(case: Spoiled, calibration: Calibration, tmp_path: Path) -> None:
    path = tmp_path / "ranges.npz"
    calibration.write(path)
    archive = Archive.from_bytes(path.read_bytes())
    meta, arrays = archive.meta, dict(archive.arrays)
    case.change(meta, arrays)
    path.write_bytes(Archive(arrays, meta).to_bytes())
    with pytest.raises(CalibrationError, match=case.message) as caught:
        read_calibration(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 cut off"], ids=["empty", "text", "cut off"])
def test_damaged_files_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "ranges.npz"
    path.write_bytes(content)
    with pytest.raises(CalibrationError, match="make it again"):
        read_calibration(path)
