"""Figures as people read them. A figure that is not known is a dash."""

from __future__ import annotations

import math

UNKNOWN = "–"


def ms(value: float | None, largest: float | None = None) -> str:
    """Milliseconds, with digits that suit their size, or that of the largest in a column."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    scale = abs(value if largest is None else largest)
    digits = 1 if scale >= 100 else 2 if scale >= 10 else 3 if scale >= 1 or (largest is None and scale >= 0.01) else 4
    return _signed(f"{value:.{digits}f}")


def _signed(shown: str) -> str:
    """A number with a real minus, and none in front of zero."""
    if not shown.startswith("-"):
        return shown
    return shown[1:] if float(shown) == 0 else f"−{shown[1:]}"


def size(value: float | None) -> str:
    """Bytes, in units of 1000."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    for unit, factor in (("MB", 1e6), ("kB", 1e3)):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {unit}" if abs(value) < 1000 * factor else f"{value / factor:.0f} {unit}"
    return f"{value:.0f} B"


def effect(value: float | None) -> str:
    """Divergence: two digits count."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value == 0:
        return "0"
    if abs(value) >= 1e-3:
        return _signed(f"{value:#.2g}".rstrip("."))
    mantissa, exponent = f"{value:.1e}".split("e")
    return _signed(f"{mantissa}e{int(exponent)}")


def decibel(value: float | None) -> str:
    if value is None:
        return UNKNOWN
    return f"{value:.1f} dB" if math.isfinite(value) else "exact"


def percent(value: float | None, digits: int = 1) -> str:
    return UNKNOWN if value is None or not math.isfinite(value) else f"{value * 100:.{digits}f} %"


def plain(value: float | None) -> str:
    """Four digits."""
    return UNKNOWN if value is None else f"{value:.4g}"


def speed(ratio: float) -> str:
    """Latency of the result over the original's, in words."""
    if f"{ratio:.2f}" == "1.00" or ratio <= 0:
        return "the same"
    return f"{1 / ratio:.2f} times as fast" if ratio < 1 else f"{ratio:.2f} times as slow"


def count(number: int, what: str) -> str:
    """ "1 region", "3 regions"."""
    return f"{number} {what}{'' if number == 1 else 's'}"
