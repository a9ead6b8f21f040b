"""The supported versions: inside nothing is said, outside one line; nothing fails."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import onnxruntime as ort
import pytest

from onnxmpq.runtimes.onnxruntime import window

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("version", [*window.TESTED, "1.23.9", "1.32.4", "1.32.0+cu12", "1.31.0.dev20260101"])
def test_inside(version: str) -> None:
    assert window.outside(version) == ""


@pytest.mark.parametrize(
    ("version", "word"),
    [("1.22.1", "older"), ("0.99", "older"), ("1.33.0", "newer"), ("2.0.0", "newer"), ("nightly", "no known version")],
)
def test_outside(version: str, word: str) -> None:
    message = window.outside(version)
    assert f"onnxruntime {version} is" in message and word in message
    assert f"install onnxruntime=={window.NEWEST}" in message and "\n" not in message


def test_versions_ascend() -> None:
    pairs = [tuple(map(int, version.split("."))) for version in window.TESTED]
    assert pairs == sorted(set(pairs))
    assert {p[:2] for p in pairs} == {(1, m) for m in range(pairs[0][1], pairs[-1][1] + 1)}, (
        "no minor version is left out"
    )


def test_the_package_asks_for_the_window() -> None:
    """The lower bound of the open range, and the version that the lock installs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    [bound] = [d for d in project["dependencies"] if re.match(r"onnxruntime\b", d)]
    assert bound == "onnxruntime>=" + window.OLDEST.removesuffix(".0")
    locked = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    assert re.search(rf"^onnxruntime=={re.escape(window.NEWEST)} ;", locked, re.MULTILINE)


def test_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ort, "__version__", "1.99.0")
    monkeypatch.setattr(window, "_warned", set())
    said: list[str] = []
    window.warn_outside(said.append)
    window.warn_outside(said.append)
    assert said == [window.outside("1.99.0")]


@pytest.mark.parametrize("command", ["targets", "check samples/digits_cnn.onnx", "doctor --no-cache"])
def test_commands_go_on_after_one_line(command: str) -> None:
    """A process whose onnxruntime says that it is of another version."""
    program = "import onnxruntime; onnxruntime.__version__ = '1.99.0'; from onnxmpq.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *command.split()], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.splitlines() == [f"warning: {window.outside('1.99.0')}"]
