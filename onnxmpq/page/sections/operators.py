"""Time by ONNX operator: in float32 beside the plan."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from onnxmpq.page import figures
from onnxmpq.page.charts import Part, bar, legend
from onnxmpq.page.document import Document
from onnxmpq.page.markup import Markup, element, join
from onnxmpq.page.sections.types import NEEDS_REPORT, Section, about_times
from onnxmpq.page.tables import Cell, Column, short, table

CHARTED = 12
CHANGES, REST = "changes of format and layout", "the rest of a run"


@dataclass(frozen=True)
class _Row:
    """Times of all regions whose head is an operator. schemes: in words."""

    name: str
    regions: int
    schemes: str
    before_ms: float
    after_ms: float


def build(document: Document) -> Markup | None:
    if not document.has_fp32:
        return None
    rows = _rows(document)
    others = _others(document, rows)
    said = (
        "A region counts for the operator of its first node; nodes that the runtime fuses into it (an activation, a "
        f"bias) are in its time. {about_times(document)}"
    )
    return join(
        [
            element("p", said, class_="lead"),
            _chart([*rows[:CHARTED], *others]),
            legend([("before", "fp32"), ("after", "this plan")]),
            _table(rows, others),
        ]
    )


def _rows(document: Document) -> list[_Row]:
    """The slowest in float32 first."""
    groups: dict[str, list[int]] = {}
    for position, region in enumerate(document.regions):
        groups.setdefault(region.op_type, []).append(position)
    found = []
    for name, positions in groups.items():
        mine = [document.regions[p] for p in positions]
        schemes = Counter(r.scheme for r in mine)
        words = ", ".join(f"{count} {scheme}" for scheme, count in schemes.most_common())
        found.append(_Row(name, len(mine), words, sum(r.ms_fp32 or 0.0 for r in mine), sum(r.ms or 0.0 for r in mine)))
    return sorted(found, key=lambda row: -row.before_ms)


def _others(document: Document, rows: Iterable[_Row]) -> list[_Row]:
    """Time that belongs to no region, so that the columns add up to the predictions for whole models."""
    rows = list(rows)
    changes = sum(t.number("latency_ms") or 0.0 for t in document.tree.rows("transitions"))
    totals = [document.plan.number("prediction", f"{which}latency_ms") for which in ("original_", "")]
    before, after = totals
    found = [_Row(CHANGES, 0, "", 0.0, changes)] if changes else []
    if before is not None and after is not None:
        rest = before - sum(r.before_ms for r in rows), after - changes - sum(r.after_ms for r in rows)
        if max(rest) > 0.001 * max(before, after):
            found.append(_Row(REST, 0, "", max(rest[0], 0.0), max(rest[1], 0.0)))
    return found


def _chart(rows: list[_Row]) -> Markup:
    largest = max([*(r.before_ms for r in rows), *(r.after_ms for r in rows), 0.0])
    content = []
    for row in rows:
        bars = (
            bar([Part(row.before_ms, "before")], largest, height=9),
            bar([Part(row.after_ms, "after")], largest, height=9),
        )
        value = (figures.ms(row.before_ms, largest), " → ", element("b", figures.ms(row.after_ms, largest)), " ms")
        content += [
            element("span", short(row.name), class_="name"),
            element("div", *bars, class_="bars"),
            element("span", *value, class_="value"),
        ]
    return element("div", *content, class_="rows")


def _table(rows: list[_Row], others: list[_Row]) -> Markup:
    numbers = ("Regions", "fp32 ms", "Plan ms", "Saved ms", "Ratio")
    columns = [Column("Operator"), *(Column(name, numeric=True) for name in numbers), Column("Schemes")]
    every = [*rows, *others]
    total = _Row(
        "Total, predicted",
        sum(r.regions for r in rows),
        "",
        sum(r.before_ms for r in every),
        sum(r.after_ms for r in every),
    )
    largest = max(total.before_ms, total.after_ms)
    return table("Time by operator", columns, [_cells(row, largest) for row in every], _cells(total, largest))


def _cells(row: _Row, largest: float) -> list[Cell | str]:
    saved = row.before_ms - row.after_ms
    ratio = row.after_ms / row.before_ms if row.before_ms else None
    return [
        short(row.name),
        Cell(str(row.regions or ""), row.regions),
        Cell(figures.ms(row.before_ms, largest), row.before_ms),
        Cell(figures.ms(row.after_ms, largest), row.after_ms),
        Cell(figures.ms(saved, largest), saved),
        Cell(figures.UNKNOWN if ratio is None else f"{ratio:.2f}", ratio),
        row.schemes,
    ]


SECTION = Section("operators", "Time by operator", build, NEEDS_REPORT)
