"""Files appear whole or not at all, and never over the input."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from types import SimpleNamespace

import onnx
import pytest

from onnxmpq.errors import OutputError
from onnxmpq.files import check_writable, write_model, write_result, write_text
from onnxmpq.model import prepare
from tests.graphs import conv_relu, graph

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


def test_large_constants_begin_at_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As onnxruntime writes external data, so that every system can map it."""
    monkeypatch.setattr("onnxmpq.model.spill.NEVER_WHOLE", 0)
    proto = graph(
        "a = MatMul (x, w0)  b = MatMul (a, w1)  y = MatMul (b, w2)",
        "float[N, 80] x",
        "float[N, 80] y",
        "float[80, 600] w0, float[600, 600] w1, float[600, 80] w2",
    )
    onnx.save_model(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    write_model(tmp_path / "out.onnx", prepare(tmp_path / "m.onnx").proto)
    written = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    places = [{e.key: e.value for e in t.external_data} for t in written.graph.initializer]
    starts = [int(p["offset"]) for p in places]
    assert starts == [0, 3 * 2**16, 3 * 2**16 + 4 * 600 * 600]
    assert (tmp_path / "out.onnx.data").stat().st_size == starts[-1] + 4 * 600 * 80
    onnx.checker.check_model(tmp_path / "out.onnx")


def test_a_folder_without_room_is_refused_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmpq.model.spill.NEVER_WHOLE", 0)
    proto = graph("y = MatMul (x, w0)", "float[N, 80] x", "float[N, 80] y", "float[80, 80] w0")
    onnx.save_model(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.bin", size_threshold=0)
    made = prepare(tmp_path / "m.onnx").proto
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(OutputError, match=r"0\.00 GB are to be written and its folder has room for 0\.00 GB"):
        write_model(tmp_path / "out.onnx", made)
    assert not list(tmp_path.glob("*out*"))
