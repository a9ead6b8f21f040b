"""Colours of schemes on a page: float32 is grey, the others take the palette's in the order of their number.

The palette itself is in `style.css` (`.s0` to `.s8`), once for light and once for dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from onnxmpq.page.document import FP32

COLOURS = 8


@dataclass(frozen=True)
class Palette:
    """schemes: of the plan, in the order of `Document.shown`."""

    schemes: Sequence[str]

    def of(self, scheme: str) -> str:
        """Class of the style sheet; those beyond the last colour start again."""
        if scheme == FP32:
            return "s0"
        others = [s for s in self.schemes if s != FP32]
        return f"s{others.index(scheme) % COLOURS + 1}" if scheme in others else "s0"
