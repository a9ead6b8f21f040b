"""What an engine's bytes say about the widths in which it stores quantized weights."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.compilers import Kind, Stored, stored, widths
from tests.compilers.graphs import int4_weights
from tests.graphs import conv_relu

BITS = {"int4": 4, "int8": 8, "float8e4m3fn": 8}


def test_bytes_are_those_packed() -> None:
    found = stored(int4_weights(64))
    assert [(k.element, k.tensors, k.elements, k.bytes) for k in found.kinds] == [
        ("int4", 1, 256 * 512, 256 * 512 // 2)
    ]
    assert found.other_bytes == 4 * 512 * 4
    assert found.bytes == found.at({}) == found.at({"int4": 4})


def test_float_models_have_no_quantized_weights() -> None:
    found = stored(conv_relu())
    assert not found.kinds and found.bytes > 0
    assert widths(found, found.bytes) is None


@given(
    sizes=st.lists(st.sampled_from([2**16, 2**18, 3 * 2**17]), min_size=1, max_size=3),
    wide=st.lists(st.sampled_from([0, 8, 16, 32]), min_size=3, max_size=3),
    other=st.integers(0, 10**5),
)
def test_the_widths_found_explain_the_bytes(sizes: list[int], wide: list[int], other: int) -> None:
    """Several combinations may give the same bytes; what is found is one of them, and never wider than needed."""
    kinds = tuple(Kind(n, 1, size, size * BITS[n] // 8) for n, size in zip(BITS, sizes, strict=False))
    constants = Stored(kinds, other)
    truth = {k.element: max(w, BITS[k.element]) for k, w in zip(kinds, wide, strict=False)}
    found = widths(constants, constants.at(truth))
    assert found is not None
    assert abs(constants.at(found) - constants.at(truth)) <= 0.06 * constants.at(found) + 2048
    widened = [n for n in found if found[n] > BITS[n]]
    assert len(widened) <= sum(truth[n] > BITS[n] for n in truth)


def test_padding_of_other_constants_is_not_taken_for_a_width() -> None:
    """A mix of which 3 % are float8: 6.5 % more bytes come near to float8 at 24 bits, which is no width."""
    constants = Stored((Kind("float8e4m3fn", 1, 30_000, 30_000),), 970_000)
    assert widths(constants, 1_065_000) is None


def test_bytes_that_fit_nothing_are_not_explained() -> None:
    constants = Stored((Kind("int4", 1, 2**16, 2**15),), 0)
    assert widths(constants, 50 * 2**16) is None
    assert widths(constants, None) is None
