"""The bound on int8 weights under which x86 CPUs without VNNI compute what the graph says.

**Saturation.** onnxruntime's kernels for uint8 activations and int8 weights multiply with `vpmaddubsw` where
the CPU has no VNNI. It multiplies two neighbours along K, a[2i]·w[2i] and a[2i+1]·w[2i+1], and adds the products in
16 bits, saturating: a sum above 32767 becomes 32767, one below -32768 becomes -32768 (Intel SDM, volume 2, PMADDUBSW).
What follows is exact: `vpmaddwd` by ones and `vpaddd` add those sums in 32 bits.

**The bound.** With activation codes from 0 to c, chosen freely, the sum of a pair of weights (u, v) is at most
c·(max(u, 0) + max(v, 0)) and at least c·(min(u, 0) + min(v, 0)), and both are reached: the code is c where the weight
has the sign, 0 elsewhere. So no activation saturates the pair if and only if

    max(u, 0) + max(v, 0) <= floor(32767 / c)     and     min(u, 0) + min(v, 0) >= -floor(32768 / c).

For c = 255 that is 128 and -128; up to c = 128 every pair of int8 weights passes. Zero points are no part of it: the
kernels multiply the codes as they are stored and correct the sums afterwards. K is padded with zeros, which saturate
nothing, so the last weight of an odd K stands alone.

**Which weights are neighbours.** K in the order of the kernel's packing, from 0 on: (0, 1), (2, 3), ... Packing goes
in quads, and K is cut at multiples of 4 only. `runtimes/onnxruntime/kernel_order.py` brings a layer's weight into that
order.

Sources, in onnxruntime/core/mlas/lib of https://github.com/microsoft/onnxruntime: x86_64/QgemmU8X8KernelAvx2.S
(MultiplyAccumulateRowU8S8Avx2), x86_64/QgemvU8S8KernelAvx2.S (one row), x86_64/ConvSymKernelAvx2.S
(MultiplyAccumulateRowAvx2), their Avx512Core versions, qgemm_kernel_avx2.cpp (PackedK = 4; strides of K 128 and 384),
platform.cpp (which CPU gets which). docs/overflow.md says what was tried on the kernels themselves.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

LARGEST_SUM, SMALLEST_SUM = 32767, -32768
LARGEST_CODE = 255
"""Of a uint8 activation."""

BoolArray = NDArray[np.bool_]


def pair_limits(largest_code: int = LARGEST_CODE) -> tuple[int, int]:
    """(lowest, highest) sum of the weights of one sign in a pair, for activation codes from 0 to `largest_code`.

    Raises ValueError for a code that no uint8 holds.
    """
    if not 0 <= largest_code <= LARGEST_CODE:
        raise ValueError(f"a uint8 activation has codes from 0 to {LARGEST_CODE}, not {largest_code}")
    code = max(largest_code, 1)
    return -(-SMALLEST_SUM // code), LARGEST_SUM // code


def overflowing_pairs(codes: NDArray[np.generic], largest_code: int = LARGEST_CODE) -> BoolArray:
    """Pairs that some activation saturates: bool [O, ceil(K / 2)], pair p being the codes 2p and 2p + 1 of a channel.

    codes: integers [O, K] in -128..127, K in the order of the kernel's packing. largest_code: an upper bound of the
    activation codes that holds for every input, not one that was observed. Raises ValueError as `pair_limits` does.
    """
    lowest, highest = pair_limits(largest_code)
    return _outside(np.asarray(codes), lowest, highest)


def overflowing_channels(codes: NDArray[np.generic], largest_code: int = LARGEST_CODE) -> BoolArray:
    """Output channels with such a pair: bool [O]. False everywhere: the kernels compute exactly, for every input."""
    return np.asarray(overflowing_pairs(codes, largest_code).any(axis=1))


def _outside(codes: NDArray[np.generic], lowest: int, highest: int) -> BoolArray:
    wide = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2))).astype(np.int16)  # holds sums of two codes
    even, odd = wide[:, ::2], wide[:, 1::2]
    positive = np.maximum(even, 0) + np.maximum(odd, 0)
    negative = np.minimum(even, 0) + np.minimum(odd, 0)
    found: BoolArray = (positive > highest) | (negative < lowest)
    return found
