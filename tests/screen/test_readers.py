"""Output that nobody reads any more: silence and one exit code, whatever the command."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TextIO

import pytest
import typer.main

from onnxmpq.cli import app, main
from onnxmpq.errors import UNREAD_EXIT_CODE, UsageError
from tests.graphs import conv_relu

COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]
ANSWERS = (
    ("inspect", "model.onnx"),
    ("inspect", "model.onnx", "--json"),
    ("check", "model.onnx"),
    ("check", "model.onnx", "--json"),
    ("targets",),
    ("targets", "--json"),
    ("recipes",),
    ("recipes", "imagenet"),
    ("cache", "--cache", "kept", "--json"),
    ("--version",),
    *((name, "--help") for name in COMMANDS),
)


@pytest.fixture
def unread() -> Iterator[TextIO]:
    """A stream into a pipe that is closed at its other end."""
    reader, writer = os.pipe()
    os.close(reader)
    stream = open(writer, "w", encoding="utf-8")  # noqa: SIM115 (closed below, where that may fail)
    yield stream
    with suppress(BrokenPipeError):
        stream.close()


@pytest.mark.parametrize("arguments", ANSWERS, ids=" ".join)
def test_a_reader_that_is_gone(
    arguments: tuple[str, ...],
    unread: TextIO,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "model.onnx").write_bytes(conv_relu().SerializeToString())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["onnxmpq", *arguments])
    monkeypatch.setattr(sys, "stdout", unread)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == UNREAD_EXIT_CODE
    assert sys.stdout is unread
    assert capfd.readouterr().err == ""


@pytest.mark.skipif(os.name == "nt", reason="POSIX pipes")
@pytest.mark.parametrize(
    ("stream", "code", "lines", "arguments"),
    [
        ("stdout", UNREAD_EXIT_CODE, 0, ("targets", "--json")),
        ("stderr", UNREAD_EXIT_CODE, 0, ("targets", "--no-such-option")),
        ("stdout", UsageError.exit_code, 1, ("targets", "--no-such-option", "--json")),
    ],
)
def test_the_interpreter_has_nothing_to_add(stream: str, code: int, lines: int, arguments: tuple[str, ...]) -> None:
    """What is left in a buffer is written when the interpreter ends, and complained of where that fails."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "onnxmpq", *arguments],
        check=False,
        **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, stream: writer},
    )
    os.close(writer)
    said = (done.stdout or b"") + (done.stderr or b"")
    assert (done.returncode, len(said.splitlines())) == (code, lines), said
