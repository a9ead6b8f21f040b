"""Two plans or reports of one model, side by side: what each takes, and the regions whose scheme differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from onnxmpq.page import figures, layout
from onnxmpq.page.colours import Palette
from onnxmpq.page.document import Document, RegionView
from onnxmpq.page.markup import Markup, element, join
from onnxmpq.page.quantities import taken
from onnxmpq.page.sections.verdict import level_of, verdict
from onnxmpq.page.tables import MOST_ROWS, Cell, Column, breakable, left_off, short, table
from onnxmpq.page.tree import Tree


@dataclass(frozen=True)
class Figure:
    """A row of the comparison. shown: of both; difference: in words, empty where there is none to tell."""

    name: str
    shown: tuple[str, str]
    difference: str = ""


def compared(a: Document, b: Document) -> list[Figure]:
    """Figures and quality of both; rows that neither document has are left out."""
    rows = [Figure("source model", (a.model, b.model), "" if _same_model(a, b) else "not the same file")]
    rows.append(Figure("budgets and floors", (_budgets(a), _budgets(b))))
    rows.append(Figure("verdict", (verdict(a).words, verdict(b).words)))
    rows += _taken(a, b)
    rows.append(Figure("quality", (level_of(a), level_of(b))))
    for name, of, show in _QUALITIES:
        one, other = of(a), of(b)
        if one is not None or other is not None:
            rows.append(Figure(name, (show(one), show(other)), _difference(one, other, show)))
    schemes = [Counter(r.scheme for r in d.regions if r.layer) for d in (a, b)]
    words = [", ".join(f"{n} {s}" for s, n in c.most_common()) for c in schemes]
    rows.append(Figure("layers by scheme", (words[0], words[1])))
    return rows


def _same_model(a: Document, b: Document) -> bool:
    """True if both were made from the same file."""
    hashes = [d.plan.text("model", "sha256") for d in (a, b)]
    return hashes[0] == hashes[1]


def _budgets(document: Document) -> str:
    return ", ".join(f"{k.replace('_', '-')} {v.text()}" for k, v in document.plan.items("budgets")) or figures.UNKNOWN


def _taken(a: Document, b: Document) -> list[Figure]:
    mine, other = ({row.title: row for row in taken(d)} for d in (a, b))
    found = []
    for title in dict.fromkeys([*mine, *other]):
        pair = mine.get(title), other.get(title)
        shown = [figures.UNKNOWN if row is None else row.show(row.result) for row in pair]
        values = [None if row is None else row.result for row in pair]
        ratio = f"{values[1] / values[0]:.3f}x" if values[0] and values[1] is not None else ""
        found.append(Figure(title.lower(), (shown[0], shown[1]), ratio))
    return found


def _worst(
    document: Document, of: Callable[[Tree], float | None], pick: Callable[[list[float]], float]
) -> float | None:
    values = [v for o in document.tree.rows("validation", "outputs") if (v := of(o)) is not None]
    return pick(values) if values else None


_QUALITIES: tuple[tuple[str, Callable[[Document], float | None], Callable[[float | None], str]], ...] = (
    ("predicted divergence", lambda d: d.plan.number("prediction", "effect"), figures.effect),
    ("SQNR of the worst output", lambda d: _worst(d, Tree.sqnr_db, min), figures.decibel),
    ("KL of the worst output, nats", lambda d: _worst(d, lambda o: o.number("kl_nats"), max), figures.effect),
    ("same top class as fp32", lambda d: _worst(d, lambda o: o.number("top1_agreement"), min), figures.percent),
    ("metric", lambda d: d.tree.number("validation", "metric", "result"), figures.plain),
)


def _difference(one: float | None, other: float | None, show: Callable[[float | None], str]) -> str:
    if one is None or other is None or one == other:
        return ""
    change = other - one
    return f"{'+' if change > 0 else ''}{show(change)}" if abs(change) < float("inf") else ""


Pair = tuple[RegionView | None, RegionView | None]
"""A region in two plans; None where a plan does not have it."""


def differing(a: Document, b: Document) -> list[Pair]:
    """Regions whose scheme differs, or that only one of them has, in the order of execution."""
    mine, other = ({r.name: r for r in d.regions} for d in (a, b))
    pairs = ((mine.get(name), other.get(name)) for name in dict.fromkeys([*mine, *other]))
    return [(x, y) for x, y in pairs if (x.scheme if x else None) != (y.scheme if y else None)]


def render_comparison(a: Document, b: Document, names: tuple[str, str]) -> str:
    """HTML of one file. names: of the two, such as their file names."""
    labels = short(names[0]), short(names[1])
    title = f"{labels[0]} and {labels[1]}"
    header = element("header", element("p", "onnxmpq comparison", class_="by"), element("h1", title))
    columns = [Column(f"{which}: {label}", wide=True) for which, label in zip("AB", labels, strict=True)]
    both = table(
        "Figures of both",
        [Column(""), *columns, Column("B to A")],
        [[f.name, short(f.shown[0]), short(f.shown[1]), f.difference] for f in compared(a, b)],
        sortable=False,
    )
    rows, number = differing(a, b), len({r.name for d in (a, b) for r in d.regions})
    said = f"Scheme differs in {len(rows)} of {figures.count(number, 'region')}. A is {labels[0]}, B is {labels[1]}."
    if not _same_model(a, b):
        said += " They are plans of different models: regions are the same only where their names are."
    sections = [("regions", "Regions that differ", join([element("p", said, class_="lead"), _regions(a, b, rows)]))]
    return layout.page(f"{title} – onnxmpq", header, sections, first=both)


def _regions(a: Document, b: Document, rows: Sequence[Pair]) -> Markup | None:
    if not rows:
        return None
    schemes = Palette(tuple(dict.fromkeys([*a.shown, *b.shown])))
    largest = max(r.ms or 0.0 for pair in rows for r in pair if r)
    columns = [Column("Region", wide=True), Column("Operators"), Column("A"), Column("B")]
    columns += [Column(f"{what}, {which}", numeric=True) for what in ("ms", "effect", "bytes") for which in "AB"]
    made = [_cells(x, y, schemes, largest) for x, y in rows[:MOST_ROWS]]
    return join([table("Regions that differ", columns, made), left_off(len(rows), "the plan files have them all")])


def _cells(x: RegionView | None, y: RegionView | None, palette: Palette, largest: float) -> list[Cell | str]:
    known = x or y
    assert known is not None
    pair = (x, y)
    schemes = [Cell(_swatch(r.scheme, palette) if r else figures.UNKNOWN) for r in pair]
    numbers = [
        *(Cell(figures.ms(v, largest), v) for v in (r.ms if r else None for r in pair)),
        *(Cell(figures.effect(v), v) for v in (r.effect if r else None for r in pair)),
        *(Cell(figures.size(v), v) for v in (r.bytes if r else None for r in pair)),
    ]
    return [Cell(breakable(known.name)), Cell(breakable(known.pattern)), *schemes, *numbers]


def _swatch(scheme: str, palette: Palette) -> Markup:
    return join([element("span", class_=f"swatch {palette.of(scheme)}"), short(scheme)])
