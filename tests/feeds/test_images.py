from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from onnxmpq.errors import CalibrationError
from onnxmpq.feeds import InputSpec, load_feeds
from onnxmpq.feeds.types import Array
from tests.feeds.specs import spec

GENERATOR = np.random.default_rng(0)
MEAN, STD = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])


def picture(path: Path, height: int, width: int, mode: str = "RGB") -> Array:
    """Saves a picture of noise and gives its pixels."""
    channels = {"RGB": (3,), "L": (), "RGBA": (4,)}[mode]
    pixels = GENERATOR.integers(0, 256, (height, width, *channels)).astype(np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return pixels


def recipe(folder: Path, text: str) -> str:
    """A recipe of the user's own, beside the folder of pictures."""
    path = folder.parent / "mine.toml"
    path.write_text(f'kind = "image"\ndescription = "d"\n{text}\n')
    return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "pictures").mkdir()
    return tmp_path / "pictures"


def test_imagenet_leaves_pictures_of_the_right_size_alone(folder: Path) -> None:
    pixels = picture(folder / "a.png", 224, 224)
    feeds = load_feeds(folder, [spec("x", "N", 3, 224, 224)], recipe="imagenet")
    expected = ((pixels.astype(np.float32) / np.float32(255) - MEAN) / STD).transpose(2, 0, 1)
    np.testing.assert_array_equal(feeds.arrays["x"][0], expected)
    assert feeds.notes == ("1 of 1 pictures already had the model's size and were not resized",)


def test_imagenet_resizes_the_shorter_side_then_crops(folder: Path) -> None:
    picture(folder / "a.png", 300, 401)
    feeds = load_feeds(folder, [spec("x", "N", 3, "height", "width")], recipe="imagenet")
    with Image.open(folder / "a.png") as image:
        resized = np.asarray(image.resize((int(256 * 401 / 300), 256), Image.Resampling.BILINEAR))
    left = round((resized.shape[1] - 224) / 2)
    cropped = resized[16:240, left : left + 224].astype(np.float32)
    np.testing.assert_array_equal(feeds.arrays["x"][0], ((cropped / np.float32(255) - MEAN) / STD).transpose(2, 0, 1))


def test_size_comes_from_the_model(folder: Path) -> None:
    picture(folder / "a.png", 100, 300)
    assert load_feeds(folder, [spec("x", "N", 3, 96, 160)], recipe="imagenet").arrays["x"].shape == (1, 3, 96, 160)


def test_yolo_letterboxes(folder: Path) -> None:
    Image.new("RGB", (640, 320), (255, 0, 51)).save(folder / "a.png")
    values = load_feeds(folder, [spec("images", 1, 3, 640, 640)], recipe="yolo").arrays["images"][0]
    np.testing.assert_allclose(values[:, 0, 0], 114 / 255, rtol=1e-6)
    np.testing.assert_allclose(values[:, 320, 320], [1, 0, 0.2], rtol=1e-6)
    assert (values[0] == 1).sum() == 640 * 320


def test_layout_left_open_is_the_model_s(folder: Path) -> None:
    pixels = picture(folder / "a.png", 224, 224)
    values = load_feeds(folder, [spec("x", None, 224, 224, 3)], recipe="imagenet-tf").arrays["x"][0]
    np.testing.assert_array_equal(values, pixels.astype(np.float32) / np.float32(127.5) - np.float32(1))


def test_bgr_bytes(folder: Path) -> None:
    pixels = picture(folder / "a.png", 8, 8)
    text = 'resize = "exact"\ncolour = "bgr"\nlayout = "hwc"\ndtype = "uint8"'
    feeds = load_feeds(folder, [spec("x", 1, 8, 8, 3, dtype="uint8")], recipe=recipe(folder, text))
    np.testing.assert_array_equal(feeds.arrays["x"][0], pixels[..., ::-1])


def test_crop_without_resizing(folder: Path) -> None:
    pixels = picture(folder / "a.png", 10, 12)
    text = 'resize = "crop"\nlayout = "hwc"'
    feeds = load_feeds(folder, [spec("x", "N", 4, 4, 3)], recipe=recipe(folder, text))
    np.testing.assert_array_equal(feeds.arrays["x"][0], pixels[3:7, 4:8])
    with pytest.raises(CalibrationError, match=r"a\.png has 10x12 pixels, .* crops to 4x16 without resizing"):
        load_feeds(folder, [spec("x", "N", 4, 16, 3)], recipe=recipe(folder, text))


@pytest.mark.parametrize("shape", [("N", 1, 28, 28), ("N", 28, 28, 1), ("N", 28, 28), (1, 28, 28)], ids=str)
def test_grey_layouts(folder: Path, shape: tuple[int | str, ...]) -> None:
    pixels = picture(folder / "a.png", 28, 28, "L")
    values = load_feeds(folder, [spec("x", *shape)], recipe="digits").arrays["x"]
    np.testing.assert_array_equal(values.reshape(28, 28), pixels.astype(np.float32) / np.float32(255))
    assert values.shape == (1, *shape[1:])


def test_model_without_batch_axis_takes_one_picture_per_run(folder: Path) -> None:
    for name in "abc":
        picture(folder / f"{name}.png", 8, 8)
    feeds = load_feeds(folder, [spec("x", 3, 8, 8)], recipe="cifar10")
    assert [batch["x"].shape for batch in feeds.batches(4)] == [(3, 8, 8)] * 3


def test_fixed_batch_takes_groups_of_pictures(folder: Path) -> None:
    for number in range(5):
        picture(folder / f"{number}.png", 8, 8)
    feeds = load_feeds(folder, [spec("x", 2, 3, 8, 8)], recipe="cifar10")
    assert feeds.arrays["x"].shape == (2, 2, 3, 8, 8)
    assert feeds.notes == ("the last 1 of 5 pictures were dropped (the model takes 2 at once)",)
    assert len(load_feeds(folder, [spec("x", 2, 3, 8, 8)], recipe="cifar10", limit=1)) == 1
    with pytest.raises(CalibrationError, match="takes 8 pictures at once, and there are only 5"):
        load_feeds(folder, [spec("x", 8, 3, 8, 8)], recipe="cifar10")


def test_half_precision_models(folder: Path) -> None:
    picture(folder / "a.png", 8, 8)
    feeds = load_feeds(folder, [spec("x", "N", 3, 8, 8, dtype="float16")], recipe="cifar10")
    assert feeds.arrays["x"].dtype == np.float16


def test_subfolders_and_limit(folder: Path) -> None:
    for green, label in enumerate(("cat", "dog")):
        (folder / label).mkdir()
        for number in range(10):
            Image.new("RGB", (2, 2), (number, green, 0)).save(folder / label / f"{number}.png")
    text = 'resize = "exact"\nlayout = "hwc"'
    feeds = load_feeds(folder, [spec("x", "N", 2, 2, 3)], recipe=recipe(folder, text), limit=4)
    assert feeds.arrays["x"][:, 0, 0, :2].tolist() == [[2, 0], [7, 0], [2, 1], [7, 1]]


def test_odd_pictures_are_noted(folder: Path) -> None:
    picture(folder / "a.png", 32, 32)
    picture(folder / "b.png", 32, 32, "L")
    picture(folder / "c.png", 32, 32, "RGBA")
    (folder / "d.jpg").write_bytes(b"no picture")
    (folder / "e.png").write_bytes((folder / "a.png").read_bytes()[:500])
    (folder / "labels.csv").write_text("ignored")
    feeds = load_feeds(folder, [spec("x", "N", 3, 32, 32)], recipe="cifar10")
    assert len(feeds) == 3
    assert feeds.notes[0] == "1 of 3 pictures were grey and were converted to RGB"
    assert feeds.notes[1].startswith("2 of 5 pictures could not be read and were skipped: ")
    assert "d.jpg" in feeds.notes[1]
    assert "e.png" in feeds.notes[1]


def test_colours_made_grey_are_noted(folder: Path) -> None:
    picture(folder / "a.png", 28, 28)
    feeds = load_feeds(folder, [spec("x", "N", 1, 28, 28)], recipe="mnist")
    assert feeds.notes == ("1 of 1 pictures had colours and were made grey",)


def test_sixteen_bits_keep_their_range(folder: Path) -> None:
    Image.fromarray(np.full((28, 28), 65535, np.uint16)).save(folder / "a.png")
    assert load_feeds(folder, [spec("x", "N", 1, 28, 28)], recipe="digits").arrays["x"].min() == 1


def test_no_readable_picture(folder: Path) -> None:
    (folder / "a.jpg").write_bytes(b"no picture")
    with pytest.raises(CalibrationError, match=r"nothing to calibrate with: 1 of 1 pictures could not .*a\.jpg"):
        load_feeds(folder, [spec("x", "N", 3, 8, 8)], recipe="cifar10")


def test_folder_without_pictures(folder: Path) -> None:
    with pytest.raises(CalibrationError, match="holds no pictures"):
        load_feeds(folder, [spec("x", "N", 3, 8, 8)], recipe="cifar10")


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_arrays_of_bytes_are_pictures(tmp_path: Path, kind: str) -> None:
    pixels = GENERATOR.integers(0, 256, (10, 32, 32, 3)).astype(np.uint8)
    path = tmp_path / f"c.{kind}"
    if kind == "npz":
        np.savez_compressed(path, images=pixels, labels=np.zeros(10, np.int64))
    else:
        np.save(path, pixels)
    feeds = load_feeds(path, [spec("x", "N", 3, 32, 32)], recipe="imagenet", limit=2)
    expected = ((pixels[[2, 7]].astype(np.float32) / np.float32(255) - MEAN) / STD).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(feeds.arrays["x"], expected)


def test_arrays_that_are_no_pictures(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", x=np.zeros((2, 32, 32, 3), np.float32))
    with pytest.raises(CalibrationError, match="holds float32, a recipe starts from uint8"):
        load_feeds(tmp_path / "c.npz", [spec("x", "N", 3, 32, 32)], recipe="cifar10")
    np.savez(tmp_path / "c.npz", x=np.zeros((2, 3), np.uint8))
    with pytest.raises(CalibrationError, match="exactly one array of pictures"):
        load_feeds(tmp_path / "c.npz", [spec("x", "N", 3, 32, 32)], recipe="cifar10")


@dataclass(frozen=True)
class Mismatch:
    id: str
    specs: list[InputSpec]
    recipe: str
    message: str


CHW = 'resize = "exact"\nlayout = "chw"\n'
MISMATCHES = [
    Mismatch("layout", [spec("x", "N", 8, 8, 3)], CHW, 'makes layout chw, the model takes hwc; .* set layout = "hwc"'),
    Mismatch("channels", [spec("x", "N", 1, 8, 8)], CHW, 'makes 3 channel.* colour = "grey"'),
    Mismatch("no channels", [spec("x", "N", 8, 8)], CHW, 'takes grey pictures; use colour = "grey"'),
    Mismatch("size", [spec("x", "N", 3, 8, 8)], CHW + "size = 9", r"size is \[9, 9\], the model takes \[8, 8\]"),
    Mismatch("open size", [spec("x", "N", 3, "h", "w")], CHW, "neither fixes the size; .* set fallback_size"),
    Mismatch("dtype", [spec("x", "N", 3, 8, 8, dtype="float16")], CHW + 'dtype = "float32"', 'set dtype = "float16"'),
    Mismatch("bytes", [spec("x", "N", 3, 8, 8, dtype="uint8")], CHW + "divide = 255", "makes normalised pixels"),
    Mismatch("rank", [spec("x", "N", 784)], CHW, r"'x' \[N, 784\] takes no pictures"),
    Mismatch("two inputs", [spec("x", "N", 3, 8, 8), spec("size", 2)], CHW, "fills one input, but the model has 2"),
    Mismatch("input name", [spec("x", "N", 3, 8, 8)], CHW + 'input = "y"', "fills input 'y', but the model's is 'x'"),
]


@pytest.mark.parametrize("case", MISMATCHES, ids=lambda case: case.id)
def test_recipes_that_do_not_fit_the_model(case: Mismatch, folder: Path) -> None:
    picture(folder / "a.png", 8, 8)
    with pytest.raises(CalibrationError, match=case.message):
        load_feeds(folder, case.specs, recipe=recipe(folder, case.recipe))


def test_a_pillow_that_cannot_be_imported_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(folder / "a.png", 8, 8)
    monkeypatch.delitem(sys.modules, "onnxmpq.feeds.images", raising=False)
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(CalibrationError, match=r"needs the package Pillow.*pip install"):
        load_feeds(folder, [spec("x", "N", 3, 8, 8)], recipe="cifar10")


KEEP = 'resize = "keep"\nfallback_size = [48, 64]\nmultiple = 4\ndivide = 255'


def test_pictures_keep_their_sizes_for_a_model_that_leaves_them_open(folder: Path) -> None:
    sizes = [(20, 33), (48, 64), (100, 64), (8, 8)]
    pixels = [picture(folder / f"{i}.png", *size) for i, size in enumerate(sizes)]
    feeds = load_feeds(folder, [spec("x", "N", 3, "h", "w")], recipe=recipe(folder, KEEP))
    found = [inputs["x"] for inputs in feeds.batches(1)]
    assert [x.shape for x in found] == [(1, 3, 20, 32), (1, 3, 48, 64), (1, 3, 48, 28), (1, 3, 8, 8)]
    np.testing.assert_array_equal(found[3][0], (pixels[3].astype(np.float32) / np.float32(255)).transpose(2, 0, 1))
    assert feeds.label(2) == "2.png"


def test_pictures_of_one_size_that_keep_it_are_one_array(folder: Path) -> None:
    for number in range(3):
        picture(folder / f"{number}.png", 8, 12)
    feeds = load_feeds(folder, [spec("x", "N", 3, "h", "w")], recipe=recipe(folder, KEEP))
    assert feeds.arrays["x"].shape == (3, 3, 8, 12)


def test_pictures_too_small_to_keep_their_size_are_skipped(folder: Path) -> None:
    picture(folder / "0.png", 8, 12)
    picture(folder / "1.png", 3, 12)
    feeds = load_feeds(folder, [spec("x", "N", 3, "h", "w")], recipe=recipe(folder, KEEP))
    assert len(feeds) == 1
    assert "3x12 pixels have no side of 4" in feeds.notes[0]


def test_a_model_of_one_size_takes_no_others(folder: Path) -> None:
    picture(folder / "0.png", 8, 12)
    with pytest.raises(CalibrationError, match=r'the model takes \[8, w\]; use resize = "shorter"'):
        load_feeds(folder, [spec("x", "N", 3, 8, "w")], recipe=recipe(folder, KEEP))
