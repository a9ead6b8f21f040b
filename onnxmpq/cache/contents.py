"""The cache folder as `onnxmpq cache` shows and clears it. Files that are no entries are left alone."""

from __future__ import annotations

import contextlib
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from onnxmpq.cache.cache import ENTRY, LIMIT_BYTES

_KINDS = {
    "counts.npy": "activation ranges",
    "codes.npy": "rounded weights",
    "change.npy": "effects",
    "reference.npy": "reference",
    "weight0.codes.npy": "second rounding",
    "bias0.npy": "second rounding",
}
"""By a member that only entries of this kind have (docs/cache.md)."""
_OTHERS = "timings, and others without arrays"
_DAMAGED = "damaged"


@dataclass(frozen=True)
class Held:
    """Of one kind."""

    entries: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Contents:
    """kinds: by name. limit_bytes: of the folder."""

    folder: str
    kinds: dict[str, Held]
    limit_bytes: int = LIMIT_BYTES

    @property
    def total(self) -> Held:
        return Held(sum(h.entries for h in self.kinds.values()), sum(h.bytes for h in self.kinds.values()))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return {"schema": "onnxmpq.cache/1", **asdict(self), "total": asdict(self.total)}

    def render(self, console: Console) -> None:
        """Draw a row per kind, and the folder."""
        table = Table("kept", "entries", "MB")
        for name, held in self.kinds.items():
            table.add_row(name, str(held.entries), f"{held.bytes / 1e6:.1f}")
        if self.kinds:
            console.print(table)
        total, most = self.total, self.limit_bytes / 1e9
        said = f"{total.bytes / 1e6:.1f} MB in {total.entries} entries, at most {most:.1f} GB"
        console.print(f"{self.folder}: {said}", highlight=False, markup=False, soft_wrap=True)


def contents(folder: Path) -> Contents:
    """Entries by kind; nothing where the folder does not exist."""
    found: dict[str, Held] = {}
    for path in _entries(folder):
        with contextlib.suppress(OSError):  # another run may have removed it
            size, kind = path.stat().st_size, _kind(path)
            before = found.get(kind, Held())
            found[kind] = Held(before.entries + 1, before.bytes + size)
    return Contents(str(folder), dict(sorted(found.items())))


def clear(folder: Path) -> Held:
    """Remove every entry; returns what was removed. A run that is using the folder computes again."""
    removed = Held()
    for path in _entries(folder):
        with contextlib.suppress(OSError):
            size = path.stat().st_size
            path.unlink()
            removed = Held(removed.entries + 1, removed.bytes + size)
    for part in folder.glob("??"):
        with contextlib.suppress(OSError):  # not empty, or no folder
            part.rmdir()
    return removed


def _entries(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.glob("??/*")):
        if ENTRY.fullmatch(path.relative_to(folder).as_posix()) and not path.is_symlink():
            yield path


def _kind(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as file:
            members = file.namelist()
    except (OSError, zipfile.BadZipFile):
        return _DAMAGED
    return next((kind for member, kind in _KINDS.items() if member in members), _OTHERS)
