"""Lines of text files, blank ones left out; only the chosen ones are kept in memory."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from onnxmpq.errors import CalibrationError
from onnxmpq.feeds.select import spread
from onnxmpq.feeds.types import Places


@dataclass(frozen=True)
class Line:
    """One line without its end; number counts from 1, blank lines included."""

    path: Path
    number: int
    text: str

    @property
    def where(self) -> str:
        return f"{self.path}, line {self.number}"


def choose_lines(
    paths: Sequence[Path], limit: int | None, keep: Callable[[Line], bool] = lambda line: True
) -> tuple[list[Line], Places]:
    """At most `limit` of the lines that `keep` accepts, evenly spread over the files, and their places among these."""
    total = sum(1 for line in _lines(paths) if keep(line))
    chosen = spread(total, limit)
    wanted = set(chosen)
    kept = (line for line in _lines(paths) if keep(line))
    lines = [line for index, line in enumerate(kept) if index in wanted]
    return lines, Places(np.asarray(chosen, np.int64), total)


def _lines(paths: Sequence[Path]) -> Iterator[Line]:
    for path in paths:
        try:
            with path.open(encoding="utf-8-sig") as file:
                for number, text in enumerate(file, start=1):
                    if text.strip():
                        yield Line(path, number, text.rstrip("\r\n"))
        except (OSError, UnicodeDecodeError) as error:
            raise CalibrationError(f"{path} cannot be read as UTF-8 text ({error}); save it as UTF-8") from error


def cells(line: Line) -> list[str]:
    """Of a CSV line. CalibrationError where it is none."""
    try:
        return next(csv.reader([line.text]))
    except csv.Error as error:
        raise CalibrationError(f"{line.where} is not CSV ({error}); correct it") from error
