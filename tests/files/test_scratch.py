"""Temporary folders that are missing, read-only or full: one line with the folder and the remedy, nothing left."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from onnxmpq.errors import ModelError, OutputError
from onnxmpq.files import scratch_folder
from onnxmpq.runtimes import profile_folder
from tests.conftest import SAMPLES

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv.pop(1)),) * 2)
from onnxmpq.__main__ import main
main()
"""


def test_a_folder_lives_as_long_as_its_block() -> None:
    with scratch_folder("notes") as folder:
        (folder / "a").write_text("b")
    assert not folder.exists()


def test_none_can_be_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "mkdtemp", refused)
    wanted = r"no temporary folder can be made for profiles .*; set TMPDIR"
    with pytest.raises(OutputError, match=wanted), profile_folder():
        pass


@pytest.mark.parametrize("error", [ValueError("Expecting value"), ModelError("onnxruntime cannot load the model")])
def test_what_fails_in_a_full_folder_is_the_folders_fault(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    wanted = r"profiles .* cannot be written there \(No space left on device\); set"
    with pytest.raises(OutputError, match=wanted) as found, profile_folder() as folder:
        monkeypatch.setattr(os, "fsync", full)
        raise error
    assert str(folder.parent) in str(found.value) and "\n" not in str(found.value)
    assert not folder.exists()


def test_what_fails_where_there_is_room_is_left_as_it_is() -> None:
    with pytest.raises(ModelError, match="no kernel"), profile_folder():
        raise ModelError("no kernel")


@pytest.mark.skipif(sys.platform == "win32", reason="no such limit")
def test_a_conversion_that_cannot_write_its_profiles_says_so(tmp_path: Path) -> None:
    """Files limited in bytes, where onnxruntime's optimised graph and its profile take more."""
    command = [
        "convert",
        str(SAMPLES / "digits_cnn.onnx"),
        "--size",
        "50%",
        "--scheme",
        "w8",
        "--samples",
        "8",
        "--no-cache",
    ]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, "20000", *command, "-o", str(tmp_path / "x.onnx")],
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(SAMPLES.parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == OutputError.exit_code
    assert f"error: temporary folder {tmp_path}" in done.stderr
    assert "profiles of onnxruntime cannot be written" in done.stderr
    assert not [*tmp_path.glob("onnxmpq-*"), *tmp_path.glob("*.onnx")]
