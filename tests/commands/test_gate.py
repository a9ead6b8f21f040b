"""`validate` as a gate: limits and floors judge, made-up data does not, exit codes tell which."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxmpq
from onnxmpq.allocate import Limit
from onnxmpq.commands import decided
from onnxmpq.errors import CalibrationError, GateError, UsageError
from onnxmpq.model import file_bytes
from onnxmpq.profiling import Footprint, memory_unmet
from onnxmpq.quality import OutputQuality, Timing, Validation
from onnxmpq.request import GateOptions
from tests.cli.conftest import run
from tests.cli.folders import Folder, Run
from tests.graphs import feeds_for, outputs_of, residual_cnn, samples_for
from tests.quality.test_comparison import noisy

__all__ = ["run"]
GOOD = Validation(
    (OutputQuality("y", "logits", 40.0, 1.0, 1e-4, 1e-3, 1.0, rows=1000),),
    1000,
    False,
    timing=Timing(1e-3, 0.5e-3, 0.5, 1, 0.49, 0.51, 20),
)
BY_FLOORS = "; passed although it is bad: the floors that were given decide"
BAD = replace(GOOD, outputs=(OutputQuality("y", "logits", 1.0, 0.5, 1.0, 2.0, 0.3, rows=1000),))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Models of some size; the second has half the bytes, and part of them in a file beside it."""
    paths = tmp_path / "a.onnx", tmp_path / "b.onnx"
    onnx.save_model(residual_cnn(), paths[0])
    onnx.save_model(residual_cnn(), paths[1], save_as_external_data=True, location="w.bin", size_threshold=0)
    return paths


@pytest.mark.parametrize(
    ("asked", "missed"),
    [
        ({}, ""),
        ({"min_sqnr": "40dB", "min_agreement": "99%", "max_divergence": 0.01}, ""),
        ({"min_sqnr": 41}, "SQNR 40.0 dB, at least 41 asked"),
        ({"latency": "50%"}, ""),
        ({"latency": "0.5ms"}, ""),
        ({"latency": "49%"}, "latency 0.500 ms (95 % interval 0.490 ms to 0.510 ms), at most 0.490 ms asked"),
        ({"latency": "400us"}, "at most 0.400 ms asked"),
        ({"size": "110%"}, ""),
        ({"size": "1kB"}, "at most 0.001 MB asked"),
    ],
    ids=str,
)
def test_limits_and_floors(asked: dict[str, Any], missed: str, files: tuple[Path, Path]) -> None:
    judged = decided(GateOptions(**asked), GOOD, *files, feeds_for(residual_cnn(), 2))
    assert missed in " ".join(judged.missed) and bool(judged.missed) == bool(missed)
    assert judged.passed == (not missed) and (judged.error is None) == (not missed)
    assert judged.asked.keys() == {name.replace("_", "-") for name in asked}


def test_a_bad_model_fails_where_nothing_was_asked(files: tuple[Path, Path]) -> None:
    feeds = feeds_for(residual_cnn(), 2)
    assert "the model is bad" in decided(GateOptions(), BAD, *files, feeds).missed[0]
    assert decided(GateOptions(guard=False), BAD, *files, feeds).passed
    limited = decided(GateOptions(size="110%"), BAD, *files, feeds)  # a size says nothing of quality
    assert "the model is bad" in limited.missed[0] and limited.passed is False
    both = decided(GateOptions(size="1kB"), BAD, *files, feeds)
    assert "at most 0.001 MB asked" in both.missed[0] and "the model is bad" in both.missed[1]


def test_a_floor_that_is_kept_decides_and_the_last_line_says_that_the_model_is_bad(files: tuple[Path, Path]) -> None:
    kept = decided(GateOptions(min_agreement="20%"), BAD, *files, feeds_for(residual_cnn(), 2))
    assert kept.passed and "quality bad" in kept.in_words() and kept.in_words().endswith(BY_FLOORS)
    good = decided(GateOptions(min_agreement="20%"), GOOD, *files, feeds_for(residual_cnn(), 2))
    assert "bad" not in good.in_words()
    unguarded = decided(GateOptions(guard=False), BAD, *files, feeds_for(residual_cnn(), 2))
    assert unguarded.passed and unguarded.in_words().endswith("; passed although it is bad: --no-guard")


@pytest.mark.parametrize("spelling", ["100000%", "9000s", "9000 S", "0.000001ms"])
def test_python_is_a_gate_with_the_spellings_of_the_command_line(spelling: str, files: tuple[Path, Path]) -> None:
    data = samples_for(residual_cnn(), 8)
    if spelling == "0.000001ms":
        with pytest.raises(GateError, match=r"latency .* asked"):
            onnxmpq.validate(*files, data, latency=spelling)
    else:
        assert onnxmpq.validate(*files, data, latency=spelling, size="200%", min_sqnr="30dB").timing is not None


def test_floors_and_limits_of_python_refuse() -> None:
    """Models that are no files too; what is bad passes only where nothing at all was asked."""
    good, data = residual_cnn(), samples_for(residual_cnn(), 8)
    broken = noisy(good, 3.0)
    assert onnxmpq.validate(good, broken, data).divergence > 0
    with pytest.raises(GateError, match=r"SQNR .* at least 200 asked"):
        onnxmpq.validate(good, noisy(good, 0.02), data, min_sqnr=200)
    with pytest.raises(GateError, match=r"size .* at most .* asked"):
        onnxmpq.validate(good, good, data, size="1%")
    with pytest.raises(UsageError, match=r'latency=0.5: a number without a unit.*latency="50%"'):
        onnxmpq.validate(good, good, data, latency=0.5)  # type: ignore[arg-type]
    with pytest.raises(CalibrationError, match="made-up samples"):
        onnxmpq.validate(good, good, min_sqnr="30dB")


@pytest.mark.parametrize("spelling", ["100000%", "9000s"])
def test_the_command_takes_a_limit_of_latency(spelling: str, tmp_path: Path, run: Run) -> None:
    folder = Folder(tmp_path)
    base = ("validate", folder.model, folder.model, "--calib", folder.calib, "--json", "--quiet")
    passed = run(*(part for part in base if part != "--quiet"), "--latency", spelling)
    for stage in ("comparing the converted model with the original", "timing the converted model beside the original"):
        assert f"start: {stage}" in passed.err and f"done: {stage}" in passed.err
    assert passed.code == 0, passed.err
    assert "latency" in json.loads(passed.out)["asked"]
    missed = run(*base, "--latency", "1e-6ms")
    assert missed.code == 15, missed.err


def test_made_up_samples_judge_no_quality(files: tuple[Path, Path]) -> None:
    feeds = replace(feeds_for(residual_cnn(), 2), synthetic=True)
    with pytest.raises(CalibrationError, match="--min-sqnr, --min-agreement: no quality is judged on made-up samples"):
        GateOptions(min_sqnr=3, min_agreement="9%").floors.require_data(True)
    GateOptions(latency="90%").floors.require_data(True)
    GateOptions(min_sqnr=3).floors.require_data(False)
    judged = decided(GateOptions(), GOOD, *files, feeds)
    assert judged.passed is None and judged.error is None and judged.in_words().startswith("not judged: ")
    assert decided(GateOptions(latency="90%"), GOOD, *files, feeds).passed


def test_what_cannot_be_asked(files: tuple[Path, Path]) -> None:
    feeds = feeds_for(residual_cnn(), 2)
    with pytest.raises(UsageError, match="--latency"):
        decided(GateOptions(latency="90%"), replace(GOOD, timing=None, emulated=True), *files, feeds)
    values = replace(GOOD, outputs=(OutputQuality("y", "values", 40.0, 1.0, 1e-4),))
    with pytest.raises(UsageError, match="--min-agreement needs an output of class scores"):
        decided(GateOptions(min_agreement="90%"), values, *files, feeds)


def test_few_samples_are_warned_of(files: tuple[Path, Path]) -> None:
    few = replace(GOOD, outputs=(replace(GOOD.outputs[0], rows=20),), samples=20)
    [line] = decided(GateOptions(min_agreement="99%"), few, *files, feeds_for(residual_cnn(), 2)).warnings
    assert "20 samples cannot tell --min-agreement 99%" in line


def test_the_last_line_says_that_the_samples_cannot_tell(files: tuple[Path, Path]) -> None:
    few = replace(GOOD, outputs=(replace(GOOD.outputs[0], rows=20),), samples=20)
    judged = decided(GateOptions(min_agreement="99%"), few, *files, feeds_for(residual_cnn(), 2))
    assert judged.passed and "; but 20 samples cannot tell --min-agreement 99%" in judged.in_words()
    enough = decided(GateOptions(min_agreement="99%"), GOOD, *files, feeds_for(residual_cnn(), 2))
    assert "but" not in enough.in_words()


def test_the_last_line_says_that_the_session_computes_something_else(files: tuple[Path, Path]) -> None:
    """As int8 kernels that saturate do, with a quality that may still look good."""
    [output] = GOOD.outputs
    apart = replace(GOOD, outputs=(replace(output, sqnr_db=16.7, sqnr_unfused_db=44.8),))
    judged = decided(GateOptions(), apart, *files, feeds_for(residual_cnn(), 2))
    assert judged.passed and "16.7 dB" in judged.in_words() and "onnxmpq check" in judged.in_words()
    assert len(judged.warnings) == 1


def test_the_last_line_names_the_shapes_that_were_timed_with_their_shares(files: tuple[Path, Path]) -> None:
    given = GateOptions(latency="90%", shape={"x": "1x3x8x8@0.5,1x3x16x16@1.5"})
    judged = decided(given, GOOD, *files, feeds_for(residual_cnn(), 2))
    assert "inputs timed: x=1x3x8x8 (25%), x=1x3x16x16 (75%)" in judged.in_words()


@pytest.mark.parametrize("spelling", ["30dB", "30 DB", "30db", "30Db", 30])
def test_units_have_any_case(spelling: str | int) -> None:
    assert GateOptions(min_sqnr=spelling).floors.min_sqnr_db == 30


def test_threads_are_those_of_a_default_session_as_for_convert() -> None:
    assert GateOptions(threads=0).threads == 0


def test_bytes_of_external_data_count(files: tuple[Path, Path]) -> None:
    whole, split = files
    beside = split.with_name("w.bin").stat().st_size
    assert file_bytes(whole) == whole.stat().st_size
    assert file_bytes(split) == split.stat().st_size + beside > beside


def test_the_command(tmp_path: Path, run: Run) -> None:
    """JSON has every figure and the verdict also where it fails; labels and kinds as for convert."""
    folder = Folder(tmp_path)
    onnx.save_model(noisy(residual_cnn(), 0.02), folder / "q.onnx")
    labels = np.zeros(8, np.int64)
    np.save(folder / "labels.npy", labels)
    base = ("validate", folder.model, folder / "q.onnx", "--calib", folder.calib, "--json", "--quiet")
    passed = run(*base, "--min-sqnr", "3dB", "--size", "200%", "--labels", folder / "labels.npy", "--max-drop", "100%")
    assert passed.code == 0, passed.err
    said = json.loads(passed.out)
    assert said["passed"] and said["asked"] == {"min-sqnr": "3dB", "max-drop": "100%", "size": "200%"}
    assert said["metric"]["name"] == "top-1" and said["outputs"][0]["rows"] == 8
    assert said["worst_sqnr_db"] > 3 and not said["data"]["made_up"]
    failed = run(*base, "--min-sqnr", "99dB", "--output-kind", "y=values")
    assert failed.code == 15 and failed.err.startswith("onnxmpq: error: SQNR ")
    said = json.loads(failed.out)
    assert said["passed"] is False and len(said["missed"]) == 1
    assert said["outputs"][0]["kind"] == "values" and said["agreement"] is None


def test_fp32_that_guesses_is_warned_of(tmp_path: Path, run: Run) -> None:
    """Its own classes as labels are no chance; one class for all samples of ten is."""
    folder = Folder(tmp_path)
    inputs = samples_for(residual_cnn(), 40)
    np.savez(folder.calib, **inputs)  # type: ignore[arg-type]
    own = outputs_of(residual_cnn(), inputs)["y"].argmax(axis=-1)
    base = ("validate", folder.model, folder.model, "--calib", folder.calib, "--labels", folder / "labels.npy")
    np.save(folder / "labels.npy", own)
    assert "guessing" not in run(*base).err
    np.save(folder / "labels.npy", (own + 1) % outputs_of(residual_cnn(), inputs)["y"].shape[-1])
    wrong = run(*base)
    assert "0 of 40 labels right, as by guessing among" in wrong.err
    assert "but " in wrong.out.splitlines()[-1] and "guessing" in wrong.out.splitlines()[-1]


def test_memory_of_a_session_is_a_limit() -> None:
    """Measured, so a limit that nothing keeps, one that everything keeps, and figures made up for the test."""
    given = GateOptions(memory="50%")
    before, after = Footprint(0.1, 100_000_000, 90_000_000), Footprint(0.1, 60_000_000, 50_000_000)
    assert given.memory_limit is not None
    assert memory_unmet(given.memory_limit, before, after) == (
        "a session takes 60.0 MB of memory with one run (the original 100.0 MB), at most 50.0 MB asked"
    )
    assert GateOptions(memory="60MB").memory_limit == Limit(60e6)
    assert memory_unmet(Limit(60e6), before, after) == ""
    assert "does not tell" in memory_unmet(Limit(60e6), before, replace(after, peak_bytes=None))
    with pytest.raises(UsageError, match="--memory '5ms': unknown unit 'ms'"):
        GateOptions(memory="5ms")
