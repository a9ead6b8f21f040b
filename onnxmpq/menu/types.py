"""The menu: the schemes that each region may have, and why one has float32 alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from onnxmpq.menu.patterns import Asked
from onnxmpq.schemes import FP32, Scheme


@dataclass(frozen=True, eq=False)
class Menu(Mapping[str, tuple[Scheme, ...]]):
    """Region -> schemes, float32 first. reasons: region -> why it has nothing but float32, where that is known.

    asked: what the user set; float32 stands there all the same, to compare with. Filters are functions of this room
    that return a new menu, with the reasons they add.
    """

    rows: Mapping[str, tuple[Scheme, ...]]
    reasons: Mapping[str, str] = field(default_factory=dict)
    asked: Asked = field(default_factory=Asked)

    def __getitem__(self, region: str) -> tuple[Scheme, ...]:
        return self.rows[region]

    def __iter__(self) -> Iterator[str]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def where(self, stays: Callable[[str, Scheme], bool], reasons: Mapping[str, str] | None = None) -> Menu:
        """The menu with the schemes for which `stays(region, scheme)` is true. reasons: further ones."""
        rows = {name: tuple(s for s in row if stays(name, s)) for name, row in self.rows.items()}
        return self.but(rows, reasons or {})

    def preferring(self, stays: Callable[[str, Scheme], bool]) -> Menu:
        """As `where`, but schemes that the user set stay: for filters by what pays rather than by what can be."""
        return self.where(lambda name, s: s.name in self.asked.schemes.get(name, ()) or stays(name, s))

    def but(self, rows: Mapping[str, tuple[Scheme, ...]], reasons: Mapping[str, str]) -> Menu:
        """The menu with other rows and further reasons."""
        return replace(self, rows=rows, reasons={**self.reasons, **reasons})

    def requires(self, region: str) -> bool:
        """True if the user's settings leave float32 out."""
        wanted = self.asked.schemes.get(region)
        return wanted is not None and FP32 not in wanted and region not in self.asked.free
