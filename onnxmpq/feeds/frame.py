"""The frame a model expects of pictures: channels, size, layout and dtype, checked against the declared input."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from onnxmpq.errors import CalibrationError
from onnxmpq.feeds.fit import is_float, rows_per_sample, show_shape
from onnxmpq.feeds.recipes import ImageRecipe, PixelLayout
from onnxmpq.feeds.types import Array, InputSpec


@dataclass(frozen=True)
class Frame:
    """One picture as the model takes it: `channels` x height x width in `layout` (None: no channel axis); of a recipe
    that keeps sizes the largest one."""

    spec: InputSpec
    height: int
    width: int
    channels: int
    layout: PixelLayout | None

    @property
    def shape(self) -> tuple[int, ...]:
        if self.layout is None:
            return self.height, self.width
        return (
            (self.channels, self.height, self.width)
            if self.layout == "chw"
            else (self.height, self.width, self.channels)
        )

    @property
    def pictures_per_sample(self) -> int:
        has_batch_axis = len(self.spec.shape) > len(self.shape)
        return rows_per_sample(self.spec) if has_batch_axis else 1


def find_frame(specs: Sequence[InputSpec], recipe: ImageRecipe) -> Frame:
    """The frame of the recipe's pictures for this model. CalibrationError where the two do not fit together."""
    spec = _find_input(specs, recipe)
    axes = _picture_axes(spec)
    where = f"recipe {recipe.name} does not fit input '{spec.name}' {show_shape(spec.shape)}"
    layout = _find_layout(axes, recipe, where)
    height, width = (axes[1:] if layout == "chw" else axes)[:2]
    size = _find_size(height, width, recipe, where)
    _check_dtype(spec, recipe, where)
    return Frame(spec, *size, recipe.channels, layout)


def _find_input(specs: Sequence[InputSpec], recipe: ImageRecipe) -> InputSpec:
    listed = ", ".join(f"'{s.name}'" for s in specs)
    if len(specs) > 1:
        raise CalibrationError(
            f"recipe {recipe.name} fills one input, but the model has {len(specs)} ({listed}); "
            "prepare an .npz with all of them"
        )
    if recipe.input not in (None, specs[0].name):
        raise CalibrationError(f"recipe {recipe.name} fills input '{recipe.input}', but the model's is {listed}")
    return specs[0]


def _picture_axes(spec: InputSpec) -> tuple[int | str | None, ...]:
    """The axes of one picture: three with channels, two without."""
    if len(spec.shape) == 4 or (len(spec.shape) == 3 and not _is_one_picture(spec.shape)):
        return spec.shape[1:]
    if len(spec.shape) == 3:
        return spec.shape
    raise CalibrationError(
        f"input '{spec.name}' {show_shape(spec.shape)} takes no pictures (they have 3 or 4 axes); give an .npz"
    )


def _is_one_picture(shape: Sequence[int | str | None]) -> bool:
    """[3, height, width] or [height, width, 3]: a picture without a batch axis."""
    return shape[0] == 3 or (shape[2] == 3 and isinstance(shape[0], int) and shape[0] > 1)


def _find_layout(axes: Sequence[int | str | None], recipe: ImageRecipe, where: str) -> PixelLayout | None:
    if len(axes) == 2:
        if recipe.channels == 1:
            return None
        raise CalibrationError(f'{where}: the model takes grey pictures; use colour = "grey"')
    possible: dict[PixelLayout, int | str | None] = {"chw": axes[0], "hwc": axes[2]}
    fitting = [layout for layout, count in possible.items() if count == recipe.channels]
    fitting += [layout for layout, count in possible.items() if not isinstance(count, int)]
    if recipe.layout in fitting:
        return recipe.layout
    if not fitting:
        other = "rgb" if recipe.colour == "grey" else "grey"
        raise CalibrationError(
            f"{where}: colour = {recipe.colour} makes {recipe.channels} channel(s); "
            f'use a recipe with colour = "{other}" if the model takes that, else prepare an .npz'
        )
    if recipe.layout is not None:
        raise CalibrationError(
            f"{where}: it makes layout {recipe.layout}, the model takes {fitting[0]}; "
            f'copy the recipe and set layout = "{fitting[0]}"'
        )
    return fitting[0]


def _find_size(height: int | str | None, width: int | str | None, recipe: ImageRecipe, where: str) -> tuple[int, int]:
    wanted = recipe.size or recipe.fallback_size
    if recipe.resize == "keep" and (isinstance(height, int) or isinstance(width, int)):
        raise CalibrationError(
            f'{where}: by resize = "keep" pictures have sizes of their own, but the model takes '
            f'{show_shape((height, width))}; use resize = "shorter"'
        )
    found = []
    for axis, declared in enumerate((height, width)):
        if isinstance(declared, int):
            found.append(declared)
        elif wanted is not None:
            found.append(wanted[axis])
        else:
            raise CalibrationError(f"{where}: neither fixes the size; copy the recipe and set fallback_size")
    size = (found[0], found[1])
    if recipe.size not in (None, size):
        raise CalibrationError(
            f"{where}: the recipe's size is {show_shape(recipe.size or ())}, the model takes {show_shape(size)}; "
            "copy the recipe and change or drop size"
        )
    return size


def _check_dtype(spec: InputSpec, recipe: ImageRecipe, where: str) -> None:
    if recipe.dtype not in (None, spec.dtype):
        raise CalibrationError(
            f"{where}: it makes {recipe.dtype}, the model takes {spec.dtype}; "
            f'copy the recipe and set dtype = "{spec.dtype}"'
        )
    if not is_float(spec.dtype) and (recipe.normalises or spec.dtype.kind not in "iu"):
        raise CalibrationError(
            f"{where}: it makes normalised pixels, the model takes {spec.dtype}; "
            "use a recipe without divide, mean and std"
        )


def to_tensor(pixels: NDArray[np.uint8], recipe: ImageRecipe, frame: Frame) -> Array:
    """Pixels [height, width, channels] (RGB or grey) as the model wants them, of `frame.shape` and its dtype."""
    if recipe.colour == "bgr":
        pixels = pixels[..., ::-1]
    values: Array = pixels
    if recipe.normalises:
        mean, std = np.asarray(recipe.mean, np.float32), np.asarray(recipe.std, np.float32)
        values = (pixels.astype(np.float32) / np.float32(recipe.divide) - mean) / std
    if frame.layout is None:
        values = values[..., 0]
    return (values.transpose(2, 0, 1) if frame.layout == "chw" else values).astype(frame.spec.dtype)
