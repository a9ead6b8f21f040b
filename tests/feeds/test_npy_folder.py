from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from onnxmpq.errors import CalibrationError
from onnxmpq.feeds import load_feeds
from tests.feeds.specs import spec

X, Y = spec("x", "N", 2), spec("group/y:0", "N", 1)


def save(path: Path, value: float, *shape: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, np.full(shape, value, np.float32))


def test_one_input_takes_all_files_in_natural_order(tmp_path: Path) -> None:
    for number in range(12):
        save(tmp_path / f"sample{number}.npy", number, 2)
    feeds = load_feeds(tmp_path, [X])
    assert feeds.arrays["x"][:, 0].tolist() == list(range(12))
    assert load_feeds(tmp_path, [X], limit=3).arrays["x"][:, 0].tolist() == [2, 6, 10]


def test_files_may_keep_the_batch_axis(tmp_path: Path) -> None:
    save(tmp_path / "0.npy", 1, 1, 2)
    assert load_feeds(tmp_path, [X]).arrays["x"].shape == (1, 2)


def test_subfolders_named_after_inputs(tmp_path: Path) -> None:
    for number in range(3):
        save(tmp_path / "x" / f"{number}.npy", number, 2)
        save(tmp_path / "group_y_0" / f"{number}.npy", number, 1)
    feeds = load_feeds(tmp_path, [X, Y])
    assert len(feeds) == 3
    assert feeds.arrays["group/y:0"].shape == (3, 1)


def test_files_numbered_by_input(tmp_path: Path) -> None:
    for number in (2, 10):
        save(tmp_path / f"x_{number}.npy", number, 2)
        save(tmp_path / f"group_y_0_{number}.npy", -number, 1)
    feeds = load_feeds(tmp_path, [X, Y])
    assert feeds.arrays["x"][:, 0].tolist() == [2, 10]
    assert feeds.arrays["group/y:0"][:, 0].tolist() == [-2, -10]


def test_sample_that_lacks_one_input(tmp_path: Path) -> None:
    for name in ("x_0", "x_1", "group_y_0_0"):
        save(tmp_path / f"{name}.npy", 0, 2 if name.startswith("x") else 1)
    with pytest.raises(CalibrationError, match=r"sample 1 has no file for input 'group/y:0'; add group_y_0_1\.npy"):
        load_feeds(tmp_path, [X, Y])


def test_input_without_files(tmp_path: Path) -> None:
    save(tmp_path / "x_0.npy", 0, 2)
    with pytest.raises(CalibrationError, match=r"no \.npy file for input 'group/y:0'"):
        load_feeds(tmp_path, [X, Y])


def test_file_of_no_input(tmp_path: Path) -> None:
    save(tmp_path / "labels.npy", 0, 2)
    with pytest.raises(CalibrationError, match=r"labels\.npy belongs to no input"):
        load_feeds(tmp_path, [X, Y])


def test_shapes_that_differ(tmp_path: Path) -> None:
    save(tmp_path / "0.npy", 0, 2)
    save(tmp_path / "1.npy", 0, 3)
    with pytest.raises(CalibrationError, match=r"1\.npy has shape \[1, 3\], but input 'x' of the model takes \[N, 2\]"):
        load_feeds(tmp_path, [X])


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=r"holds no calibration data; give an \.npz"):
        load_feeds(tmp_path, [X])
