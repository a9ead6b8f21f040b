"""fp32 values of inner tensors while going through the graph, batch by batch, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from onnxmpq.feeds.types import Array, Feeds
from onnxmpq.runtime import SessionSettings
from onnxmpq.sensitivity.suffix import Cutter, OpenPart, kept

HELD_BYTES = 256 * 2**20


class Prefix:
    """Goes on from one stop (a place in the node order) to the next one, so that nodes run about once.

    What is known at a stop is held for all batches. Where that takes too much memory (the first layers of a picture
    model), the nodes behind the last stop that fitted are run again: those are the cheap ones to repeat.
    """

    def __init__(self, cutter: Cutter, feeds: Feeds, rows: Sequence[slice], settings: SessionSettings) -> None:
        """rows: the samples of each batch."""
        self.cutter, self.feeds, self.rows, self.settings = cutter, feeds, rows, settings
        self.start = 0
        self._held: list[dict[str, Array]] = [{} for _ in rows]

    def walk(self, stop: int, needed: Iterable[str], later: Iterable[str]) -> Iterator[dict[str, Array]]:
        """Per batch, the graph's inputs and `needed`, which may lie behind `stop`.

        later: what further walks need from before `stop`, with all that is live there.
        """
        for known, _ in self._walk(stop, needed, later):
            yield known

    def pass_by(self, stop: int, needed: Iterable[str], later: Iterable[str]) -> None:
        """As `walk`, where nobody wants the values: the stops after it find what they would have found."""
        for _, fits in self._walk(stop, needed, later):
            if not fits:
                return

    def _walk(self, stop: int, needed: Iterable[str], later: Iterable[str]) -> Iterator[tuple[dict[str, Array], bool]]:
        """Values per batch, and whether they are held for the next stop."""
        hold = [t for t in later if self.cutter.position(t) >= 0]
        wanted = dict.fromkeys(t for t in (*needed, *hold) if t not in self.feeds.arrays and t not in self._held[0])
        part = OpenPart(self.cutter.segment(self.start, len(self.cutter.index.nodes), list(wanted)), self.settings)
        fits = False
        for number, rows in enumerate(self.rows):
            known = {**self.feeds.batch(range(rows.start, rows.stop)), **self._held[number]}
            known |= part.run(known)
            if number == 0:
                fits = sum(known[t].nbytes for t in hold) * len(self.rows) <= HELD_BYTES
            if fits:
                self._held[number] = kept(hold, self._held[number], known)
            yield known, fits
        if fits:
            self.start = stop
