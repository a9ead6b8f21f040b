"""Lines of text files, blank ones left out; only the chosen ones are kept in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from onnxmpq.errors import CalibrationError
from onnxmpq.feeds.select import spread


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
) -> tuple[list[Line], int]:
    """At most `limit` lines of the files, evenly spread over those that `keep` accepts, and how many those are."""
    total = sum(1 for line in _lines(paths) if keep(line))
    wanted = set(spread(total, limit))
    kept = (line for line in _lines(paths) if keep(line))
    return [line for index, line in enumerate(kept) if index in wanted], total


def _lines(paths: Sequence[Path]) -> Iterator[Line]:
    for path in paths:
        try:
            with path.open(encoding="utf-8-sig") as file:
                for number, text in enumerate(file, start=1):
                    if text.strip():
                        yield Line(path, number, text.rstrip("\r\n"))
        except (OSError, UnicodeDecodeError) as error:
            raise CalibrationError(f"{path} cannot be read as UTF-8 text ({error}); save it as UTF-8") from error
