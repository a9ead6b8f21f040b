"""A section of the page."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnxmpq.page.document import Document
from onnxmpq.page.markup import Markup

NEEDS_REPORT = "It takes a report: convert with --report FILE.json, then onnxmpq report FILE.json."


@dataclass(frozen=True)
class Section:
    """name: its id. build: its content, None where the document lacks what it shows. needs: said then; empty where the
    section is left out instead."""

    name: str
    title: str
    build: Callable[[Document], Markup | None]
    needs: str = NEEDS_REPORT
