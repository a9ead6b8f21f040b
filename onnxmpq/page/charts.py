"""Charts as SVG without a view box: positions are percentages, so that text keeps its size at every width.

What can be drawn with bars is drawn with bars beside their labels (`bars`); the trade-off has axes (`scatter`).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from onnxmpq.page.markup import Markup, element, join

HEIGHT = 320  # pixels of the scatter chart
LABEL_LINE = 15  # pixels between two labels
THIN = 2e-3  # of the width: two pixels
_TOP = 9.0  # percent of the height, for labels
LEAST_SPAN = 0.05  # of the largest value: plans that are as fast as each other look so
CLOSE = 34.0  # percent of the width within which labels may touch


def share(value: float | None, largest: float) -> str:
    """A width or position in percent."""
    return f"{100.0 * max(value or 0.0, 0.0) / largest:.3f}%" if largest > 0 else "0%"


@dataclass(frozen=True)
class Part:
    """A piece of a bar. kind: class of the style sheet. note: shown when the pointer rests on it."""

    value: float
    kind: str
    note: str = ""


def bar(parts: Sequence[Part], largest: float, *, height: int = 12, label: str = "") -> Markup:
    """Pieces one behind the other; `largest` fills the width. label: for screen readers; without one they skip it."""
    rects, start = [], 0.0
    for part in parts:
        rects.append(
            element(
                "rect",
                element("title", part.note) if part.note else None,
                x=share(start, largest),
                y=0,
                width=share(part.value, largest),
                height="100%",
                class_=part.kind,
            )
        )
        start += part.value
    said = {"role": "img", "aria_label": label} if label else {"aria_hidden": "true"}
    return element("svg", *rects, class_="bar", height=height, **said)


def thin_joined(parts: Sequence[Part], largest: float) -> list[Part]:
    """The same bar in at most a few hundred pieces: neighbours that are too thin to be seen are one piece, of the kind
    that has most of it, without a note."""
    found: list[Part] = []
    thin: dict[str, float] = {}

    def end() -> None:
        if thin:
            found.append(Part(sum(thin.values()), max(thin, key=lambda kind: thin[kind])))
            thin.clear()

    for part in parts:
        if part.value >= THIN * largest:
            end()
            found.append(part)
        elif part.value > 0:
            thin[part.kind] = thin.get(part.kind, 0.0) + part.value
            if sum(thin.values()) >= THIN * largest:
                end()
    end()
    return found


@dataclass(frozen=True)
class Mark:
    """A point of the scatter chart. x: in the axis' unit. y: 0 or more. label: beside it, empty for none. hollow: drawn
    as a ring."""

    x: float
    y: float
    kind: Literal["curve", "uniform", "static", "chosen", "fp32"]
    note: str
    label: str = ""
    hollow: bool = False


@dataclass(frozen=True)
class _Scale:
    """From values to percent: x linear; y logarithmic between `_TOP` and 90, with 0 on the bottom line."""

    low: float
    high: float
    least: float
    most: float

    @classmethod
    def of(cls, marks: Sequence[Mark]) -> _Scale:
        xs, ys = [m.x for m in marks], [m.y for m in marks if m.y > 0]
        widest = max(abs(x) for x in xs)
        room = max((max(xs) - min(xs)) * 0.06, widest * LEAST_SPAN / 2) or 1.0
        least, most = (min(ys), max(ys)) if ys else (0.1, 1.0)
        least, most = 10 ** math.floor(math.log10(least) - 0.2), 10 ** math.ceil(math.log10(most) + 1e-9)
        return cls(min(xs) - room, max(xs) + room, least, most if most > least else 10 * least)

    def x(self, value: float) -> float:
        return 100.0 * (value - self.low) / (self.high - self.low)

    def y(self, value: float) -> float:
        if value <= 0:
            return 100.0
        return _TOP + (90.0 - _TOP) * (1.0 - math.log10(value / self.least) / math.log10(self.most / self.least))


def scatter(marks: Sequence[Mark], x_label: str, y_label: str, summary: str) -> Markup:
    """Points over two axes; those of the curve are joined if none is above one to its left.

    summary: of what is to be seen, for screen readers.
    """
    scale = _Scale.of(marks)
    curve = sorted((m for m in marks if m.kind == "curve"), key=lambda m: m.x)
    falls = all(a.y >= b.y for a, b in itertools.pairwise(curve))
    lines = [
        element(
            "line",
            x1=_pc(scale.x(a.x)),
            y1=_pc(scale.y(a.y)),
            x2=_pc(scale.x(b.x)),
            y2=_pc(scale.y(b.y)),
            class_="curve",
        )
        for a, b in itertools.pairwise(curve)
        if falls
    ]
    order = {"curve": 0, "fp32": 1, "uniform": 2, "static": 3, "chosen": 4}
    points = [_point(m, scale) for m in sorted(marks, key=lambda m: order[m.kind])]
    content = (*_axes(scale, x_label, y_label), *lines, *points, *_labels(marks, scale))
    return element("svg", *content, class_="scatter", height=HEIGHT, role="img", aria_label=summary)


def _pc(value: float) -> str:
    return f"{value:.2f}%"


def _point(mark: Mark, scale: _Scale) -> Markup:
    sizes = {"curve": 3.5, "uniform": 5, "static": 6.5, "chosen": 8, "fp32": 6}
    note = element("title", mark.note)
    return element(
        "circle",
        note,
        cx=_pc(scale.x(mark.x)),
        cy=_pc(scale.y(mark.y)),
        r=sizes[mark.kind],
        class_=f"mark {mark.kind}{' hollow' if mark.hollow else ''}",
    )


def _axes(scale: _Scale, x_label: str, y_label: str) -> list[Markup]:
    found = []
    for value in _ticks(scale.low, scale.high):
        at = _pc(scale.x(value))
        found.append(element("line", x1=at, x2=at, y1="0", y2="100%", class_="grid"))
        found.append(element("text", f"{value:.4g}", x=at, y="100%", dy=18, text_anchor="middle"))
    for value, shown in _decades(scale.least, scale.most):
        at = _pc(scale.y(value))
        found.append(element("line", x1="0", x2="100%", y1=at, y2=at, class_="grid"))
        found.append(element("text", shown, x=0, y=at, dx=-8, dy=4, text_anchor="end"))
    found.append(element("text", x_label, x="100%", y="100%", dy=36, text_anchor="end", class_="axis"))
    found.append(element("text", y_label, x=0, y=0, dx=-48, dy=-10, class_="axis"))
    return found


def _ticks(low: float, high: float) -> list[float]:
    """About five round values."""
    raw = (high - low) / 5
    unit = 10 ** math.floor(math.log10(raw))
    step = next(f * unit for f in (1, 2, 5, 10) if f * unit >= raw * (1 - 1e-9))
    return [step * i for i in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _decades(least: float, most: float) -> list[tuple[float, str]]:
    low, high = round(math.log10(least)), round(math.log10(most))
    every = max((high - low) // 6, 1)
    return [(0.0, "0"), *((10.0**i, f"1e{i}" if i < -3 else f"{10.0**i:g}") for i in range(low, high + 1, every))]


def _labels(marks: Sequence[Mark], scale: _Scale) -> list[Markup]:
    """Beside their points, moved apart where two would touch."""
    placed: list[tuple[float, float]] = []
    found = []
    for mark in sorted((m for m in marks if m.label), key=lambda m: (m.kind != "chosen", scale.y(m.y))):
        x, y = scale.x(mark.x), scale.y(mark.y) * HEIGHT / 100
        y -= LABEL_LINE if mark.kind == "chosen" else 0
        while any(abs(y - other) < LABEL_LINE and abs(x - at) < CLOSE for at, other in placed):
            y += LABEL_LINE
        placed.append((x, y))
        before = x > 62
        anchor, shift = ("end", -11) if before else ("start", 11)
        kind = f"label {mark.kind}"
        found.append(
            element("text", mark.label, x=_pc(x), y=f"{y:.1f}", dx=shift, dy=4, text_anchor=anchor, class_=kind)
        )
    return found


def legend(entries: Sequence[tuple[str, str]]) -> Markup:
    """Swatches with what they stand for: (class of the style sheet, words)."""
    items = [element("li", element("span", class_=f"swatch {kind}"), words) for kind, words in entries]
    return element("ul", *items, class_="legend")


def cells(entries: Sequence[tuple[str, str]], label: str, size: Literal["few", "many", ""] = "") -> Markup:
    """A strip of fields that goes on in the next line where it does not fit: (classes, note)."""
    fields = [element("span", class_=kind, title=note or None) for kind, note in entries]
    return element("div", join(fields), class_=f"cells {size}".rstrip(), role="img", aria_label=label)
