"""The page of many conversions: a table with a link to the page of each, and those that failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

from onnxmpq.page.layout import page
from onnxmpq.page.markup import element, join
from onnxmpq.page.tables import Cell, Column, breakable, left_off, table


@dataclass(frozen=True)
class FleetRow:
    """cells: texts under the heads. values: what columns of numbers are sorted by. link: file of the page of the
    first cell."""

    cells: Sequence[str]
    values: Sequence[float | None]
    link: str


def render_fleet(
    source: str, lead: str, heads: Sequence[str], rows: Sequence[FleetRow], failures: Sequence[tuple[str, str]]
) -> str:
    """One HTML file. heads: of the columns, numeric where a row has a value. failures: name and reason."""
    numeric = [any(row.values[n] is not None for row in rows) for n in range(len(heads))]
    columns = [Column(head, number, wide=not n) for n, (head, number) in enumerate(zip(heads, numeric, strict=True))]
    made: list[list[Cell | str]] = [
        [
            Cell(element("a", breakable(row.cells[0]), href=quote(row.link))),
            *(Cell(text, value) for text, value in zip(row.cells[1:], row.values[1:], strict=True)),
        ]
        for row in rows
    ]
    first = element("section", element("p", lead, class_="lead"))
    sections = [("models", "Models", join([table("Models", columns, made), left_off(len(rows), "fleet.json has all")]))]
    if failures:
        reasons: list[list[Cell | str]] = [[Cell(breakable(name)), why] for name, why in failures]
        told = table("Not converted", [Column("Model", wide=True), Column("Why", wide=True)], reasons)
        sections.append(("failures", "Not converted", told))
    header = element("header", element("h1", breakable(source)))
    return page(f"{source}: fleet", header, sections, first=first)
