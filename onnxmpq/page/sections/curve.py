"""The trade-off: plans of least effect at many limits, uniform schemes, static int8, and the plan that was chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from onnxmpq.page import figures
from onnxmpq.page.charts import Mark, legend, scatter
from onnxmpq.page.document import FP32, Document
from onnxmpq.page.markup import Markup, element, join
from onnxmpq.page.quality import divergence
from onnxmpq.page.sections.types import Section, about_times
from onnxmpq.page.tables import Cell, Column, short, table
from onnxmpq.page.tree import Tree

NEEDS = "It takes a report that was made with --report FILE.json or FILE.html; a plan file has the chosen plan alone."
STATIC_INT8 = "static int8"
LEAST = 1e-15  # divergence that a chart can tell from 0
MOST = 200  # points of each kind
_NAME = 30  # characters
Kind = Literal["curve", "uniform", "static", "chosen", "fp32"]


@dataclass(frozen=True)
class _Point:
    """One plan. effect: predicted divergence; found: the measured one. timed: True where its latency was. words: of its
    layers."""

    kind: Kind
    name: str
    ms: float | None
    bytes: float | None
    effect: float | None
    timed: bool
    words: str
    found: float | None = None


@dataclass(frozen=True)
class _Axis:
    """The horizontal axis of a chart."""

    label: str
    scale: float
    of: Callable[[_Point], float | None]
    show: Callable[[float | None], str]


_LATENCY = _Axis("latency, ms", 1.0, lambda p: p.ms, lambda v: f"{figures.ms(v)} ms")
_SIZE = _Axis("size, MB", 1e-6, lambda p: p.bytes, figures.size)


def build(document: Document) -> Markup | None:
    points = [*_uniform(document), *_curve(document), _chosen(document)]
    if len(points) < 2:
        return None
    by_size = bool(document.plan.text("budgets", "size")) and not document.plan.text("budgets", "latency")
    axes = (_SIZE, _LATENCY) if by_size else (_LATENCY, _SIZE)
    said = (
        "Divergence from fp32 (lower is better) against latency and size. Filled points are predictions of the cost "
        "table and of single effects; none of those plans was built. Rings were measured, on the validation samples. "
        f"Latencies that were timed are marked in the table. {about_times(document)}"
    )
    kinds: set[str] = {p.kind for p in points}
    kinds |= {"hollow" for p in points if p.found is not None}
    shown = legend([(kind, words) for kind, words in _KEYS if kind in kinds])
    return join([element("p", said, class_="lead"), shown, *(_chart(points, a) for a in axes), _table(points)])


_KEYS: tuple[tuple[str, str], ...] = (
    ("chosen", "this plan"),
    ("curve", "least loss at a limit"),
    ("static", "int8 wherever it runs"),
    ("uniform", "one scheme for all"),
    ("fp32", "fp32"),
    ("hollow", "measured"),
)


def _chosen(document: Document) -> _Point:
    plan = document.plan
    timed = plan.number("measured", "latency_ms")
    size = plan.number("measured", "size_bytes") or plan.number("prediction", "size_bytes")
    latency = timed if timed is not None else plan.number("prediction", "latency_ms")
    effect = plan.number("prediction", "effect")
    counts: dict[str, int] = {}
    for region in document.regions:
        if region.layer:
            counts[region.scheme] = counts.get(region.scheme, 0) + 1
    words = ", ".join(f"{n} {s}" for s, n in sorted(counts.items(), key=lambda item: -item[1]))
    found = divergence(document.tree.at("validation"))
    return _Point("chosen", "this plan", latency, size, effect, timed is not None, words, found)


def _curve(document: Document) -> list[_Point]:
    """Of the report, or as the plan keeps it."""
    rows = [(r, r.text("schemes")) for r in document.tree.rows("curve")]
    rows = rows or [(r.at("predicted"), "") for r in document.plan.rows("points")]
    return [_on_curve(number, row, words) for number, (row, words) in enumerate(rows[:MOST], 1)]


def _on_curve(number: int, row: Tree, words: str) -> _Point:
    latency, size, effect = (row.number(field) for field in ("latency_ms", "size_bytes", "effect"))
    return _Point("curve", f"point {number}", latency, size, effect, False, words)


def _uniform(document: Document) -> list[_Point]:
    int8 = divergence(document.tree.at("int8"))
    return [_of_uniform(row, int8) for row in document.tree.rows("uniform")[:MOST]]


def _of_uniform(row: Tree, int8: float | None) -> _Point:
    name, regions = row.text("name"), row.number("regions")
    kind: Kind = "fp32" if name == FP32 else "static" if name == STATIC_INT8 else "uniform"
    words = "" if not regions else f"in {regions:.0f} regions"
    latency, size, effect = (row.number(field) for field in ("latency_ms", "size_bytes", "effect"))
    found = int8 if kind == "static" else None
    return _Point(kind, name, latency, size, effect, row.flag("measured") is True, words, found)


def _chart(points: list[_Point], axis: _Axis) -> Markup | None:
    marks = [mark for p in points for mark in _marks(p, axis)]
    if len(marks) < 2:
        return None
    summary = f"Divergence over {axis.label}: {len(marks)} points; the table below has their figures."
    return element("figure", scatter(marks, axis.label, "divergence", summary))


def _marks(p: _Point, axis: _Axis) -> Iterator[Mark]:
    """Predicted and measured. The first of them has the label."""
    x, label = axis.of(p), "" if p.kind == "curve" else short(p.name, _NAME)
    for value, how in ((p.effect, "predicted"), (p.found, "measured")):
        if x is not None and x >= 0 and value is not None and (value == 0 or value >= LEAST):
            note = f"{short(p.name, _NAME)}: {axis.show(x)}, divergence {figures.effect(value)} {how}; {short(p.words)}"
            yield Mark(x * axis.scale, value, p.kind, note, label, how == "measured")
            label = ""


def _table(points: list[_Point]) -> Markup:
    columns = [
        Column("Plan"),
        Column("Latency ms", numeric=True),
        Column("Timed"),
        Column("Size", numeric=True),
        Column("Divergence, predicted", numeric=True),
        Column("measured", numeric=True),
        Column("Layers", wide=True),
    ]
    rows = [
        [
            Cell(element("b", p.name)) if p.kind == "chosen" else short(p.name),
            Cell(figures.ms(p.ms), p.ms),
            "yes" if p.timed else "",
            Cell(figures.size(p.bytes), p.bytes),
            Cell(figures.effect(p.effect), p.effect),
            Cell(figures.effect(p.found), p.found),
            short(p.words),
        ]
        for p in points
    ]
    return table("Plans of the trade-off", columns, rows)


SECTION = Section("curve", "Trade-off", build, NEEDS)
