"""Recipes against independent preprocessing of real models; needs the folder that ONNXMPQ_ZOO names."""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from onnxmpq.feeds import InputSpec, load_feeds
from tests.feeds.specs import spec

ZOO = os.environ.get("ONNXMPQ_ZOO")
pytestmark = pytest.mark.skipif(not ZOO, reason="ONNXMPQ_ZOO is unset")


@dataclass(frozen=True)
class Case:
    model: str
    data: str
    recipe: str
    input: InputSpec


CASES = [
    Case("squeezenet1.1", "data_imagenet/calib", "imagenet", spec("data", "N", 3, 224, 224)),
    Case("mobilenet_v1_0.25", "data_imagenet/calib", "imagenet-tf", spec("input", "N", 3, 224, 224)),
    Case("vit_tiny", "data_tinyimagenet/calib.npz", "imagenet-tf", spec("pixel_values", "N", 3, 224, 224)),
    Case("resnet20_cifar10", "data_cifar10/calib.npz", "imagenet", spec("input", "N", 3, 32, 32)),
    Case("yolov8n", "data_coco/calib", "yolo", spec("images", 1, 3, 640, 640)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.model)
def test_recipe_equals_the_model_s_own_preprocessing(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(ZOO), *sys.path])
    entry = importlib.import_module("zoo").load(case.model)
    total = sum(1 for _ in entry._samples("calib"))
    feeds = load_feeds(Path(str(ZOO)) / case.data, [case.input], recipe=case.recipe, limit=2)
    chosen = {total // 4, 3 * total // 4}
    expected = [next(iter(feed.values())) for index, feed in enumerate(entry.feeds("calib")) if index in chosen]
    np.testing.assert_array_equal(feeds.arrays[case.input.name], np.concatenate(expected))
