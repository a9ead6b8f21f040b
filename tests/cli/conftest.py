"""The command line, run in this process."""

from __future__ import annotations

import sys

import pytest

from onnxmpq.cli import main
from tests.cli.folders import Ran, Run


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], quick_effort: object) -> Run:
    """Runs a command line in this process."""

    def command(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["onnxmpq", *map(str, arguments)])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        out, err = capfd.readouterr()
        return Ran(code, out, err)

    return command
