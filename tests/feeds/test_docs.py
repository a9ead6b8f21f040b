"""The user page keeps up with the code."""

from __future__ import annotations

import re
from pathlib import Path

from onnxmpq.feeds.recipes import find_recipe, recipe_names

PAGE = (Path(__file__).parents[2] / "docs" / "calibration.md").read_text(encoding="utf-8")


def test_every_recipe_is_listed() -> None:
    table = PAGE.partition("## Recipes")[2].partition("###")[0]
    assert set(recipe_names()) <= set(re.findall(r"`([\w-]+)`", table))


def test_example_recipe_is_valid(tmp_path: Path) -> None:
    [example] = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "example.toml").write_text(example)
    assert find_recipe(str(tmp_path / "example.toml"))
