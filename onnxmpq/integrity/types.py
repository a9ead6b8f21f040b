"""Findings of the structural check."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from onnxmpq.lint import Graph, Hit

Check = Callable[[Sequence[Graph]], Iterable[Hit]]
"""The main graph of a model and the bodies in it (`lint.graph.graphs`) -> what is wrong in them."""


@dataclass(frozen=True)
class Fault:
    """One fault of a written graph.

    check: name of the check. node: the node's name, or operator and result for a node without a name; "" if the fault
    is in no single node. region: the region that the node belongs to, or was written for; "" if that cannot be told.
    """

    check: str
    node: str
    region: str
    message: str

    def __str__(self) -> str:
        where = f" at node {self.node!r}" if self.node else ""
        return f"{self.check}{where}: {self.message}"
