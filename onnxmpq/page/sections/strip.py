"""The model as a strip: regions in the order of execution, coloured by scheme; and the same to the scale of time."""

from __future__ import annotations

from collections import Counter

from onnxmpq.errors import UsageError
from onnxmpq.page import figures
from onnxmpq.page.charts import Part, bar, cells, thin_joined
from onnxmpq.page.colours import Palette
from onnxmpq.page.document import Document, RegionView
from onnxmpq.page.markup import Markup, element, join
from onnxmpq.page.sections.types import Section
from onnxmpq.page.tables import Cell, Column, short, table
from onnxmpq.schemes import scheme_named

FEW, MANY = 60, 400  # regions up to which fields are large, and from which on they are small
MOST_SCHEMES = 40  # rows of the legend
MOST = 2000  # fields
NOTED = 1000  # fields with a note each
_NAME = 60  # characters of a name in a note


def build(document: Document) -> Markup | None:
    regions = document.regions
    if not regions:
        return None
    palette = Palette(document.shown)
    return join([_lead(document), _fields(document, palette), _times(document, palette), _legend(document, palette)])


def _lead(document: Document) -> Markup:
    layers = sum(r.layer for r in document.regions)
    said = (
        f"{figures.count(len(document.regions), 'region')} in the order of execution, from left to right; the tall "
        f"ones are the {figures.count(layers, 'layer')} with weights. A mark in front of a region says that a tensor "
        "changes its format there."
    )
    if not document.full:
        said += " Regions that the plan does not decide on are not in a plan file."
    return element("p", said, class_="lead")


def _fields(document: Document, palette: Palette) -> Markup:
    turns = {row.text("consumer") for row in document.tree.rows("transitions") if row.text("change") != "layout"}
    entries = [
        _field(region, palette, region.name in turns, len(document.regions)) for region in document.regions[:MOST]
    ]
    counts = Counter(r.scheme for r in document.regions)
    label = "Schemes of the regions: " + ", ".join(f"{counts[s]} {s}" for s in document.shown)
    number = len(document.regions)
    made = cells(entries, label, "few" if number <= FEW else "many" if number >= MANY else "")
    if len(document.regions) > MOST:
        made = join([made, element("p", f"{len(document.regions) - MOST} more regions are not drawn.", class_="note")])
    return made


def _field(region: RegionView, palette: Palette, turn: bool, of: int) -> tuple[str, str]:
    kinds = [palette.of(region.scheme), *(["layer"] if region.layer else []), *(["turn"] if turn else [])]
    time = "" if region.ms is None else f", {figures.ms(region.ms)} ms"
    note = f"{region.order}. {short(region.name, _NAME)} ({short(region.pattern, _NAME)}): {region.scheme}{time}"
    return " ".join(kinds), note if of <= NOTED else ""


def _times(document: Document, palette: Palette) -> Markup | None:
    """fp32 and the plan, both to the same scale of time."""
    if not document.has_fp32:
        return None
    noted = len(document.regions) < MANY
    before = [Part(r.ms_fp32 or 0.0, "s0", _note(r, r.ms_fp32) if noted else "") for r in document.regions]
    after = [Part(r.ms or 0.0, palette.of(r.scheme), _note(r, r.ms) if noted else "") for r in document.regions]
    change = sum(t.number("latency_ms") or 0.0 for t in document.tree.rows("transitions"))
    after.append(Part(change, "change", f"changes of format and layout: {figures.ms(change)} ms"))
    totals = [sum(max(p.value, 0.0) for p in parts) for parts in (before, after)]
    rows = [
        cell
        for name, parts, total in zip(("fp32", "this plan"), (before, after), totals, strict=True)
        for cell in (
            element("span", name, class_="name"),
            element("div", bar(thin_joined(parts, max(totals)), max(totals), height=26), class_="bars"),
            element("span", element("b", figures.ms(total)), " ms", class_="value"),
        )
    ]
    said = (
        "The same regions, as wide as the time that they take by the cost table; changes of format and layout are the "
        "last piece."
    )
    return join(
        [element("h3", "To the scale of time"), element("p", said, class_="note"), element("div", *rows, class_="rows")]
    )


def _note(region: RegionView, value: float | None) -> str:
    return f"{short(region.name, _NAME)}: {figures.ms(value)} ms"


def _legend(document: Document, palette: Palette) -> Markup:
    columns = [
        Column("Scheme", wide=True),
        *(Column(c, numeric=True) for c in ("Layers", "Other regions", "Weights in fp32", "Weights stored")),
    ]
    rows = []
    for scheme in document.shown[:MOST_SCHEMES]:
        mine = [r for r in document.regions if r.scheme == scheme]
        layers = [r for r in mine if r.layer]
        stored = sum(r.bytes or 0.0 for r in layers) if layers else None
        before = sum(r.bytes_fp32 or 0.0 for r in layers) if layers and document.has_fp32 else None
        name = join(
            [element("span", class_=f"swatch {palette.of(scheme)}"), element("b", short(scheme)), *_meaning(scheme)]
        )
        rows.append(
            [
                Cell(name),
                Cell(str(len(layers)), len(layers)),
                Cell(str(len(mine) - len(layers)), len(mine) - len(layers)),
                Cell(figures.size(before), before),
                Cell(figures.size(stored), stored),
            ]
        )
    return table("Schemes", columns, rows)


def _meaning(scheme: str) -> list[str]:
    """The scheme's summary; nothing for one that this version does not know."""
    try:
        return [f" – {scheme_named(scheme).summary}"]
    except UsageError:
        return []


SECTION = Section("layers", "The model, layer by layer", build)
