"""Moments of layer inputs, summed sample by sample: rows are collected, multiplied in one product, and forgotten."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxmpq.execution import MEMORY, Cutter, ForwardPass, MemoryBudget, cut_to_fit, run_samples, tensor_shapes
from onnxmpq.feeds import Feeds
from onnxmpq.model import InputView, Model
from onnxmpq.runtimes import SessionSettings
from onnxmpq.statistics.few_rows import less_chance
from onnxmpq.statistics.not_finite import squarable

ROWS_IN_ALL = 32768
FEWEST_ROWS_PER_SAMPLE = 1024
SUMMED_WHOLE, PANEL = 4096, 512
"""Inputs up to which their products are added at once, and how many at a time beyond."""
FloatArray = NDArray[np.float32]
Tick = Callable[[int], None]
Key = tuple[str, InputView]  # the tensor that a layer reads, and how


@dataclass(frozen=True, eq=False)
class Moments:
    """Averages over the rows x [K] that a layer reads, group by group.

    hessian: float32 [G, K, K], E[x xᵀ]; mean: float32 [G, K], E[x]. cross: E[x x_fpᵀ], mean_fp: E[x_fp], where x
    comes from a quantized model and x_fp from the fp32 one; None where there is only one model. chance: the mean share
    by which products of different inputs are made smaller (`few_rows.py`), 0 for averages.
    """

    hessian: FloatArray
    mean: FloatArray
    cross: FloatArray | None = None
    mean_fp: FloatArray | None = None
    chance: float = 0.0


def rows_per_sample(samples: int) -> int:
    """Rows taken of one sample: more where there are few samples. Neighbouring positions tell little new."""
    return max(FEWEST_ROWS_PER_SAMPLE, -(-ROWS_IN_ALL // max(samples, 1)))


class MomentSum:
    """Running sums for one view. The result depends on the order of samples alone."""

    def __init__(self, view: InputView, limit: int, *, crossed: bool = False) -> None:
        self.view, self.limit, self.crossed = view, limit, crossed
        square = (view.groups, view.inputs, view.inputs)
        self._products = np.zeros(square, np.float32)  # each addend sums many rows: float32 loses nothing that counts
        self._cross = np.zeros(square if crossed else 0, np.float32)
        self._sums = np.zeros((2, view.groups, view.inputs))
        self._held: list[tuple[FloatArray, FloatArray]] = []
        self._rows = self._total = 0

    @staticmethod
    def bytes_held(view: InputView) -> int:
        """Memory for one sum, with rows waiting and the float32 result."""
        return 16 * view.groups * view.inputs**2

    def add(self, values: NDArray[np.generic], fp32: NDArray[np.generic] | None = None) -> None:
        """The layer's input in one run, which may be empty, and for crossed sums the same in the fp32 model."""
        if not np.size(values):
            return
        rows = self.view.rows(squarable(values), self.limit)
        other = rows if fp32 is None else self.view.rows(squarable(fp32), self.limit)
        self._held.append((rows, other))
        self._rows += rows.shape[1]
        if self._rows >= self.view.inputs:
            self._flush()

    def merge(self, other: MomentSum) -> None:
        """Add all that another sum of the same view has seen."""
        self._flush()
        other._flush()
        self._products += other._products
        self._cross += other._cross
        self._sums += other._sums
        self._total += other._total

    def result(self, *, last: bool = False, believed: bool = False) -> Moments:
        """last: nothing is added afterwards, so that the sums become the result and take no more memory. believed:
        products as far as so many rows can be believed (`few_rows.py`), instead of their averages."""
        self._flush()
        count = max(self._total, 1)
        mean, mean_fp = (self._sums / count).astype(np.float32)
        hessian = np.divide(self._products, np.float32(count), out=self._products if last else None)
        cross = self._cross / np.float32(count) if self.crossed else None
        chance = less_chance(hessian, self._total, cross) if believed else 0.0
        return Moments(hessian, mean, cross, mean_fp if self.crossed else None, chance)

    def _flush(self) -> None:
        if not self._held:
            return
        rows = np.concatenate([r for r, _ in self._held], axis=1)
        turned = rows.transpose(0, 2, 1)
        for part in _panels(self.view.inputs):
            self._products[:, part] += turned[:, part] @ rows
        self._sums[0] += rows.sum(axis=1, dtype=np.float64)
        if self.crossed:
            other = np.concatenate([o for _, o in self._held], axis=1)
            self._cross += turned @ other
            self._sums[1] += other.sum(axis=1, dtype=np.float64)
        self._total += self._rows
        self._held, self._rows = [], 0


def _panels(inputs: int) -> list[slice]:
    """Inputs whose products are added at a time: all, unless these alone would take much memory."""
    size = inputs if inputs <= SUMMED_WHOLE else PANEL
    return [slice(start, start + size) for start in range(0, max(inputs, 1), max(size, 1))]


def measure_moments(
    model: Model,
    weights: Collection[str],
    feeds: Feeds,
    *,
    threads: int = 1,
    memory: MemoryBudget = MEMORY,
    tick: Tick = lambda _: None,
    believed: bool = False,
) -> Iterator[tuple[str, Moments]]:
    """Moments in the fp32 model with the key of the weight, weight by weight; those without rows are left out.

    weights: keys. They are measured in chunks, each of which runs the samples once more, `threads` of them side by
    side on one thread each. Chunks follow from the model, not from `weights`: a session fuses what it need not show,
    which has part in the last bits. What is handed over is not held any longer. `tick` counts samples.
    """
    read, limit = readers(model), rows_per_sample(len(feeds))
    wanted = {key: found for key, names in read.items() if (found := [n for n in names if n in weights])}
    if model.store.spill is not None:
        yield from _walked(model, wanted, feeds, limit, threads, memory, tick, believed=believed)
        return
    for chunk in chunks(model, feeds, list(read), memory):
        keys = [key for key in chunk if key in wanted]
        if not keys:
            continue
        sums = summed(model, keys, [t for t, _ in chunk], feeds, limit, threads, tick)
        for key in keys:
            moments = sums.pop(key).result(believed=believed)
            for name in wanted[key]:
                yield name, moments


def _walked(
    model: Model,
    wanted: Mapping[Key, Sequence[str]],
    feeds: Feeds,
    limit: int,
    threads: int,
    memory: MemoryBudget,
    tick: Tick,
    *,
    believed: bool,
) -> Iterator[tuple[str, Moments]]:
    """The same for a model that is never whole in memory: each node runs about once, however deep the model is."""
    cutter = Cutter(model.store)
    walk = ForwardPass(cutter, feeds, SessionSettings(), threads=threads, memory=memory)
    keys = sorted(wanted, key=lambda key: cutter.position(key[0]))
    for chunk in list(chunks(model, feeds, keys, memory)):
        sums, tensors = {key: MomentSum(key[1], limit) for key in chunk}, list(dict.fromkeys(t for t, _ in chunk))
        stop = max(cutter.position(t) for t in tensors) + 1
        for values in walk.values(stop, tensors, cutter.live(stop)):
            for key in chunk:
                sums[key].add(values[key[0]])
            tick(1)
        for key in chunk:
            moments = sums.pop(key).result(last=True, believed=believed)
            for name in wanted[key]:
                yield name, moments
            del moments  # while others are summed


def readers(model: Model) -> dict[Key, list[str]]:
    """Keys of the weights that are multiplied with the same rows of a tensor, by that."""
    nodes = {n.name: n for n in model.structure.graph.node}
    found: dict[Key, list[str]] = {}
    for key, (region, place) in model.weights.items():
        node = nodes[region.nodes[0]]
        view = region.operator.input_view(node, region.params, place)
        if view is not None:
            found.setdefault((node.input[0], view), []).append(key)
    return found


def summed(
    model: Model, keys: Sequence[Key], shown: Sequence[str], feeds: Feeds, limit: int, threads: int, tick: Tick
) -> dict[Key, MomentSum]:
    """All samples seen by the sums of these keys, in a session that shows the tensors `shown`; it ends here."""
    sums = {key: MomentSum(key[1], limit) for key in keys}
    tensors = list(dict.fromkeys(tensor for tensor, _ in keys))
    for found in run_samples(model.store, feeds, tensors, shown=shown, threads=threads):
        values = dict(zip(tensors, found, strict=True))
        for key in keys:
            sums[key].add(values[key[0]])
        tick(1)
    return sums


def chunks(model: Model, feeds: Feeds, keys: Sequence[Key], memory: MemoryBudget) -> Iterator[list[Key]]:
    """Keys in order, cut so that activations of any sample and moments of a chunk stay below their limits."""
    shapes = tensor_shapes(model, feeds, list(dict.fromkeys(t for t, _ in keys)), feeds.largest)

    def sizes(key: Key) -> tuple[int, int]:
        return 4 * int(np.prod(shapes[key[0]])), MomentSum.bytes_held(key[1])

    return cut_to_fit(keys, sizes, (memory.shown, memory.sums))
