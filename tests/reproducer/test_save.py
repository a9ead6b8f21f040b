"""An internal error leaves a reproducer behind: named in the error line, private, and good for running it again."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxmpq import pipeline
from onnxmpq.cli import main
from onnxmpq.errors import OnnxmpqError, UsageError
from onnxmpq.integrity import structure_faults
from onnxmpq.reproducer import Context, remember, save, watched
from onnxmpq.reproducer.__main__ import main as rebuild
from onnxmpq.reproducer.save import archive
from onnxmpq.schemes import SCHEMES
from tests.graphs import outputs_of, residual_cnn, samples_for


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private folder with a model and its samples, and another one to work in."""
    private = tmp_path / "private"
    private.mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    onnx.save(residual_cnn(), private / "model.onnx")
    np.savez(private / "calib.npz", **samples_for(residual_cnn(), 4))
    return private


def failing(error: Exception) -> Any:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["onnxmpq", *map(str, arguments)])
    with pytest.raises(SystemExit) as end:
        main()
    assert isinstance(end.value.code, int)
    return end.value.code


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def report_of(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(contents(path)["report.json"])
    return found


def test_an_internal_error_names_its_reproducer(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pipeline, "rescale", failing(IndexError(f"in {folder}/model.onnx: 3 of 2")))
    options = ("--latency", "fastest", "--exclude", "/Conv_0|x/", "--no-cache")
    code = run(monkeypatch, "convert", folder / "model.onnx", "--calib", folder / "calib.npz", *options)
    [line] = [x for x in capfd.readouterr().err.splitlines() if x.startswith("onnxmpq:")]
    path = folder / "model.reproducer.zip"
    assert code == OnnxmpqError.exit_code
    assert "internal error: IndexError" in line and str(path) in line
    report = report_of(path)
    assert report["arguments"] == ["convert", "model.onnx", "--calib", "calib.npz", *options]
    assert report["error"] == {"type": "IndexError", "message": "in model.onnx: 3 of 2"}
    assert any(entry.startswith("  onnxmpq/pipeline.py:") for entry in report["traceback"])
    assert {"onnxruntime", "onnx", "python", "cpu", "cpu_features"} <= report["versions"].keys()
    assert report["samples"]["x"]["shape"][1:] == [3, 16, 16] and report["samples"]["x"]["dtype"] == "float32"
    assert {p.name for p in folder.iterdir()} == {"model.onnx", "calib.npz", path.name}


def test_nothing_private_is_in_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "rescale", failing(RuntimeError("no")))
    run(monkeypatch, "convert", folder / "model.onnx", "--calib", folder / "calib.npz", "--no-cache")
    everything = b"\n".join(contents(folder / "model.reproducer.zip").values())
    for secret in (str(folder), str(folder.parent), os.getcwd(), os.path.expanduser("~"), sys.prefix):
        assert f"{secret}/".encode() not in everything
    weights = [t.raw_data for t in residual_cnn().graph.initializer]
    samples = samples_for(residual_cnn(), 4)["x"]
    assert not any(raw[:16] in everything for raw in (*weights, samples.tobytes()))


def test_the_model_runs_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "rescale", failing(RuntimeError("no")))
    run(monkeypatch, "convert", folder / "model.onnx", "--calib", folder / "calib.npz", "--no-cache")
    made = []
    for name in ("one.onnx", "two.onnx"):
        monkeypatch.setattr(sys, "argv", ["-", str(folder / "model.reproducer.zip"), "-o", str(folder / name)])
        rebuild()
        made.append((folder / name).read_bytes())
    assert made[0] == made[1]
    again = onnx.load_from_string(made[0])
    assert structure_faults(again, residual_cnn()) == []
    before, after = (outputs_of(p, samples_for(residual_cnn(), 8))["y"] for p in (residual_cnn(), again))
    assert after.shape == before.shape and 0.1 < after.std() / before.std() < 10.0


def test_the_plan_that_was_built_is_in_it(folder: Path) -> None:
    with watched(["convert", str(folder / "model.onnx")]) as context:
        remember(assignment={"Conv_0": SCHEMES["int8"]})
        remember(samples={"x": np.zeros((2, 3), np.float32)})
        path = save(KeyError("tensor"), context)
    assert path is not None
    assert report_of(path)["plan"] == {"Conv_0": "int8"}
    remember(assignment={})
    assert context.assignment, "nobody watches any more"


def test_a_fault_of_ours_that_we_found(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(pipeline, "rescale", failing(OnnxmpqError("the converted graph is damaged; report it")))
    run(monkeypatch, "convert", folder / "model.onnx", "--calib", folder / "calib.npz", "--no-cache")
    assert "damaged; report it; attach " in capfd.readouterr().err
    assert (folder / "model.reproducer.zip").exists()


def test_a_users_error_leaves_none(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "rescale", failing(UsageError("no")))
    run(monkeypatch, "convert", folder / "model.onnx", "--calib", folder / "calib.npz", "--no-cache")
    assert not list(folder.glob("*.zip"))


def test_with_debug_there_is_both(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "rescale", failing(RuntimeError("no")))
    monkeypatch.setattr(sys, "argv", ["onnxmpq", "convert", str(folder / "model.onnx"), "--debug", "--no-cache"])
    with pytest.raises(RuntimeError):
        main()
    assert (folder / "model.reproducer.zip").exists()


# ---- where it goes, and what cannot be had -------------------------------------------------------


def test_beside_the_output_and_never_over_another(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    for option in (["-o", str(tmp_path / "out/x.onnx")], [f"--output={tmp_path / 'out/x.onnx'}"]):
        assert save(RuntimeError(), Context(("convert", str(folder / "model.onnx"), *option))) is not None
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"model.reproducer.zip", "model-2.reproducer.zip"}


def test_elsewhere_if_it_must(folder: Path, tmp_path: Path) -> None:
    context = Context(("convert", str(folder / "model.onnx"), "-o", str(tmp_path / "missing/x.onnx")))
    assert save(RuntimeError(), context) == folder / "model.reproducer.zip"
    assert save(RuntimeError(), Context(("targets",))) == Path("onnxmpq.reproducer.zip")


def test_nowhere_if_nothing_can_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "mkstemp", failing(OSError(28, "No space left on device")))
    assert save(RuntimeError(), Context(("convert", str(folder / "model.onnx")))) is None


class Hostile(Exception):
    def __str__(self) -> str:
        raise RuntimeError("not even that")


@pytest.mark.parametrize(
    ("name", "content"), [("broken.onnx", b"no model"), ("empty.onnx", b"")], ids=["no_model", "empty"]
)
def test_a_model_that_cannot_be_read(
    folder: Path, name: str, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / name).write_bytes(content)
    path = save(RuntimeError("no"), Context(("convert", str(folder / name))))
    assert path is not None and report_of(path)["error"]["message"] == "no"


def test_it_never_raises(folder: Path) -> None:
    for context in (Context(("\0", "-o")), Context((), samples={"x": object()}), Context((), assignment={"r": 1})):
        save(RuntimeError(), context)
    assert save(Hostile(), Context(())) is None


def test_causes_are_in_the_traceback() -> None:
    try:
        try:
            raise ValueError("first")
        except ValueError as error:
            raise RuntimeError("second") from error
    except RuntimeError as error:
        lines = json.loads(contents_of(archive(error, Context(()), None)))["traceback"]
    assert [x for x in lines if not x.startswith("  ")] == ["RuntimeError: second", "ValueError: first"]
    assert any("test_save.py" in x and "raise" not in x for x in lines), "the user's own code is not quoted"


def contents_of(content: bytes) -> str:
    import io  # noqa: PLC0415

    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return file.read("report.json").decode()


@pytest.mark.parametrize("content", [b"", b"no zip", None], ids=["empty", "no_zip", "missing"])
def test_no_reproducer_is_said_in_one_line(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.zip"
    if content is not None:
        path.write_bytes(content)
    monkeypatch.setattr(sys, "argv", ["-", str(path), "-o", str(tmp_path / "m.onnx")])
    with pytest.raises(SystemExit) as end:
        rebuild()
    assert end.value.code == 3
    assert capsys.readouterr().err.count("\n") == 1 and not (tmp_path / "m.onnx").exists()
