"""How a weight is stored (format, grid) and what rounding makes of it (codes on that grid).

Everything works on the 2-D view of a layer's weight: `w` float32 [O, K], O output channels, K inputs of one output
channel (Conv: input channels per group · kernel height · kernel width; MatMul weight [K, N]: transposed to [N, K]).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
DoubleArray = NDArray[np.float64]
CodeArray = NDArray[np.int8]
MultiplierArray = NDArray[np.uint8]
Kind = Literal["channel", "block", "dual"]

MAX_MULTIPLIER = 15  # the largest uint4: 15 · -8 = -120 still is an int8
MULTIPLIER_BITS = 4
SMALLEST_DUAL_BLOCK = 16

SMALLEST_STEP = np.finfo(np.float32).tiny
"""Weights that would need a smaller step count as zeros (a subnormal scale is flushed to zero on some devices)."""


def effective_block(inputs: int, block: int) -> int:
    """The block width a dual format really uses on a row of `inputs` weights.

    The chain that onnxruntime folds multiplies [O, K / block, block] codes by [O, K / block, 1] multipliers, so the
    width must divide K: the largest divisor of `inputs` in 16..`block` if there is one, else one block per channel.
    """
    divisors = (d for d in range(min(block, inputs), SMALLEST_DUAL_BLOCK - 1, -1) if inputs % d == 0)
    return next(divisors, inputs)


@dataclass(frozen=True)
class WeightFormat:
    """A storage pattern for weights: signed integer codes without zero points.

    kind:
        "channel": w ≈ scale[o] · code, one positive float32 scale per output channel.
        "block": w ≈ scale[o, b] · code, one float32 scale per `block` consecutive inputs. Where K is no multiple of
            `block`, the last block of a row is shorter (ONNX DequantizeLinear: ⌈K / block⌉ scales).
        "dual": w ≈ scale[o] · (multiplier[o, b] · code), code int4, multiplier 1..15 (uint4), the product an int8:
            an int4 file that computes as per-channel int8 (DPQ, arXiv 2505.14638, with int8 in the place of fp8).
    bits: 2..8 used by a code; "dual" is always 4.
    block: inputs per scale or multiplier; None for "channel".
    negative_scales: "block" only; a negative scale turns the longer end of the code range (-2^(bits-1)) to the side
        where the block's largest weight is. onnxruntime accepts it, TensorRT wants positive scales.
    """

    name: str
    bits: int
    kind: Kind
    block: int | None = None
    negative_scales: bool = False

    def __post_init__(self) -> None:
        if not 2 <= self.bits <= 8:
            raise ValueError(f"{self.name}: a code has 2 to 8 bits, not {self.bits}")
        if (self.block is None) != (self.kind == "channel"):
            raise ValueError(f"{self.name}: formats of kind {self.kind!r} and block {self.block} do not go together")
        if self.block is not None and self.block < 1:
            raise ValueError(f"{self.name}: a block holds at least one weight, not {self.block}")
        if self.kind == "dual" and self.bits != 4:
            raise ValueError(f"{self.name}: dual precision stores 4 bits, not {self.bits}")
        if self.negative_scales and self.kind != "block":
            raise ValueError(f"{self.name}: only block scales may be negative")

    @classmethod
    def per_channel(cls, bits: int) -> WeightFormat:
        return cls(f"int{bits}_channel", bits, "channel")

    @classmethod
    def per_block(cls, bits: int, block: int, *, negative_scales: bool = True) -> WeightFormat:
        return cls(f"int{bits}_block{block}", bits, "block", block, negative_scales)

    @classmethod
    def dual(cls, block: int = 64) -> WeightFormat:
        return cls(f"int4_dual{block}", 4, "dual", block)

    @property
    def low(self) -> int:
        """Smallest code: -2^(bits-1), but -127 for per-channel int8 (onnxruntime's symmetric int8 range)."""
        return -127 if self.bits == 8 and self.kind == "channel" else -(1 << (self.bits - 1))

    @property
    def high(self) -> int:
        """Largest code: 2^(bits-1) - 1."""
        return (1 << (self.bits - 1)) - 1

    @property
    def storage_bits(self) -> int:
        """Bits a code takes in the file: INT4 (opset 21) or INT8; no dialect writes INT2 (opset 25)."""
        return 4 if self.bits <= 4 else 8

    def block_width(self, inputs: int) -> int:
        """Consecutive inputs that share one step on a row of `inputs` weights."""
        if self.block is None:
            return max(inputs, 1)
        return effective_block(inputs, self.block) if self.kind == "dual" else self.block


@dataclass(frozen=True, eq=False)
class Grid:
    """The values a weight [O, K] may take: integer codes times a step per (channel, block).

    scales: float32, [O] ("channel", "dual") or [O, B] ("block").
    multipliers: uint8 [O, B] in 1..15 for "dual", else None.
    block: inputs per step; the last block of a row may be shorter.
    """

    format: WeightFormat
    scales: FloatArray
    multipliers: MultiplierArray | None
    block: int

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
        codes = np.rint(w / self.steps_per_input(w.shape[1]))
        return self.with_codes(np.clip(codes, self.format.low, self.format.high).astype(np.int8))

    def with_codes(self, codes: CodeArray) -> QuantizedWeight:
        return QuantizedWeight(self.format, codes, self.scales, self.multipliers, self.block)


@dataclass(frozen=True, eq=False)
class QuantizedWeight:
    """A weight as it goes to the file.

    codes: int8 [O, K] in format.low..format.high.
    scales, multipliers, block: see `Grid`.
    """

    format: WeightFormat
    codes: CodeArray
    scales: FloatArray
    multipliers: MultiplierArray | None
    block: int

    def __post_init__(self) -> None:
        channels, inputs = self.codes.shape
        blocks = -(-inputs // self.block)
        if self.scales.shape != ((channels, blocks) if self.format.kind == "block" else (channels,)):
            raise ValueError(f"{self.format.name}: scales {self.scales.shape} do not fit codes {self.codes.shape}")
        if (self.multipliers is not None) != (self.format.kind == "dual"):
            raise ValueError(f"{self.format.name}: multipliers belong to dual formats, and only to them")
        if self.multipliers is not None and self.multipliers.shape != (channels, blocks):
            raise ValueError(f"{self.format.name}: multipliers {self.multipliers.shape}, not {(channels, blocks)}")

    @property
    def grid(self) -> Grid:
        return Grid(self.format, self.scales, self.multipliers, self.block)

    def int8_codes(self) -> CodeArray:
        """int8 [O, K]: what the runtime multiplies with; for "dual" the codes times their block's multiplier."""
        if self.multipliers is None:
            return self.codes
        spread = np.repeat(self.multipliers, self.block, axis=1)[:, : self.codes.shape[1]]
        return (self.codes.astype(np.int16) * spread).astype(np.int8)

    def dequantize(self) -> FloatArray:
        """float32 [O, K], computed as the runtime does: integer product first, then one float32 product."""
        if self.format.kind == "block":
            return self.codes.astype(np.float32) * self.grid.steps_per_input(self.codes.shape[1])
        return self.int8_codes().astype(np.float32) * self.scales[:, None]

    @property
    def size_bytes(self) -> int:
        """Bytes of codes, scales and multipliers in an ONNX file; each tensor packed and padded to a whole byte."""
        multipliers = 0 if self.multipliers is None else self.multipliers.size
        return (
            -(-self.codes.size * self.format.storage_bits // 8)
            + self.scales.size * 4
            + -(-multipliers * MULTIPLIER_BITS // 8)
        )
