"""`onnxmpq doctor` tells what it can, and of the rest why not."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import onnxruntime as ort
import pytest
from rich.console import Console

from onnxmpq.cache import Cache
from onnxmpq.commands import doctor
from onnxmpq.runtimes.onnxruntime import probes, window
from onnxmpq.runtimes.onnxruntime.probe_graphs import PROBES

ROOT = Path(__file__).parents[2]
SECTIONS = ["versions", "machine", "onnxruntime", "folders", "targets"]


@pytest.fixture(autouse=True)
def same_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "_stores", [Cache(None)])


def examined(folder: Path | bool = False) -> dict[str, doctor.Finding]:
    return {line.name: line for line in doctor.examine(folder)}


def test_everything_is_told(tmp_path: Path) -> None:
    found = doctor.examine(tmp_path)
    assert [line for line in found if line.failed] == []
    assert list(dict.fromkeys(line.section for line in found)) == SECTIONS
    told = doctor.as_dict(found)
    assert told["versions"]["onnxruntime"]["version"] == ort.__version__
    assert "cpu" in told["targets"]["available"]
    lines = ("fused", "unfolded once", "float8 loads", "int8 kernels", "dynamic kernels", "fused operators", "layouts")
    answers = [told["onnxruntime"][n] for n in lines]
    asked = {n for n, p in PROBES.items() if p.kind != "keeps"}
    assert {name: holds for part in answers for name, holds in part.items()} == {n: probes.holds(n) for n in asked}
    assert told["machine"]["timer noise"]["spread"] >= 1


def test_a_line_each(tmp_path: Path) -> None:
    out = io.StringIO()
    found = doctor.examine(tmp_path)
    doctor.render(found, Console(file=out, width=80))
    assert len(out.getvalue().splitlines()) == len(found) + len(SECTIONS)


def test_lines_that_fail_say_why_and_cost_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(doctor, "available_targets", broken)
    monkeypatch.setattr(probes, "answers", broken)
    monkeypatch.setattr(tempfile, "gettempdir", broken)
    found = doctor.examine(False)
    failed = {line.name: line.text for line in found if line.failed}
    asked = {"fused", "unfolded once", "float8 loads", "int8 kernels", "dynamic kernels", "fused operators", "layouts"}
    assert failed.keys() == asked | {"temporary", "available"}
    assert all("Read-only file system" in text for text in failed.values())
    assert doctor.as_dict(found)["targets"]["available"]["failed"] == failed["available"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    occupied = tmp_path / "file"
    occupied.write_text("")
    line = examined(occupied / "cache")["cache"]
    assert line.value["writable"] is False and "choose another with --cache" in line.text


def test_no_cache_and_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.delenv(name, raising=False)
    found = examined(True)
    assert found["cache"].value == {"folder": None} and found["HOME"].text == "not set"


@pytest.mark.parametrize("version", ["1.22.0", "1.99.0", "unknown"])
def test_versions_outside_the_window_are_named(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "__version__", version)
    monkeypatch.setattr(window.outside, "__defaults__", (version,))
    assert "install onnxruntime==" in examined()["onnxruntime"].text


def test_the_command(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "onnxmpq", "doctor", "--fresh", "--cache", str(tmp_path), "--json"]
    environment = {k: v for k, v in os.environ.items() if k != "HOME"} | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert list(json.loads(done.stdout)) == SECTIONS
    assert any(tmp_path.rglob("*.npz")), "the answers are kept"
