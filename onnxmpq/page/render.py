"""A document as a page."""

from __future__ import annotations

from onnxmpq.page import layout
from onnxmpq.page.document import Document
from onnxmpq.page.markup import Markup, element
from onnxmpq.page.sections import SECTIONS
from onnxmpq.page.sections import verdict as verdicts
from onnxmpq.page.tables import short


def render(document: Document) -> str:
    """HTML of one file that needs nothing else. What the document does not have is said in the place of the section."""
    found: list[tuple[str, str, Markup]] = []
    for section in SECTIONS:
        content = section.build(document)
        if content is None and section.needs:
            content = layout.missing(section.needs)
        if content is not None:
            found.append((section.name, section.title, content))
    header = element(
        "header",
        element("p", "onnxmpq report", class_="by"),
        element("h1", short(document.model)),
        element("p", _subtitle(document), class_="sub"),
    )
    return layout.page(f"{short(document.model)} – onnxmpq", header, found, first=verdicts.show(document))


def _subtitle(document: Document) -> str:
    target, cpu = document.plan.text("target"), document.plan.text("runtime", "cpu")
    parts = [
        "mixed-precision plan",
        f"target {short(target)}" if target else "",
        f"made on {short(cpu)}" if cpu else "",
    ]
    if document.kind == "plan":
        parts.append("made from the plan file alone")
    return " · ".join(part for part in parts if part)
