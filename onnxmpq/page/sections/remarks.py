"""Notes and warnings: what the figures cannot say."""

from __future__ import annotations

from onnxmpq.page.document import Document
from onnxmpq.page.markup import Markup, element
from onnxmpq.page.sections.types import Section
from onnxmpq.page.tables import short

MOST = 100
_LONGEST = 1000  # characters of a note


def build(document: Document) -> Markup | None:
    warnings = [f"Warning: {text}" for text in document.tree.texts("warnings")]
    notes = [*document.tree.texts("notes"), *document.plan.texts("notes")]
    lines = list(dict.fromkeys([*warnings, *notes]))[:MOST]
    if not lines:
        return None
    return element("ul", *(element("li", short(line, _LONGEST)) for line in lines), class_="lines")


SECTION = Section("notes", "Notes", build, "")
