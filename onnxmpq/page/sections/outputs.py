"""Quality of each output, the worst first, beside that of static int8."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from onnxmpq.page import figures
from onnxmpq.page.document import Document
from onnxmpq.page.markup import Markup, element, join
from onnxmpq.page.sections.types import Section
from onnxmpq.page.tables import Cell, Column, left_off, short, table
from onnxmpq.page.tree import Tree

Shown = tuple[str, Callable[[Tree], float | None], Callable[[float | None], str]]
"""Heading, figure of an output, and how it is shown."""
_FIGURES: Sequence[Shown] = (
    ("SQNR", Tree.sqnr_db, figures.decibel),
    ("Cosine", lambda o: o.level("cosine"), lambda v: figures.UNKNOWN if v is None else f"{v:.5f}"),
    ("Relative error", lambda o: o.level("relative_mse"), figures.effect),
    ("KL, nats", lambda o: o.level("kl_nats"), figures.effect),
    ("Same top class", lambda o: o.level("top1_agreement"), figures.percent),
    ("SQNR unfused", lambda o: o.level("sqnr_unfused_db"), figures.decibel),
)
_OF_INT8: Sequence[Shown] = (
    ("Static int8: SQNR", Tree.sqnr_db, figures.decibel),
    ("Static int8: KL", lambda o: o.level("kl_nats"), figures.effect),
)


def build(document: Document) -> Markup | None:
    rows = document.tree.rows("validation", "outputs")
    if not rows:
        return None
    int8 = {row.text("name"): row for row in document.tree.rows("int8", "outputs")}
    ordered = sorted(rows, key=lambda row: math.inf if (v := row.sqnr_db()) is None else v)
    said = (
        f"Against fp32's outputs on {_samples(document)}. Unfused is the same file without the runtime's graph "
        "optimisations; where it differs by more than 3 dB, check the runtime that you deploy on."
    )
    if int8:
        said += " Static int8 is int8 wherever it runs, as other tools make it, on the same samples."
    return join(
        [
            element("p", said, class_="lead"),
            _table(ordered, int8),
            left_off(len(rows)),
            _metric(document.tree.at("validation", "metric")),
        ]
    )


def _samples(document: Document) -> str:
    samples = document.tree.whole("validation", "samples")
    if samples is None:
        return "the samples"
    what = figures.count(samples, "sample")
    held_out = document.tree.flag("validation", "held_out")
    return f"{what} that calibration never saw" if held_out else f"{what} of the calibration"


def _table(rows: Sequence[Tree], int8: dict[str, Tree]) -> Markup:
    others = _OF_INT8 if int8 else ()
    columns = [Column("Output", wide=True), Column("Kind")]
    columns += [Column(title, numeric=True) for title, _, _ in (*_FIGURES, *others)]
    cells: list[list[Cell | str]] = []
    for row in rows:
        other = int8.get(row.text("name"), Tree(None))
        found = [Cell(show(of(row)), of(row)) for _, of, show in _FIGURES]
        found += [Cell(show(of(other)), of(other)) for _, of, show in others]
        cells.append([short(row.text("name")), short(row.text("kind")), *found])
    return table("Quality of the outputs, worst first", columns, cells)


def _metric(metric: Tree) -> Markup | None:
    before, after = metric.number("original"), metric.number("result")
    if before is None or after is None:
        return None
    name = metric.text("name") or "metric"
    return element("p", f"{name} on labelled samples: {before:.4g} in fp32, {after:.4g} here ({after - before:+.3g}).")


SECTION = Section("outputs", "Outputs", build)
