"""Weight formats, the grid of values that a format allows for one weight, and rounded weights.

Everything works on the 2-D view of a layer's weight: `w` float32 [O, K], O output channels, K inputs of one output
channel (Conv: input channels per group · kernel height · kernel width; MatMul weight [K, N]: transposed to [N, K]).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from onnxmpq.rounding import opsets

FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]
CodeArray = NDArray[np.int8]
MultiplierArray = NDArray[np.uint8]
ZeroPointArray = NDArray[np.uint8]
ScaleType = Literal["float32", "float16"]

MULTIPLIER_BITS = 4

ELEMENTS_PER_CHUNK = 1 << 16
"""Rows are worked on in chunks that stay in the processor's cache."""

SMALLEST_STEP = np.finfo(np.float32).tiny
"""Weights that would need a smaller step count as zeros (a subnormal scale is flushed to zero on some devices)."""


@dataclass(frozen=True)
class WeightFormat(ABC):
    """A storage pattern for weights: codes without zero points, and their scales. One class per file in `formats`.

    The defaults are those of integer codes times one float32 scale per output channel, w ≈ scale[o] · code. A format
    overrides what differs. How it is spelled in ONNX is in the tables of the dialects (`onnxmpq.dialects`).

    bits: used by a code, 2 to 8. Raises ValueError for others, and for fields that do not go together.
    """

    bits: int

    blocked: ClassVar[bool] = False
    """One scale per block, [O, B]; else one per channel, [O]."""
    has_multipliers: ClassVar[bool] = False
    """One uint4 multiplier per block."""
    has_tensor_scale: ClassVar[bool] = False
    """One more scale for the whole tensor."""
    linear: ClassVar[bool] = True
    """Values are codes times steps, so that sums of squares in them are quadratic. Float codes are not: they are
    rounded once more, and may underflow."""
    shifted: ClassVar[bool] = False
    """Each block has a zero point, by which the codes that it may have are shifted (`Grid.limits`)."""
    multiplied_as_int8: ClassVar[bool] = False
    """Values are int8 codes times one scale per channel, so that an integer kernel can multiply them."""

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f"{self.name}: a code has 2 to 8 bits, not {self.bits}")

    # ---- identity ------------------------------------------------------------------------------

    @property
    @abstractmethod
    def name(self) -> str:
        """In plans and messages. Plans written before stay readable only if it does not change."""

    @property
    def negative_scales(self) -> bool:
        """Scales may be negative."""
        return False

    @property
    def saturation_free(self) -> bool:
        """The int8 codes that the kernel multiplies obey `rounding.overflow.pair_limits` for neighbours in the kernel's
        order (`runtimes.kernel_columns`), so that no x86 kernel saturates."""
        return False

    @property
    def may_saturate(self) -> bool:
        """True where int8 codes of this format, or of its unrestricted twin, can exceed the 16-bit sums of x86
        kernels."""
        return False

    @property
    def without_saturation(self) -> WeightFormat:
        """The same format with codes that keep x86 kernels from saturating. Raises ValueError where none can."""
        raise ValueError(f"{self.name}: codes of this format cannot saturate")

    # ---- the file ------------------------------------------------------------------------------

    @property
    def low(self) -> int:
        """Smallest code."""
        return -(1 << (self.bits - 1))

    @property
    def high(self) -> int:
        """Largest code."""
        return (1 << (self.bits - 1)) - 1

    @property
    def storage_bits(self) -> int:
        """Bits of a code's type in the file: INT4 (opset 21) or INT8; no dialect writes INT2 (opset 25)."""
        return 4 if self.bits <= 4 else 8

    @property
    def low_bits(self) -> int:
        """Lowest bits of a code that its type does not hold; they are packed into bytes."""
        return 0

    @property
    def scale_type(self) -> ScaleType:
        """Type of the scales in the file, and of the weight when it is unfolded."""
        return "float32"

    @property
    def lowest_opset(self) -> int:
        """The first opset that has the format's types and operators."""
        return opsets.INT4 if self.storage_bits == 4 else opsets.PER_CHANNEL

    @property
    def scale_bits(self) -> int:
        """Bits of a scale."""
        return 8 * np.dtype(self.scale_type).itemsize

    def storable(self, scales: FloatArray) -> FloatArray:
        """The scales as the file holds them, float32 values."""
        return scales

    def size_bytes(self, weight: QuantizedWeight) -> int:
        """Bytes of codes, scales and multipliers in an ONNX file; each tensor packed and padded to a whole byte."""
        multipliers = 0 if weight.multipliers is None else weight.multipliers.size
        return (
            -(-weight.codes.size * self.storage_bits // 8)
            - (-weight.codes.size * self.low_bits // 8)
            + weight.scales.size * np.dtype(self.scale_type).itemsize
            + -(-multipliers * MULTIPLIER_BITS // 8)
        )

    def unfolding_bytes(self, layer: str) -> int:
        """Bytes of names, nodes and headers that turn the codes into a weight in the file; layer: its name."""
        return 110

    def side_bits(self, channels: int, inputs: int) -> int:
        """Bits of scales and multipliers beside the codes [channels, inputs] in the memory of a modelled target."""
        return channels * self.blocks(inputs) * self.scale_bits

    # ---- fitting -------------------------------------------------------------------------------

    def block_width(self, inputs: int) -> int:
        """Consecutive inputs that share one step on a row of `inputs` weights."""
        return max(inputs, 1)

    def blocks(self, inputs: int) -> int:
        """Blocks of a row of `inputs` weights; the last one may be shorter."""
        return -(-inputs // self.block_width(inputs))

    @property
    def one_step(self) -> bool:
        """One step per channel, fitted before rounding begins; else a step per block."""
        return not (self.blocked or self.has_multipliers)

    def tensor_scale(self, w: FloatArray) -> float:
        """The scale of the whole tensor w [O, K]; 1 for formats that have none."""
        return 1.0

    @abstractmethod
    def fit(self, w: FloatArray, importance: FloatArray | None = None, tensor_scale: float | None = None) -> Grid:
        """The grid of least squared error for w float32 [O, K].

        importance: float32 [O, K] or [K], > 0: weight of each squared error, usually diag(E[x xᵀ]); None for all ones.
        tensor_scale: where w is only a part of the tensor; None: `self.tensor_scale(w)`.
        """

    def open_block(
        self, grid: Grid, block: int, target: FloatArray, importance: FloatArray, factors: FloatArray
    ) -> FloatArray:
        """Steps float32 [O] of a block that GPTQ is about to round; those that are fitted now are also put into `grid`.

        target: float32 [inputs of the block, O], what is to be rounded; importance: float32 [inputs of the block];
        factors: float32 [O], on the fitted steps. Formats with one step per channel had it applied before.
        """
        return grid.scales

    # ---- values --------------------------------------------------------------------------------

    def zero_points(self, codes: CodeArray, block: int) -> ZeroPointArray | None:
        """Of formats that have them, uint8 [O, B], for codes int8 [O, K]."""
        return None

    def rounded(self, grid: Grid, w: FloatArray, steps: FloatArray) -> FloatArray:
        """For each of w the value, in units of its step, whose `value` is nearest; ties to even codes."""
        codes: FloatArray = np.clip(np.rint(w / steps), self.low, self.high)
        return codes

    def value(self, grid: Grid, rounded: FloatArray, steps: FloatArray) -> FloatArray:
        """The runtime's unfolded weights for values in units of their steps."""
        products: FloatArray = rounded * steps
        return products

    def encoded(self, rounded: FloatArray) -> CodeArray:
        """Results of `rounded` as they are stored."""
        return rounded.astype(np.int8)

    def dequantized(self, weight: QuantizedWeight) -> FloatArray:
        """float32 [O, K], computed as the runtime does: integer product first, then one float32 product."""
        return weight.int8_codes().astype(np.float32) * weight.scales[:, None]

    def check(self, weight: QuantizedWeight) -> None:
        """Raises ValueError where the arrays do not fit each other or the format."""
        channels, inputs = weight.codes.shape
        blocks = -(-inputs // weight.block)
        if weight.scales.shape != self.scale_shape(channels, blocks):
            raise ValueError(f"{self.name}: scales {weight.scales.shape} do not fit codes {weight.codes.shape}")
        if (weight.multipliers is not None) != self.has_multipliers:
            raise ValueError(f"{self.name}: multipliers belong to dual formats, and only to them")
        if weight.multipliers is not None and weight.multipliers.shape != (channels, blocks):
            raise ValueError(f"{self.name}: multipliers {weight.multipliers.shape}, not {(channels, blocks)}")

    def check_values(self, weight: QuantizedWeight) -> None:
        """Raises ValueError where the format has no such codes, scales or multipliers; for weights from files."""
        codes, multipliers = weight.codes, weight.multipliers
        if codes.size and not (self.low <= codes.min() and codes.max() <= self.high):
            raise ValueError(f"codes: values outside {self.low}..{self.high}")
        if not np.isfinite(weight.scales).all() or not np.isfinite(weight.tensor_scale):
            raise ValueError("scales: values that are not finite")
        if multipliers is not None and multipliers.size and multipliers.min() < 1:
            raise ValueError("multipliers: values below 1")
        if not self.has_tensor_scale and weight.tensor_scale != 1.0:
            raise ValueError(f"tensor_scale: {self.name} has none")

    def scale_shape(self, channels: int, blocks: int) -> tuple[int, ...]:
        """Shape of the scales."""
        return (channels, blocks) if self.blocked else (channels,)


@dataclass(frozen=True, eq=False)
class Grid:
    """The values a weight [O, K] may take: codes times a step per (channel, block).

    scales: float32, [O], or [O, B] where the format is `blocked`.
    multipliers: uint8 [O, B], from 1 on, where the format `has_multipliers`, else None.
    block: inputs per step; the last block of a row may be shorter.
    tensor_scale: of formats that have one, else 1. zero_points: uint8 [O, B] where the format is `shifted`, else None;
        the codes of a block are those of its type less the zero point.
    """

    format: WeightFormat
    scales: FloatArray
    multipliers: MultiplierArray | None
    block: int
    tensor_scale: float = 1.0
    zero_points: ZeroPointArray | None = None

    def limits(self, block: int) -> tuple[FloatArray, FloatArray] | tuple[np.float32, np.float32]:
        """Smallest and largest code of a block: one for all channels, or float32 [O]."""
        if self.zero_points is None:
            return np.float32(self.format.low), np.float32(self.format.high)
        zeros = self.zero_points[:, block].astype(np.float32)
        return -zeros, np.float32(self.format.high) - zeros

    @property
    def steps(self) -> FloatArray:
        """float32 [O, B]: what one code step is worth (B = 1 where a channel has one step)."""
        if self.multipliers is not None:
            return self.scales[:, None] * self.multipliers.astype(np.float32)
        return self.scales if self.scales.ndim == 2 else self.scales[:, None]

    def steps_per_input(self, inputs: int) -> FloatArray:
        """float32 [O, K]: `steps` repeated over the inputs of each block."""
        return np.repeat(self.steps, self.block, axis=1)[:, :inputs]

    def nearest(self, w: FloatArray) -> QuantizedWeight:
        """w [O, K] rounded to the nearest point of the grid, ties to even codes."""
        codes = np.empty(w.shape, np.int8)
        for rows in chunks(*w.shape):
            part = self.of(rows)
            codes[rows] = part.encoded(part.rounded(w[rows], part.steps_per_input(w.shape[1])))
        return self.with_codes(codes)

    def rounded(self, w: FloatArray, steps: FloatArray) -> FloatArray:
        """`WeightFormat.rounded` on this grid."""
        return self.format.rounded(self, w, steps)

    def value(self, rounded: FloatArray, steps: FloatArray) -> FloatArray:
        """`WeightFormat.value` on this grid."""
        return self.format.value(self, rounded, steps)

    def encoded(self, rounded: FloatArray) -> CodeArray:
        """Results of `rounded` as they are stored."""
        return self.format.encoded(rounded)

    def with_codes(self, codes: CodeArray) -> QuantizedWeight:
        return QuantizedWeight(self.format, codes, self.scales, self.multipliers, self.block, self.tensor_scale)

    def of(self, channels: NDArray[np.intp] | slice) -> Grid:
        """The grid of some output channels."""
        multipliers = None if self.multipliers is None else self.multipliers[channels]
        zero_points = None if self.zero_points is None else self.zero_points[channels]
        return replace(self, scales=self.scales[channels], multipliers=multipliers, zero_points=zero_points)


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """A weight as it goes to the file.

    codes: int8 [O, K] in format.low..format.high; of fp8 the bytes of E4M3FN values.
    scales, multipliers, block, tensor_scale: see `Grid`.
    """

    format: WeightFormat
    codes: CodeArray
    scales: FloatArray
    multipliers: MultiplierArray | None
    block: int
    tensor_scale: float = 1.0

    def __post_init__(self) -> None:
        self.format.check(self)

    @property
    def grid(self) -> Grid:
        zero_points = self.format.zero_points(self.codes, self.block)
        return Grid(self.format, self.scales, self.multipliers, self.block, self.tensor_scale, zero_points)

    def of(self, channels: NDArray[np.intp] | slice) -> QuantizedWeight:
        """The weights of some output channels."""
        return self.grid.of(channels).with_codes(self.codes[channels])

    def with_channels(self, channels: NDArray[np.intp], other: QuantizedWeight) -> QuantizedWeight:
        """The same with these output channels replaced by those of `other`, in this order; of one format and block."""
        codes, scales, multipliers = self.codes.copy(), self.scales.copy(), self.multipliers
        codes[channels], scales[channels] = other.codes, other.scales
        if multipliers is not None and other.multipliers is not None:
            multipliers = multipliers.copy()
            multipliers[channels] = other.multipliers
        return replace(self, codes=codes, scales=scales, multipliers=multipliers)

    def coarser(self, factors: DoubleArray) -> QuantizedWeight:
        """About the same values on steps that are larger by `factors` float64 [O], all ≥ 1 but for channels of zeros.

        For formats with one scale per channel. No code or multiplier grows, so the products stay as free of saturation
        as they were.
        """
        if np.all(factors == 1.0):
            return self
        ones = np.ones((len(self.codes), 1))
        before = ones if self.multipliers is None else self.multipliers.astype(np.float64)
        after = np.maximum(np.ceil(before / factors[:, None]), 1.0)
        shares = np.repeat(before / (factors[:, None] * after), self.block, axis=1)[:, : self.codes.shape[1]]
        changed = (factors != 1.0)[:, None]
        codes = np.where(changed, np.rint(self.codes * np.minimum(shares, 1.0)), self.codes).astype(np.int8)
        multipliers = None if self.multipliers is None else np.minimum(before, after).astype(np.uint8)
        scales = (self.scales * factors).astype(np.float32)
        return replace(self, codes=codes, scales=scales, multipliers=multipliers)

    def int8_codes(self) -> CodeArray:
        """int8 [O, K]: the codes, times their block's multiplier where there is one."""
        if self.multipliers is None:
            return self.codes
        spread = np.repeat(self.multipliers, self.block, axis=1)[:, : self.codes.shape[1]]
        return (self.codes.astype(np.int16) * spread).astype(np.int8)

    def dequantize(self) -> FloatArray:
        """float32 [O, K], computed as the runtime does."""
        return self.format.dequantized(self)

    def kept_by(self, keep: Callable[[NDArray[Any]], NDArray[Any]]) -> QuantizedWeight:
        """The same with each array as `keep` holds it, such as mapped from a file."""
        codes, scales = keep(self.codes), keep(self.scales)
        multipliers = None if self.multipliers is None else keep(self.multipliers)
        if codes is self.codes and scales is self.scales and multipliers is self.multipliers:
            return self
        return replace(self, codes=codes, scales=scales, multipliers=multipliers)

    @property
    def size_bytes(self) -> int:
        """Bytes in an ONNX file (`WeightFormat.size_bytes`)."""
        return self.format.size_bytes(self)


def unfolded(weight: QuantizedWeight) -> FloatArray:
    """float32 [O, K]: codes times the steps of their blocks, a few rows at a time."""
    grid, values = weight.grid, np.empty(weight.codes.shape, np.float32)
    channels, inputs = weight.codes.shape
    for rows in chunks(channels, inputs):
        part = grid.of(rows)
        values[rows] = part.value(weight.codes[rows].astype(np.float32), part.steps_per_input(inputs))
    return values


def chunks(rows: int, columns: int) -> Iterator[slice]:
    """Slices over rows of so many columns that stay in the processor's cache."""
    size = max(1, ELEMENTS_PER_CHUNK // max(columns, 1))
    return (slice(start, start + size) for start in range(0, rows, size))
