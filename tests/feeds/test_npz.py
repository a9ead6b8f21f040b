from __future__ import annotations

import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from onnxmpq.errors import CalibrationError
from onnxmpq.feeds import InputSpec, load_feeds
from onnxmpq.feeds.types import Array
from tests.feeds.specs import spec

X = spec("x", "N", 3)


def save(path: Path, **arrays: Array) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]  # the stub takes the names for its own options
    return path


@dataclass(frozen=True)
class Layout:
    """An array that fits, and the shapes of what the model is then given."""

    id: str
    spec: InputSpec
    array: tuple[int, ...]
    run: tuple[int, ...]
    samples: int


LAYOUTS = [
    Layout("dynamic batch", spec("x", "N", 3), (5, 3), (1, 3), 5),
    Layout("batch of one", spec("x", 1, 3), (5, 3), (1, 3), 5),
    Layout("batch of one, kept by every sample", spec("x", 1, 3), (5, 1, 3), (1, 3), 5),
    Layout("dynamic batch, whole samples of two", spec("x", "N", 3), (5, 2, 3), (2, 3), 5),
    Layout("fixed batch, whole samples", spec("x", 4, 3), (5, 4, 3), (4, 3), 5),
    Layout("fixed batch, consecutive rows", spec("x", 4, 3), (8, 3), (4, 3), 2),
    Layout("scalar", spec("x"), (5,), (), 5),
    Layout("unnamed axis", spec("x", None, None), (5, 7), (1, 7), 5),
]


@pytest.mark.parametrize("case", LAYOUTS, ids=lambda case: case.id)
def test_layouts(case: Layout, tmp_path: Path) -> None:
    array = np.arange(np.prod(case.array), dtype=np.float32).reshape(case.array)
    feeds = load_feeds(save(tmp_path / "c.npz", x=array), [case.spec])
    runs = [batch["x"] for batch in feeds.batches(1)]
    assert len(feeds) == case.samples
    assert {run.shape for run in runs} == {case.run}
    np.testing.assert_array_equal(np.concatenate([run.ravel() for run in runs]), array.ravel())


@dataclass(frozen=True)
class Bad:
    """Arrays that do not fit, and words of the message."""

    id: str
    arrays: dict[str, Array]
    message: str
    specs: Sequence[InputSpec] = (X,)


def floats(*shape: int) -> Array:
    return np.ones(shape, np.float32)


def with_nan() -> Array:
    array = np.ones((4, 3), np.float32)
    array[2, 1] = np.nan
    return array


BAD = [
    Bad("nothing", {}, "holds no arrays"),
    Bad("missing name", {"y": floats(2, 3)}, r"input 'x' of the model is missing \(found 'y'\)"),
    Bad("extra name", {"x": floats(2, 3), "labels": floats(2)}, "'labels' is no input of the model; take it out"),
    Bad("wrong rank", {"x": floats(3)}, r"array 'x' has shape \[3\], but .* takes \[N, 3\]: give \[samples, 3\]"),
    Bad("wrong size", {"x": floats(2, 4)}, r"shape \[2, 4\], but input 'x' of the model takes \[N, 3\]"),
    Bad("wrong whole size", {"x": floats(2, 5, 3)}, r"give \[samples, 4, 3\]", [spec("x", 4, 3)]),
    Bad("too few rows", {"x": floats(3, 3)}, "3 rows, and input 'x' takes 4 at a time", [spec("x", 4, 3)]),
    Bad("zero samples", {"x": floats(0, 3)}, "holds no samples"),
    Bad("integers for floats", {"x": np.ones((2, 3), np.uint8)}, r"holds uint8 .* convert it .*/ 255"),
    Bad("floats for integers", {"x": floats(2, 3)}, "give an array of int64", [spec("x", "N", 3, dtype="int64")]),
    Bad("too large", {"x": np.full((2, 3), 2**40)}, "cannot hold", [spec("x", "N", 3, dtype="int32")]),
    Bad("not boolean", {"x": np.full((2, 3), 2)}, "cannot hold", [spec("x", "N", 3, dtype="bool")]),
    Bad("overflow", {"x": np.full((2, 3), 1e300)}, "converted to float32, holds 6 NaN or infinite"),
    Bad("NaN", {"x": with_nan()}, r"array 'x' holds 1 NaN .* first \(nan\) at index \[2, 1\]"),
    Bad("infinity", {"x": np.full((2, 3), np.inf, np.float32)}, r"6 NaN .* first \(inf\) at index \[0, 0\]"),
    Bad("overflow below", {"x": np.full((2, 3), -1e300)}, "converted to float32, holds 6 NaN or infinite"),
    Bad("objects", {"x": np.array([{}, {}], object)}, "holds Python objects"),
    Bad("texts", {"x": np.array(["a", "b"])[:, None].repeat(3, 1)}, "give|convert"),
    Bad("counts differ", {"x": floats(2, 3), "y": floats(3, 1)}, r"\('x' 2, 'y' 3\)", [X, spec("y", "N", 1)]),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.id)
def test_bad_arrays_are_refused_in_one_line(case: Bad, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=case.message) as caught:
        load_feeds(save(tmp_path / "c.npz", **case.arrays), list(case.specs))
    assert "\n" not in str(caught.value)
    assert "c.npz" in str(caught.value)


def test_masks_of_minus_infinity_are_taken(tmp_path: Path) -> None:
    array = np.where(np.eye(3) > 0, 0, -np.inf)
    np.testing.assert_array_equal(load_feeds(save(tmp_path / "c.npz", x=array), [X]).arrays["x"], array)


def test_index_of_a_bad_value_counts_in_the_file(tmp_path: Path) -> None:
    array = np.ones((100, 3), np.float32)
    array[50, 2] = np.inf
    with pytest.raises(CalibrationError, match=r"index \[50, 2\]"):
        load_feeds(save(tmp_path / "c.npz", x=array), [X], limit=1)


@dataclass(frozen=True)
class Conversion:
    given: str
    wanted: str


CONVERSIONS = [
    Conversion("float64", "float32"),
    Conversion("float16", "float32"),
    Conversion("float32", "float16"),
    Conversion("int32", "int64"),
    Conversion("int64", "uint8"),
    Conversion("bool", "int64"),
    Conversion("int64", "bool"),
]


@pytest.mark.parametrize("case", CONVERSIONS, ids=str)
def test_conversions_are_noted(case: Conversion, tmp_path: Path) -> None:
    path = save(tmp_path / "c.npz", x=np.ones((2, 3), case.given))
    feeds = load_feeds(path, [spec("x", "N", 3, dtype=case.wanted)])
    assert feeds.arrays["x"].dtype == case.wanted
    assert feeds.notes == (f"input 'x': {case.given} values were converted to {case.wanted}",)


def test_byte_order_is_no_conversion(tmp_path: Path) -> None:
    feeds = load_feeds(save(tmp_path / "c.npz", x=np.ones((2, 3), ">f4")), [X])
    assert feeds.arrays["x"].dtype == np.float32
    assert feeds.notes == ()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("saved", [np.savez, np.savez_compressed], ids=["stored", "compressed"])
def test_limit_reads_evenly_spread_rows(tmp_path: Path, order: str, saved: Callable[..., None]) -> None:
    array = np.asarray(np.arange(300, dtype=np.float32).reshape(100, 3), order=order)  # type: ignore[call-overload]
    saved(tmp_path / "c.npz", x=array)
    feeds = load_feeds(tmp_path / "c.npz", [X], limit=4)
    np.testing.assert_array_equal(feeds.arrays["x"], array[[12, 37, 62, 87]])
    assert feeds.source == f"{tmp_path / 'c.npz'} (4 of 100 samples, evenly spread)"


def test_limit_counts_whole_samples_of_a_fixed_batch(tmp_path: Path) -> None:
    array = np.arange(24, dtype=np.float32).reshape(8, 3)
    feeds = load_feeds(save(tmp_path / "c.npz", x=array), [spec("x", 4, 3)], limit=1)
    np.testing.assert_array_equal(feeds.arrays["x"], array[None, 4:])


@pytest.mark.parametrize("kept", [0, 3, 100, 300])
def test_truncated_archive(tmp_path: Path, kept: int) -> None:
    path = save(tmp_path / "c.npz", x=floats(10, 3))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CalibrationError, match=r"c\.npz cannot be read as \.npz"):
        load_feeds(path, [X])


def test_damaged_values_are_found_when_read(tmp_path: Path) -> None:
    np.savez_compressed(tmp_path / "c.npz", x=np.random.default_rng(0).random((1000, 3), np.float32))
    data = bytearray((tmp_path / "c.npz").read_bytes())
    data[5000:5040] = bytes(40)
    (tmp_path / "c.npz").write_bytes(data)
    with pytest.raises(CalibrationError, match="array 'x' is damaged"):
        load_feeds(tmp_path / "c.npz", [X])


def test_header_that_promises_more_than_there_is(tmp_path: Path) -> None:
    save(tmp_path / "c.npz", x=floats(10, 3))
    with zipfile.ZipFile(tmp_path / "c.npz") as archive:
        data = archive.read("x.npy").replace(b"(10, 3), }        ", b"(1000000000, 3), }")
    with zipfile.ZipFile(tmp_path / "c.npz", "w") as archive:
        archive.writestr("x.npy", data)
    with pytest.raises(CalibrationError, match="its header does not match its length"):
        load_feeds(tmp_path / "c.npz", [X])


def test_single_npy(tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", floats(4, 3))
    assert len(load_feeds(tmp_path / "x.npy", [X], limit=3)) == 3
    with pytest.raises(CalibrationError, match="one array, but the model has 2 inputs"):
        load_feeds(tmp_path / "x.npy", [X, spec("y", "N")])
    (tmp_path / "x.npy").write_bytes((tmp_path / "x.npy").read_bytes()[:-4])
    with pytest.raises(CalibrationError, match=r"x\.npy cannot be read as \.npy"):
        load_feeds(tmp_path / "x.npy", [X])
