"""HTML and SVG that cannot be broken by what is in it: text is escaped where it enters, and only here.

Names come from models and plans of others. No module of this room writes a tag as a string; all of them call
`element`, so a name can end neither an element nor an attribute. The policy of `layout.py` is the second defence.
"""

from __future__ import annotations

import html
from collections.abc import Iterable
from dataclasses import dataclass

from onnxmpq.errors import printable

LONGEST_TEXT = 2000
"""Characters of any text; documents of others may hold megabytes."""
_VOID = frozenset({"meta", "link", "wbr"})


@dataclass(frozen=True)
class Markup:
    """Markup in which all text is escaped. Made by `element`, `join` and, for the page's own files, `trusted`."""

    html: str


Child = Markup | str | int | None
Attribute = str | int | float | bool | None
NOTHING = Markup("")


def text(value: str) -> Markup:
    """Text as markup; characters that steer a terminal or turn the direction of text are shown as escapes."""
    return Markup(html.escape(printable(shortened(value, LONGEST_TEXT)), quote=True))


def shortened(value: str, most: int) -> str:
    """A text with its middle left out where it is too long: names of nodes differ at their ends."""
    if len(value) <= most:
        return value
    kept = most // 2
    return f"{value[:kept]}…{value[-kept:]}"


def element(tag: str, *children: Child, **attributes: Attribute) -> Markup:
    """An element. Attributes: `class_` is class, other underscores are hyphens; None and False leave one out, True
    writes it without a value."""
    start = "".join([tag, *(_attribute(name, value) for name, value in attributes.items())])
    if tag in _VOID:
        return Markup(f"<{start}>")
    return Markup(f"<{start}>{join(children).html}</{tag}>")


def join(parts: Iterable[Child]) -> Markup:
    """One after the other, without anything between them."""
    return Markup("".join(_child(part).html for part in parts))


def trusted(source: str) -> Markup:
    """Style sheet and script of this room. Never anything that comes from a model, a plan or a report."""
    return Markup(source)


def _child(part: Child) -> Markup:
    if part is None:
        return NOTHING
    return part if isinstance(part, Markup) else text(str(part))


def _attribute(name: str, value: Attribute) -> str:
    if value is None or value is False:
        return ""
    spelled = name.rstrip("_").replace("_", "-")
    if value is True:
        return f" {spelled}"
    shown = f"{value:.6g}" if isinstance(value, float) else str(value)
    return f' {spelled}="{text(shown).html}"'
