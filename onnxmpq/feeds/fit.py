"""Do these arrays fit this model? Names, shapes, dtypes, finite values: the one place where that is decided."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from onnxmpq.errors import CalibrationError
from onnxmpq.feeds.types import Array, InputSpec

Size = TypeVar("Size")


@dataclass(frozen=True)
class Layout:
    """The place of samples in an array: `samples` of them, each `rows` consecutive entries of axis `axis`, kept with
    shape `sample`. left_over: rows behind the last whole sample."""

    samples: int
    rows: int
    sample: tuple[int, ...]
    axis: int = 0
    left_over: int = 0

    def split(self, array: Array) -> Array:
        """The samples of an array that was found to have this layout, [samples, *sample]."""
        return np.moveaxis(array, self.axis, 0)[: self.samples * self.rows].reshape(self.samples, *self.sample)


def show_shape(shape: Sequence[int | str | None]) -> str:
    """`[N, 3, ?]`: the way shapes are written in messages."""
    return "[" + ", ".join("?" if axis is None else str(axis) for axis in shape) + "]"


def rows_per_sample(spec: InputSpec) -> int:
    """Rows of the model's batch axis that make one sample: 1, unless that axis is fixed to another number."""
    first = spec.shape[spec.batch_axis] if spec.shape else None
    return first if isinstance(first, int) and first > 0 else 1


def without_rows(spec: InputSpec) -> bool:
    """True if the model's first axis is fixed to 0, so that samples can only be counted by an axis in front of it."""
    return spec.shape[:1] == (0,)


def fixed_batch(specs: Sequence[InputSpec]) -> int | None:
    """The number of samples that the model takes at once, where all its inputs have the same first axis, fixed to more
    than 1. None for [3, height, width], which is a picture without a batch axis."""
    sizes = {s.shape[0] if s.shape and (len(s.shape), s.shape[0]) != (3, 3) else None for s in specs}
    size = sizes.pop()
    return size if not sizes and isinstance(size, int) and size > 1 else None


def find_layout(spec: InputSpec, shape: tuple[int, ...], where: str, *, loose: bool = False) -> Layout:
    """Samples' place in an array of `shape`, of the input `spec` (see `Feeds`); CalibrationError if it has none.

    loose: rows that do not fill the last sample are left over rather than refused.
    """
    rank, axis = len(spec.shape), spec.batch_axis
    if shape[:1] == (0,) and (len(shape) > rank or axis == 0):
        raise CalibrationError(f"{where} is empty (shape {show_shape(shape)}): it holds no samples; add some")
    if len(shape) == rank + 1:
        _check_axes(spec, spec.shape, shape[1:], shape, where)
        one = rank > 0 and shape[1 + axis] == 1 and rows_per_sample(spec) == 1
        return Layout(shape[0], 1, _without(shape[1:], axis) if one else shape[1:])
    if len(shape) != rank or rank == 0 or without_rows(spec):
        raise CalibrationError(f"{where} has shape {show_shape(shape)}, {_wanted(spec)}")
    others = _without(shape, axis)
    _check_axes(spec, _without(spec.shape, axis), others, shape, where)
    group = rows_per_sample(spec)
    if shape[axis] < group or (shape[axis] % group and not loose):
        raise CalibrationError(
            f"{where} has {shape[axis]} rows, and input '{spec.name}' takes {group} at a time: "
            f"give a multiple of {group} rows"
        )
    sample = others if group == 1 else (group, *others)
    return Layout(shape[axis] // group, group, sample, axis, shape[axis] % group)


def _without(shape: Sequence[Size], axis: int) -> tuple[Size, ...]:
    return (*shape[:axis], *shape[axis + 1 :])


def _check_axes(
    spec: InputSpec,
    declared: Sequence[int | str | None],
    given: Sequence[int],
    shape: Sequence[int],
    where: str,
) -> None:
    if any(isinstance(want, int) and want != have for want, have in zip(declared, given, strict=True)):
        raise CalibrationError(f"{where} has shape {show_shape(shape)}, {_wanted(spec)}")


def _wanted(spec: InputSpec) -> str:
    takes = f"but input '{spec.name}' of the model takes {show_shape(spec.shape)}"
    if not spec.shape or without_rows(spec) or rows_per_sample(spec) > 1:
        return f"{takes}: give {show_shape(['samples', *spec.shape])}"
    if spec.batch_axis:
        return f"{takes}: give that with samples side by side, or {show_shape(['samples', *spec.shape])}"
    return f"{takes}: give {show_shape(['samples', *spec.shape[1:]])}"


def check_names(given: Mapping[str, object], specs: Sequence[InputSpec], where: str) -> None:
    """CalibrationError unless the names given are exactly the model's inputs."""
    inputs = [s.name for s in specs]
    listed = ", ".join(f"'{name}'" for name in inputs)
    missing = [name for name in inputs if name not in given]
    extra = [name for name in given if name not in inputs]
    if missing:
        found = ", ".join(f"'{name}'" for name in given) or "nothing"
        raise CalibrationError(
            f"{where}: input '{missing[0]}' of the model is missing (found {found}); "
            f"name one array after each input: {listed}"
        )
    if extra:
        raise CalibrationError(f"{where}: '{extra[0]}' is no input of the model; take it out (inputs: {listed})")


def require_finite(values: Array, rows: Sequence[int], where: str) -> Array:
    """The values unchanged; CalibrationError naming the first NaN or infinity. -inf is let through, for masks."""
    if not is_float(values.dtype):
        return values
    bad = ~(np.isfinite(values) | (values == -np.inf))
    if bad.any():
        first = tuple(int(i) for i in np.argwhere(bad)[0])
        index = ", ".join(str(i) for i in (rows[first[0]], *first[1:]))
        raise CalibrationError(
            f"{where} holds {int(bad.sum())} NaN or infinite value(s), the first ({values[first]}) at index [{index}]; "
            "repair or remove those samples"
        )
    return values


def is_float(dtype: np.dtype[np.generic]) -> bool:
    """Floating point, bfloat16 and the 8-bit floats included (which NumPy does not count among its own)."""
    return dtype.kind == "f" or dtype.name.startswith(("bfloat", "float"))


def type_words(dtype: np.dtype[np.generic]) -> str:
    """A dtype in a message. Types that NumPy does not have are objects, as strings are."""
    return "strings, or a type that NumPy does not have" if dtype.kind == "O" else str(dtype)


def to_dtype(values: Array, spec: InputSpec, where: str) -> tuple[Array, str | None]:
    """The finite `values` in the dtype of `spec`, and a note where that changed the type.

    Floats become other floats, integers other integers that hold them, booleans integers and 0/1 booleans;
    CalibrationError for anything else.
    """
    given, wanted = values.dtype, spec.dtype
    if given == wanted or (wanted.kind == "O" and given.kind in "UO"):
        return values.astype(wanted, copy=False), None
    problem = f"{where} holds {given} values, but input '{spec.name}' takes {type_words(wanted)}"
    if is_float(wanted):
        if not is_float(given):
            raise CalibrationError(
                f"{problem}: convert it as the model expects (for example x.astype('float32') / 255), "
                "or give images with a recipe"
            )
        with np.errstate(over="ignore"):
            converted = values.astype(wanted)
        overflown = (converted == -np.inf) & np.isfinite(values)
        require_finite(
            np.where(overflown, np.inf, converted), range(len(converted)), f"{where}, converted to {wanted},"
        )
    elif given.kind in "iub" and wanted.kind in "iub":
        lowest, highest = (0, 1) if wanted.kind == "b" else (np.iinfo(wanted.str).min, np.iinfo(wanted.str).max)
        smallest, largest = (int(values.min()), int(values.max())) if values.size else (lowest, highest)
        if smallest < lowest or largest > highest:
            raise CalibrationError(f"{problem}, which cannot hold the values {smallest} to {largest}; correct them")
        converted = values.astype(wanted)
    else:
        raise CalibrationError(f"{problem}: give an array of {type_words(wanted)}")
    same = given.newbyteorder("=") == wanted
    return converted, None if same else f"input '{spec.name}': {given} values were converted to {wanted}"
