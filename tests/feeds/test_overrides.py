"""Recipes with fields of the user's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxmpq.errors import CalibrationError, UsageError
from onnxmpq.feeds import ImageRecipe, InputSpec, divisor, find_recipe, load_feeds, numbers, override, parse_fields
from onnxmpq.feeds.recipes import AudioRecipe, TextRecipe

SPECS = [InputSpec("x", np.dtype("float32"), ("N", 3, 8, 8))]


def test_fields_take_the_place_of_the_recipes_own() -> None:
    base, found = find_recipe("imagenet"), override("imagenet", {"mean": [0.5], "resize": "exact"})
    assert isinstance(base, ImageRecipe) and isinstance(found, ImageRecipe)
    assert (found.mean, found.resize, found.std) == ((0.5,), "exact", base.std)
    assert found.name == "imagenet with mean, resize"
    assert find_recipe(found) is found


def test_other_kinds_and_files(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('kind = "audio"\ndescription = "d"\nsample_rate = 8000\nfallback_window = 9\n')
    audio = override(str(tmp_path / "own.toml"), {"sample_rate": 16000})
    assert isinstance(audio, AudioRecipe) and (audio.sample_rate, audio.fallback_window) == (16000, 9)
    text = override("bert-text", {"max_length": 16})
    assert isinstance(text, TextRecipe) and text.max_length == 16


def test_without_a_recipe_pictures_are_squeezed_and_normalised(tmp_path: Path) -> None:
    Image.new("RGB", (30, 20), (255, 0, 51)).save(tmp_path / "a.png")
    recipe = override(None, {"divide": 255.0, "mean": [0.5, 0.0, 0.2], "std": [0.5, 1.0, 2.0]})
    [pixels] = load_feeds(str(tmp_path), SPECS, recipe=recipe).arrays["x"]
    assert pixels.shape == (3, 8, 8)
    assert np.allclose(pixels.mean(axis=(1, 2)), [1.0, 0.0, 0.0], atol=1e-6)


def test_made_up_pictures_follow_the_fields() -> None:
    plain = load_feeds(None, SPECS, recipe=override(None, {"divide": 255.0}), limit=4).arrays["x"]
    shifted = load_feeds(None, SPECS, recipe=override(None, {"divide": 255.0, "mean": [1.0]}), limit=4).arrays["x"]
    assert np.allclose(np.asarray(plain, float) - 1.0, np.asarray(shifted, float), atol=1e-6)


def test_what_does_not_fit_is_said_as_for_a_file() -> None:
    with pytest.raises(CalibrationError, match=r"recipe imagenet with resize: field 'resize' is 'squeeze'"):
        override("imagenet", {"resize": "squeeze"})
    with pytest.raises(CalibrationError, match="has 2 numbers"):
        override("imagenet", {"mean": [1, 2]})
    with pytest.raises(CalibrationError, match="no recipe is called 'imagnet'"):
        override("imagnet", {"mean": [1]})


def test_fields_from_the_command_line() -> None:
    given = ["resize=letterbox", "pad=0", "size = [32, 64]", "crop_fraction=0.9", 'input="a=b"', "dtype=uint8"]
    assert parse_fields(given) == {
        "resize": "letterbox",
        "pad": 0,
        "size": [32, 64],
        "crop_fraction": 0.9,
        "input": "a=b",
        "dtype": "uint8",
    }
    for wrong in ("resize", "=1", "pad="):
        with pytest.raises(UsageError, match="write KEY=VALUE"):
            parse_fields([wrong])


def test_numbers_and_scales() -> None:
    assert numbers("0.5, 1,2", "--mean") == [0.5, 1.0, 2.0]
    assert numbers(3, "--mean") == [3.0] and numbers((1, 2), "--mean") == [1.0, 2.0]
    assert divisor("1/255") == 255.0
    assert divisor(0.5) == divisor("0.5") == 2.0
    for wrong in ("1/0", "-1", "x", "1/2/3", "nan", "inf"):
        with pytest.raises(UsageError, match="--scale"):
            divisor(wrong)
