"""No telemetry of onnxruntime's: nothing appears in an empty home folder, and the user's own choice stays."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import onnxruntime
import pytest

from onnxmpq.privacy import FIRST, VARIABLE
from tests.conftest import SAMPLES

SETTING = (VARIABLE, "CI", "XDG_CACHE_HOME", "GITHUB_ACTIONS")
COLLECTS = tuple(int(part) for part in onnxruntime.__version__.split(".")[:2]) >= FIRST


def ran(home: Path, *arguments: object, **variables: str) -> subprocess.CompletedProcess[str]:
    """A Python process with this home folder and nothing set that suppresses telemetry."""
    kept = {name: value for name, value in os.environ.items() if name not in SETTING}
    root = str(Path(__file__).parents[1])
    environment = {**kept, "HOME": str(home), "PYTHONPATH": root, "PYTHONDONTWRITEBYTECODE": "1", **variables}
    command = [sys.executable, *map(str, arguments)]
    found = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=home.parent, check=False)
    assert found.returncode == 0, found.stderr
    return found


def files(home: Path) -> set[str]:
    return {path.relative_to(home).as_posix() for path in home.rglob("*") if path.is_file()}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = tmp_path / "home"
    folder.mkdir()
    return folder


@pytest.mark.skipif(not COLLECTS or sys.platform != "linux", reason="this onnxruntime writes nothing")
def test_onnxruntime_alone_does_write(home: Path) -> None:
    """Else the tests below show nothing."""
    ran(home, "-c", "import onnxruntime")
    assert any("deviceid" in name for name in files(home))


@pytest.mark.parametrize("model", ["digits_cnn.onnx", "decoder/decoder.onnx"])
def test_inspect_writes_nothing(home: Path, model: str) -> None:
    ran(home, "-m", "onnxmpq", "inspect", SAMPLES / model)
    assert files(home) == set()


def test_convert_and_its_processes_write_the_cache_alone(home: Path) -> None:
    command = ("-m", "onnxmpq", "convert", SAMPLES / "digits_cnn.onnx", "--calib", SAMPLES / "digits_calib.npz")
    options = ("--size", "50%", "--samples", "8", "--quiet", "-o", home.parent / "out.onnx", "--target", "edge-npu")
    options += tuple(part for name in ("gptq", "descent", "smoothquant") for part in ("--without", name))
    ran(home, *command, *options, "--no-cache")
    assert files(home) == set()
    ran(home, *command, *options)
    assert files(home)
    assert all(name.startswith(".cache/onnxmpq/") for name in files(home))


def test_the_choice_of_the_user_stays(home: Path) -> None:
    code = f"import onnxmpq, os; print(os.environ[{VARIABLE!r}])"
    assert ran(home, "-c", code).stdout == "1\n"
    assert ran(home, "-c", code, **{VARIABLE: "0"}).stdout == "0\n"


@pytest.mark.skipif(not COLLECTS, reason="this onnxruntime has no telemetry")
def test_onnxruntime_imported_before_is_warned_of(home: Path) -> None:
    code = "import onnxruntime, onnxmpq, os; print(os.environ['ORT_DISABLE_TELEMETRY'])"
    late = ran(home, "-c", code)
    assert late.stdout == "1\n"
    assert late.stderr.count("imported before onnxmpq") == 1
    assert ran(home, "-c", code, CI="true").stderr == ""
    assert ran(home, "-c", code, **{VARIABLE: "1"}).stderr == ""
    assert ran(home, "-c", "import onnxmpq, onnxruntime").stderr == ""
