"""A few changes at the exits of blocks, carried on to the outputs: block by block, together with those of later blocks.

A block's weights are in memory once, whatever the number of changes that pass through it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from onnxmpq.execution import Cutter, ForwardPass, OpenPart, Part
from onnxmpq.feeds import Array, Feeds
from onnxmpq.runtimes import SessionSettings
from onnxmpq.sensitivity.blocks import Block
from onnxmpq.sensitivity.divergence import Code
from onnxmpq.sensitivity.effects import Frame, Try

Batch = tuple[int, int]  # samples


@dataclass(frozen=True)
class Catcher:
    """Picks what is carried on of the changes in a block: at its exit, those by the perturbations `chosen`, of the
    first `count` samples."""

    chosen: frozenset[Try]
    count: int
    exit: str

    def caught(self, tried: Try, rows: slice, made: Mapping[str, Array]) -> tuple[slice, Array] | None:
        """Samples, and a copy of their changed exit. made: tensors that the perturbation changed in a run of `rows`."""
        if tried not in self.chosen or rows.start >= self.count or self.exit not in made:
            return None
        first = first_rows(rows, self.count)
        value = made[self.exit]
        if first != rows:  # several samples run together only where each has its stretch of the first axis
            value = value[: len(value) // (rows.stop - rows.start) * (first.stop - first.start)]
        return first, np.copy(value)


def first_rows(rows: slice, count: int) -> slice:
    """Those of a batch that are among the first `count` samples."""
    return slice(rows.start, min(rows.stop, count))


@dataclass(eq=False)
class Carried:
    """A perturbation on its way. values: of the tensor at the exit of the last block that it passed, by batch.
    change: float32 [samples, width], of the outputs so far."""

    change: Code
    values: dict[Batch, Array] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Way:
    """From the exits of blocks to the outputs. feeds: samples on which changes are carried, in the batches `rows`.
    made: per block, the tensors compared with the reference that are made in it."""

    feeds: Feeds
    frame: Frame
    blocks: tuple[Block, ...]
    made: tuple[tuple[str, ...], ...]
    rows: tuple[slice, ...]

    def unmoved(self) -> Carried:
        return Carried(np.zeros((len(self.feeds), self.frame.divergence.width), np.float32))


class Walk:
    """Goes along a way once, block after block. cutter: of the model, with the outputs of the way's frame. opened:
    parts by the number of their block, for further walks along the same way; None to hold one at a time."""

    def __init__(self, cutter: Cutter, way: Way, threads: int, opened: dict[int, OpenPart] | None = None) -> None:
        self.cutter, self.way, self.threads, self.opened = cutter, way, threads, opened
        self.settings = SessionSettings(lean=True)
        self.forward = ForwardPass(cutter, way.feeds, self.settings, rows=way.rows)
        streams = [str(block.exit) for block in way.blocks[:-1]]
        behind = zip(way.blocks[1:], streams, strict=True)
        self.others = [cutter.within(b.start, b.stop, ()).fed([t], b.start) - {t} for b, t in behind]

    def through(self, number: int, moving: Sequence[Carried]) -> None:
        """Take changes at the exit of the block before this one to its own exit. Blocks behind the first one are passed
        in order, with or without changes, as where a walk stops decides last bits."""
        block, before = self.way.blocks[number], self.way.blocks[number - 1].exit
        assert before is not None
        wanted = tuple(dict.fromkeys((*((block.exit,) if block.exit else ()), *self.way.made[number])))
        behind = self.cutter.within(block.start, block.stop, wanted).behind([before], block.start)
        others = [t for t in behind.inputs if t != before]
        further = sorted(frozenset[str]().union(*self.others[number:]))
        later = [t for t in further if self.cutter.position(t) < block.stop]
        if not moving:
            self.forward.skip(block.stop, others, later)
            return
        part = self._opened(number, behind)
        known = self.forward.values(block.stop, others, later)
        with ThreadPoolExecutor(self.threads) as pool:
            for rows, given in zip(self.way.rows, known, strict=True):
                for running in [pool.submit(self._step, c, part, rows, given, before, block.exit) for c in moving]:
                    running.result()

    def _opened(self, number: int, behind: Part) -> OpenPart:
        part = (self.opened or {}).get(number) or OpenPart(behind, self.settings)
        if self.opened is not None:
            self.opened[number] = part
        return part

    def _step(
        self, carried: Carried, part: OpenPart, rows: slice, given: Mapping[str, Array], before: str, exit_: str | None
    ) -> None:
        value = carried.values.pop((rows.start, rows.stop), None)
        if value is None:
            return
        made = part.run({**given, before: value})
        if exit_ is not None and exit_ in made:
            carried.values[rows.start, rows.stop] = np.copy(made[exit_])
        self.way.frame.divergence.fill(carried.change, self.way.frame.reference, rows, made)


class Carrier:
    """Gets changes at the exit of each block, and takes them through all later ones. chosen: per block, the
    perturbations that are carried on."""

    def __init__(self, cutter: Cutter, way: Way, chosen: Sequence[frozenset[Try]], threads: int) -> None:
        self.way, self.walk, self.closed = way, Walk(cutter, way, threads), 0
        self.from_block = [{t: way.unmoved() for t in sorted(names)} for names in chosen]
        exits = [str(block.exit) for block in way.blocks[:-1]]
        self.catchers = tuple(
            Catcher(names, len(way.feeds), exit_) for names, exit_ in zip(chosen, exits, strict=False)
        )

    def catch(self, number: int, tried: Try, rows: slice, made: Mapping[str, Array]) -> None:
        """Changes by a perturbation in block `number`; kept if it is to be carried on. Batches may come side by
        side."""
        found = self.catchers[number].caught(tried, rows, made)
        if found is not None:
            self.hold(number, tried, *found)

    def hold(self, number: int, tried: Try, rows: slice, value: Array) -> None:
        """Keep what a catcher has picked."""
        self.from_block[number][tried].values[rows.start, rows.stop] = value

    def close(self, stop: int) -> None:
        """The blocks before number `stop` are measured: changes go on to the exit of the last of them, and to the
        outputs behind the last one of all."""
        for number in range(max(self.closed, 1), stop):
            self.walk.through(number, [change for block, change in self.moving() if block < number])
        self.closed = max(self.closed, stop)

    def moving(self) -> list[tuple[int, Carried]]:
        """Changes on their way, with the blocks that they come from."""
        return [(n, c) for n, row in enumerate(self.from_block) for c in row.values() if c.values]

    def arrived(self, number: int) -> dict[Try, Code]:
        """Changes of the outputs by perturbations in block `number`, float32 [samples, width]."""
        return {tried: carried.change for tried, carried in self.from_block[number].items()}
