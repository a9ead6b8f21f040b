"""The menu: the schemes that each region may have, and why one has float32 alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from onnxmpq.schemes import Scheme


@dataclass(frozen=True, eq=False)
class Menu(Mapping[str, tuple[Scheme, ...]]):
    """Region -> schemes, float32 first. reasons: region -> why it has nothing but float32, where that is known.

    Filters are functions of this room that return a new menu, with the reasons they add.
    """

    rows: Mapping[str, tuple[Scheme, ...]]
    reasons: Mapping[str, str] = field(default_factory=dict)

    def __getitem__(self, region: str) -> tuple[Scheme, ...]:
        return self.rows[region]

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, stays: Callable[[str, Scheme], bool], reasons: Mapping[str, str] | None = None) -> Menu:
        """The menu with the schemes for which `stays(region, scheme)` is true. reasons: further ones."""
        rows = {name: tuple(s for s in row if stays(name, s)) for name, row in self.rows.items()}
        return Menu(rows, {**self.reasons, **(reasons or {})})
