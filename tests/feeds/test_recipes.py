from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from onnxmpq.errors import CalibrationError
from onnxmpq.feeds import available_recipes
from onnxmpq.feeds.recipes import ImageRecipe, find_recipe, recipe_names


def test_shipped_recipes_are_valid_and_described() -> None:
    assert recipe_names() == [
        "audio-16k",
        "bert-text",
        "cifar10",
        "digits",
        "imagenet",
        "imagenet-tf",
        "mnist",
        "vit",
        "yolo",
    ]
    assert all(recipe.description for recipe in available_recipes())
    assert recipe_names("text") == ["bert-text"]


def test_unknown_name_suggests_near_ones() -> None:
    with pytest.raises(CalibrationError, match=r"did you mean imagenet\?"):
        find_recipe("ImageNet1k")
    with pytest.raises(CalibrationError, match="the recipes are audio-16k, bert-text"):
        find_recipe("qqqq")


def test_own_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('kind = "image"\ndescription = "d"\nresize = "exact"\nsize = [4, 6]\n')
    recipe = find_recipe(str(tmp_path / "mine.toml"))
    assert isinstance(recipe, ImageRecipe)
    assert recipe.size == (4, 6)
    with pytest.raises(CalibrationError, match=r"other\.toml does not exist"):
        find_recipe(str(tmp_path / "other.toml"))


@dataclass(frozen=True)
class Bad:
    id: str
    text: str
    message: str


IMAGE = 'kind = "image"\ndescription = "d"\nresize = "exact"\n'
TEXT = 'kind = "text"\ndescription = "d"\nmax_length = 8\n'

BAD = [
    Bad("multiple without keep", IMAGE + "multiple = 32", "field 'multiple' is for resize = \"keep\""),
    Bad(
        "size with keep",
        IMAGE.replace("exact", "keep") + "size = 32",
        "field 'resize' is keep, by which pictures have sizes of their own",
    ),
    Bad("no TOML", "kind = \n", r"no readable TOML file: .*line 1"),
    Bad("no kind", 'description = "d"', "field 'kind' is missing"),
    Bad("unknown kind", 'kind = "video"', "field 'kind' is 'video'; it must be one of image, text, audio"),
    Bad("no description", 'kind = "image"', "field 'description' is missing"),
    Bad("description is a number", 'kind = "image"\ndescription = 1', "field 'description' is 1; it must be a text"),
    Bad("unknown field", IMAGE + "sise = 3", "field 'sise' is unknown; did you mean size"),
    Bad("far field", IMAGE + "zzzz = 3", "field 'zzzz' is unknown; the fields are kind, description"),
    Bad("wrong choice", IMAGE + 'colour = "yuv"', "'colour' is 'yuv'; it must be one of rgb, bgr, grey"),
    Bad("list as choice", IMAGE + 'layout = ["chw"]', "field 'layout' is"),
    Bad("size of three", IMAGE + "size = [1, 2, 3]", "field 'size' is .* it must be a number of pixels"),
    Bad("negative size", IMAGE + "size = -1", "field 'size' is -1"),
    Bad("fraction above one", IMAGE + "crop_fraction = 1.5", "a number above 0 and at most 1"),
    Bad("divide by zero", IMAGE + "divide = 0", "field 'divide' is 0; it must be a number above 0"),
    Bad("true is no number", IMAGE + "divide = true", "field 'divide' is True"),
    Bad("mean of two", IMAGE + "mean = [1, 2]", "field 'mean' has 2 numbers; give one, or 3"),
    Bad("mean of texts", IMAGE + 'mean = ["a"]', "field 'mean' is"),
    Bad("mean is not finite", IMAGE + "mean = nan", "field 'mean' is nan"),
    Bad("std of zero", IMAGE + "std = [1, 0, 1]", "field 'std' must be above 0"),
    Bad("pad too large", IMAGE + "pad = 256", "'pad' is 256; it must be a whole number from 0 to 255"),
    Bad("normalised bytes", IMAGE + 'dtype = "uint8"\ndivide = 255', "'dtype' is uint8, which cannot hold normalised"),
    Bad("no inputs", TEXT, r"field 'inputs' is missing; it must be a table, \[inputs\]"),
    Bad("no ids", TEXT + '[inputs]\nmask = "m"', r"field 'inputs\.ids' is missing"),
    Bad("unknown input", TEXT + '[inputs]\nids = "i"\nmaks = "m"', "'inputs.maks' is unknown; did you mean mask"),
    Bad("no rate", 'kind = "audio"\ndescription = "d"', "field 'sample_rate' is missing"),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.id)
def test_bad_recipes_name_file_and_field(case: Bad, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(case.text)
    with pytest.raises(CalibrationError, match=case.message) as caught:
        find_recipe(str(path))
    assert str(path) in str(caught.value)
