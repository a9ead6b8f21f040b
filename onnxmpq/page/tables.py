"""Tables whose columns can be sorted; the headers are buttons, so the keyboard reaches them (`sort.js`)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from onnxmpq.page.markup import Child, Markup, element, join, shortened

MOST_ROWS = 1000
"""Rows that a page shows; a report as JSON has them all."""
LONGEST = 160
"""Characters of a name that a page shows."""


@dataclass(frozen=True)
class Cell:
    """shown: what is in it. value: what a column of numbers is sorted by, None for what is not known."""

    shown: Child
    value: float | None = None


@dataclass(frozen=True)
class Column:
    """numeric: aligned to the right, and sorted by `Cell.value`. wide: holds names, and stays readable on a phone."""

    title: str
    numeric: bool = False
    wide: bool = False

    @property
    def kind(self) -> str | None:
        """Class of the style sheet."""
        return "n" if self.numeric else "wide" if self.wide else None


def table(
    label: str,
    columns: Sequence[Column],
    rows: Iterable[Sequence[Cell | str]],
    foot: Sequence[Cell | str] | None = None,
    *,
    sortable: bool = True,
) -> Markup:
    """label: what the table is, for screen readers. rows: at most `MOST_ROWS` are taken. foot: a last row that stays
    where it is."""
    heads = [_head(column, sortable) for column in columns]
    body = [
        element("tr", *(_cell(c, column) for c, column in zip(row, columns, strict=True)))
        for row in itertools.islice(rows, MOST_ROWS)
    ]
    last = None
    if foot is not None:
        last = element("tfoot", element("tr", *(_cell(c, column) for c, column in zip(foot, columns, strict=True))))
    made = element(
        "table",
        element("thead", element("tr", *heads)),
        element("tbody", *body),
        last,
        class_="sortable" if sortable else None,
    )
    return element("div", made, class_="scroll", role="region", aria_label=label, tabindex=0)


def _head(column: Column, sortable: bool) -> Markup:
    title = element("button", column.title, type="button") if sortable else column.title
    return element("th", title, scope="col", class_=column.kind)


def _cell(cell: Cell | str, column: Column) -> Markup:
    cell = cell if isinstance(cell, Cell) else Cell(cell)
    value = None if not column.numeric or cell.value is None else f"{cell.value:.6g}"
    return element("td", cell.shown, class_=column.kind, data_v=value)


def short(name: str, most: int = LONGEST) -> str:
    """A name as it is shown where there are many of them."""
    return shortened(name, most)


def breakable(name: str, most: int = LONGEST) -> Markup:
    """A name, not too long, that a line may end in behind each slash."""
    first, *rest = short(name, most).split("/")
    return join([first, *(part for piece in rest for part in ("/", element("wbr"), piece))])


def left_off(total: int, where: str = "a report as .json has them all", most: int = MOST_ROWS) -> Markup | None:
    """That a table of at most so many rows is not whole; nothing where it is."""
    if total <= most:
        return None
    return element("p", f"{total - most} more rows are left off; {where}.", class_="note")
