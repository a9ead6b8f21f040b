"""Made-up samples for a model that comes without data, and a loud note on everything that was assumed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from onnxmpq.errors import CalibrationError, UsageError
from onnxmpq.feeds.fit import is_float, rows_per_sample, show_shape
from onnxmpq.feeds.types import Array, Feeds, InputSpec

DEFAULT_SAMPLES = 32
DEFAULT_LENGTH = 128  # of dynamic axes such as sequences
DEFAULT_PIXELS = 224  # of dynamic axes of pictures
DEFAULT_BOUND = 32  # exclusive, of integers: small, for a larger id may not exist in the model's vocabulary

WARNING = (
    "NO CALIBRATION DATA WAS GIVEN: all samples are made up, so ranges and sensitivities may be far from real ones"
)


def synthesize(
    specs: Sequence[InputSpec],
    count: int = DEFAULT_SAMPLES,
    seed: int = 0,
    *,
    dims: Mapping[str, int] | None = None,
    bounds: Mapping[str, int] | None = None,
) -> Feeds:
    """`count` samples made up from the declared inputs, the same ones for the same seed.

    dims: sizes of dynamic axes, by their symbolic name, or `input[axis]` for one without a name; the others are
        `DEFAULT_LENGTH`, in pictures `DEFAULT_PIXELS`. The batch axis (a dynamic first one) is not among them.
    bounds: input name -> exclusive upper bound of its integers, for example the vocabulary size.
    Raises UsageError for a dim or bound that the model does not have, CalibrationError for a dtype that cannot be
    made up.
    """
    dims, bounds = dims or {}, bounds or {}
    dynamic = {_axis_key(s, i) for s in specs for i, size in enumerate(s.shape) if i > 0 and not isinstance(size, int)}
    _check_known("dimension", dims, dynamic)
    _check_known("bound of input", bounds, {s.name for s in specs})
    generator = np.random.default_rng(seed)
    arrays, notes = {}, [WARNING]
    for spec in specs:
        shape, assumed = _resolve(spec, dims)
        arrays[spec.name], what = _values(generator, (count, *shape), spec, bounds.get(spec.name))
        notes.append(f"input '{spec.name}' {show_shape(spec.shape)} {spec.dtype}: {what}{assumed}")
    return Feeds(
        arrays, tuple(specs), f"made up from the input shapes ({count} samples, seed {seed})", True, tuple(notes)
    )


def _check_known(what: str, given: Mapping[str, int], known: Iterable[str]) -> None:
    for name, size in given.items():
        if name not in known:
            near = difflib.get_close_matches(name, list(known), n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(sorted(known)) or 'none'}"
            raise UsageError(f"{what} '{name}' is not in the model; {hint}")
        if size < 1:
            raise UsageError(f"{what} '{name}' is {size}; it must be at least 1")


def _axis_key(spec: InputSpec, axis: int) -> str:
    """The name under which `dims` sizes a dynamic axis."""
    return str(spec.shape[axis] or f"{spec.name}[{axis}]")


def _resolve(spec: InputSpec, dims: Mapping[str, int]) -> tuple[tuple[int, ...], str]:
    """The shape of one sample (without the batch axis where that is dynamic or 1), and what it assumes in words."""
    default = DEFAULT_PIXELS if _picture_axes(spec) else DEFAULT_LENGTH
    sizes, assumed = [], []
    for axis, declared in enumerate(spec.shape):
        if axis == 0 and rows_per_sample(spec) == 1:
            continue
        if isinstance(declared, int):
            sizes.append(declared)
        else:
            sizes.append(dims.get(_axis_key(spec, axis), default))
            assumed.append(f"{_axis_key(spec, axis)} = {sizes[-1]}")
    return tuple(sizes), f"; {', '.join(assumed)}" if assumed else ""


def _picture_axes(spec: InputSpec) -> tuple[int, int] | None:
    """The axes of height and width in [batch, channels, height, width] or its channels-last form, else None."""
    if len(spec.shape) != 4:
        return None
    for channels, height, width in ((1, 2, 3), (3, 1, 2)):
        large = all(not isinstance(size, int) or size > 4 for size in (spec.shape[height], spec.shape[width]))
        if spec.shape[channels] in (1, 3) and large:
            return height, width
    return None


def _values(
    generator: np.random.Generator, shape: tuple[int, ...], spec: InputSpec, bound: int | None
) -> tuple[Array, str]:
    """Values of the whole array, first axis = samples, and their distribution in words."""
    picture = _picture_axes(spec)
    # A sample that keeps a fixed batch axis has one axis more in front.
    axes = tuple(axis - 4 for axis in picture) if picture else ()
    if spec.dtype.kind == "b":
        return (np.ones(shape, np.bool_), "all true") if "mask" in spec.name.lower() else _booleans(generator, shape)
    if "mask" in spec.name.lower() and (is_float(spec.dtype) or spec.dtype.kind in "iu"):
        return np.ones(shape, spec.dtype), "ones (it is called a mask)"
    if is_float(spec.dtype):
        if axes:
            return _noise(generator, shape, axes).astype(spec.dtype), "smooth 1/f noise, mean 0, deviation 1"
        return generator.standard_normal(shape, np.float32).astype(spec.dtype), "normal noise, mean 0, deviation 1"
    if spec.dtype == np.uint8 and axes and bound is None:
        pixels = np.clip(128 + 48 * _noise(generator, shape, axes), 0, 255)
        return pixels.astype(np.uint8), "smooth 1/f noise, mean 128, deviation 48"
    if spec.dtype.kind in "iu":
        return _integers(generator, shape, spec, bound)
    raise CalibrationError(f"input '{spec.name}' takes {spec.dtype}, which cannot be made up; give calibration data")


def _booleans(generator: np.random.Generator, shape: tuple[int, ...]) -> tuple[Array, str]:
    return generator.random(shape) < 0.5, "true or false at random"


def _integers(
    generator: np.random.Generator, shape: tuple[int, ...], spec: InputSpec, bound: int | None
) -> tuple[Array, str]:
    """Token types are 0 or 1, positions count up, all else is uniform below the bound."""
    name = spec.name.lower()
    if "position" in name and bound is None:
        return np.broadcast_to(np.arange(shape[-1]), shape).astype(spec.dtype), "0, 1, 2, ... (it is called a position)"
    if bound is None:
        bound = 2 if "token_type" in name or "segment" in name else DEFAULT_BOUND
    highest = np.iinfo(spec.dtype.str).max
    if bound - 1 > highest:
        raise UsageError(f"bound of input '{spec.name}' is {bound}, but {spec.dtype} ends at {highest}; lower it")
    return generator.integers(0, bound, shape).astype(spec.dtype), f"uniform integers from 0 to {bound - 1}"


def _noise(generator: np.random.Generator, shape: tuple[int, ...], axes: tuple[int, ...]) -> Array:
    """float32 noise whose amplitude falls as 1/frequency over `axes`, as in photographs; mean 0, deviation 1 each."""
    height, width = (shape[axis] for axis in axes)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = np.inf
    place = [1] * len(shape)
    place[axes[0]], place[axes[1]] = frequency.shape
    result = np.empty(shape, np.float32)
    for index in range(shape[0]):  # one sample at a time: the spectrum takes four times the memory
        white = generator.standard_normal(shape[1:], np.float32)
        spectrum = np.fft.rfft2(white, axes=axes) / frequency.reshape(place[1:])
        smooth = np.fft.irfft2(spectrum, s=(height, width), axes=axes)
        result[index] = smooth / max(float(smooth.std()), 1e-12)
    return result
