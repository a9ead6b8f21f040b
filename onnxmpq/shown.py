"""Short reprs: a heading and a few facts, as text and as HTML for notebooks. They always fit on a screen."""

from __future__ import annotations

import html

_LONGEST = 200  # characters of a fact


class Shown:
    """A value with a short repr. Subclasses that are dataclasses say `repr=False`, and define `shown`."""

    def shown(self) -> tuple[str, list[tuple[str, str]]]:
        """The heading, and facts as (name, text); empty texts are left out."""
        raise NotImplementedError

    def __repr__(self) -> str:
        heading, facts = self._facts()
        width = max((len(name) for name, _ in facts), default=0)
        lines = [f"  {name.ljust(width)}  {text}" for name, text in facts]
        return "\n".join([f"{type(self).__name__}: {heading}", *lines])

    def _repr_html_(self) -> str:
        """For notebooks."""
        heading, facts = self._facts()
        rows = "".join(f"<tr><th>{html.escape(n)}</th><td>{html.escape(text)}</td></tr>" for n, text in facts)
        return f"<b>{html.escape(type(self).__name__)}</b>: {html.escape(heading)}<table>{rows}</table>"

    def _facts(self) -> tuple[str, list[tuple[str, str]]]:
        heading, facts = self.shown()
        return _short(heading), [(name, _short(text)) for name, text in facts if text]


def _short(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
