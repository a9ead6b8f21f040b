"""The command line with short measurements: `python -m tests.short_measurements ARGS`.

For the commands of the documents, whose results stand whatever the clock says. What the README's first command says
after measurements of a user's length is seen by CI.
"""

from __future__ import annotations

import sys
from dataclasses import astuple
from pathlib import Path

from onnxmpq.__main__ import main
from onnxmpq.cost import Effort

QUICK = Effort(seconds=0.02, runs=2, rounds=2)
DEFAULTS = astuple(QUICK)


def write_program(folder: Path) -> None:
    """An executable `onnxmpq` that measures so; it needs this package's parent in PYTHONPATH."""
    folder.mkdir(exist_ok=True)
    (folder / "onnxmpq").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m tests.short_measurements "$@"\n')
    (folder / "onnxmpq").chmod(0o755)


if __name__ == "__main__":
    Effort.__init__.__defaults__ = DEFAULTS  # type: ignore[misc]
    main()
