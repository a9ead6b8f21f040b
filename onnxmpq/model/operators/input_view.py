"""The input of a layer as rows: what one output value is the inner product of, times one row of the weight matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class InputView:
    """The view in which a layer reads its input tensor.

    inputs: K, the length of a row. groups: of a convolution, else 1. kernel: spatial extent; () where rows are the last
    axis.
    strides, dilations: per spatial axis. pads: (before, after) per spatial axis, None where `auto_pad` decides.
    """

    inputs: int
    groups: int = 1
    kernel: tuple[int, ...] = ()
    strides: tuple[int, ...] = ()
    dilations: tuple[int, ...] = ()
    pads: tuple[tuple[int, int], ...] | None = ()
    auto_pad: str = "NOTSET"

    def rows(self, values: FloatArray, limit: int) -> FloatArray:
        """float32 [G, R, K]: at most `limit` rows of one input tensor, the same ones for equal shapes.

        The choice is random but fixed, so that it has no period in common with the picture.
        """
        if not self.kernel:
            flat = values.reshape(-1, self.inputs)
            return np.ascontiguousarray(flat[_chosen(len(flat), limit)], dtype=np.float32)[None]
        windows = self._windows(values)
        places = (len(values), *windows.shape[2 : 2 + len(self.kernel)])
        image, *position = np.unravel_index(_chosen(int(np.prod(places)), limit), places)
        picked = np.moveaxis(windows, 1, -1 - len(self.kernel))[(image, *position)]  # [R, C, *kernel]
        grouped = picked.reshape(len(picked), self.groups, self.inputs)
        return np.ascontiguousarray(grouped.transpose(1, 0, 2), dtype=np.float32)

    def _windows(self, values: FloatArray) -> FloatArray:
        """A view [N, C, *output positions, *kernel] of the padded input."""
        extents = [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]
        padded = np.pad(values, ((0, 0), (0, 0), *self._padding(values.shape[2:], extents)))
        axes = tuple(range(2, 2 + len(self.kernel)))
        windows = sliding_window_view(padded, extents, axis=axes)
        steps = tuple(slice(None, None, s) for s in (*self.strides, *self.dilations))
        strided: FloatArray = windows[(slice(None), slice(None), *steps)]
        return strided

    def _padding(self, sizes: Sequence[int], extents: Sequence[int]) -> tuple[tuple[int, int], ...]:
        if self.pads is not None:
            return self.pads
        found = []
        for size, extent, stride in zip(sizes, extents, self.strides, strict=True):
            total = max((-(-size // stride) - 1) * stride + extent - size, 0)
            before = total // 2 if self.auto_pad == "SAME_UPPER" else total - total // 2
            found.append((before, total - before))
        return tuple(found)


def _chosen(count: int, limit: int) -> NDArray[np.intp]:
    """At most `limit` of `count` indices, ascending, always the same ones."""
    if count <= limit:
        return np.arange(count)
    return np.sort(np.random.default_rng(count).permutation(count)[:limit])
