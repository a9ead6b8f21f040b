"""Starting another Python of this package: plain processes with pipes.

Those of `multiprocessing` import the caller's main program again where they are not forked, and forking beside the
runtime's threads is unsafe.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path


def can_start() -> bool:
    """True if this program's executable can run a module; in a frozen application it is the application."""
    executable = sys.executable
    return bool(executable) and "python" in Path(executable).name.lower() and not hasattr(sys, "frozen")


def start(module: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[bytes]:
    """`python -m module` with pipes to its standard input and output. environment: variables to add."""
    home = str(Path(__file__).parents[2])  # also where this package was found by other means than the usual path
    path = os.pathsep.join(p for p in (home, os.environ.get("PYTHONPATH", "")) if p)
    return subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        # safe: a folder of this package's name in the current one is no other copy of it
        env={**os.environ, **(environment or {}), "PYTHONPATH": path, "PYTHONSAFEPATH": "1"},
    )
