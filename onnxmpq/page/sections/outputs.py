"""Quality of each output, the worst first."""

from __future__ import annotations

import math

from onnxmpq.page import figures
from onnxmpq.page.document import Document
from onnxmpq.page.markup import Markup, element, join
from onnxmpq.page.sections.types import Section
from onnxmpq.page.tables import MOST_ROWS, Cell, Column, left_off, short, table
from onnxmpq.page.tree import Tree


def build(document: Document) -> Markup | None:
    rows = document.tree.rows("validation", "outputs")
    if not rows:
        return None
    ordered = sorted(rows, key=lambda row: _or(row.number("sqnr_db"), math.inf))
    columns = [
        Column("Output"),
        Column("Kind"),
        *(
            Column(name, numeric=True)
            for name in ("SQNR", "Cosine", "Relative error", "KL, nats", "Same top class", "SQNR unfused")
        ),
    ]
    said = (
        f"Against fp32's outputs on {_samples(document)}. Unfused is the same file without the runtime's graph "
        "optimisations; where it differs by more than 3 dB, check the runtime that you deploy on."
    )
    return join(
        [
            element("p", said, class_="lead"),
            table("Quality of the outputs, worst first", columns, [_cells(row) for row in ordered[:MOST_ROWS]]),
            left_off(len(rows)),
            _metric(document.tree.at("validation", "metric")),
        ]
    )


def _samples(document: Document) -> str:
    samples, held_out = document.tree.number("validation", "samples"), document.tree.flag("validation", "held_out")
    if samples is None:
        return "the samples"
    what = "sample that calibration never saw" if held_out else "calibration sample"
    number = int(samples) if math.isfinite(samples) else 0
    return f"{number} {what.replace('sample', 'samples', 1)}" if number != 1 else f"1 {what}"


def _cells(row: Tree) -> list[Cell | str]:
    sqnr, unfused = row.number("sqnr_db"), row.number("sqnr_unfused_db")
    agreement = row.number("top1_agreement")
    return [
        short(row.text("name")),
        short(row.text("kind")),
        Cell(figures.decibel(sqnr), sqnr),
        Cell(figures.UNKNOWN if (c := row.number("cosine")) is None else f"{c:.5f}", c),
        Cell(figures.effect(row.number("relative_mse")), row.number("relative_mse")),
        Cell(figures.effect(row.number("kl_nats")), row.number("kl_nats")),
        Cell(figures.percent(agreement), agreement),
        Cell(figures.decibel(unfused), unfused),
    ]


def _metric(metric: Tree) -> Markup | None:
    before, after = metric.number("original"), metric.number("result")
    if before is None or after is None:
        return None
    name = metric.text("name") or "metric"
    return element("p", f"{name} on labelled samples: {before:.4g} in fp32, {after:.4g} here ({after - before:+.3g}).")


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


SECTION = Section("outputs", "Outputs", build)
