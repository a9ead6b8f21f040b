"""Every region with its figures, and why a layer was left in float32."""

from __future__ import annotations

from onnxmpq.page import figures
from onnxmpq.page.colours import Palette
from onnxmpq.page.document import FP32, Document, RegionView
from onnxmpq.page.markup import Markup, element, join
from onnxmpq.page.sections.types import Section, about_times
from onnxmpq.page.tables import MOST_ROWS, Cell, Column, breakable, left_off, short, table

MOST_REASONS = 300  # rows


def build(document: Document) -> Markup | None:
    if not document.regions:
        return None
    palette = Palette(document.shown)
    numbers = ("fp32 ms", "Plan ms", "Effect", "fp32 bytes", "Stored bytes")
    columns = [
        Column("#", numeric=True),
        Column("Region", wide=True),
        Column("Operators"),
        Column("Scheme"),
        *(Column(name, numeric=True) for name in numbers),
    ]
    times = [max(r.ms or 0.0, r.ms_fp32 or 0.0) for r in document.regions]
    rows = [_cells(region, palette, max(times)) for region in document.regions[:MOST_ROWS]]
    return join(
        [
            element(
                "p", f"In the order of execution. A header sorts the table. {about_times(document)}", class_="lead"
            ),
            table("Regions", columns, rows),
            left_off(len(document.regions)),
            _shared(document),
            _left_alone(document),
        ]
    )


def _cells(region: RegionView, palette: Palette, largest: float) -> list[Cell | str]:
    scheme = join([element("span", class_=f"swatch {palette.of(region.scheme)}"), short(region.scheme)])
    return [
        Cell(str(region.order), region.order),
        Cell(breakable(region.name)),
        Cell(breakable(region.pattern)),
        Cell(scheme),
        Cell(figures.ms(region.ms_fp32, largest), region.ms_fp32),
        Cell(figures.ms(region.ms, largest), region.ms),
        Cell(figures.effect(region.effect), region.effect),
        Cell(figures.size(region.bytes_fp32), region.bytes_fp32),
        Cell(figures.size(region.bytes), region.bytes),
    ]


def _shared(document: Document) -> Markup | None:
    """Layers that read the same stored weights, and the bytes that each of them adds."""
    groups = dict.fromkeys(frozenset((r.name, *r.shared_with)) for r in document.regions if r.shared_with)
    if not groups:
        return None
    rows: list[list[Cell | str]] = []
    for group in list(groups)[:MOST_REASONS]:
        members = [r for r in document.regions if r.name in group]
        stored = sum(r.bytes or 0.0 for r in members)
        rows.append([Cell(breakable(", ".join(r.name for r in members))), Cell(figures.size(stored), stored)])
    columns = [Column("Layers", wide=True), Column("Stored bytes", numeric=True)]
    made = table("Weights of several layers", columns, rows)
    note = element("p", "In the file once; their bytes are in the row of the first of these layers.", class_="lead")
    return join([element("h3", "Weights that several layers share"), note, made])


def _left_alone(document: Document) -> Markup | None:
    left = [r for r in document.regions if r.layer and r.scheme == FP32 and r.reason]
    if not left:
        return None
    rows: list[list[Cell | str]] = [[Cell(breakable(r.name)), short(r.reason, 400)] for r in left[:MOST_REASONS]]
    made = table("Layers in float32", [Column("Layer", wide=True), Column("Why", wide=True)], rows)
    rest = left_off(len(left), "the plan file has them all", MOST_REASONS)
    return join([element("h3", "Layers that stay in float32"), made, rest])


SECTION = Section("regions", "All regions", build)
