"""Files of a calibration folder, by kind."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from onnxmpq.feeds.select import natural_order
from onnxmpq.feeds.types import Places

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
RAW_SOUND_SUFFIXES = (".pcm", ".raw")
SOUND_SUFFIXES = (".wav", *RAW_SOUND_SUFFIXES)
TEXT_SUFFIXES = (".txt",)
ROW_SUFFIXES = (".csv", ".jsonl")


def find_files(folder: Path, suffixes: Sequence[str]) -> list[Path]:
    """Files with these suffixes in the folder and its subfolders, hidden ones left out, in natural order."""
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in suffixes and os.path.isfile(path) and not path.name.startswith(".")
    ]
    return sorted(found, key=lambda path: natural_order(path.relative_to(folder).as_posix()))


def file_places(folder: Path, files: Sequence[Path], rows: Sequence[int], total: int) -> Places:
    """Places of samples that come from these files (one each, perhaps repeated) below the folder."""
    names = [path.relative_to(folder).as_posix() for path in files]
    return Places(np.asarray(rows, np.int64), total, np.asarray(names, np.str_))
