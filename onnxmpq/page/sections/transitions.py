"""Changes between float32 and a quantized format, and their cost."""

from __future__ import annotations

from onnxmpq.page import figures
from onnxmpq.page.document import Document
from onnxmpq.page.markup import Markup, element, join
from onnxmpq.page.sections.types import Section, about_times
from onnxmpq.page.tables import MOST_ROWS, Cell, Column, breakable, left_off, table
from onnxmpq.page.tree import Tree

_WORDS = {"quantize": "quantize", "dequantize": "dequantize", "layout": "memory layout"}


def build(document: Document) -> Markup | None:
    if not document.full:
        return None
    rows = document.tree.rows("transitions")
    changes = [r for r in rows if r.text("change") in ("quantize", "dequantize")]
    if not rows:
        return element("p", "The plan changes no tensor's format.", class_="lead")
    cost = sum(r.number("latency_ms") or 0.0 for r in rows)
    total = document.plan.number("prediction", "latency_ms")
    share = f", {cost / total:.1%} of the predicted latency" if total else ""
    said = (
        f"{figures.count(len(changes), 'change')} between float and quantized formats, and "
        f"{figures.count(len(rows) - len(changes), 'change')} of memory layout: {figures.ms(cost)} ms together{share}. "
        f"A tensor that several regions read is converted once, for the first of them. {about_times(document)}"
    )
    ordered = sorted(rows, key=lambda r: -(r.number("latency_ms") or 0.0))
    largest = ordered[0].number("latency_ms") or 0.0
    columns = [
        *(Column(name, wide=True) for name in ("Tensor", "From", "To")),
        Column("Change"),
        Column("ms", numeric=True),
    ]
    return join(
        [
            element("p", said, class_="lead"),
            table("Transitions", columns, [_cells(row, largest) for row in ordered[:MOST_ROWS]]),
            left_off(len(rows)),
        ]
    )


def _cells(row: Tree, largest: float) -> list[Cell | str]:
    cost = row.number("latency_ms")
    return [
        Cell(breakable(row.text("tensor"))),
        Cell(breakable(row.text("producer") or "input")),
        Cell(breakable(row.text("consumer") or "output")),
        _WORDS.get(row.text("change"), figures.UNKNOWN),
        Cell(figures.ms(cost, largest), cost),
    ]


SECTION = Section("transitions", "Transitions", build)
