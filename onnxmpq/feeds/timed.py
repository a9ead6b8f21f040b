"""Samples of the shapes that are timed (`--shape`): the first sample, repeated or cut along its axes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from onnxmpq.errors import UsageError
from onnxmpq.feeds.types import Array, Feeds, InputSpec
from onnxmpq.fields import nearest

Shapes = Mapping[str, Sequence[int]]


def parse_shapes(entries: Iterable[str], where: str = "--shape") -> dict[str, tuple[int, ...]]:
    """Shapes by input from NAME=8x3x224x224. Raises UsageError."""
    found: dict[str, tuple[int, ...]] = {}
    for entry in entries:
        name, _, text = entry.rpartition("=")
        if not name or not re.fullmatch(r"\d+(x\d+)*", text.strip()) or "0" in re.split("x", text.strip()):
            raise UsageError(f"{where} {entry!r}: write NAME=SIZES, such as image=8x3x224x224")
        if name in found:
            raise UsageError(f"{where} {entry!r}: input {name!r} is given twice")
        found[name] = tuple(map(int, text.split("x")))
    return found


def shapes_of(given: Mapping[str, str | Sequence[int]] | None) -> dict[str, tuple[int, ...]]:
    """The same from Python: by input a text such as 8x3x224x224, or sizes. Raises UsageError."""
    spelled = {n: s if isinstance(s, str) else "x".join(map(str, s)) for n, s in (given or {}).items()}
    return parse_shapes([f"{name}={text}" for name, text in spelled.items()], "shape")


def in_words(shapes: Shapes) -> str:
    """As the command line spells them."""
    return ", ".join(f"{name}={'x'.join(map(str, shape))}" for name, shape in shapes.items())


def with_shapes(feeds: Feeds, shapes: Shapes) -> Feeds:
    """One sample in which inputs have these shapes, made of the first one; all of the samples where there are none.

    Axes of other inputs with the same symbolic name follow. Raises UsageError for an input that does not exist, and for
    a shape that it cannot have.
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
    first = feeds.batch([0])
    arrays = {n: _fitted(first[n], shapes.get(n) or _following(specs[n], first[n], sizes))[None] for n in specs}
    return Feeds(arrays, feeds.specs, f"{feeds.source}, as {in_words(shapes)}", feeds.synthetic)


def _bound(spec: InputSpec, shape: Sequence[int]) -> dict[str, int]:
    """Sizes of the input's symbolic axes."""
    declared = "x".join("?" if axis is None else str(axis) for axis in spec.shape)
    fixed = [(a, b) for a, b in zip(spec.shape, shape, strict=False) if isinstance(a, int)]
    if len(shape) != len(spec.shape) or any(a != b for a, b in fixed):
        asked = in_words({spec.name: shape})
        raise UsageError(f"--shape {asked}: the model declares {declared}; only axes without a number can vary")
    return {a: b for a, b in zip(spec.shape, shape, strict=True) if isinstance(a, str)}


def _following(spec: InputSpec, values: Array, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The shape of an input that was not given one."""
    return tuple(
        sizes.get(axis, size) if isinstance(axis, str) else size
        for axis, size in zip(spec.shape, values.shape, strict=True)
    )


def _fitted(values: Array, shape: Sequence[int]) -> Array:
    """Values repeated, or cut off, along each axis."""
    if 0 in values.shape:
        return np.zeros(tuple(shape), values.dtype)
    return values[np.ix_(*(np.arange(wanted) % size for wanted, size in zip(shape, values.shape, strict=True)))]
