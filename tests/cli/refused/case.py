"""A command that must fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from tests.cli.folders import Folder


@dataclass(frozen=True)
class Bad:
    """arrange: spoils the folder and gives the arguments. code: of the exit. message: part of the line on stderr."""

    id: str
    arrange: Callable[[Folder], tuple[object, ...]]
    code: int
    message: str
