"""How a weight is stored (format, grid) and what rounding makes of it (codes on that grid).

Everything works on the 2-D view of a layer's weight: `w` float32 [O, K], O output channels, K inputs of one output
channel (Conv: input channels per group · kernel height · kernel width; MatMul weight [K, N]: transposed to [N, K]).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from onnxmpq.rounding.fp8 import E4M3FN, from_fp8, round_to_fp8, to_fp8

FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]
CodeArray = NDArray[np.int8]
MultiplierArray = NDArray[np.uint8]
Kind = Literal["channel", "block", "dual", "fp8", "fp8_dual"]
ScaleType = Literal["float32", "float16"]

MULTIPLIER_BITS = 4
DUAL_BITS = (4, 5, 6)
SMALLEST_DUAL_BLOCK = 8
TENSOR_SCALE_BYTES = 4
SMALLEST_FLOAT16 = np.float32(2**-14)
"""The smallest normal float16: a step below it would lose its own precision."""
LARGEST_FLOAT16 = np.float32(65504)

_FREE = "_saturation_free"

SMALLEST_STEP = np.finfo(np.float32).tiny
"""Weights that would need a smaller step count as zeros (a subnormal scale is flushed to zero on some devices)."""


def effective_block(inputs: int, block: int) -> int:
    """The block width a dual format really uses on a row of `inputs` weights.

    The chain that onnxruntime folds multiplies [O, K / block, block] codes by [O, K / block, 1] multipliers, so the
    width must divide K: the largest divisor of `inputs` in 8..`block` if there is one, else the smallest above `block`.
    """
    narrower = range(min(block, inputs), SMALLEST_DUAL_BLOCK - 1, -1)
    return next((width for width in (*narrower, *range(block + 1, inputs)) if inputs % width == 0), max(inputs, 1))


@dataclass(frozen=True)
class WeightFormat:
    """A storage pattern for weights: signed integer codes without zero points.

    kind:
        "channel": w ≈ scale[o] · code, one positive float32 scale per output channel.
        "block": w ≈ scale[o, b] · code, one float32 scale per `block` consecutive inputs. Where K is no multiple of
            `block`, the last block of a row is shorter (ONNX DequantizeLinear: ⌈K / block⌉ scales).
        "dual": w ≈ scale[o] · (multiplier[o, b] · code), code of 4 to 6 bits, multiplier a uint4, the product an int8:
            a 4-bit file that computes as per-channel int8 (DPQ, arXiv 2505.14638, with int8 in the place of fp8).
        "fp8": w ≈ scale[o] · code, the code an E4M3FN byte (kept as int8).
        "fp8_dual": w ≈ s · fp8(scale[o, b] · code / s), code int4, s a power of two for the whole tensor: an int4
            file that computes in E4M3FN (DPQ itself).
    bits: 2..8 used by a code; "dual" 4..6, "fp8_dual" always 4, "fp8" 8.
    block: inputs per scale or multiplier; None for "channel" and "fp8".
    negative_scales: "block" only; a negative scale turns the longer end of the code range (-2^(bits-1)) to the side
        where the block's largest weight is. onnxruntime accepts it, TensorRT wants positive scales.
    scale_type: of "block" scales. With float16 the weight itself is float16 when it is unfolded.
    saturation_free: "channel" with 8 bits and "dual" only; the int8 codes that the kernel multiplies obey
        `rounding.overflow.pair_limits` for neighbours in the kernel's order (`model.kernel_order.kernel_columns`), so
        that no x86 kernel saturates. Such a format has a name of its own.
    """

    name: str
    bits: int
    kind: Kind
    block: int | None = None
    negative_scales: bool = False
    scale_type: ScaleType = "float32"
    saturation_free: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f"{self.name}: a code has 2 to 8 bits, not {self.bits}")
        if (self.block is None) != (self.kind in ("channel", "fp8")):
            raise ValueError(f"{self.name}: formats of kind {self.kind!r} and block {self.block} do not go together")
        if self.block is not None and self.block < 1:
            raise ValueError(f"{self.name}: a block holds at least one weight, not {self.block}")
        if self.bits not in {"dual": DUAL_BITS, "fp8_dual": (4,)}.get(self.kind, (self.bits,)):
            raise ValueError(f"{self.name}: no dual precision of kind {self.kind!r} stores {self.bits} bits")
        if self.kind == "fp8" and self.bits != 8:
            raise ValueError(f"{self.name}: fp8 has 8 bits, not {self.bits}")
        if self.negative_scales and self.kind != "block":
            raise ValueError(f"{self.name}: only block scales may be negative")
        if self.scale_type != "float32" and self.kind != "block":
            raise ValueError(f"{self.name}: only block scales may be float16")
        if self.saturation_free and not self.may_saturate:
            raise ValueError(f"{self.name}: formats of kind {self.kind!r} and {self.bits} bits cannot saturate")

    @classmethod
    def per_channel(cls, bits: int) -> WeightFormat:
        return cls(f"int{bits}_channel", bits, "channel")

    @classmethod
    def per_block(cls, bits: int, block: int, *, negative_scales: bool = True) -> WeightFormat:
        return cls(f"int{bits}_block{block}", bits, "block", block, negative_scales)

    @classmethod
    def per_block_float16(cls, bits: int, block: int) -> WeightFormat:
        """Positive float16 scales, for runtimes that compute in float16."""
        return cls(f"int{bits}_block{block}_float16", bits, "block", block, scale_type="float16")

    @classmethod
    def fp8(cls) -> WeightFormat:
        return cls("fp8_channel", 8, "fp8")

    @classmethod
    def fp8_dual(cls, block: int = 64) -> WeightFormat:
        return cls(f"int4_fp8_dual{block}", 4, "fp8_dual", block)

    @classmethod
    def dual(cls, block: int = 64, bits: int = 4) -> WeightFormat:
        return cls(f"int{bits}_dual{block}", bits, "dual", block)

    @property
    def may_saturate(self) -> bool:
        """Whether int8 codes of this format, or of its unrestricted twin, can exceed the 16-bit sums of x86 kernels."""
        return self.kind == "dual" or (self.kind == "channel" and self.bits == 8)

    @property
    def without_saturation(self) -> WeightFormat:
        """The same format with codes that keep x86 kernels from saturating. Raises ValueError where none can."""
        return self if self.saturation_free else replace(self, name=f"{self.name}{_FREE}", saturation_free=True)

    @property
    def low(self) -> int:
        """Smallest code: -2^(bits-1), but -127 for per-channel int8 (onnxruntime's and TensorRT's symmetric range)."""
        return -127 if self.bits == 8 and self.kind == "channel" else -(1 << (self.bits - 1))

    @property
    def high(self) -> int:
        """Largest code: 2^(bits-1) - 1."""
        return (1 << (self.bits - 1)) - 1

    @property
    def max_multiplier(self) -> int:
        """The largest multiplier whose product with any code still is an int8: 15, 7, 3 for 4, 5, 6 bits."""
        return 127 >> (self.bits - 1)

    @property
    def storage_bits(self) -> int:
        """Bits of a code's type in the file: INT4 (opset 21) or INT8; no dialect writes INT2 (opset 25)."""
        return 4 if self.bits <= 4 or self.kind == "dual" else 8

    @property
    def low_bits(self) -> int:
        """Lowest bits of a "dual" code that its INT4 does not hold; they are packed into bytes."""
        return max(self.bits - self.storage_bits, 0)

    @property
    def blocked(self) -> bool:
        """One scale per block, [O, B]; else one per channel, [O]."""
        return self.kind in ("block", "fp8_dual")

    @property
    def linear(self) -> bool:
        """Values are codes times steps, so that sums of squares in them are quadratic; fp8 rounds once more."""
        return self.kind not in ("fp8", "fp8_dual")

    def storable(self, scales: FloatArray) -> FloatArray:
        """The scales as the file holds them, float32 values."""
        if self.scale_type == "float32":
            return scales
        magnitude = np.clip(np.abs(scales), SMALLEST_FLOAT16, LARGEST_FLOAT16).astype(np.float16).astype(np.float32)
        return np.copysign(magnitude, scales)

    def block_width(self, inputs: int) -> int:
        """Consecutive inputs that share one step on a row of `inputs` weights."""
        if self.block is None:
            return max(inputs, 1)
        return effective_block(inputs, self.block) if self.kind == "dual" else self.block


@dataclass(frozen=True, eq=False)
class Grid:
    """The values a weight [O, K] may take: integer codes times a step per (channel, block).

    scales: float32, [O] ("channel", "dual", "fp8") or [O, B] ("block", "fp8_dual").
    multipliers: uint8 [O, B] in 1..max_multiplier for "dual", else None.
    block: inputs per step; the last block of a row may be shorter.
    tensor_scale: s of "fp8_dual", else 1.
    """

    format: WeightFormat
    scales: FloatArray
    multipliers: MultiplierArray | None
    block: int
    tensor_scale: float = 1.0

    @property
    def steps(self) -> FloatArray:
        """float32 [O, B]: what one code step is worth (B = 1 for "channel")."""
        if self.multipliers is not None:
            return self.scales[:, None] * self.multipliers.astype(np.float32)
        return self.scales if self.scales.ndim == 2 else self.scales[:, None]

    def steps_per_input(self, inputs: int) -> FloatArray:
        """float32 [O, K]: `steps` repeated over the inputs of each block."""
        return np.repeat(self.steps, self.block, axis=1)[:, :inputs]

    def nearest(self, w: FloatArray) -> QuantizedWeight:
        """w [O, K] rounded to the nearest point of the grid, ties to even codes."""
        return self.with_codes(self.encoded(self.rounded(w, self.steps_per_input(w.shape[1]))))

    def rounded(self, w: FloatArray, steps: FloatArray) -> FloatArray:
        """For each of w the value, in units of its step, whose `value` is nearest: integers, or E4M3FN values."""
        if self.format.kind == "fp8":
            return round_to_fp8(w / steps)
        wanted: FloatArray = np.clip(np.rint(w / steps), self.format.low, self.format.high)
        if self.format.kind != "fp8_dual":
            return wanted
        aside = np.clip(wanted + np.sign(w - wanted * steps), self.format.low, self.format.high)
        closer = np.abs(w - self.value(aside, steps)) < np.abs(w - self.value(wanted, steps))
        return np.where(closer, aside, wanted)

    def value(self, rounded: FloatArray, steps: FloatArray) -> FloatArray:
        """What values in units of their steps stand for when the runtime has unfolded them."""
        products: FloatArray = rounded * steps
        if self.format.kind == "fp8_dual":
            scale = np.float32(self.tensor_scale)
            return round_to_fp8(products / scale) * scale
        if self.format.scale_type == "float16":
            return products.astype(np.float16).astype(np.float32)
        return products

    def encoded(self, rounded: FloatArray) -> CodeArray:
        """Results of `rounded` as they are stored."""
        return to_fp8(rounded, E4M3FN).view(np.int8) if self.format.kind == "fp8" else rounded.astype(np.int8)

    def with_codes(self, codes: CodeArray) -> QuantizedWeight:
        return QuantizedWeight(self.format, codes, self.scales, self.multipliers, self.block, self.tensor_scale)

    def of(self, channels: NDArray[np.intp]) -> Grid:
        """The grid of some output channels."""
        multipliers = None if self.multipliers is None else self.multipliers[channels]
        return replace(self, scales=self.scales[channels], multipliers=multipliers)


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """A weight as it goes to the file.

    codes: int8 [O, K] in format.low..format.high; for "fp8" the bytes of E4M3FN values.
    scales, multipliers, block, tensor_scale: see `Grid`.
    """

    format: WeightFormat
    codes: CodeArray
    scales: FloatArray
    multipliers: MultiplierArray | None
    block: int
    tensor_scale: float = 1.0

    def __post_init__(self) -> None:
        channels, inputs = self.codes.shape
        blocks = -(-inputs // self.block)
        if self.scales.shape != ((channels, blocks) if self.format.blocked else (channels,)):
            raise ValueError(f"{self.format.name}: scales {self.scales.shape} do not fit codes {self.codes.shape}")
        if (self.multipliers is not None) != (self.format.kind == "dual"):
            raise ValueError(f"{self.format.name}: multipliers belong to dual formats, and only to them")
        if self.multipliers is not None and self.multipliers.shape != (channels, blocks):
            raise ValueError(f"{self.format.name}: multipliers {self.multipliers.shape}, not {(channels, blocks)}")

    @property
    def grid(self) -> Grid:
        return Grid(self.format, self.scales, self.multipliers, self.block, self.tensor_scale)

    def of(self, channels: NDArray[np.intp]) -> QuantizedWeight:
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

    def int8_codes(self) -> CodeArray:
        """int8 [O, K]: what the runtime multiplies with; for "dual" the codes times their block's multiplier."""
        if self.multipliers is None:
            return self.codes
        spread = np.repeat(self.multipliers, self.block, axis=1)[:, : self.codes.shape[1]]
        return (self.codes.astype(np.int16) * spread).astype(np.int8)

    def dequantize(self) -> FloatArray:
        """float32 [O, K], computed as the runtime does: integer product first, then one float32 product."""
        if self.format.kind == "fp8":
            return from_fp8(self.codes.view(np.uint8), E4M3FN) * self.scales[:, None]
        if self.format.blocked:
            return self.grid.value(self.codes.astype(np.float32), self.grid.steps_per_input(self.codes.shape[1]))
        return self.int8_codes().astype(np.float32) * self.scales[:, None]

    @property
    def size_bytes(self) -> int:
        """Bytes of codes, scales and multipliers in an ONNX file; each tensor packed and padded to a whole byte."""
        multipliers = 0 if self.multipliers is None else self.multipliers.size
        return (
            -(-self.codes.size * self.format.storage_bits // 8)
            - (-self.codes.size * self.format.low_bits // 8)
            + self.scales.size * (2 if self.format.scale_type == "float16" else 4)
            + -(-multipliers * MULTIPLIER_BITS // 8)
            + (TENSOR_SCALE_BYTES if self.format.kind == "fp8_dual" else 0)
        )
