"""Schemes: how a region is stored and computed. One table; a new scheme is one entry.

A scheme says which weight format it stores, in which formats it reads and writes activations, and which kernel computes
it (`kernel`). Schemes that the runtime turns into the same kernel share their node cost.
How a scheme is spelled in ONNX is the business of a dialect (`onnxmpq.dialects`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import StrEnum

from onnxmpq.errors import UsageError
from onnxmpq.files import nearest
from onnxmpq.model import OPERATORS
from onnxmpq.rounding import AffineBlock, Dual, Fp8, Fp8Dual, PerBlock, PerChannel, WeightFormat
from onnxmpq.schemes.elements import ActivationType, HalfType


class Format(StrEnum):
    """Format of an activation tensor between two regions. A plan uses at most one of the quantized formats."""

    FLOAT = "float"
    INT8 = "int8"  # affine uint8
    SYMMETRIC_INT8 = "symmetric_int8"
    FP8 = "fp8"  # float8e4m3fn

    @property
    def quantized(self) -> bool:
        return self is not Format.FLOAT

    @property
    def element(self) -> ActivationType:
        """The ONNX type of its codes; only for quantized formats."""
        return _ELEMENTS[self]


_ELEMENTS: dict[Format, ActivationType] = {
    Format.INT8: "uint8",
    Format.SYMMETRIC_INT8: "int8",
    Format.FP8: "float8e4m3fn",
}


@dataclass(frozen=True)
class Scheme:
    """One row of the table.

    weight: format of the stored weight; None where it is stored in the type that the region computes in (float32, or
        `half`). Regions without weights ignore it.
    reads, writes: activation format at the region's inputs and outputs.
    kernel: name of the kernel that runs it, a key of cost tables; "fp32" where the runtime unfolds the weight and then
        computes in float32.
    activation_bits: used of an int8 activation; fewer than 8 are simulated, the file stores int8.
    unsigned_weights: the file stores 8-bit codes as uint8 with zero point 128 instead of int8 with 0.
    dynamic: its kernel quantizes what it reads itself, on a scale that it finds in each run.
    accuracy_level: of a kernel that reads weights in blocks as they are stored (MatMulNBits). 0: it multiplies them
        with the floats that it reads. 4: it rounds these to int8 first, on a scale for each row and block, where the
        CPU has a kernel for it (docs/blocks.md). None for all other kernels.
    variant_of: the row of the table that a scheme made from its name varies: it can be asked for wherever a target
        offers that one. Empty for rows of the table.
    half: the 16-bit type that it reads, computes and writes in, or only writes where it reads quantized; None for
        float32.
    """

    name: str
    summary: str
    weight: WeightFormat | None = None
    reads: Format = Format.FLOAT
    writes: Format = Format.FLOAT
    kernel: str = "fp32"
    activation_bits: int = 8
    half: HalfType | None = None
    unsigned_weights: bool = False
    dynamic: bool = False
    accuracy_level: int | None = None
    variant_of: str = ""

    @property
    def is_fp32(self) -> bool:
        """True for the scheme that leaves a region as it is."""
        return self.name == "fp32"

    @property
    def weight_only(self) -> bool:
        """True for a kernel of float32 activations that reads the narrow weights as they are stored."""
        computes_in_float32 = not self.reads.quantized and self.half is None
        return self.weight is not None and computes_in_float32 and self.kernel != FP32 and not self.dynamic

    @property
    def rounds_inside(self) -> bool:
        """True if its kernel rounds the activations that it reads: its effect is that of the kernel, not of its weights
        alone."""
        return self.dynamic or self.accuracy_level == ROUNDS_TO_INT8

    @property
    def simulated(self) -> bool:
        """True where the file stores weights or activations in more bits than the scheme asks for."""
        wider = self.weight is not None and self.weight.storage_bits > self.weight.bits
        return wider or self.activation_bits < 8


FP32 = "fp32"
MARK = "onnxmpq"
"""Key of the metadata by which a written graph names the scheme at each node of a region."""
INT8_WEIGHTS = PerChannel(8)
MULTIPLIES_FLOATS, ROUNDS_TO_INT8 = 0, 4
"""Accuracy levels of MatMulNBits. On CPUs 1 to 3 are computed as 0 for float32 (docs/blocks.md)."""
BLOCK_SIZES = (16, 32, 64, 128, 256)
"""For which onnxruntime has kernels (MlasIsQNBitGemmAvailable)."""
_SMALLEST_FITTING = 32  # scales of smaller blocks take half as many bytes as int4 codes


def _stored(bits: int) -> tuple[Scheme, Scheme]:
    """int weights of so many bits in 16-blocks: computing in float32, and in int8."""
    weight, what = Dual(bits, 16), f"int{bits} weights in 16-blocks, unfolded to"
    summary = f"uint8 activations x {what} int8 when the session is created"
    return (
        Scheme(f"w{bits}", f"{what} float32 when the session is created", weight),
        Scheme(f"w{bits}a8", summary, weight, Format.INT8, Format.INT8, "int8"),
    )


def _blocked(bits: int, block: int, level: int = ROUNDS_TO_INT8, *, zero_points: bool = False) -> Scheme:
    """Weights in blocks that a kernel reads as they are stored."""
    name = f"w{bits}b{block}{'z' if zero_points else ''}" + ("" if level == ROUNDS_TO_INT8 else f"-level{level}")
    activations = "rounded to int8 per block in the kernel" if level == ROUNDS_TO_INT8 else "in float32"
    return Scheme(
        name,
        f"int{bits} weights in {block}-blocks{' with zero points' if zero_points else ''} x activations {activations}",
        AffineBlock(block) if zero_points else PerBlock(bits, block),
        kernel=name,
        accuracy_level=level,
    )


_LAYER_SCHEMES = (
    Scheme(FP32, "left in float32"),
    Scheme("w8", "int8 weights per channel, unfolded to float32 when the session is created", INT8_WEIGHTS),
    Scheme(
        "int8",
        "uint8 activations x int8 weights per channel",
        INT8_WEIGHTS,
        Format.INT8,
        Format.INT8,
        "int8",
    ),
    Scheme(
        "u8u8",
        "uint8 activations x uint8 weights per channel with zero point 128: exact on every CPU",
        INT8_WEIGHTS,
        Format.INT8,
        Format.INT8,
        "u8u8",
        unsigned_weights=True,
    ),
    *(scheme for bits in Dual.WIDTHS for scheme in _stored(bits)),
    Scheme(
        "int8-dynamic",
        "int8 weights per channel x uint8 activations on a scale that the kernel finds in each run",
        INT8_WEIGHTS,
        kernel="int8-dynamic",
        dynamic=True,
    ),
    _blocked(4, 32),
    _blocked(4, 128),
    _blocked(8, 128),
    _blocked(4, 32, MULTIPLIES_FLOATS),
    Scheme("fp16", "float16", kernel="fp16", half="float16"),
    Scheme("bf16", "bfloat16", kernel="bf16", half="bfloat16"),
    Scheme(
        "w4a16",
        "float16 activations x int4 weights in 64-blocks, unfolded to float16",
        PerBlock(4, 64, negative_scales=False, scale_type="float16"),
        kernel="w4a16",
        half="float16",
    ),
    Scheme(
        "w8a16",
        "float16 activations x int8 weights in 64-blocks, unfolded to float16",
        PerBlock(8, 64, negative_scales=False, scale_type="float16"),
        kernel="w8a16",
        half="float16",
    ),
    Scheme(
        "w8a8-int8",
        "symmetric int8 activations x int8 weights per channel",
        INT8_WEIGHTS,
        Format.SYMMETRIC_INT8,
        kernel="w8a8-int8",
        half="float16",
    ),
    Scheme(
        "w8a8-fp8",
        "float8e4m3fn activations x float8e4m3fn weights per channel",
        Fp8(),
        Format.FP8,
        kernel="w8a8-fp8",
        half="float16",
    ),
    Scheme(
        "w4a8-fp8",
        "float8e4m3fn activations x int4 weights in 64-blocks, unfolded to float8e4m3fn",
        Fp8Dual(64),
        Format.FP8,
        kernel="w4a8-fp8",
        half="float16",
    ),
)

SCHEMES: dict[str, Scheme] = {s.name: s for s in _LAYER_SCHEMES}


_BLOCKED = re.compile(r"w([48])b(\d+)(z?)(-level0)?")


def scheme_named(name: str) -> Scheme:
    """A row of `SCHEMES`, or one made from its name.

    w5a6: 5-bit weights per channel, 6-bit activations (2 to 8), for planning on modelled hardware; simulated by fake
    quantization, and exported in the next larger type that onnxruntime stores. w4b64, w8b16-level0, w4b32z: another
    block size (`BLOCK_SIZES`) or accuracy level of w4b32 and w8b128, or 4 bits with zero points. Raises UsageError with
    the nearest names.
    """
    if name in SCHEMES:
        return SCHEMES[name]
    if made := re.fullmatch(r"w([2-8])a([2-8])", name):
        weight_bits, activation_bits = int(made[1]), int(made[2])
        summary = f"{activation_bits}-bit activations x {weight_bits}-bit weights per channel, simulated in int8"
        int8 = SCHEMES["int8"]
        weight = PerChannel(weight_bits)
        return Scheme(name, summary, weight, int8.reads, int8.writes, int8.kernel, activation_bits=activation_bits)
    made = _BLOCKED.fullmatch(name)
    if made and int(made[2]) in BLOCK_SIZES and not (made[3] and made[1] == "8"):
        level = MULTIPLIES_FLOATS if made[4] else ROUNDS_TO_INT8
        row = SCHEMES["w4b32" if made[1] == "4" else "w8b128"]
        return replace(_blocked(int(made[1]), int(made[2]), level, zero_points=bool(made[3])), variant_of=row.name)
    hint = nearest(name, SCHEMES, "the schemes are")
    made_up = "w2a2 to w8a8 name bit-widths of weights and activations, w4b16 to w8b256 bits and blocks"
    raise UsageError(f"no scheme is called '{name}'; {hint} ({made_up})")


def in_fitting_blocks(scheme: Scheme, inputs: int) -> Scheme:
    """The scheme in the largest blocks below its own, of 32 or more, that divide a row of `inputs` weights.

    Itself where it has no blocks, where its own divide the row or are longer, and where no others divide it. Unlike
    variants that the user names, it is offered as the scheme is.
    """
    if scheme.accuracy_level is None or scheme.weight is None:
        return scheme
    own = scheme.weight.block_width(BLOCK_SIZES[-1])
    if inputs < own or inputs % own == 0:
        return scheme
    block = max((b for b in BLOCK_SIZES if _SMALLEST_FITTING <= b < own and inputs % b == 0), default=own)
    if block == own:
        return scheme
    fitting = _blocked(scheme.weight.bits, block, scheme.accuracy_level, zero_points=scheme.weight.shifted)
    return SCHEMES.get(fitting.name, fitting)


def hands_on_float(op_type: str) -> bool:
    """True for an operator whose int8 kernel makes float32 (`LayerOperator.float_result`)."""
    return op_type in OPERATORS and OPERATORS[op_type].float_result


def writes(scheme: Scheme, op_type: str) -> Format:
    """Activation format of the results of a region whose first node is an `op_type`."""
    return Format.FLOAT if hands_on_float(op_type) else scheme.writes
