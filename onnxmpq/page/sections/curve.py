"""The trade-off: plans of least effect at many limits, uniform schemes, static int8, and the plan that was chosen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from onnxmpq.page import figures
from onnxmpq.page.charts import Mark, legend, scatter
from onnxmpq.page.document import FP32, Document
from onnxmpq.page.markup import Markup, element, join
from onnxmpq.page.sections.types import Section
from onnxmpq.page.tables import Cell, Column, short, table
from onnxmpq.page.tree import Tree

NEEDS = "It takes a report that was made with --report FILE.json or FILE.html; a plan file has the chosen plan alone."
STATIC_INT8 = "static int8"
MOST = 200  # points of each kind
_NAME = 30  # characters
Kind = Literal["curve", "uniform", "static", "chosen", "fp32"]


@dataclass(frozen=True)
class _Point:
    """One plan. measured: True where its latency was timed. words: of its layers."""

    kind: Kind
    name: str
    ms: float | None
    bytes: float | None
    effect: float | None
    measured: bool
    words: str


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
    by_size = "latency" not in document.plan.at("budgets").value if document.plan.at("budgets") else False
    axes = (_SIZE, _LATENCY) if by_size else (_LATENCY, _SIZE)
    said = (
        "Predicted divergence from fp32 (lower is better) against latency and size. Points of the curve and of uniform "
        "schemes are predictions of the cost table and of single effects; none of them was built. Latencies that were "
        "timed are marked in the table."
    )
    keys = [
        ("chosen", "this plan"),
        ("curve", "least loss at a limit"),
        ("static", "int8 wherever it runs"),
        ("uniform", "one scheme for all"),
        ("fp32", "fp32"),
    ]
    kinds = {p.kind for p in points}
    shown = legend([(kind, words) for kind, words in keys if kind in kinds])
    return join([element("p", said, class_="lead"), shown, *(_chart(points, a) for a in axes), _table(points)])


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
    return _Point("chosen", "this plan", latency, size, effect, timed is not None, words)


def _curve(document: Document) -> list[_Point]:
    return [
        _Point(
            "curve",
            f"point {n}",
            r.number("latency_ms"),
            r.number("size_bytes"),
            r.number("effect"),
            False,
            r.text("schemes"),
        )
        for n, r in enumerate(document.tree.rows("curve")[:MOST], 1)
    ]


def _uniform(document: Document) -> list[_Point]:
    return [_of_uniform(row) for row in document.tree.rows("uniform")[:MOST]]


def _of_uniform(row: Tree) -> _Point:
    name, regions = row.text("name"), row.number("regions")
    kind: Kind = "fp32" if name == FP32 else "static" if name == STATIC_INT8 else "uniform"
    words = "" if not regions else f"in {regions:.0f} regions"
    measured = row.flag("measured") is True
    return _Point(kind, name, row.number("latency_ms"), row.number("size_bytes"), row.number("effect"), measured, words)


def _chart(points: list[_Point], axis: _Axis) -> Markup | None:
    marks = []
    for p in points:
        x = axis.of(p)
        if x is None or p.effect is None or p.effect < 0:
            continue
        note = f"{short(p.name, _NAME)}: {axis.show(x)}, divergence {figures.effect(p.effect)}; {short(p.words)}"
        marks.append(Mark(x * axis.scale, p.effect, p.kind, note, "" if p.kind == "curve" else short(p.name, _NAME)))
    if len(marks) < 2:
        return None
    summary = f"Predicted divergence over {axis.label}: {len(marks)} plans; the table below has their figures."
    return element("figure", scatter(marks, axis.label, "predicted divergence", summary))


def _table(points: list[_Point]) -> Markup:
    columns = [
        Column("Plan"),
        Column("Latency ms", numeric=True),
        Column("Timed"),
        Column("Size", numeric=True),
        Column("Predicted divergence", numeric=True),
        Column("Layers", wide=True),
    ]
    rows = [
        [
            Cell(element("b", p.name)) if p.kind == "chosen" else short(p.name),
            Cell(figures.ms(p.ms), p.ms),
            "yes" if p.measured else "",
            Cell(figures.size(p.bytes), p.bytes),
            Cell(figures.effect(p.effect), p.effect),
            short(p.words),
        ]
        for p in points
    ]
    return table("Plans of the trade-off", columns, rows)


SECTION = Section("curve", "Trade-off", build, NEEDS)
