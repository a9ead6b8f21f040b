"""Where the data folders lie: inside the package when installed from a wheel, beside it in a source checkout."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from onnxmpq.errors import OnnxmpqError

DataFolder = Literal["calibration", "cost_models"]

_PACKAGE = Path(__file__).resolve().parents[1]


def data_folder(name: DataFolder, package: Path = _PACKAGE) -> Path:
    """The folder `name` of data files (TOML, tables) that came with this package.

    Raises OnnxmpqError where the installation lacks it.
    """
    installed = package / "_data" / name
    if os.path.isdir(installed):
        return installed
    checkout = package.parent
    # Without this file the parent is site-packages, where a folder of this name would be somebody else's.
    if os.path.isfile(checkout / "pyproject.toml") and os.path.isdir(checkout / name):
        return checkout / name
    raise OnnxmpqError(f"the data folder '{name}' is missing from this installation of onnxmpq; install it again")
