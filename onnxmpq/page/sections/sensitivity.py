"""Sensitivity and bytes: which layers cost quality, and which of them hold the bytes."""

from __future__ import annotations

from onnxmpq.page import figures
from onnxmpq.page.charts import Part, bar, legend
from onnxmpq.page.document import Document, RegionView
from onnxmpq.page.markup import Markup, element, join
from onnxmpq.page.sections.types import Section
from onnxmpq.page.tables import breakable, short

CHARTED = 12
_NAME = 80  # characters


def build(document: Document) -> Markup | None:
    found = [r for r in document.regions if r.effect is not None]
    if not found:
        return None
    return join([_lead(document, found), _effects(found), _bytes(document)])


def _lead(document: Document, regions: list[RegionView]) -> Markup:
    total = sum(r.effect or 0.0 for r in regions)
    first = sorted(regions, key=lambda r: -(r.effect or 0.0))[:3]
    share = sum(r.effect or 0.0 for r in first) / total if total > 0 else 0.0
    said = (
        "The effect of a region is the divergence of the outputs from fp32's when it alone is quantized (nats for "
        "class scores, else squared error over variance), measured on the samples. "
    )
    if total > 0 and len(regions) > 3:
        said += f"The three most sensitive regions have {share:.0%} of the sum, {figures.effect(total)}."
    if not document.full:
        said += " A plan holds effects of weights alone."
    return element("p", said, class_="lead")


def _effects(regions: list[RegionView]) -> Markup:
    first = sorted(regions, key=lambda r: -(r.effect or 0.0))[:CHARTED]
    largest = max((r.effect or 0.0 for r in first), default=0.0)
    content = []
    for region in first:
        parts = [Part(region.effect_weights or 0.0, "weights", "weights")]
        parts.append(Part(region.effect_activations or 0.0, "activations", "activations"))
        content += [
            _name(region),
            element("div", bar(parts, largest), class_="bars"),
            element("span", element("b", figures.effect(region.effect)), class_="value"),
        ]
    words = [("weights", "effect of its weights"), ("activations", "of activations that it quantizes first")]
    return join([element("h3", "Most sensitive regions"), legend(words), element("div", *content, class_="rows")])


def _bytes(document: Document) -> Markup | None:
    layers = [r for r in document.regions if r.layer]
    if not layers:
        return None
    first = sorted(layers, key=lambda r: -(r.bytes_fp32 or r.bytes or 0.0))[:CHARTED]
    largest = max(max(r.bytes_fp32 or 0.0, r.bytes or 0.0) for r in first)
    content = []
    for region in first:
        known = document.has_fp32
        bars = [bar([Part(region.bytes_fp32 or 0.0, "before")], largest, height=9)] if known else []
        bars.append(bar([Part(region.bytes or 0.0, "after")], largest, height=9))
        before = (figures.size(region.bytes_fp32), " → ") if known else ()
        content += [
            _name(region),
            element("div", *bars, class_="bars"),
            element("span", *before, element("b", figures.size(region.bytes)), class_="value"),
        ]
    words = [("before", "fp32"), ("after", "stored")]
    shown = words if document.has_fp32 else words[1:]
    return join([element("h3", "Largest layers"), legend(shown), element("div", *content, class_="rows")])


def _name(region: RegionView) -> Markup:
    scheme = element("span", f" {short(region.scheme, _NAME)}", class_="note")
    return element("span", breakable(region.name, _NAME), scheme, class_="name")


SECTION = Section("sensitivity", "Sensitivity and bytes", build)
