"""Reasons for layers that stay in float32."""

from __future__ import annotations

from onnxmpq.allocate import Option
from onnxmpq.report.planned import _why_float
from onnxmpq.schemes import scheme_named


def option(scheme: str, us: float, size: float) -> Option:
    return Option(scheme_named(scheme), {"latency": us / 1e6, "size": size})


def test_bytes_that_cost_time_are_named() -> None:
    """Without a limit on latency the original's holds, so a smaller and slower scheme is not chosen."""
    plain, dual = option("fp32", 10.0, 4000.0), option("w4a8-fp8", 12.5, 600.0)
    assert _why_float(plain, (plain, dual), "") == (
        "float32 is the fastest here; w4a8-fp8 would save 3400 bytes and take 2.5 us more, if --latency allows"
    )
    larger = option("fp16", 12.5, 4000.0)
    assert _why_float(plain, (plain, larger), "") == "float32 is the fastest here"
    assert _why_float(plain, (plain, dual), "set by the user") == "set by the user"
