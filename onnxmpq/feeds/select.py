"""Selection of samples, and the order of files."""

from __future__ import annotations

import re

from onnxmpq.errors import CalibrationError


def spread(count: int, limit: int | None) -> list[int]:
    """At most `limit` of `count` indices, ascending, spread evenly: the middles of `limit` equal parts."""
    if limit is None or limit >= count:
        return list(range(count))
    return [(2 * part + 1) * count // (2 * limit) for part in range(limit)]


def natural_order(name: str) -> list[str | int]:
    """Sorting key under which 'x_2' comes before 'x_10'."""
    return [int(part) if part.isdecimal() else part.casefold() for part in re.split(r"(\d+)", name)]


def whole_groups(count: int, group: int, where: str, things: str) -> tuple[int, list[str]]:
    """The number of `count` that fill whole samples of `group` each, and a note about the rest.

    CalibrationError where there are not enough for one sample.
    """
    kept = count - count % group
    if not kept:
        raise CalibrationError(
            f"{where}: the model takes {group} {things} at once, and there are only {count}; add more"
        )
    dropped = count - kept
    return kept, [f"the last {dropped} of {count} {things} were dropped (the model takes {group} at once)"] * bool(
        dropped
    )
