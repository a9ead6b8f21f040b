"""Values of inner tensors for all samples, stop by stop through the graph, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from onnxmpq.execution.memory import MEMORY, MemoryBudget
from onnxmpq.execution.parts import Cutter, OpenPart
from onnxmpq.execution.samples import in_order
from onnxmpq.feeds import Array, Feeds
from onnxmpq.runtimes import SessionSettings


class ForwardPass:
    """Goes through a graph from stop to stop (places in the node order), so that each node runs about once.

    What later stops need is kept at each stop, for all batches. If that exceeds `memory.kept` (the first layers of a
    picture model), the nodes behind the last stop that was kept run again for the next one: they are cheap to repeat.
    A stop before the last one begins at the inputs again.
    """

    def __init__(
        self,
        cutter: Cutter,
        feeds: Feeds,
        settings: SessionSettings,
        *,
        rows: Sequence[slice] | None = None,
        threads: int = 1,
        memory: MemoryBudget = MEMORY,
    ) -> None:
        """rows: samples of each batch; None for one sample a batch. threads: batches that run side by side, one thread
        each."""
        self.cutter, self.feeds, self.settings, self.threads, self.memory = cutter, feeds, settings, threads, memory
        self.rows = [slice(i, i + 1) for i in range(len(feeds))] if rows is None else list(rows)
        self.start = 0
        self._kept: list[dict[str, Array]] = [{} for _ in self.rows]

    def set_constant(self, name: str, values: NDArray[np.generic]) -> None:
        """Another value for an initializer that no node before the last stop reads."""
        self.cutter.set_constant(name, values)

    def inputs_of(self, node: str) -> Iterator[Array]:
        """Per batch, the first input of a node; the node becomes the last stop."""
        return self._tensor(self.cutter.place(node), self.cutter.nodes[node].input[0])

    def outputs_of(self, node: str) -> Iterator[Array]:
        """Per batch, the first output of a node; the node becomes the last stop."""
        return self._tensor(self.cutter.place(node), self.cutter.nodes[node].output[0])

    def _tensor(self, stop: int, tensor: str) -> Iterator[Array]:
        for known in self.values(stop, [tensor], self.cutter.live(stop)):
            yield known[tensor]

    def values(self, stop: int, wanted: Iterable[str], later: Iterable[str]) -> Iterator[dict[str, Array]]:
        """Per batch, the graph's inputs and `wanted`, which may lie behind the stop.

        later: what further stops need from before this one, including all that is live here.
        """
        for known, _ in self._run_to(stop, wanted, later):
            yield known

    def skip(self, stop: int, wanted: Iterable[str], later: Iterable[str]) -> None:
        """As `values` if nobody wants them: later stops find what they would have found."""
        for _, keep in self._run_to(stop, wanted, later):
            if not keep:
                return

    def mark(self) -> tuple[int, list[dict[str, Array]]]:
        """The place that the walk has come to, for `back`."""
        return self.start, list(self._kept)

    def back(self, mark: tuple[int, list[dict[str, Array]]]) -> None:
        """Go on from a place where the walk has been: the next stop finds what it would have found then."""
        self.start, self._kept = mark[0], list(mark[1])

    def _run_to(
        self, stop: int, wanted: Iterable[str], later: Iterable[str]
    ) -> Iterator[tuple[dict[str, Array], bool]]:
        """Values per batch, and whether they are kept for the next stop."""
        if stop < self.start:
            self.start, self._kept = 0, [{} for _ in self.rows]
        needed = [t for t in later if self.cutter.position(t) >= 0]
        outputs = list(dict.fromkeys((*wanted, *needed)))
        part = OpenPart(self.cutter.segment(self.start, len(self.cutter.index.nodes), outputs), self.settings)
        first = self._known(part, 0)
        keep = self._bytes(part, first, needed) <= self.memory.kept
        others = in_order(lambda number: self._known(part, number), range(1, len(self.rows)), self.threads)
        runs = chain(iter([first]), others)
        del first  # or it would stay in memory beside all others
        for number, known in enumerate(runs):
            if keep:
                self._kept[number] = _copied(needed, self._kept[number], known)
            yield known, keep
        if keep:
            self.start = stop

    def _bytes(self, part: OpenPart, first: Mapping[str, Array], needed: Sequence[str]) -> int:
        """Of these tensors in all batches, of which `first` has them for the first one.

        Where shapes differ the largest batch tells: tensors grow at least in proportion to the inputs.
        """
        if not self.feeds.ragged:
            return sum(first[t].nbytes for t in needed) * len(self.rows)
        sizes = [sum(self.feeds.sizes[r]) for r in self.rows]
        largest = sizes.index(max(sizes))
        most = self._known(part, largest) if largest else first
        return int(sum(most[t].nbytes for t in needed) * sum(sizes) / max(sizes[largest], 1))

    def _known(self, part: OpenPart, number: int) -> dict[str, Array]:
        rows = self.rows[number]
        given = {**self.feeds.batch(range(rows.start, rows.stop)), **self._kept[number]}
        return {**given, **part.run(given)}


def _copied(tensors: Iterable[str], before: Mapping[str, Array], values: Mapping[str, Array]) -> dict[str, Array]:
    """Values to keep beyond the next run, as copies of those that were not kept before.

    What a session returns is a piece of its arena, all of which would stay as long as the piece does.
    """
    return {t: before[t] if t in before else np.copy(values[t]) for t in tensors}
