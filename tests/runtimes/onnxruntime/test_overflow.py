"""The bound of `rounding/overflow.py` against onnxruntime's own kernels, on whatever CPU runs this.

Where the probe says that the CPU saturates, results beyond the bound are those of pairs (0, 1), (2, 3), ... in the
order of `runtimes/onnxruntime/kernel_order.py`, to the integer; anywhere else they are exact. `python -m
benchmarks.overflow` does the same for many more shapes, also under an emulator.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from onnxmpq.runtimes.onnxruntime import probes
from onnxmpq.runtimes.onnxruntime.kernel_order import kernel_rows
from tests.kernels import Attention, Convolution, Product, Recurrence, Setting, Subject, least_beyond, within

FILTERS = 3  # of a product; of a group of a convolution two
OPERATORS = ("MatMul", "Gemm", "Gemm transB", "MatMulInteger")
SUBJECTS: dict[str, Subject] = {
    **{f"MatMul of {rows} rows, K {k}": Product("MatMul", rows, k) for rows in (1, 5) for k in range(1, 41)},
    **{f"{op} of 2 rows, K {k}": Product(op, 2, k, 131) for op in OPERATORS[1:] for k in (2, 3, 8, 13, 130, 389)},
    **{
        f"{kind}, K {layer.inputs}, zero point {layer.zero_point}": layer
        for k in (8, 13, 37, 130)
        for zero_point in (0, 131)
        for kind, layer in (
            ("DynamicQuantizeMatMul of 1 row", Product("DynamicQuantizeMatMul", 1, k, zero_point)),
            ("DynamicQuantizeMatMul of 4 rows", Product("DynamicQuantizeMatMul", 4, k, zero_point)),
            ("QAttention of 1 row", Attention(1, k, zero_point)),
            ("QAttention of 4 rows", Attention(4, k, zero_point)),
            ("DynamicQuantizeLSTM of 1 row", Recurrence(k, 1, zero_point=zero_point)),
            ("DynamicQuantizeLSTM of 4 rows", Recurrence(k, 4, zero_point=zero_point)),
            ("states of DynamicQuantizeLSTM, 1 row", Recurrence(k, 1, recurrent=True, zero_point=zero_point)),
            ("states of DynamicQuantizeLSTM, 4 rows", Recurrence(k, 4, recurrent=True, zero_point=zero_point)),
        )
    },
    **{f"1x1, {c} channels": Convolution(c, (1, 1)) for c in range(1, 41)},
    **{f"1x1, {c} channels, ragged": Convolution(c, (1, 1), ragged=True) for c in (4, 16)},
    **{
        f"{n}x{n}, {c} channels": Convolution(c, (n, n), pad=n // 2, zero_point=7)
        for n in (2, 3, 5, 7)
        for c in (1, 2, 3, 4, 7, 8)
    },
    "one dimension": Convolution(3, (5,), pad=1),
    "three dimensions": Convolution(2, (2, 3, 2)),
    "stride and dilation": Convolution(3, (3, 2), stride=2, dilation=2, zero_point=200),
    "stride of 1x1": Convolution(8, (1, 1), stride=2),
    "groups of 3": Convolution(3, (3, 3), groups=4, pad=1),
    "groups of 4": Convolution(4, (3, 3), groups=2),
    "groups of 1, several results each": Convolution(1, (3, 3), groups=4),
}
parametrized = pytest.mark.parametrize("name", SUBJECTS)


def filters_of(subject: Subject, seed: int = 0, largest_code: int = 255) -> np.ndarray:
    kinds = FILTERS if isinstance(subject, Product) else 2
    return within(np.random.default_rng(seed), (subject.groups, kinds, subject.inputs), largest_code)


@parametrized
@pytest.mark.parametrize("prepack", [True, False], ids=["packed once", "packed at every run"])
def test_weights_within_the_bound_are_computed_exactly(name: str, prepack: bool) -> None:
    assert SUBJECTS[name].computed(filters_of(SUBJECTS[name]), Setting(prepack=prepack)).equal


@parametrized
def test_the_least_weights_beyond_it_are_not_where_the_cpu_saturates(name: str) -> None:
    subject, generator = SUBJECTS[name], np.random.default_rng(1)
    if subject.inputs < 2:
        return
    beyond = least_beyond(generator, filters_of(subject))
    exact = subject.computed(beyond, Setting())
    if not probes.saturates():
        assert exact.equal
        return
    assert subject.computed(beyond, Setting(saturating=True)).equal, "neighbours are others, or saturate otherwise"
    assert exact.wrong == beyond.shape[1]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", ["MatMul of 5 rows, K 39", "3x3, 3 channels", "3x3, 8 channels", "groups of 3"])
def test_wild_weights_saturate_pair_by_pair(name: str, seed: int) -> None:
    subject = SUBJECTS[name]
    wild = np.random.default_rng(seed).integers(-128, 128, filters_of(subject).shape)
    assert subject.computed(wild, Setting(saturating=bool(probes.saturates()), seed=seed)).equal


@pytest.mark.parametrize("largest_code", [130, 200])
@pytest.mark.parametrize("name", ["MatMul of 1 rows, K 32", "3x3, 3 channels", "1x1, 16 channels"])
def test_smaller_activations_allow_larger_weights(name: str, largest_code: int) -> None:
    subject = SUBJECTS[name]
    filters = filters_of(subject, 2, largest_code)
    assert subject.computed(filters, Setting(largest_code=largest_code)).equal


EXACT: dict[str, Subject] = {
    "MatMul by uint8": Product("MatMul", 3, 37, 9, unsigned_weights=True),
    "Gemm by uint8": Product("Gemm transB", 1, 40, unsigned_weights=True),
    "Conv by uint8": Convolution(8, (3, 3), pad=1, unsigned_weights=True),
    "Conv of 3 channels by uint8": Convolution(3, (3, 3), unsigned_weights=True),
    "MatMulInteger of int8": Product("MatMulInteger", 3, 37, 100, signed=True),
}
SHIFTED: dict[str, Subject] = {
    "MatMul of int8": Product("MatMul", 3, 37, 128, signed=True),
    "Gemm of int8": Product("Gemm", 1, 40, 100, signed=True),
    "Conv of int8": Convolution(8, (3, 3), pad=1, zero_point=128, signed=True),
}


@pytest.mark.parametrize("name", EXACT)
def test_other_types_are_exact(name: str) -> None:
    """uint8 weights, and int8 for both operands, with values far beyond the bound."""
    subject = EXACT[name]
    assert subject.computed(np.full(filters_of(subject).shape, 127), Setting()).equal
    assert subject.computed(np.full(filters_of(subject).shape, -128), Setting()).equal


@pytest.mark.parametrize("name", SHIFTED)
def test_pairs_of_int8_activations_count_as_uint8(name: str) -> None:
    """A session on x86 makes them uint8, larger by 128. Elsewhere they are computed as they are."""
    subject = SHIFTED[name]
    assert subject.computed(filters_of(subject), Setting()).equal
    wild = np.full(filters_of(subject).shape, 127)
    assert subject.computed(wild, Setting(saturating=bool(probes.saturates()))).equal


@pytest.mark.parametrize("window", [(3, 3), (5, 5), (2, 3), (5,)], ids=str)
@pytest.mark.parametrize("groups", [1, 3, 8, 16, 40])
def test_depthwise_convolutions_are_exact(groups: int, window: tuple[int, ...]) -> None:
    """With weights far beyond the bound."""
    subject = Convolution(1, window, groups, pad=1, zero_point=3, depthwise=True)
    wild = np.random.default_rng(0).choice([-128, -127, 127], (groups, 1, subject.inputs))
    assert subject.computed(wild, Setting()).equal
    assert replace(subject, zero_point=0).computed(np.full_like(wild, 127), Setting()).equal


def test_filters_are_laid_out_as_kernel_order_says() -> None:
    """What is asserted here about neighbours is about those that the package calls so."""
    stored = np.random.default_rng(0).integers(-9, 9, (4, 3, 2, 5))
    walked = stored.transpose(0, 2, 3, 1).reshape(4, -1)
    assert np.array_equal(kernel_rows("Conv", stored), walked)
    assert np.array_equal(np.moveaxis(walked.reshape(4, 2, 5, 3), -1, 1), stored)
