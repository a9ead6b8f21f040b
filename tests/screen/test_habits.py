"""Command lines that people type from habit."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import typer

from onnxmpq.cli import app
from onnxmpq.errors import UsageError
from onnxmpq.screen import as_meant


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["--version"], ["--version"]),
        (["convert", "m.onnx", "--version"], ["--version"]),
        (["-v"], ["--version"]),
        (["-v", "convert", "m.onnx"], ["convert", "m.onnx", "-v"]),
        (["convert", "m.onnx", "-v"], ["convert", "m.onnx", "-v"]),
        (["inspect", "--", "--version"], ["inspect", "--", "--version"]),
        ([], []),
    ],
    ids=" ".join,
)
def test_options_at_other_places(typed: Sequence[str], meant: Sequence[str]) -> None:
    assert as_meant(typed) == meant


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (["cache", "clear"], "write `onnxmpq cache --clear`"),
        (["nope.onnx"], "nope.onnx: is no command, and there is no such file; write `onnxmpq convert nope.onnx"),
        (["converts"], "no such command: converts; did you mean convert"),
    ],
    ids=" ".join,
)
def test_what_was_typed_in_the_place_of_a_command(typed: Sequence[str], said: str) -> None:
    command = typer.main.get_command(app)
    with pytest.raises(UsageError) as caught:
        command.main(list(typed), standalone_mode=False)
    assert said in str(caught.value)
