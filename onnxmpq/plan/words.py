"""Figures of a plan in words, in the units of reports."""

from __future__ import annotations

from collections.abc import Mapping

from onnxmpq.allocate import EFFECT, QUANTITIES
from onnxmpq.files import is_number

_NARROWING = {"set": "--set", "schemes": "--scheme", "without": "--without"}


def narrowing(options: Mapping[str, object]) -> tuple[str, ...]:
    """Options that take schemes or techniques from the choice, as the command line spells them. options: as those of
    a plan."""
    return tuple(flag for name, flag in _NARROWING.items() if options.get(name))


def in_units(figures: Mapping[str, object]) -> str:
    """Such as "latency 0.281 ms (fp32 0.402 ms), size 0.223 MB, divergence 6.3e-08"; what is not known is left out."""
    found = []
    for name, quantity in QUANTITIES.items():
        taken, original = (figures.get(f"{whose}{quantity.figure}") for whose in ("", "original_"))
        if not is_number(taken):
            continue
        shown = quantity.unit.show(float(taken) / quantity.per_unit)
        before = f" (fp32 {quantity.unit.show(float(original) / quantity.per_unit)})" if is_number(original) else ""
        found.append(f"{name} {shown}{before}")
    effect = figures.get(EFFECT)
    return ", ".join([*found, *([f"divergence {float(effect):.3g}"] if is_number(effect) else [])])
