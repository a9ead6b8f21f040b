"""Colours of schemes on a page: float32 is grey, the others take the palette's in the order of their number.

The palette itself is in `style.css` (`.s0` to `.s8`), once for light and once for dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from onnxmpq.page.document import FP32

COLOURS = 8


@dataclass(frozen=True)
class Palette:
    """schemes: of the plan, in the order of `Document.shown`."""

    schemes: Sequence[str]

    def of(self, scheme: str) -> str:
        """Class of the style sheet; those beyond the last colour start again."""
        return self._classes.get(scheme, "s0")

    @cached_property
    def _classes(self) -> dict[str, str]:
        others = [s for s in self.schemes if s != FP32]
        return {scheme: f"s{number % COLOURS + 1}" for number, scheme in enumerate(others)}
