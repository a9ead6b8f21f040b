"""A section of the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnxmpq.page.document import Document
from onnxmpq.page.markup import Markup

NEEDS_REPORT = "It takes a report: convert with --report FILE.json, then onnxmpq report FILE.json."


def about_times(document: Document) -> str:
    """Where the times of regions come from, and what they are worth."""
    if document.plan.number("measured", "latency_ms") is None:
        return "Times are those of the target's cost table."
    timed = document.tree.number("timings", "total")
    plans = "all plans that were timed" if timed is None else f"{timed:.0f} plans that were timed"
    said = f"Times come from the runtime's profiler, over {plans}, fitted to the wall clock."
    if document.plan.text("budgets", "latency"):
        return said
    return f"{said} No latency was asked for, so few plans were timed: times of single regions are rough."


@dataclass(frozen=True)
class Section:
    """name: its id. build: its content, None where the document lacks what it shows. needs: said then; empty where the
    section is left out instead."""

    name: str
    title: str
    build: Callable[[Document], Markup | None]
    needs: str = NEEDS_REPORT
