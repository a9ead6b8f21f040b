"""fp32 values of inner tensors while going through the graph, batch by batch, in bounded memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from onnxmpq.feeds.types import Array
from onnxmpq.runtime import SessionSettings
from onnxmpq.sensitivity.suffix import Cutter, OpenPart

HELD_BYTES = 256 * 2**20


class Prefix:
    """Goes on from one stop (a place in the node order) to the next one, so that nodes run about once.

    What is known at a stop is held for all batches. Where that takes too much memory (the first layers of a picture
    model), the nodes behind the last stop that fitted are run again: those are the cheap ones to repeat.
    """

    def __init__(self, cutter: Cutter, batches: Sequence[Mapping[str, Array]], settings: SessionSettings) -> None:
        self.cutter, self.batches, self.settings = cutter, batches, settings
        self.start = 0
        self._held: list[dict[str, Array]] = [{} for _ in batches]

    def walk(self, stop: int, needed: Iterable[str], later: Iterable[str]) -> Iterator[dict[str, Array]]:
        """Per batch, the graph's inputs and `needed`, which may lie behind `stop`.

        later: what further walks need from before `stop`, with all that is live there.
        """
        kept = [t for t in later if self.cutter.position(t) >= 0]
        wanted = dict.fromkeys(t for t in (*needed, *kept) if t not in self.batches[0] and t not in self._held[0])
        part = OpenPart(self.cutter.segment(self.start, len(self.cutter.index.nodes), list(wanted)), self.settings)
        fits = False
        for number, inputs in enumerate(self.batches):
            known = {**inputs, **self._held[number]}
            known |= part.run(known)
            if number == 0:
                fits = sum(known[t].nbytes for t in kept) * len(self.batches) <= HELD_BYTES
            if fits:
                self._held[number] = {t: known[t] for t in kept}
            yield known
        if fits:
            self.start = stop
