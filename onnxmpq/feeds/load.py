"""The one way from any source of calibration data to `Feeds`: finds the reader that fits."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path

from onnxmpq.errors import CalibrationError, UsageError
from onnxmpq.feeds.audio import read_audio
from onnxmpq.feeds.files import IMAGE_SUFFIXES, ROW_SUFFIXES, SOUND_SUFFIXES, TEXT_SUFFIXES, find_files
from onnxmpq.feeds.npy_folder import read_npy_folder
from onnxmpq.feeds.npz import read_npy, read_npz
from onnxmpq.feeds.python_source import import_source, read_python
from onnxmpq.feeds.recipes import AudioRecipe, DecoderRecipe, ImageRecipe, Recipe, RecipeKind, find_recipe, recipe_names
from onnxmpq.feeds.rows import read_rows
from onnxmpq.feeds.synthetic import DEFAULT_SAMPLES, synthesize
from onnxmpq.feeds.text import read_text
from onnxmpq.feeds.types import Feeds, InputSpec, with_batch_axes

_READERS: dict[str, Callable[[Path, Sequence[InputSpec], int | None], Feeds]] = {
    ".npz": read_npz,
    ".npy": read_npy,
    **dict.fromkeys(ROW_SUFFIXES, read_rows),
}
_NEEDING_RECIPE: tuple[tuple[tuple[str, ...], RecipeKind, str], ...] = (
    (IMAGE_SUFFIXES, "image", "pictures"),
    (SOUND_SUFFIXES, "audio", "sound"),
    (TEXT_SUFFIXES, "text", "text"),
)
_ACCEPTED = (
    "an .npz or .npy file, .csv or .jsonl rows, a folder of .npy files, or with a recipe pictures, text or sound"
)


def load_feeds(
    source: object,
    specs: Sequence[InputSpec],
    *,
    recipe: str | Recipe | None = None,
    limit: int | None = None,
    seed: int = 0,
    dims: Mapping[str, int] | None = None,
    bounds: Mapping[str, int] | None = None,
) -> Feeds:
    """Calibration samples for a model with these inputs.

    source: a path (`.npz`, `.npy`, `.csv`, `.jsonl`, `.txt`, a picture, a sound, or a folder), `"module:function"`,
        a dict of arrays, an iterable of feeds, a reader with `get_next()`, a callable that returns one of these,
        or None for made-up samples (see `synthesize`).
    recipe: name of a recipe in `calibration/`, path of a TOML file, or the recipe itself; for pictures, text and sound.
        Made-up pictures take their size, range and layout from it.
    limit: largest number of samples, evenly spread over the source (of iterables and readers: the first ones).
    seed, dims, bounds: for made-up samples only.

    Raises CalibrationError, in one line saying what is wrong, where, and what to do; UsageError for arguments that
    do not go together.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"the limit of calibration samples is {limit}; it must be at least 1")
    if not specs:
        raise CalibrationError("the model has no inputs, so no data can calibrate it")
    specs = with_batch_axes(specs)
    if source is None:
        found = None if recipe is None else find_recipe(recipe)
        if found is not None and not isinstance(found, ImageRecipe):
            raise UsageError(f"recipe '{found.name}' was given without calibration data; give its source too")
        count = DEFAULT_SAMPLES if limit is None else limit
        return synthesize(specs, count, seed, dims=dims, bounds=bounds, recipe=found)
    if dims or bounds:
        raise UsageError("dims and bounds are for made-up samples; leave them out where calibration data is given")
    if isinstance(source, str | PathLike):
        path = Path(source)
        if os.path.exists(path):
            return _read_path(path, specs, None if recipe is None else find_recipe(recipe), limit)
        if not re.fullmatch(r"[\w.]+:[\w.]+", str(source)):
            raise CalibrationError(f"calibration data {path} does not exist; check the path")
    if recipe is not None:
        raise UsageError(
            f"recipe '{recipe if isinstance(recipe, str) else recipe.name}' is for files; data from Python must be "
            "ready for the model, without recipe"
        )
    if isinstance(source, str | PathLike):
        return read_python(import_source(str(source)), specs, limit, str(source))
    return read_python(source, specs, limit)


def _read_path(path: Path, specs: Sequence[InputSpec], recipe: Recipe | None, limit: int | None) -> Feeds:
    if recipe is not None:
        return _read_through(recipe, path, specs, limit)
    if os.path.isfile(path) and path.suffix.lower() in _READERS:
        return _READERS[path.suffix.lower()](path, specs, limit)
    if os.path.isdir(path) and find_files(path, (".npy",)):
        return read_npy_folder(path, specs, limit)
    for suffixes, kind, what in _NEEDING_RECIPE:
        if path.suffix.lower() in suffixes or (os.path.isdir(path) and find_files(path, suffixes)):
            names = ", ".join(recipe_names(kind))
            raise CalibrationError(
                f"{path} holds {what}, which needs a recipe that says what the model expects: "
                f"one of {names}, or your own .toml file"
            )
    if os.path.isdir(path):
        raise CalibrationError(f"{path} holds no calibration data; give {_ACCEPTED}")
    raise CalibrationError(f"{path} is of no known kind; give {_ACCEPTED}")


def _read_through(recipe: Recipe, path: Path, specs: Sequence[InputSpec], limit: int | None) -> Feeds:
    if isinstance(recipe, DecoderRecipe):
        raise CalibrationError(
            f"recipe {recipe.name} is for decoders with a cache, whose outputs are inputs of the next step; this model "
            "has none: give .npz, or recipe bert-text for an encoder"
        )
    if isinstance(recipe, AudioRecipe):
        return read_audio(path, specs, recipe, limit)
    if not isinstance(recipe, ImageRecipe):
        return read_text(path, specs, recipe, limit)
    try:
        from onnxmpq.feeds.images import read_images  # noqa: PLC0415 (only pictures need Pillow)
    except ImportError as error:
        raise CalibrationError(
            f"reading pictures needs the package Pillow, which cannot be imported ({error}): "
            "pip install --force-reinstall pillow; or give arrays as .npz"
        ) from error
    return read_images(path, specs, recipe, limit)
