from __future__ import annotations

from onnxmpq.menu import Menu, widest_weights
from onnxmpq.schemes import scheme_named


def schemes(names: str) -> tuple[str, ...]:
    kept = widest_weights(Menu({"layer": tuple(scheme_named(n) for n in names.split())}))
    return tuple(s.name for s in kept["layer"])


def test_of_equal_kernels_the_one_with_most_bits_stays() -> None:
    assert schemes("fp32 w8 w6 w4 int8 w5a8 w4a8 w4b32 w4b128 w8b128") == (
        "fp32",
        "w8",
        "int8",
        "w4b32",
        "w4b128",
        "w8b128",
    )


def test_fewer_bits_stay_where_the_user_allows_no_more() -> None:
    assert schemes("fp32 w4a8") == ("fp32", "w4a8")
