"""Made-up samples for a model that comes without data, and a loud note on everything that was assumed."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from onnxmpq.errors import CalibrationError, UsageError
from onnxmpq.feeds.fit import is_float, rows_per_sample, show_shape, type_words, without_rows
from onnxmpq.feeds.frame import Frame, find_frame, to_tensor
from onnxmpq.feeds.made_pictures import DEVIATION, MEAN, made_picture
from onnxmpq.feeds.recipes import ImageRecipe, PixelLayout
from onnxmpq.feeds.types import Array, Feeds, InputSpec, with_batch_axes
from onnxmpq.files import nearest

DEFAULT_SAMPLES = 32
DEFAULT_LENGTH = 128  # of dynamic axes such as sequences
DEFAULT_PIXELS = 224  # of dynamic axes of pictures
DEFAULT_BOUND = 32  # exclusive, of integers: small, for a larger id may not exist in the model's vocabulary

_PICTURES = "pictures of random shapes and 1/f noise"
_ASSUMED = "assumed to be normalised as for ImageNet, about -2 to 2.4 (a recipe would say)"
_PROPORTIONS = (4 / 3, 3 / 2, 1.0, 3 / 4, 2 / 3)  # of photographs

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
    recipe: ImageRecipe | None = None,
) -> Feeds:
    """`count` samples made up from the declared inputs, the same ones for the same seed.

    recipe: what pictures become for this model: size, range, layout.

    dims: sizes of dynamic axes, by their symbolic name, or `input[axis]` for one without a name; the others are
        `DEFAULT_LENGTH`, in pictures `DEFAULT_PIXELS`. The batch axis (a dynamic first one) is not among them.
    bounds: input name -> exclusive upper bound of its integers, for example the vocabulary size.
    Raises UsageError for a dim or bound that the model does not have, CalibrationError for a dtype that cannot be
    made up.
    """
    dims, bounds, specs = dims or {}, bounds or {}, with_batch_axes(specs)
    open_axes = {(s, i) for s in specs for i, size in enumerate(s.shape) if not isinstance(size, int)}
    dynamic = {_axis_key(s, i) for s, i in open_axes if i != s.batch_axis}
    _check_known("dimension", dims, dynamic)
    _check_known("bound of input", bounds, {s.name for s in specs})
    generator = np.random.default_rng(seed)
    arrays, notes = {}, [WARNING]
    if recipe is not None:
        frame = find_frame(specs, recipe)
        spec, group = frame.spec, frame.pictures_per_sample
        values = _pictures(generator, count * group, frame, recipe)
        arrays[spec.name] = values if group == 1 else values.reshape(count, group, *frame.shape)
        notes.append(f"input '{spec.name}' {show_shape(spec.shape)} {spec.dtype}: {_PICTURES}, recipe {recipe.name}")
    for spec in specs if recipe is None else ():
        shape, assumed = _resolve(spec, dims)
        arrays[spec.name], what = _values(generator, (count, *shape), spec, bounds.get(spec.name))
        notes.append(f"input '{spec.name}' {show_shape(spec.shape)} {spec.dtype}: {what}{assumed}")
    return Feeds(
        arrays, tuple(specs), f"made up from the input shapes ({count} samples, seed {seed})", True, tuple(notes)
    )


def _check_known(what: str, given: Mapping[str, int], known: Collection[str]) -> None:
    for name, size in given.items():
        if name not in known:
            hint = nearest(name, known, "it has") if known else "it has none"
            raise UsageError(f"{what} '{name}' is not in the model; {hint}")
        if size < 1:
            raise UsageError(f"{what} '{name}' is {size}; it must be at least 1")


def _axis_key(spec: InputSpec, axis: int) -> str:
    """The name under which `dims` sizes a dynamic axis."""
    return str(spec.shape[axis] or f"{spec.name}[{axis}]")


def _resolve(spec: InputSpec, dims: Mapping[str, int]) -> tuple[tuple[int, ...], str]:
    """The shape of one sample (without the batch axis where that is dynamic or 1), and what it assumes in words."""
    default = DEFAULT_PIXELS if _layout(spec) else DEFAULT_LENGTH
    sizes, assumed = [], []
    for axis, declared in enumerate(spec.shape):
        if axis == spec.batch_axis and rows_per_sample(spec) == 1 and not without_rows(spec):
            continue
        if isinstance(declared, int):
            sizes.append(declared)
        else:
            sizes.append(dims.get(_axis_key(spec, axis), default))
            assumed.append(f"{_axis_key(spec, axis)} = {sizes[-1]}")
    return tuple(sizes), f"; {', '.join(assumed)}" if assumed else ""


def _layout(spec: InputSpec) -> PixelLayout | None:
    """Layout of pictures in [batch, channels, height, width] or its channels-last form; None where it takes none."""
    layouts: tuple[tuple[PixelLayout, int, int, int], ...] = (("chw", 1, 2, 3), ("hwc", 3, 1, 2))
    if len(spec.shape) != 4 or spec.batch_axis:
        return None
    for layout, channels, height, width in layouts:
        large = all(not isinstance(size, int) or size > 4 for size in (spec.shape[height], spec.shape[width]))
        if spec.shape[channels] in (1, 3) and large:
            return layout
    return None


def _values(
    generator: np.random.Generator, shape: tuple[int, ...], spec: InputSpec, bound: int | None
) -> tuple[Array, str]:
    """Values of the whole array, first axis = samples, and their distribution in words."""
    layout = _layout(spec)
    if spec.dtype.kind == "b":
        return (np.ones(shape, np.bool_), "all true") if "mask" in spec.name.lower() else _booleans(generator, shape)
    if "mask" in spec.name.lower() and (is_float(spec.dtype) or spec.dtype.kind in "iu"):
        return np.ones(shape, spec.dtype), "ones (it is called a mask)"
    if layout and (is_float(spec.dtype) or (spec.dtype == np.uint8 and bound is None)):
        channels, *size = shape[-3:] if layout == "chw" else (shape[-1], *shape[-3:-1])
        frame = Frame(spec, size[0], size[1], channels, layout)
        values = _pictures(generator, math.prod(shape[:-3]), frame, None).reshape(shape)
        return values, f"{_PICTURES}, {'0 to 255' if spec.dtype == np.uint8 else _ASSUMED}"
    if is_float(spec.dtype):
        return generator.standard_normal(shape, np.float32).astype(spec.dtype), "normal noise, mean 0, deviation 1"
    if spec.dtype.kind in "iu":
        return _integers(generator, shape, spec, bound)
    takes = type_words(spec.dtype)
    raise CalibrationError(f"input '{spec.name}' takes {takes}, which cannot be made up; give calibration data")


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


def _pictures(generator: np.random.Generator, count: int, frame: Frame, recipe: ImageRecipe | None) -> Array:
    """`count` made-up pictures, [count, *frame.shape], in the recipe's range or the assumed one."""
    values = np.empty((count, *frame.shape), frame.spec.dtype)
    for place in range(count):
        pixels = _framed_picture(generator, frame, recipe)
        if frame.channels == 1:
            pixels = pixels.mean(axis=-1, keepdims=True)
        if recipe is not None:
            values[place] = to_tensor(np.rint(255 * pixels).astype(np.uint8), recipe, frame)
            continue
        scaled = 255 * pixels if frame.spec.dtype == np.uint8 else (pixels - MEAN) / DEVIATION
        values[place] = scaled.transpose(2, 0, 1) if frame.layout == "chw" else scaled
    return values


def _framed_picture(generator: np.random.Generator, frame: Frame, recipe: ImageRecipe | None) -> NDArray[np.float32]:
    """RGB from 0 to 1, [height, width, 3]; with a border where the recipe letterboxes."""
    if recipe is None or recipe.resize != "letterbox":
        return made_picture(generator, frame.height, frame.width)
    ratio = float(generator.choice(_PROPORTIONS))  # width of the picture by its height
    height = min(frame.height, round(frame.width / ratio))
    width = min(frame.width, round(frame.height * ratio))
    canvas = np.full((frame.height, frame.width, 3), recipe.pad / 255, np.float32)
    top, left = (frame.height - height) // 2, (frame.width - width) // 2
    canvas[top : top + height, left : left + width] = made_picture(generator, height, width)
    return canvas
