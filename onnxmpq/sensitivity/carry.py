"""A few changes at the exits of blocks, carried on to the outputs: block by block, together with those of later blocks.

A block's weights are in memory once, whatever the number of changes that pass through it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from onnxmpq.execution import Cutter, ForwardPass, OpenPart
from onnxmpq.feeds import Array, Feeds
from onnxmpq.runtimes import SessionSettings
from onnxmpq.sensitivity.blocks import Block
from onnxmpq.sensitivity.divergence import Code
from onnxmpq.sensitivity.effects import Frame, Try
from onnxmpq.statistics import numbers

Batch = tuple[int, int]  # samples


@dataclass(eq=False)
class Carried:
    """A perturbation on its way. values: of the tensor at the exit of the last block that it passed, by batch.
    change: float32 [samples, width], of the outputs so far."""

    change: Code
    values: dict[Batch, Array] = field(default_factory=dict)


class Carrier:
    """Gets changes at the exit of each block, and takes them through all later ones.

    rows: the batches on which changes are carried. chosen: per block, the perturbations that are. made: per block, the
    tensors compared with the reference that are made in it.
    """

    def __init__(
        self,
        cutter: Cutter,
        feeds: Feeds,
        frame: Frame,
        blocks: Sequence[Block],
        made: Sequence[Sequence[str]],
        chosen: Sequence[frozenset[Try]],
        rows: Sequence[slice],
        threads: int,
    ) -> None:
        self.cutter, self.frame, self.blocks, self.made, self.chosen = cutter, frame, blocks, made, chosen
        self.count, self.rows, self.threads = rows[-1].stop, list(rows), threads
        self.settings = SessionSettings(lean=True)
        self.forward = ForwardPass(cutter, feeds.take(range(self.count)), self.settings, rows=self.rows)
        self.closed = 0
        self.from_block: list[dict[Try, Carried]] = [
            {t: Carried(np.zeros((self.count, frame.divergence.width), np.float32)) for t in sorted(names)}
            for names in chosen
        ]

    def catch(self, number: int, tried: Try, rows: slice, made: Mapping[str, Array]) -> None:
        """Changes by a perturbation in block `number`; kept if it is to be carried on. Batches may come side by
        side."""
        carried, exit_ = self.from_block[number].get(tried), self.blocks[number].exit
        if carried is not None and rows.stop <= self.count and exit_ is not None and exit_ in made:
            carried.values[rows.start, rows.stop] = np.copy(made[exit_])

    def close(self, stop: int) -> None:
        """The blocks before number `stop` are measured: changes go on to the exit of the last of them, and to the
        outputs behind the last one of all."""
        for number in range(self.closed, stop):
            moving = [c for row in self.from_block[:number] for c in row.values() if c.values]
            if moving:
                self._through(number, moving)
        self.closed = max(self.closed, stop)

    def _through(self, number: int, moving: Sequence[Carried]) -> None:
        block, before = self.blocks[number], self.blocks[number - 1].exit
        assert before is not None
        wanted = tuple(dict.fromkeys((*((block.exit,) if block.exit else ()), *self.made[number])))
        behind = self.cutter.within(block.start, block.stop, wanted).behind([before], block.start)
        part = OpenPart(behind, self.settings)
        others = [t for t in part.inputs if t != before]
        known = self.forward.values(block.stop, others, self.cutter.live(block.stop))
        with ThreadPoolExecutor(self.threads) as pool:
            for rows, given in zip(self.rows, known, strict=True):
                for running in [pool.submit(self._step, c, part, rows, given, before, block.exit) for c in moving]:
                    running.result()

    def _step(
        self, carried: Carried, part: OpenPart, rows: slice, given: Mapping[str, Array], before: str, exit_: str | None
    ) -> None:
        value = carried.values.pop((rows.start, rows.stop), None)
        if value is None:
            return
        made = part.run({**given, before: value})
        if exit_ is not None and exit_ in made:
            carried.values[rows.start, rows.stop] = np.copy(made[exit_])
        start = 0
        for view in self.frame.divergence.views:
            columns = slice(start, start + view.width)
            if view.width and view.name in made:
                code = view.encode(numbers(made[view.name]), rows.stop - rows.start)
                carried.change[rows, columns] = code - self.frame.reference[rows, columns]
            start = columns.stop

    def arrived(self, number: int) -> dict[Try, Code]:
        """Changes of the outputs by perturbations in block `number`, float32 [samples, width]."""
        return {tried: carried.change for tried, carried in self.from_block[number].items()}
