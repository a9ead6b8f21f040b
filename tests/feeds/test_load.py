from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxmpq.errors import CalibrationError, UsageError
from onnxmpq.feeds import load_feeds
from tests.feeds.specs import spec

X = spec("x", "N", 3)


def test_nothing_given_is_made_up_and_says_so() -> None:
    feeds = load_feeds(None, [X], limit=5)
    assert feeds.synthetic
    assert len(feeds) == 5


def test_missing_file() -> None:
    with pytest.raises(CalibrationError, match=r"no/such\.npz does not exist"):
        load_feeds("no/such.npz", [X])


def test_unknown_kind_of_file(tmp_path: Path) -> None:
    (tmp_path / "data.xyz").write_bytes(b"")
    with pytest.raises(CalibrationError, match=r"data\.xyz is of no known kind; give an \.npz"):
        load_feeds(tmp_path / "data.xyz", [X])


@pytest.mark.parametrize(("name", "recipe"), [("a.png", "imagenet"), ("a.wav", "audio-16k"), ("a.txt", "bert-text")])
def test_files_that_need_a_recipe_list_the_recipes(tmp_path: Path, name: str, recipe: str) -> None:
    (tmp_path / name).write_bytes(b"something")
    for source in (tmp_path, tmp_path / name):
        with pytest.raises(CalibrationError, match=f"needs a recipe .*{recipe}"):
            load_feeds(source, [X])


def test_arguments_that_do_not_go_together() -> None:
    data = {"x": np.zeros((1, 3), np.float32)}
    with pytest.raises(UsageError, match="recipe 'vit' is for files"):
        load_feeds(data, [X], recipe="vit")
    with pytest.raises(UsageError, match="without calibration data"):
        load_feeds(None, [X], recipe="audio-16k")
    with pytest.raises(UsageError, match="dims and bounds"):
        load_feeds(data, [X], dims={"N": 1})
    with pytest.raises(UsageError, match="at least 1"):
        load_feeds(data, [X], limit=0)


def test_model_without_inputs() -> None:
    with pytest.raises(CalibrationError, match="has no inputs"):
        load_feeds(None, [])
