"""The result of a fleet: a row for each model, as table, JSON and page."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from rich.console import Console
from rich.table import Table

from onnxmpq.errors import FleetError, printable
from onnxmpq.files import dump_json, is_whole

SCHEMA = "onnxmpq.fleet/1"
HEADS = ("model", "target", "asked", "MB", "of fp32's MB", "ms", "of fp32's ms", "SQNR dB", "quality", "s")
"""Of the table; shares are of the original."""


@dataclass(frozen=True)
class Converted:
    """An entry, and what became of it.

    key: hash of its model, data, options and programs. model: path of the source. error, code: why it was not
    converted, with the exit code that `convert` would have; "" and 0 where it was. budgets: as asked. met: False where
    the closest plan was asked for, None where nobody knows. Sizes in bytes, latencies in milliseconds, None where there
    are none: measured, or for a modelled target as predicted. quality: level of the verdict. files: that were written,
    by kind, with output_sha256 of the model (its external data behind it). reused: from a run before this one.
    """

    name: str
    key: str
    model: str
    target: str
    budgets: Mapping[str, str]
    error: str = ""
    code: int = 0
    met: bool | None = None
    original_bytes: int | None = None
    size_bytes: int | None = None
    original_ms: float | None = None
    latency_ms: float | None = None
    sqnr_db: float | None = None
    quality: str = ""
    files: Mapping[str, str] | None = None
    output_sha256: str = ""
    seconds: float = 0.0
    reused: bool = False

    @property
    def done(self) -> bool:
        return not self.error


@dataclass(frozen=True)
class Fleet:
    """Rows in the order of the entries. source: file or folder, as named. unfinished: entries that no run came to."""

    source: str
    rows: tuple[Converted, ...]
    unfinished: tuple[str, ...] = ()

    @property
    def failed(self) -> tuple[Converted, ...]:
        return tuple(row for row in self.rows if not row.done)

    @property
    def error(self) -> FleetError | None:
        """None where all were converted."""
        if not self.failed:
            return None
        names = ", ".join(f"{row.name} (exit code {row.code})" for row in self.failed)
        return FleetError(f"{len(self.failed)} of {len(self.rows)} models were not converted: {names}")

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "schema": SCHEMA,
            "source": self.source,
            "models": [asdict(row) for row in self.rows],
            "unfinished": list(self.unfinished),
            "converted": len(self.rows) - len(self.failed),
            "failed": [row.name for row in self.failed],
        }

    def to_json(self) -> str:
        """`to_dict` as text."""
        return dump_json(self.to_dict()) + "\n"

    def render(self, console: Console) -> None:
        """A table of what was converted, a line of the whole, and the failures at the end."""
        table = Table(*HEADS)
        for row in (r for r in self.rows if r.done):
            table.add_row(*(printable(cell) for cell in cells(row)))
        if table.rows:
            console.print(table)
        before = sum(r.original_bytes or 0 for r in self.rows if r.done)
        after = sum(r.size_bytes or 0 for r in self.rows if r.done)
        kept = sum(r.reused for r in self.rows)
        said = [f"{len(self.rows) - len(self.failed)} of {len(self.rows)} models converted"]
        said += [f"{before / 1e6:.1f} MB -> {after / 1e6:.1f} MB"] if before else []
        said += [f"{kept} of them by a run before this one"] if kept else []
        console.print(", ".join(said), highlight=False, markup=False, soft_wrap=True)
        for row in self.failed:
            line = f"not converted: {row.name} for {row.target}: {row.error} (exit code {row.code})"
            console.print(printable(line), highlight=False, markup=False, soft_wrap=True, style="bold")


def cells(row: Converted) -> tuple[str, ...]:
    """Of a row of the table, as text."""
    asked = ", ".join(f"{name} {value}" for name, value in row.budgets.items())
    return (
        row.name,
        row.target,
        f"{asked} MISSED" if row.met is False else asked,
        _figure(row.size_bytes, 1e6, ".3f"),
        _share(row.size_bytes, row.original_bytes),
        _figure(row.latency_ms, 1.0, ".3f"),
        _share(row.latency_ms, row.original_ms),
        _figure(row.sqnr_db, 1.0, ".1f"),
        row.quality,
        "before" if row.reused else f"{row.seconds:.0f}",
    )


def values(row: Converted) -> tuple[float | None, ...]:
    """Numbers of the same columns, None where there are texts."""
    shares = _ratio(row.size_bytes, row.original_bytes), _ratio(row.latency_ms, row.original_ms)
    return None, None, None, row.size_bytes, shares[0], row.latency_ms, shares[1], row.sqnr_db, None, row.seconds


def _figure(value: float | None, unit: float, spec: str) -> str:
    return "" if value is None else format(value / unit, spec)


def _share(value: float | None, whole: float | None) -> str:
    ratio = _ratio(value, whole)
    return "" if ratio is None else f"{ratio:.0%}"


def _ratio(value: float | None, whole: float | None) -> float | None:
    return value / whole if value is not None and whole else None


def rows_by_name(document: Any) -> dict[str, Converted]:
    """Rows of a file that `to_json` made; nothing of one that is damaged or of another schema."""
    rows = document.get("models") if isinstance(document, dict) and document.get("schema") == SCHEMA else None
    found: dict[str, Converted] = {}
    for row in rows if isinstance(rows, list) else ():
        if isinstance(row, dict) and _fits(row):
            found[row["name"]] = Converted(**row)
    return found


def _fits(row: Mapping[str, Any]) -> bool:
    """True where all fields are there, and of their types."""
    hints = get_type_hints(Converted)
    return row.keys() == hints.keys() and all(_is(row[name], hint) for name, hint in hints.items())


def _is(value: object, hint: Any) -> bool:
    """True for a value of a field as JSON has it: a number with a fraction of zero may have lost it."""
    kinds = get_args(hint) if get_origin(hint) is UnionType else (hint,)
    if isinstance(value, dict):
        texts = all(isinstance(inner, str) for inner in value.values())
        return texts and any(get_origin(kind) is Mapping for kind in kinds)
    return type(value) in kinds or (float in kinds and is_whole(value))
