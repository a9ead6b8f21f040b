"""The tables of docs/tensorrt.md, made from what the compiler says."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "tensorrt.md"
Rows = Iterable[Sequence[str]]


def table_behind(page: str, heading: str) -> list[str]:
    """Lines of the first table behind a heading, with its two lines of titles."""
    lines = page.splitlines()
    first = next(i for i in range(lines.index(heading), len(lines)) if lines[i].startswith("| "))
    last = next((i for i in range(first, len(lines)) if not lines[i].startswith("|")), len(lines))
    return lines[first:last]


def with_rows(page: str, heading: str, rows: Rows) -> str:
    """The page with other rows in the first table behind a heading; its titles stay."""
    old = table_behind(page, heading)
    new = [*old[:2], *(line(row) for row in rows)]
    before, found, after = page.partition("\n".join(old))
    assert found, heading
    return before + "\n".join(new) + after


def line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def without_repeats(rows: Rows) -> Rows:
    """The first cell only where it is another one than above."""
    above = ""
    for first, *others in rows:
        yield ["" if first == above else first, *others]
        above = first


def placement_cells(rows: Rows) -> Rows:
    """Of `placement_rows`: question, spelling, engine and constants for sm89."""
    for question, spelling, sm89, *_ in rows:
        engine, _, constants = sm89.partition(", ")
        yield question, spelling, engine, constants


def model_cells(rows: Rows) -> Rows:
    """Of `model_rows`, both targets in one line: model, scheme, regions, megabytes in the model and in the engines."""
    found: dict[tuple[str, str], dict[str, Sequence[str]]] = {}
    for target, model, scheme, regions, engine, stored, weights, *_ in rows:
        found.setdefault((model, scheme), {})[target] = (regions, stored, weights, engine)
    for (model, scheme), by_target in found.items():
        regions, stored, *_ = next(iter(by_target.values()))
        sizes = [
            ", ".join(_megabytes(size) for size in by_target[target][2:]) if target in by_target else "-"
            for target in ("l4", "rtx5090")
        ]
        yield model, scheme, regions, _megabytes(stored), *sizes


def _megabytes(count: str) -> str:
    return f"{int(count) / 1e6:.2f}" if count.isdigit() else count
