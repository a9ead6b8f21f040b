"""Reader of pictures (a folder, one file, or an array of bytes) through an image recipe. Needs Pillow."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from onnxmpq.errors import CalibrationError
from onnxmpq.feeds.columns import Column, MemoryColumn, RowColumn, assemble
from onnxmpq.feeds.files import IMAGE_SUFFIXES, file_places, find_files
from onnxmpq.feeds.frame import Frame, find_frame, to_tensor
from onnxmpq.feeds.memory import room_for
from onnxmpq.feeds.npz import npz_columns, open_npy
from onnxmpq.feeds.recipes import ImageRecipe
from onnxmpq.feeds.select import spread, whole_groups
from onnxmpq.feeds.types import Array, Feeds, InputSpec, Places

_LARGEST_PIXELS = 2**28  # of a picture on its way to the model's size; Pillow decodes 1.8e8 at most


@dataclass(frozen=True)
class Picture:
    """A picture not decoded yet; `decode` gives it in RGB or grey ('L')."""

    name: str
    decode: Callable[[], Image.Image]


def read_images(path: Path, specs: Sequence[InputSpec], recipe: ImageRecipe, limit: int | None) -> Feeds:
    """Feeds from pictures in natural order of their paths; at most `limit` samples, evenly spread.

    path: a folder (searched with its subfolders), a picture, or an `.npy`/`.npz` with one array of bytes
        [pictures, height, width] or [pictures, height, width, 1 or 3], RGB.
    Pictures that cannot be read are skipped, and named in the notes; CalibrationError if none can.
    """
    frame = find_frame(specs, recipe)
    group = frame.pictures_per_sample
    source = _find_pictures(path)
    chosen = spread(len(source), None if limit is None else limit * group)
    values, done, notes = _decode(source, chosen, recipe, frame)
    if not done:
        raise CalibrationError(f"{path}: nothing to calibrate with: {notes[0]}; give readable pictures")
    kept, dropped = whole_groups(len(values), group, str(path), "pictures")
    through = f"{path} through recipe {recipe.name}"
    column = (
        RowColumn(through, kept, values.__getitem__, lambda row: next(source.pictures([done[row]])).name)
        if isinstance(values, list)
        else MemoryColumn(through, values[:kept])
    )
    return assemble(
        {frame.spec.name: column},
        specs,
        source=f"{through}, from {len(source)} pictures",
        notes=[*notes, *dropped],
        places=source.places(done[:kept]),
    )


def _decode(
    source: PictureSource, chosen: Sequence[int], recipe: ImageRecipe, frame: Frame
) -> tuple[Array | list[Array], list[int], list[str]]:
    """The chosen pictures that can be read, first axis = pictures, or a list of those that keep their sizes; their
    indices; and notes about the others."""
    apart = list[Array]()
    together = room_for((0 if recipe.resize == "keep" else len(chosen), *frame.shape), frame.spec.dtype, recipe.name)
    done, skipped, repairs = list[int](), list[str](), Counter[str]()
    for index, picture in zip(chosen, source.pictures(chosen), strict=True):
        try:
            image = picture.decode()
            _require_moderate(image, recipe, frame)
            image, own = _framed(image, recipe, frame)
        except Exception as error:  # Pillow's readers of damaged files raise anything
            skipped.append(f"{picture.name} ({error})")
            continue
        prepared = _prepare(image, recipe, own, picture.name, repairs)
        if recipe.resize == "keep":
            apart.append(prepared)
        else:
            together[len(done)] = prepared
        done.append(index)
    notes = [f"{count} of {len(done)} pictures {what}" for what, count in repairs.items()]
    if skipped:
        notes.append(f"{len(skipped)} of {len(chosen)} pictures could not be read and were skipped: {_some(skipped)}")
    return apart if recipe.resize == "keep" else together[: len(done)], done, notes


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


# ---- where pictures come from


class PictureSource(Protocol):
    """Pictures that are decoded one by one."""

    def __len__(self) -> int: ...

    def pictures(self, indices: Sequence[int]) -> Iterator[Picture]: ...

    def places(self, indices: Sequence[int]) -> Places: ...


@dataclass(frozen=True)
class PictureFiles:
    folder: Path
    files: list[Path]

    def __len__(self) -> int:
        return len(self.files)

    def pictures(self, indices: Sequence[int]) -> Iterator[Picture]:
        for index in indices:
            yield Picture(str(self.files[index]), partial(_open, self.files[index]))

    def places(self, indices: Sequence[int]) -> Places:
        return file_places(self.folder, [self.files[i] for i in indices], indices, len(self.files))


@dataclass(frozen=True)
class PictureArray:
    """One picture per row of a column of bytes."""

    column: Column

    def __len__(self) -> int:
        return self.column.shape[0]

    def pictures(self, indices: Sequence[int]) -> Iterator[Picture]:
        rows = self.column.read(indices)
        if rows.dtype != np.uint8:
            raise CalibrationError(
                f"{self.column.where} holds {rows.dtype}, a recipe starts from uint8 pixels 0-255; "
                "give those, or arrays ready for the model and no recipe"
            )
        for index, pixels in zip(indices, rows.astype(np.uint8, copy=False), strict=True):
            yield Picture(f"{self.column.where}[{index}]", partial(_from_pixels, pixels))

    def places(self, indices: Sequence[int]) -> Places:
        return Places(np.asarray(indices, np.int64), len(self))


def _find_pictures(path: Path) -> PictureSource:
    if path.suffix.lower() == ".npz":
        return _find_picture_array(path, list(npz_columns(path).values()))
    if path.suffix.lower() == ".npy":
        return _find_picture_array(path, [MemoryColumn(str(path), open_npy(path))])
    files = find_files(path, IMAGE_SUFFIXES) if os.path.isdir(path) else [path]
    if not files:
        raise CalibrationError(f"{path} holds no pictures ({', '.join(IMAGE_SUFFIXES)}); give another folder")
    return PictureFiles(path if os.path.isdir(path) else path.parent, files)


def _find_picture_array(path: Path, columns: Sequence[Column]) -> PictureArray:
    """The file's only array that has the shape of pictures (others may be labels)."""
    found = [c for c in columns if len(c.shape) == 3 or (len(c.shape) == 4 and c.shape[3] in (1, 3))]
    if len(found) != 1 or 0 in found[0].shape:
        raise CalibrationError(
            f"{path}: a recipe needs exactly one array of pictures, [pictures, height, width, 3], uint8; "
            "give that, or arrays ready for the model and no recipe"
        )
    return PictureArray(found[0])


def _from_pixels(pixels: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.ndim == 3 and pixels.shape[2] == 1 else pixels)


def _open(path: Path) -> Image.Image:
    # Pillow comments on damaged metadata; whether there are pixels is what counts.
    with warnings.catch_warnings(action="ignore"), Image.open(path) as image:
        image.load()
        if image.mode.startswith(("I", "F")):
            return _eight_bits(image)
        return image.convert("L") if image.mode in ("1", "L", "LA", "La") else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    """A grey picture of 16 bits in 8 bits; ValueError for one whose range is unknown."""
    pixels = np.asarray(image)
    if pixels.dtype.kind == "f" or pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError(f"pixels of mode {image.mode} have no known range")
    return Image.fromarray((pixels // 257).astype(np.uint8))


# ---- what happens to one picture


def _prepare(image: Image.Image, recipe: ImageRecipe, frame: Frame, name: str, repairs: Counter[str]) -> Array:
    """One decoded picture as the model wants it; `repairs` counts what was done to it beyond the recipe."""
    wanted = "L" if recipe.colour == "grey" else "RGB"
    if image.mode != wanted:
        repairs["were grey and were converted to RGB" if wanted == "RGB" else "had colours and were made grey"] += 1
        image = image.convert(wanted)
    if image.size == (frame.width, frame.height):
        if recipe.crop_fraction < 1:
            repairs["already had the model's size and were not resized"] += 1
    else:
        image = _to_size(image, recipe, frame, name)
    return to_tensor(np.asarray(image).reshape(frame.height, frame.width, recipe.channels), recipe, frame)


def _framed(image: Image.Image, recipe: ImageRecipe, frame: Frame) -> tuple[Image.Image, Frame]:
    """The picture and its frame: that of all pictures, or where they keep their sizes its own, into which a picture
    beyond the largest size was shrunk.

    Raises ValueError for a picture smaller than what its sides are to be a multiple of.
    """
    if recipe.resize != "keep":
        return image, frame
    ratio = min(frame.height / image.height, frame.width / image.width)
    if ratio < 1:
        size = max(round(image.width * ratio), 1), max(round(image.height * ratio), 1)
        image = image.resize(size, Image.Resampling[recipe.interpolation.upper()])
    height, width = (side - side % recipe.multiple for side in (image.height, image.width))
    if not height or not width:
        raise ValueError(f"{image.height}x{image.width} pixels have no side of {recipe.multiple}")
    return image, replace(frame, height=height, width=width)


def _to_size(image: Image.Image, recipe: ImageRecipe, frame: Frame, name: str) -> Image.Image:
    """The picture in the frame's size."""
    filter_ = Image.Resampling[recipe.interpolation.upper()]
    if recipe.resize == "letterbox":
        return _letterbox(image, frame, filter_, recipe.pad)
    if recipe.resize == "crop":
        if image.width < frame.width or image.height < frame.height:
            raise CalibrationError(
                f"{name} has {image.height}x{image.width} pixels, recipe {recipe.name} crops to "
                f'{frame.height}x{frame.width} without resizing; use resize = "shorter"'
            )
        return _centre_crop(image, frame)
    if recipe.resize == "keep":
        return _centre_crop(image, frame)
    height, width = _resized(image, recipe, frame)
    return _centre_crop(image.resize((width, height), filter_), frame)


def _resized(image: Image.Image, recipe: ImageRecipe, frame: Frame) -> tuple[int, int]:
    """(height, width) of the picture before the centre of it is cut out."""
    height, width = (round(side / recipe.crop_fraction) for side in (frame.height, frame.width))
    return _cover(image, height, width) if recipe.resize == "shorter" else (height, width)


def _require_moderate(image: Image.Image, recipe: ImageRecipe, frame: Frame) -> None:
    """ValueError for a picture so long and narrow that its shorter side cannot be brought to the model's."""
    if recipe.resize in ("shorter", "exact"):
        height, width = _resized(image, recipe, frame)
        if height * width > _LARGEST_PIXELS:
            raise ValueError(f"{image.height}x{image.width} pixels would become {height}x{width}")


def _cover(image: Image.Image, height: int, width: int) -> tuple[int, int]:
    """The smallest (height, width) of the picture's own proportions that covers these, cut off as torchvision does."""
    if height * image.width <= width * image.height:
        return max(int(width * image.height / image.width), height), width
    return height, max(int(height * image.width / image.height), width)


def _centre_crop(image: Image.Image, frame: Frame) -> Image.Image:
    left, top = round((image.width - frame.width) / 2), round((image.height - frame.height) / 2)
    return image.crop((left, top, left + frame.width, top + frame.height))


def _letterbox(image: Image.Image, frame: Frame, filter_: Image.Resampling, pad: int) -> Image.Image:
    """The whole picture, as large as fits, in the middle of a grey frame."""
    ratio = min(frame.width / image.width, frame.height / image.height)
    width, height = max(round(image.width * ratio), 1), max(round(image.height * ratio), 1)
    canvas = Image.new(image.mode, (frame.width, frame.height), pad if image.mode == "L" else (pad, pad, pad))
    canvas.paste(image.resize((width, height), filter_), ((frame.width - width) // 2, (frame.height - height) // 2))
    return canvas
