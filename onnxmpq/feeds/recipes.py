"""Input recipes: TOML files that say how pictures, texts or sounds become the model's input tensors.

Recipes are data: a new one is a new file in `calibration/`, or any TOML file the user points at. What each field
means is documented in `docs/calibration.md`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from onnxmpq.errors import CalibrationError
from onnxmpq.feeds.sound import RawFormat
from onnxmpq.files import Fields, data_folder, nearest, read_toml

Resize = Literal["shorter", "exact", "letterbox", "crop", "keep"]
Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Colour = Literal["rgb", "bgr", "grey"]
PixelLayout = Literal["chw", "hwc"]


@dataclass(frozen=True)
class ImageRecipe:
    """Pictures: resized and cropped to (height, width), then `(pixel / divide - mean) / std`.

    name: the recipe's name, or the path of its file, for messages.
    input: the model's input to fill; None = its only one.
    size: (height, width) that the model must take; None = whatever the model takes.
    fallback_size: (height, width) where neither `size` nor the model fixes it; for `keep` the largest one.
    multiple: pixels; of `keep`, what height and width are cut to a multiple of.
    crop_fraction: the part of the resized picture's side that the centre crop keeps.
    pad: 0-255, the grey of the border that `letterbox` adds.
    layout, dtype: None = the model's own.
    mean, std: one number, or one per channel in the order of `colour`.
    """

    name: str
    description: str
    input: str | None
    resize: Resize
    size: tuple[int, int] | None
    fallback_size: tuple[int, int] | None
    multiple: int
    crop_fraction: float
    interpolation: Interpolation
    pad: int
    colour: Colour
    layout: PixelLayout | None
    divide: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: np.dtype[np.generic] | None

    @property
    def channels(self) -> int:
        return 1 if self.colour == "grey" else 3

    @property
    def normalises(self) -> bool:
        """True where pixels do not stay the whole numbers 0-255."""
        return (self.divide, {*self.mean}, {*self.std}) != (1.0, {0.0}, {1.0})


@dataclass(frozen=True)
class TextRecipe:
    """Texts or token ids: cut, and padded to one length.

    max_length: tokens per sample at most, where the model's sequence axis is dynamic (a fixed one decides itself).
    lengths: "own" where samples are not padded if the model leaves the length open.
    vocabulary: number of token ids, for a check; None = unchecked.
    tokenizer: a `tokenizers` JSON file; None = the one beside the text.
    ids, mask, types: the model's inputs for token ids, attention mask (1 = token, 0 = padding) and token types (0);
        a mask or types input that the model does not have is left out.
    """

    name: str
    description: str
    max_length: int
    lengths: Literal["padded", "own"]
    pad_id: int
    vocabulary: int | None
    tokenizer: Path | None
    ids: str
    mask: str | None
    types: str | None


@dataclass(frozen=True)
class AudioRecipe:
    """Sound: consecutive windows of mono float samples in [-1, 1].

    sample_rate: Hz; the files must have it.
    fallback_window: samples per window where the model leaves its length open.
    lengths: "own" where each file is then one sample, cut at the length of a window.
    raw_format, raw_channels: what files without a header hold, channels interleaved; None = they are refused.
    """

    name: str
    description: str
    input: str | None
    sample_rate: int
    fallback_window: int
    lengths: Literal["windows", "own"]
    raw_format: RawFormat | None
    raw_channels: int


@dataclass(frozen=True)
class DecoderRecipe:
    """Texts or token ids for decoders with a cache: whole sequences, and single steps with the cache that the model
    itself makes of what comes before.

    max_length: tokens of a sequence at most; a step has a cache of fewer.
    vocabulary: number of token ids, for a check beside the model's own table; None = unchecked.
    tokenizer: a `tokenizers` JSON file; None = the one beside the text or the model.
    ids, mask, positions: the model's inputs for token ids, attention mask (1 = token) and positions; None = found by
        name and use. values: numbers for further inputs, by name.
    """

    name: str
    description: str
    max_length: int
    vocabulary: int | None = None
    tokenizer: Path | None = None
    ids: str | None = None
    mask: str | None = None
    positions: str | None = None
    values: tuple[tuple[str, float], ...] = ()


Recipe = ImageRecipe | TextRecipe | AudioRecipe | DecoderRecipe
RecipeKind = Literal["image", "text", "audio", "decoder"]
_KINDS: dict[RecipeKind, type[Recipe]] = {
    "image": ImageRecipe,
    "text": TextRecipe,
    "audio": AudioRecipe,
    "decoder": DecoderRecipe,
}
_INPUTS = ("ids", "mask", "types", "positions")


def available_recipes() -> tuple[Recipe, ...]:
    """The recipes that come with the package, by name."""
    return tuple(
        read_recipe(path, path.stem)
        for path in sorted(data_folder("calibration").glob("*.toml"), key=lambda path: path.stem)
    )


def recipe_names(kind: RecipeKind | None = None) -> list[str]:
    """Names of the recipes that come with the package, of one kind or of all."""
    return [r.name for r in available_recipes() if kind is None or isinstance(r, _KINDS[kind])]


def find_recipe(given: str | Recipe) -> Recipe:
    """The recipe of that name, or in that TOML file, or the given one. CalibrationError where there is none."""
    return read_recipe(find_file(given), given) if isinstance(given, str) else given


def recipe_fields(recipe: Recipe) -> dict[str, object]:
    """Fields and their values, defaults included, as a TOML file has them; without those that are not set."""
    found: dict[str, object] = {"kind": next(kind for kind, made in _KINDS.items() if isinstance(recipe, made))}
    for field in fields(recipe):
        value = getattr(recipe, field.name)
        if value is not None and field.name != "name":
            found[field.name] = str(value) if isinstance(value, np.dtype | Path) else value
    if isinstance(recipe, TextRecipe | DecoderRecipe):
        found["inputs"] = {key: found.pop(key) for key in _INPUTS if key in found}
    if isinstance(recipe, DecoderRecipe):
        found["values"] = dict(recipe.values)
    return {key: value for key, value in found.items() if value != {}}


def find_file(name_or_path: str) -> Path:
    """The file of a recipe. CalibrationError for a name that none has."""
    path = Path(name_or_path)
    if path.suffix == ".toml" or len(path.parts) > 1:
        return path
    shipped = data_folder("calibration") / f"{name_or_path}.toml"
    if os.path.isfile(shipped):
        return shipped
    names = recipe_names()
    hint = nearest(name_or_path, names, "the recipes are")
    raise CalibrationError(f"no recipe is called '{name_or_path}'; {hint} (a path to your own .toml file works too)")


def read_recipe(path: Path, name: str) -> Recipe:
    """The recipe in a TOML file. CalibrationError naming the file and field that is wrong."""
    return make_recipe(read_fields(path), f"recipe {path}", name, path.parent)


def read_fields(path: Path) -> dict[str, object]:
    """Fields of a recipe's file, unchecked. CalibrationError where it is no TOML."""
    try:
        return read_toml(path)
    except FileNotFoundError as error:
        raise CalibrationError(f"recipe {path} does not exist; check the path") from error
    except (OSError, ValueError) as error:
        raise CalibrationError(f"recipe {path} is no readable TOML file: {error}") from error


def make_recipe(values: dict[str, object], where: str, name: str, folder: Path) -> Recipe:
    """A recipe from its fields. where: for messages. folder: that paths are relative to."""
    table = Fields(values, where, CalibrationError)
    kind = table.choice("kind", get_args(RecipeKind))
    description = table.text("description")
    if kind == "image":
        recipe: Recipe = _image_recipe(table, name, description)
    elif kind == "text":
        recipe = _text_recipe(table, name, description, folder)
    elif kind == "decoder":
        recipe = _decoder_recipe(table, name, description, folder)
    else:
        recipe = AudioRecipe(
            name,
            description,
            table.text("input", None),
            sample_rate=table.whole("sample_rate", 1),
            fallback_window=table.whole("fallback_window", 1),
            lengths=table.choice("lengths", ("windows", "own"), "windows"),
            raw_format=table.choice("raw_format", get_args(RawFormat), None),
            raw_channels=table.whole("raw_channels", 1, default=1),
        )
    table.finish()
    return recipe


def _image_recipe(table: Fields, name: str, description: str) -> ImageRecipe:
    dtype = table.choice("dtype", ("float32", "float16", "uint8", "int8", "int32"), None)
    recipe = ImageRecipe(
        name,
        description,
        input=table.text("input", None),
        resize=table.choice("resize", get_args(Resize)),
        size=table.size("size"),
        fallback_size=table.size("fallback_size"),
        multiple=table.whole("multiple", 1, default=1),
        crop_fraction=table.positive("crop_fraction", 1.0, highest=1.0),
        interpolation=table.choice("interpolation", get_args(Interpolation), "bilinear"),
        pad=table.whole("pad", 0, 255, 114),
        colour=table.choice("colour", get_args(Colour), "rgb"),
        layout=table.choice("layout", get_args(PixelLayout), None),
        divide=table.positive("divide", 1.0),
        mean=table.numbers("mean", (0.0,)),
        std=table.numbers("std", (1.0,)),
        dtype=None if dtype is None else np.dtype(dtype),
    )
    for field, numbers in (("mean", recipe.mean), ("std", recipe.std)):
        if len(numbers) not in (1, recipe.channels):
            table.wrong(field, f"has {len(numbers)} numbers; give one, or {recipe.channels} (colour = {recipe.colour})")
    if recipe.resize == "keep" and (recipe.size is not None or recipe.crop_fraction < 1):
        table.wrong("resize", "is keep, by which pictures have sizes of their own; leave out size and crop_fraction")
    if recipe.multiple > 1 and recipe.resize != "keep":
        table.wrong("multiple", 'is for resize = "keep"; leave it out')
    if min(recipe.std) <= 0:
        table.wrong("std", "must be above 0")
    if recipe.dtype is not None and recipe.dtype.kind != "f" and recipe.normalises:
        table.wrong("dtype", f"is {recipe.dtype}, which cannot hold normalised pixels; leave out divide, mean and std")
    return recipe


def _text_recipe(table: Fields, name: str, description: str, folder: Path) -> TextRecipe:
    tokenizer = table.text("tokenizer", None)
    inputs = table.table("inputs")
    recipe = TextRecipe(
        name,
        description,
        max_length=table.whole("max_length", 1),
        lengths=table.choice("lengths", ("padded", "own"), "padded"),
        pad_id=table.whole("pad_id", 0, default=0),
        vocabulary=table.whole("vocabulary", 1, default=None),
        tokenizer=None if tokenizer is None else folder / tokenizer,
        ids=inputs.text("ids"),
        mask=inputs.text("mask", None),
        types=inputs.text("types", None),
    )
    inputs.finish()
    return recipe


def _decoder_recipe(table: Fields, name: str, description: str, folder: Path) -> DecoderRecipe:
    tokenizer = table.text("tokenizer", None)
    inputs, values = (
        table.table(part) if table.has(part) else Fields({}, "", CalibrationError) for part in ("inputs", "values")
    )
    recipe = DecoderRecipe(
        name,
        description,
        max_length=table.whole("max_length", 2),
        vocabulary=table.whole("vocabulary", 1, default=None),
        tokenizer=None if tokenizer is None else folder / tokenizer,
        ids=inputs.text("ids", None),
        mask=inputs.text("mask", None),
        positions=inputs.text("positions", None),
        values=tuple((key, values.numbers(key, ())[0]) for key in values.names()),
    )
    inputs.finish()
    return recipe
