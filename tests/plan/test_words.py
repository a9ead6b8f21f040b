"""Figures are in the units of reports, and what is not known is not said."""

from __future__ import annotations

from onnxmpq.plan import in_units


def test_figures_in_words() -> None:
    taken = {"latency_ms": 0.28123, "size_bytes": 222_900, "original_latency_ms": 0.4, "latency_ms_low": 0.27}
    assert in_units(taken) == "latency 0.281 ms (fp32 0.400 ms), size 0.223 MB"
    assert in_units({"effect": 6.329e-08, "size_bytes": None, "solver_gap": 0.1}) == "divergence 6.33e-08"
    assert in_units({}) == ""
