"""Command lines that people type from habit."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

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
