"""Blocks of a graph: stretches of nodes behind which one tensor carries all that was changed inside.

A cut is a place in the node order. Of what layers behind the last cut change, exactly one tensor is read behind this
one: the stream of a residual network, a transformer, or either half of an encoder-decoder (what a decoder reads of its
encoder does not change inside the decoder). Results that reach further by themselves, such as a mask that every block
reads, are few; they are named, for their effects are measured on the outputs. A block is made longer where that costs
less: an embedding that is added behind the first attention reaches no further than that sum. A graph with long skip
connections (U-Net) has few cuts, or none: then it is one block.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import onnx

from onnxmpq.execution import Cutter
from onnxmpq.model import read_by

FEWEST_TARGETS = 5  # in a block
MOST_BLOCKS = 64
FAR_SHARE = 0.25  # of a block's targets, inputs of the graph apart, that may reach further than its exit


@dataclass(frozen=True)
class Block:
    """Nodes from place `start` up to `stop`.

    exit: the tensor that carries the changes on; None for the last block, whose changes show at the outputs. far:
    targets in the block that change other tensors behind it as well.
    """

    start: int
    stop: int
    exit: str | None
    far: frozenset[str] = frozenset()


def find_blocks(cutter: Cutter, targets: Iterable[str]) -> tuple[Block, ...]:
    """The graph cut into blocks. targets: tensors that may be perturbed; those that are inputs belong to the first."""
    return _Search(cutter, list(targets)).run()


@dataclass(frozen=True)
class _Candidate:
    """A block, the number of targets made in it, and of those of them that reach further than its exit."""

    block: Block
    own: int
    reaching: int

    def longer_pays(self, stop: int, count: int) -> bool:
        """True as long as it costs less to run all its targets to a cut at `stop` than those that reach further to the
        end of the graph, of `count` nodes."""
        if stop >= count:
            return False
        return self.own * (stop - self.block.stop) < self.reaching * (count - self.block.stop)


class _Search:
    def __init__(self, cutter: Cutter, targets: Sequence[str]) -> None:
        self.nodes = cutter.index.nodes
        self.reads = [[t for t in read_by(n) if t and t not in cutter.constants] for n in self.nodes]
        self.last_read = {t: place for place, tensors in enumerate(self.reads) for t in tensors}
        last = len(self.nodes) - 1
        self.first_read = {t: last - place for place, tensors in enumerate(self.reads[::-1]) for t in tensors}
        self.targets = frozenset(targets)
        self.fewest = max(FEWEST_TARGETS, len(self.targets) // MOST_BLOCKS)
        self.blocks: list[Block] = []
        self.names: list[str] = []  # targets of the block at hand, behind what is made outside; bit i is the i-th
        self.reached: dict[str, int] = {}  # tensors behind targets of the block at hand: a bit for each

    def run(self) -> tuple[Block, ...]:
        start, given, place = 0, self._inputs(), 0
        shorter: _Candidate | None = None
        for tensor in given:
            self._perturb(tensor)
        while place < len(self.nodes) or shorter is not None:
            block = None
            if place < len(self.nodes):
                self._pass(place, self.nodes[place])
                place += 1
                block = self._cut(start, place, len(given))
            if block is not None and not block.reaching:
                shorter = block
            elif (shorter := shorter or block) is None or shorter.longer_pays(place, len(self.nodes)):
                continue
            self.blocks.append(shorter.block)
            start = place = shorter.block.stop
            given, shorter = [str(shorter.block.exit)], None
            self.names, self.reached = [], {}
            self._perturb(given[0])
        self.blocks.append(Block(start, len(self.nodes), None))
        return tuple(self.blocks)

    def _inputs(self) -> list[str]:
        made = {t for n in self.nodes for t in n.output}
        return sorted(self.targets - made)

    def _perturb(self, tensor: str) -> None:
        self.reached[tensor] = self.reached.get(tensor, 0) | 1 << len(self.names)
        self.names.append(tensor)

    def _pass(self, place: int, node: onnx.NodeProto) -> None:
        """Follow what the targets of the block change, one node further."""
        mask = 0
        for tensor in self.reads[place]:
            mask |= self.reached.get(tensor, 0)
        for tensor in filter(None, node.output):
            if mask:
                self.reached[tensor] = mask
            if tensor in self.targets:
                self._perturb(tensor)
        self.reached = {t: m for t, m in self.reached.items() if self.last_read.get(t, -1) > place}

    def _cut(self, start: int, stop: int, given: int) -> _Candidate | None:
        """The block that may end here; None where none can.

        given: the first of `names` that are made outside: of the first block the inputs, of others the exit of the
        block before. They must not be read on both sides of the place. The exit before must not reach behind it in any
        other way than through this exit, or changes of earlier blocks would be lost.
        """
        own = len(self.names) - given
        if own < self.fewest or not self.reached:
            return None
        leaving = max(self.reached, key=lambda t: self.reached[t].bit_count())
        far = 0
        for tensor, mask in self.reached.items():
            far |= mask if tensor != leaving else 0
        if any(self.first_read.get(t, stop) < stop <= self.last_read[t] for t in self.names[:given]):
            return None
        outside = (1 << given) - 1
        if (far & ~outside).bit_count() > FAR_SHARE * own or (self.blocks and far & outside):
            return None
        block = Block(start, stop, leaving, frozenset(n for i, n in enumerate(self.names) if far >> i & 1))
        return _Candidate(block, own, (far & ~outside).bit_count())
