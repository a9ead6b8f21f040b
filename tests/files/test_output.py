"""Files appear whole or not at all, and never over the input."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from onnxmpq.errors import OutputError
from onnxmpq.files import check_writable, write_model, write_result, write_text
from tests.graphs import conv_relu

ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


def test_nothing_else_is_left_in_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    check_writable(path)
    assert list(tmp_path.iterdir()) == []
    write_model(path, conv_relu())
    write_text(tmp_path / "out.plan.json", "{}")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.onnx", "out.plan.json"]
    assert path.read_bytes() == conv_relu().SerializeToString(deterministic=True)


def test_an_older_output_is_replaced_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "out.txt"
    write_text(path, "old")
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(OutputError, match="No space left on device"):
            write_text(path, "new")
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["out.txt"]
    write_text(path, "new")
    assert path.read_text() == "new"


def test_permissions_are_those_of_any_new_file(tmp_path: Path) -> None:
    write_text(tmp_path / "one", "")
    (tmp_path / "two").touch()
    assert (tmp_path / "one").stat().st_mode == (tmp_path / "two").stat().st_mode


def test_interruption_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_text(tmp_path / "out", "text")
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_written_is_said_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(OutputError, match=r"is a folder; give a file name with -o"):
        check_writable(tmp_path / "folder.onnx")
    with pytest.raises(OutputError, match="does not exist; create it"):
        check_writable(tmp_path / "missing" / "out.onnx")
    model = tmp_path / "model.onnx"
    model.write_bytes(b"x")
    with pytest.raises(OutputError, match="is the input model"):
        check_writable(model, model)


@pytest.mark.skipif(ROOT, reason="root may write everywhere")
def test_folder_without_permission(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="cannot be written"):
            check_writable(tmp_path / "out.onnx")
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("broken", ["plan", "model"])
def test_a_model_and_its_plan_are_written_together_or_not(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tempfile.mkstemp

    def full(prefix: str, dir: Path) -> tuple[int, str]:
        if ("plan" in prefix) == (broken == "plan"):
            raise OSError(28, "No space left on device")
        return made(prefix=prefix, dir=dir)

    monkeypatch.setattr(tempfile, "mkstemp", full)
    with pytest.raises(OutputError, match="No space left"):
        write_result(tmp_path / "m.onnx", conv_relu(), "{}")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    write_result(tmp_path / "m.onnx", conv_relu(), "{}")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.plan.json"]
