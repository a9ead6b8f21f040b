"""Memory that may hold values while a graph runs over samples, whatever the number of samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

MIB = 2**20
Item = TypeVar("Item")


@dataclass(frozen=True)
class MemoryBudget:
    """Upper limits in bytes, each for values that are in memory at the same time.

    shown: tensors that a session makes visible, for one sample. running: outputs of runs side by side. kept: inner
    tensors of all samples between two stops of a `ForwardPass`. sums: sums over samples, such as second moments, with
    the rows that are still to be added. effects: changes of the outputs for all perturbations. targets: perturbed
    tensors of one group, in the batches run together (sessions hold several times that). weights: constants in the
    small sessions of one group (onnxruntime holds about twice that).
    """

    shown: int = 192 * MIB
    running: int = 384 * MIB
    kept: int = 256 * MIB
    sums: int = 384 * MIB
    effects: int = 256 * MIB
    targets: int = 32 * MIB
    weights: int = 512 * MIB


MEMORY = MemoryBudget()


def cut_to_fit(
    items: Iterable[Item], sizes: Callable[[Item], Sequence[int]], limits: Sequence[int]
) -> Iterator[list[Item]]:
    """Items in order, in chunks whose summed sizes are within the limits; an item beyond a limit is a chunk of its own.

    sizes: of an item, one entry per limit.
    """
    chunk: list[Item] = []
    held = [0] * len(limits)
    for item in items:
        size = sizes(item)
        if chunk and any(h + s > limit for h, s, limit in zip(held, size, limits, strict=True)):
            yield chunk
            chunk, held = [], [0] * len(limits)
        chunk.append(item)
        held = [h + s for h, s in zip(held, size, strict=True)]
    if chunk:
        yield chunk
