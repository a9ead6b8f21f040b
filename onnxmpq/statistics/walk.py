"""Going through a model layer by layer while its constants change: each stretch of the graph is run about once.

For every sample the tensors that are live at the last stop are kept, so the next stop only runs the nodes between.
Where they would take too much memory (the first layers of a picture model), nothing is kept and the nodes from the
last stop that fitted are run again: those are the cheap ones to repeat.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import numpy as np
import onnx
from numpy.typing import NDArray

from onnxmpq.feeds.types import Array, Feeds
from onnxmpq.runs import in_order
from onnxmpq.runtime import SessionSettings
from onnxmpq.sensitivity.suffix import Cutter, OpenPart, kept

WALK_BYTES = 256 * 2**20
"""Live tensors of all samples kept at one stop."""


class Walk:
    """One model, walked from its inputs to its outputs. A stop before the last one begins at the inputs again.

    threads: samples that run side by side, one thread each.
    """

    def __init__(
        self, proto: onnx.ModelProto, feeds: Feeds, *, threads: int = 1, limit_bytes: int = WALK_BYTES
    ) -> None:
        self.cutter, self.feeds, self.limit_bytes = Cutter(proto), feeds, limit_bytes
        self.nodes = {n.name: n for n in self.cutter.index.nodes}
        self._places = {n.name: i for i, n in enumerate(self.cutter.index.nodes)}
        self._threads, self._settings = threads, SessionSettings(keep_qdq=True)
        self._start = 0
        self._kept: list[dict[str, Array]] = [{} for _ in range(len(feeds))]

    def place(self, node: str) -> int:
        """Index of a node in graph order."""
        return self._places[node]

    def set_constant(self, name: str, values: NDArray[np.generic]) -> None:
        """Another value for an initializer that no node before the last stop reads."""
        self.cutter.set_constant(name, values)

    def inputs_of(self, node: str) -> Iterator[Array]:
        """Per sample, the first input of a node; the node becomes the last stop."""
        return self._values(self.place(node), self.nodes[node].input[0])

    def outputs_of(self, node: str) -> Iterator[Array]:
        """Per sample, the first output of a node; the node becomes the last stop."""
        return self._values(self.place(node), self.nodes[node].output[0])

    def _values(self, stop: int, tensor: str) -> Iterator[Array]:
        if stop < self._start:
            self._start, self._kept = 0, [{} for _ in range(len(self.feeds))]
        end = stop + 1 if self.cutter.position(tensor) == stop else stop
        live = self.cutter.live(stop)
        part = self._open(end, list(dict.fromkeys((*live, tensor))))
        first = self._run(part, 0)
        held = sum(first[t].nbytes for t in live) * len(self.feeds)
        keep = held <= self.limit_bytes
        if not keep:
            part = self._open(end, [tensor])
        others = in_order(lambda number: self._run(part, number), range(1, len(self.feeds)), self._threads)
        for number, values in enumerate(chain([first], others)):
            if keep:
                self._kept[number] = kept(live, self._kept[number], values)
            yield values[tensor]
        if keep:
            self._start = stop

    def _open(self, end: int, outputs: Sequence[str]) -> OpenPart:
        return OpenPart(self.cutter.segment(self._start, end, outputs), self._settings)

    def _run(self, part: OpenPart, number: int) -> dict[str, Array]:
        given = {**self.feeds.batch([number]), **self._kept[number]}
        return {**given, **part.run(given)}
