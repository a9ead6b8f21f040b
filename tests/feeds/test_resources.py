from __future__ import annotations

from pathlib import Path

import pytest

from onnxmpq.errors import OnnxmpqError
from onnxmpq.files import data_folder


def test_source_checkout() -> None:
    assert (data_folder("calibration") / "imagenet.toml").is_file()


def test_installed_wheel_wins_over_its_neighbours(tmp_path: Path) -> None:
    installed = tmp_path / "onnxmpq" / "_data" / "cost_models"
    installed.mkdir(parents=True)
    (tmp_path / "cost_models").mkdir()
    assert data_folder("cost_models", tmp_path / "onnxmpq") == installed


def test_folder_of_that_name_in_site_packages_is_not_ours(tmp_path: Path) -> None:
    (tmp_path / "calibration").mkdir()
    with pytest.raises(OnnxmpqError, match="install it again"):
        data_folder("calibration", tmp_path / "onnxmpq")
