"""Tables of rows, as data: what `pandas.DataFrame(rows)` and `polars.DataFrame(rows)` take as they are."""

from __future__ import annotations

import csv
import html
import io
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from onnxmpq.errors import UsageError
from onnxmpq.files.documents import dump_json, plain
from onnxmpq.files.output import write_text

SHOWN = 12  # rows of a repr


class Rows(list[dict[str, Any]]):
    """A list of rows, each a dict with the same keys. Values are texts, numbers, truth values and None."""

    def __init__(self, rows: Iterable[Mapping[str, Any]] = (), columns: Iterable[str] = ()) -> None:
        """columns: of a table without rows."""
        super().__init__(dict(row) for row in rows)
        self._columns = tuple(columns)

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self[0]) if self else self._columns

    def column(self, name: str) -> list[Any]:
        """Values of one column, in the order of the rows. Raises KeyError."""
        return [row[name] for row in self]

    def to_csv(self, path: str | Path | None = None) -> str:
        """The text, one line per row under a header; also written to `path`. Raises OutputError."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(self.columns), lineterminator="\n")
        writer.writeheader()
        writer.writerows(self)
        if path is not None:
            write_text(Path(path), text.getvalue())
        return text.getvalue()

    def to_json(self, path: str | Path | None = None) -> str:
        """A JSON list of the rows; also written to `path`. Raises OutputError."""
        text = dump_json(list(self)) + "\n"
        if path is not None:
            write_text(Path(path), text)
        return text

    def write(self, path: str | Path) -> None:
        """As .csv or .json, by the suffix. Raises UsageError for another one, OutputError."""
        require_format(path)
        (self.to_csv if Path(path).suffix.lower() == ".csv" else self.to_json)(path)

    def __repr__(self) -> str:
        """The first rows under each other, and how many there are."""
        head = [list(self.columns), *([_cell(v) for v in row.values()] for row in self[:SHOWN])]
        widths = [min(max(len(line[i]) for line in head), 40) for i in range(len(self.columns))]
        lines = ["  ".join(_fitted(cell, width) for cell, width in zip(line, widths, strict=True)) for line in head]
        more = [f"... {len(self) - SHOWN} more rows"] if len(self) > SHOWN else []
        return "\n".join([line.rstrip() for line in lines] + more)

    def _repr_html_(self) -> str:
        """For notebooks."""
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.columns)
        body = "".join(
            f"<tr>{''.join(f'<td>{html.escape(_cell(v))}</td>' for v in row.values())}</tr>" for row in self[:SHOWN]
        )
        more = f"<p>{len(self) - SHOWN} more rows</p>" if len(self) > SHOWN else ""
        return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{more}"

    def __reduce__(self) -> tuple[type[Rows], tuple[list[dict[str, Any]], tuple[str, ...]]]:
        return type(self), (list(self), self._columns)


def require_format(path: str | Path) -> None:
    """Raises UsageError for a file that is neither .csv nor .json."""
    if Path(path).suffix.lower() not in (".csv", ".json"):
        raise UsageError(f"{path}: a table is written as .csv or .json; give the file one of these suffixes")


def _cell(value: Any) -> str:
    value = plain(value)
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _fitted(cell: str, width: int) -> str:
    return cell.ljust(width) if len(cell) <= width else f"{cell[: width - 3]}..."
