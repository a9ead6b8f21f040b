"""Sums of pairs that leave 16 bits, counted layer by layer in NumPy. No graph and no runtime in this file.

No matrix of windows is built: a column of it is a strided view of the padded activation, so memory grows with the
activation and not with the window. Positions where both codes are small are left out: |a·u + b·v| is at most
(a + b)·max(|u|, |v|).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxmpq.rounding import LARGEST_CODE, LARGEST_SUM, SMALLEST_SUM, overflowing_pairs
from onnxmpq.saturation.layers import Int8Array, Source, Watched, Window

Codes = NDArray[np.uint8]
Int64Array = NDArray[np.int64]
Column = Callable[[int], Codes]
_HELD = 2**23  # output values looked at together, of 4 bytes and as many for temporary sums


@dataclass(frozen=True, eq=False)
class Counts:
    """Of one layer, per output channel: int64 [O].

    saturated: pair sums outside -32768..32767. affected: output values that such sums change (where several cancel each
    other, the value is not changed). positions: output values of each channel.
    """

    saturated: Int64Array
    affected: Int64Array
    positions: int

    @classmethod
    def none(cls, channels: int) -> Counts:
        return cls(np.zeros(channels, np.int64), np.zeros(channels, np.int64), 0)

    def __add__(self, other: Counts) -> Counts:
        return Counts(
            self.saturated + other.saturated, self.affected + other.affected, self.positions + other.positions
        )


def codes_of(values: NDArray[np.generic], source: Source) -> Codes:
    """Activation codes as the kernel reads them, uint8."""
    if source.kind == "codes":
        return _bytes(values.astype(np.int16) + source.offset)
    exact = values.astype(np.float32)
    if source.kind == "dynamic":
        return _dynamic(exact)
    rounded = np.rint(exact / np.float32(source.scale)) + np.float32(source.zero_point + source.offset)
    return _bytes(rounded)


def _dynamic(values: NDArray[np.float32]) -> Codes:
    """Source: https://onnx.ai/onnx/operators/onnx__DynamicQuantizeLinear.html"""
    low, high = np.minimum(values.min(initial=0), 0), np.maximum(values.max(initial=0), 0)
    scale = (high - low) / np.float32(LARGEST_CODE) or np.float32(1.0)
    zero = np.rint(np.clip(-low / scale, 0, LARGEST_CODE))
    return _bytes(np.rint(values / scale) + zero)


def _bytes(codes: NDArray[np.generic]) -> Codes:
    clipped: Codes = np.clip(codes, 0, LARGEST_CODE).astype(np.uint8)
    return clipped


def count(layer: Watched, codes: Codes) -> Counts:
    """Saturated sums of a layer on an activation: [N, C, ...] of a Conv, [..., M, K] or [K] of a matrix product."""
    found, positions = [], 0
    for (column, positions), rows in zip(columns(layer, codes), layer.filters, strict=True):
        found.append(_count(column, positions, rows, layer.code))
    saturated, affected = (np.concatenate(part) for part in zip(*found, strict=True))
    return Counts(saturated, affected, positions)


def columns(layer: Watched, codes: Codes) -> Iterator[tuple[Column, int]]:
    """Per part: what gives the codes that weight k of a filter meets in the kernel, and how many there are."""
    return _convolved(layer, layer.window, codes) if layer.window else _multiplied(layer, codes)


def _convolved(layer: Watched, window: Window, codes: Codes) -> Iterator[tuple[Column, int]]:
    """Per group: a column of its windows."""
    rank = len(window.shape)
    reach = [(k - 1) * d + 1 for k, d in zip(window.shape, window.dilations, strict=True)]
    edges = ((0, 0), (0, 0), *_edges(window, codes.shape[2:], reach))
    padded = np.pad(codes, edges, constant_values=window.padding_code)
    counts = [(n - r) // s + 1 for n, r, s in zip(padded.shape[2:], reach, window.strides, strict=True)]
    channels = layer.filters.shape[2] // int(np.prod(window.shape))

    def of_part(part: int) -> Column:
        def column(k: int) -> Codes:
            *at, channel = (int(i) for i in np.unravel_index(k, (*window.shape, channels)))
            starts = [at[i] * window.dilations[i] for i in range(rank)]
            steps = [slice(b, b + (n - 1) * s + 1, s) for b, n, s in zip(starts, counts, window.strides, strict=True)]
            found: Codes = padded[(slice(None), part * channels + channel, *steps)].reshape(-1)
            return found

        return column

    for part in range(len(layer.filters)):
        yield of_part(part), len(codes) * int(np.prod(counts))


def _edges(window: Window, shape: tuple[int, ...], reach: list[int]) -> list[tuple[int, int]]:
    """Padding before and after each dimension. Source: https://onnx.ai/onnx/operators/onnx__Conv.html"""
    rank = len(shape)
    if not window.auto_pad.startswith("SAME"):
        pads = window.pads if window.auto_pad == "NOTSET" else (0,) * 2 * rank
        return list(zip(pads[:rank], pads[rank:], strict=True))
    found = []
    for size, step, width in zip(shape, window.strides, reach, strict=True):
        total = max((-(-size // step) - 1) * step + width - size, 0)
        less, more = total // 2, total - total // 2
        found.append((less, more) if window.auto_pad == "SAME_UPPER" else (more, less))
    return found


def _multiplied(layer: Watched, codes: Codes) -> Iterator[tuple[Column, int]]:
    """Per matrix of a stack; a stack of activations is spread over it as NumPy's matmul does."""
    if layer.transposed:
        codes = codes.T
    matrices = codes.reshape(1, -1) if codes.ndim == 1 else codes
    outer = np.broadcast_shapes(matrices.shape[:-2], layer.stack)
    spread = np.broadcast_to(matrices, (*outer, *matrices.shape[-2:]))
    for index in np.ndindex(*layer.stack):
        own = tuple(i if n > 1 else slice(None) for i, n in zip(index, layer.stack, strict=True))
        rows = spread[(..., *own, slice(None), slice(None))]
        by_column = np.ascontiguousarray(rows.reshape(-1, rows.shape[-1]).T)
        yield by_column.__getitem__, by_column.shape[1]


def _count(column: Column, positions: int, filters: Int8Array, code: int) -> tuple[Int64Array, Int64Array]:
    """(saturated, affected) per filter: int64 [R]."""
    flagged = overflowing_pairs(filters, code)
    suspects = np.flatnonzero(flagged.any(axis=1))
    saturated, affected = np.zeros((2, len(filters)), np.int64)
    step = max(_HELD // max(positions, 1), 1)
    for start in range(0, len(suspects), step):
        rows = suspects[start : start + step]
        saturated[rows], affected[rows] = _of_rows(column, positions, filters[rows], flagged[rows])
    return saturated, affected


def _of_rows(
    column: Column, positions: int, filters: Int8Array, flagged: NDArray[np.bool_]
) -> tuple[Int64Array, Int64Array]:
    saturated = np.zeros(len(filters), np.int64)
    excess = np.zeros((len(filters), positions), np.int32)  # what saturation takes from each output value
    wide = filters.astype(np.int32)
    for pair in np.flatnonzero(flagged.any(axis=0)):
        rows = np.flatnonzero(flagged[:, pair])
        u, v = wide[rows, 2 * pair, None], wide[rows, 2 * pair + 1, None]  # a last weight alone cannot saturate
        a, b = column(2 * int(pair)).astype(np.int32), column(2 * int(pair) + 1).astype(np.int32)
        at = np.flatnonzero((a + b) * max(np.abs(u).max(), np.abs(v).max()) > LARGEST_SUM)
        if at.size:
            sums = u * a[at] + v * b[at]
            over = sums - np.clip(sums, SMALLEST_SUM, LARGEST_SUM)
            saturated[rows] += np.count_nonzero(over, axis=1)
            excess[rows[:, None], at] += over
    return saturated, np.count_nonzero(excess, axis=1).astype(np.int64)
