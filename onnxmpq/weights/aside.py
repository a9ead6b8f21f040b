"""Packed arrays in a file beside the plan: those of a model that is never whole in memory would fill the plan.

In the plan stands "sha256:HEX:LENGTH", the hash of an array's bytes and the length of their compressed form. The file
has these one after the other, each once, in the order in which the plan names them.
"""

from __future__ import annotations

import hashlib
import re
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxmpq.errors import PlanError
from onnxmpq.model import Spill, read_parts

_PLACE = re.compile(r"sha256:([0-9a-f]{64}):([0-9]{1,15})")
_FAST = 1
"""Level of compression: the next that saves anything takes eight times as long."""


class Aside(str):
    """Such a text, and where the compressed bytes are. keeper: lives as long as the file has to."""

    file: Path
    offset: int
    keeper: Spill | None

    @property
    def length(self) -> int:
        return int(self.rpartition(":")[2])


def put_aside(values: NDArray[np.generic], spill: Spill) -> Aside:
    """Bytes of the array in C order. Raises OutputError."""
    raw = np.ascontiguousarray(values).tobytes()
    compressed = zlib.compress(raw, _FAST)
    return _placed(f"sha256:{hashlib.sha256(raw).hexdigest()}:{len(compressed)}", spill.content(compressed), 0, spill)


def content_of_aside(text: str) -> str:
    """SHA-256 (hex) of the array that a text stands for; empty for other texts."""
    found = _PLACE.fullmatch(text)
    return "" if found is None else found[1]


def taken_aside(text: str, size: int, where: str) -> bytes:
    """The array's bytes, at most one more than `size`. Raises PlanError."""
    if not isinstance(text, Aside):
        raise PlanError(f"{where}: its values are in a file beside the plan; give the path of the plan's file")
    try:
        longest = min(text.length, size + size // 1000 + 64)  # of what does not compress
        compressed = b"".join(read_parts(text.file, text.offset, longest))
    except OSError as error:
        raise PlanError(
            f"{text.file}: cannot be read ({error.strerror}), and the plan's weights are there; keep it beside the plan"
        ) from None
    try:
        data = zlib.decompressobj().decompress(compressed, size + 1)
    except zlib.error:
        data = b""
    if hashlib.sha256(data).hexdigest() != content_of_aside(text):
        raise PlanError(f"{where}: damaged in {text.file}, or of another plan; convert again")
    return data


def found_beside(texts: Iterable[str], file: Path) -> dict[str, Aside]:
    """Those of a plan's texts that stand for arrays in its file, in the order of the plan."""
    found: dict[str, Aside] = {}
    end = 0
    for text in texts:
        if text not in found and content_of_aside(text):
            found[text] = _placed(text, file, end, None)
            end += found[text].length
    return found


def written_beside(texts: Iterable[str]) -> Iterator[bytes]:
    """The file that `found_beside` reads, piece by piece. Raises OSError."""
    seen: set[str] = set()
    for text in texts:
        if isinstance(text, Aside) and text not in seen:
            seen.add(text)
            yield from read_parts(text.file, text.offset, text.length)


def _placed(text: str, file: Path, offset: int, keeper: Spill | None) -> Aside:
    made = Aside(text)
    made.file, made.offset, made.keeper = file, offset, keeper
    return made
