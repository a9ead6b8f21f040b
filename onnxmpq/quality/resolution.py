"""Resolution of floors: the number of samples that it takes to tell whether a share is above a floor.

If the true share of failures is f, n samples all pass with probability (1 - f)**n. So where none of n fails, f is below
1 - 0.05**(1/n) with a confidence of 95 % (Clopper and Pearson 1934, for zero failures; about 3/n, the rule of three),
and a floor that allows a share f of failures needs n >= log 0.05 / log(1 - f) samples.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import onnx

from onnxmpq.quality.floors import Floors

CONFIDENCE = 0.95


def samples_needed(failures: float) -> int:
    """Fewest samples without a failure that show that less than this share fails. failures: in (0, 1)."""
    return math.ceil(math.log(1.0 - CONFIDENCE) / math.log1p(-failures))


def most_failures(count: int) -> float:
    """Share of failures that `count` samples without one leave possible."""
    return float(1.0 - (1.0 - CONFIDENCE) ** (1.0 / count))


def unresolved(floors: Floors, samples: int, rows: int | None = None, *, shares: bool = True) -> tuple[str, ...]:
    """Floors that so few samples cannot tell, a line each.

    rows: that classes are compared on; None where that is not known. shares: False where the metric is no share of the
    samples, so that nothing is known of its resolution.
    """
    found: list[str] = []
    agreement, drop = floors.min_agreement, floors.max_drop
    if agreement is not None and 0.0 < agreement < 1.0 and rows and rows < samples_needed(1.0 - agreement):
        possible = f"even if all agree, top-1 agreement may be {1.0 - most_failures(rows):.1%}"
        found.append(_line(f"--min-agreement {agreement * 100:g}%", rows, possible, samples_needed(1.0 - agreement)))
    if drop is not None and 0.0 < drop < 1.0 and shares and samples < samples_needed(drop):
        possible = f"even if nothing changes, {most_failures(samples):.1%} may be lost"
        found.append(_line(f"--max-drop {drop * 100:g}%", samples, possible, samples_needed(drop)))
    return tuple(found)


def declared_rows(outputs: Iterable[onnx.ValueInfoProto]) -> int | None:
    """Rows of class scores that one sample makes, by the declared shape of the first output: the product of its axes
    but the first and the last. None where an axis is dynamic, so that nobody knows."""
    first = next(iter(outputs), None)
    dims = [] if first is None else first.type.tensor_type.shape.dim
    inner = [d.dim_value for d in list(dims)[1:-1]]
    return math.prod(inner) if all(inner) and len(dims) > 1 else None


def _line(option: str, count: int, possible: str, needed: int) -> str:
    what = "sample" if count == 1 else "samples"
    return f"{count} {what} cannot tell {option}: {possible} (95 % confidence); {needed} can"
