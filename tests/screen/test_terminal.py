"""A conversion on a real terminal: the conclusion is the last thing on it, coloured, and fits its width."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.graphs import residual_cnn, samples_for
from tests.tables import int8_pays

pty = pytest.importorskip("pty", reason="POSIX terminals")
ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")


def on_terminal(columns: int, *arguments: object) -> tuple[int, bytes]:
    """Exit code and all that a command writes on a terminal of this width."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), "PYTHONPATH": str(Path.cwd())}
    for name in ("NO_COLOR", "FORCE_COLOR", "CI"):
        environment.pop(name, None)
    command = [sys.executable, "-m", "onnxmpq", *map(str, arguments)]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
    os.close(theirs)
    written = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the last one that had it open has closed it
            break
        if not part:
            break
        written += part
    os.close(ours)
    return process.wait(), written


@pytest.mark.parametrize("columns", [80, 120])
def test_the_conclusion_comes_last(columns: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    model, calib, output = tmp_path / "model.onnx", tmp_path / "calib.npz", tmp_path / "out.onnx"
    onnx.save_model(residual_cnn(), model)
    np.savez(calib, **samples_for(residual_cnn(), 8))  # type: ignore[arg-type]
    table = int8_pays(model, tmp_path)
    options = ("--latency", "80%", "--cost-table", table, "--without", "gptq", "--no-cache")
    code, written = on_terminal(columns, "convert", model, output, "--calib", calib, *options)
    assert code == 0 and output.exists()
    assert "━".encode() in written, "a bar was drawn"
    after = written.rpartition(b"\x1b[?25h")[2]  # what stays when the bars are gone
    lines = ESCAPES.sub(b"", after).decode().replace("\r", "").rstrip("\n").splitlines()
    assert all(len(line) <= columns for line in lines if not line.startswith("wrote "))
    last = [line.split("  ")[0] for line in lines[lines.index("") + 1 :] if not line.startswith(" ")]
    assert [title.rpartition(" ")[0] or title for title in last] == ["budget", "quality", "next"]
    assert after.count(b"\x1b[1;32m") + after.count(b"\x1b[1;33m") >= 3


def test_an_error_is_the_last_line_on_a_terminal_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    code, written = on_terminal(80, "convert", tmp_path / "none.onnx", "--size", "30%")
    assert code == 3
    last = ESCAPES.sub(b"", written).decode().split("\n")
    assert "".join(last).rstrip().endswith("give the path of an .onnx model")
