"""Samples of the shapes that are timed (`--shape`): the typical sample, repeated or cut along its axes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxmpq.errors import UsageError
from onnxmpq.feeds.types import Array, Feeds, InputSpec, Step
from onnxmpq.files import nearest

Shapes = Mapping[str, Sequence[int]]
TIMED = "latency is that of "
_SIZES = re.compile(r"([1-9]\d*(?:x[1-9]\d*)*)(?:@(\d*\.?\d+))?")


@dataclass(frozen=True)
class Share:
    """Shapes by input, and the share of all runs that have them."""

    share: float
    shapes: Shapes


@dataclass(frozen=True, eq=False)
class Timed:
    """Samples that are timed, of which the first counts: (share of all runs, samples). Latency is the mean by share."""

    parts: tuple[tuple[float, Feeds], ...]

    @classmethod
    def of(cls, given: Feeds | Timed) -> Timed:
        """Samples alone are all of the runs."""
        return given if isinstance(given, Timed) else cls(((1.0, given),))

    @property
    def first(self) -> Feeds:
        return self.parts[0][1]


def parse_shapes(entries: Iterable[str], where: str = "--shape") -> dict[str, str]:
    """Shapes by input, as spelled, from NAME=8x3x224x224 or NAME=1x16@0.7,1x128@0.3. Raises UsageError."""
    found: dict[str, str] = {}
    for entry in entries:
        name, _, text = entry.rpartition("=")
        if not name or not all(_SIZES.fullmatch(part.strip()) for part in text.split(",")):
            raise UsageError(
                f"{where} {entry!r}: write NAME=SIZES, such as image=8x3x224x224, or several with shares: "
                "ids=1x16@0.7,1x128@0.3"
            )
        if name in found:
            raise UsageError(f"{where} {entry!r}: input {name!r} is given twice")
        found[name] = text.replace(" ", "")
    return found


def shares_of(given: Mapping[str, str | Sequence[int]] | None) -> tuple[Share, ...]:
    """Shapes with their shares, which add up to 1; empty where none are given. Inputs with one shape have it in all.

    given: by input a text as on the command line, or sizes. Raises UsageError.
    """
    spelled = {n: s if isinstance(s, str) else "x".join(map(str, s)) for n, s in (given or {}).items()}
    rows = {n: _row(text) for n, text in parse_shapes([f"{n}={t}" for n, t in spelled.items()]).items()}
    counts = {len(row) for row in rows.values()} - {1}
    weights = {tuple(w for _, w in row) for row in rows.values() if len(row) > 1}
    if len(counts) > 1 or len(weights) > 1:
        raise UsageError(
            f"--shape {', '.join(rows)}: inputs with several shapes must have equally many, of equal shares"
        )
    if not rows:
        return ()
    shares = next(iter(weights), (1.0,))
    return tuple(
        Share(share / sum(shares), {n: (row[i] if len(row) > 1 else row[0])[0] for n, row in rows.items()})
        for i, share in enumerate(shares)
    )


def _row(text: str) -> list[tuple[tuple[int, ...], float]]:
    """Sizes and weights of one input."""
    matches = [_SIZES.fullmatch(part) for part in text.split(",")]
    row = [(tuple(map(int, m[1].split("x"))), float(m[2] or 1.0)) for m in matches if m is not None]
    if not all(weight > 0 for _, weight in row):
        raise UsageError(f"--shape {text}: a share must be above 0")
    return row


def in_words(shares: Sequence[Share]) -> str:
    """Such as "ids=1x16 (70 %), ids=1x128 (30 %)"; empty for none."""
    return ", ".join(_spelled(s.shapes) + (f" ({s.share:.0%})" if len(shares) > 1 else "") for s in shares)


def timed_note(timed: Feeds, shares: Sequence[Share]) -> str:
    """The inputs that latencies are about in words, with `TIMED` in it; empty where it is plain.

    timed: the samples of which one is timed. shares: shapes that were asked for instead.
    """
    return f"{TIMED}{in_words(shares)}" if shares else timed.timed


def _spelled(shapes: Shapes) -> str:
    return " ".join(f"{name}={'x'.join(map(str, shape))}" for name, shape in shapes.items())


def timed_samples(feeds: Feeds, shares: Sequence[Share]) -> Timed:
    """All of the samples where no shapes are given, else one sample for each. Raises UsageError as `with_shapes`."""
    return Timed(tuple((s.share, with_shapes(feeds, s.shapes)) for s in shares) or Timed.of(feeds).parts)


def at_step(feeds: Feeds, asked: Step | None) -> Feeds:
    """Samples of which one of the asked phase is timed: `decode` if None and there are such.

    The same samples for a model that is no decoder. Raises UsageError for a phase that no sample has.
    """
    if not feeds.runs:
        if asked is not None:
            raise UsageError(f"--step {asked}: the model has no cache of earlier tokens, so no phases; leave it out")
        return feeds
    step = asked or ("decode" if "decode" in feeds.steps else "prefill")
    if step not in feeds.steps:
        raise UsageError(f"--step {step}: no sample is of that phase; give token ids or text with --recipe decoder")
    return replace(feeds, step=step)


def with_shapes(feeds: Feeds, shapes: Shapes) -> Feeds:
    """One sample in which inputs have these shapes, made of the typical one; all of the samples where there are none.

    Axes of other inputs with the same symbolic name follow, and those called as a sum of names. Raises UsageError for
    an input that does not exist, and for a shape that it cannot have.
    """
    if not shapes:
        return feeds
    specs = {s.name: s for s in feeds.specs}
    sizes: dict[str, int] = {}
    for name, shape in shapes.items():
        if name not in specs:
            raise UsageError(f"--shape {name}: no such input; {nearest(name, specs, 'the inputs are')}")
        for symbol, size in _bound(specs[name], shape).items():
            if sizes.setdefault(symbol, size) != size:
                raise UsageError(f"--shape {name}: axis {symbol!r} is both {sizes[symbol]} and {size}; they must agree")
    first = feeds.batch([feeds.typical])
    for spec in feeds.specs:
        known = zip(spec.shape, first[spec.name].shape, strict=True)
        sizes = {**{axis: size for axis, size in known if isinstance(axis, str)}, **sizes}
    arrays = {n: _fitted(first[n], shapes.get(n) or _following(specs[n], first[n], sizes))[None] for n in specs}
    return Feeds(arrays, feeds.specs, f"{feeds.source}, as {_spelled(shapes)}", feeds.synthetic)


def _bound(spec: InputSpec, shape: Sequence[int]) -> dict[str, int]:
    """Sizes of the input's symbolic axes."""
    declared = "x".join("?" if axis is None else str(axis) for axis in spec.shape)
    fixed = [(a, b) for a, b in zip(spec.shape, shape, strict=False) if isinstance(a, int)]
    if len(shape) != len(spec.shape) or any(a != b for a, b in fixed):
        asked = _spelled({spec.name: shape})
        raise UsageError(f"--shape {asked}: the model declares {declared}; only axes without a number can vary")
    return {a: b for a, b in zip(spec.shape, shape, strict=True) if isinstance(a, str)}


def _following(spec: InputSpec, values: Array, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of an input that was not given one."""
    return tuple(
        _summed(axis, sizes) or sizes.get(axis, size) if isinstance(axis, str) else size
        for axis, size in zip(spec.shape, values.shape, strict=True)
    )


def _summed(axis: str, sizes: Mapping[str, int]) -> int | None:
    """The size of an axis called as a sum, such as "past_sequence_length + 1"; None for other names."""
    parts = [part.strip() for part in axis.split("+")]
    found = [int(part) if part.isdecimal() else sizes.get(part) for part in parts]
    known = [size for size in found if size is not None]
    return sum(known) if len(parts) > 1 and len(known) == len(parts) else None


def _fitted(values: Array, shape: Sequence[int]) -> Array:
    """Values repeated, or cut off, along each axis."""
    if 0 in values.shape:
        return np.zeros(tuple(shape), values.dtype)
    return values[np.ix_(*(np.arange(wanted) % size for wanted, size in zip(shape, values.shape, strict=True)))]
