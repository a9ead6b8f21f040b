"""Labels follow their samples: through limits, corrupt files, groups and `take`."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from onnxmpq.errors import CalibrationError
from onnxmpq.feeds import Feeds, load_feeds, read_labels
from tests.feeds.specs import spec

X = spec("x", "N", 2)
PICTURES = spec("x", "N", 3, 32, 32)


def counting(count: int) -> dict[str, np.ndarray]:
    """Samples whose first value is their place in the source."""
    return {"x": np.stack([np.arange(count), np.zeros(count)], axis=1).astype(np.float32)}


def save_labels(path: Path, count: int) -> Path:
    """The label of row i is 10 i."""
    np.save(path, 10 * np.arange(count))
    return path


def pictures(folder: Path, count: int, corrupt: tuple[int, ...] = ()) -> Path:
    """`p0.png`, `p1.png`, ...: all pixels of number i are i."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.new("RGB", (32, 32), (number, number, number)).save(folder / f"p{number}.png")
    for number in corrupt:
        (folder / f"p{number}.png").write_bytes(b"no picture")
    return folder


def pixel_numbers(feeds: Feeds) -> list[int]:
    """Which picture each sample is, from its pixels."""
    mean, std = 0.4914, 0.2470  # of recipe cifar10, channel red
    return np.rint((feeds.arrays["x"].reshape(-1, 3, 32, 32)[:, 0, 0, 0] * std + mean) * 255).astype(int).tolist()


@given(count=st.integers(1, 40), limit=st.integers(1, 50), data=st.data())
def test_labels_follow_the_limit_and_take(
    tmp_path_factory: pytest.TempPathFactory, count: int, limit: int, data: st.DataObject
) -> None:
    path = save_labels(tmp_path_factory.mktemp("l") / "y.npy", count)
    feeds = load_feeds(counting(count), [X], limit=limit)
    chosen = data.draw(st.lists(st.integers(0, len(feeds) - 1), min_size=1))
    for samples in (feeds, feeds.take(chosen), feeds.take(chosen).take([0])):
        assert read_labels(path, samples).tolist() == (10 * samples.arrays["x"][:, 0]).astype(int).tolist()


def test_labels_follow_pictures_that_were_skipped(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures", 12, corrupt=(0, 5, 11))
    feeds = load_feeds(folder, [PICTURES], recipe="cifar10", limit=8)
    numbers = pixel_numbers(feeds)
    assert len(numbers) == 5 and not {0, 5, 11} & set(numbers)
    assert read_labels(save_labels(tmp_path / "y.npy", 12), feeds).tolist() == [10 * n for n in numbers]
    (tmp_path / "y.csv").write_text("file,label\n" + "".join(f"p{n}.png,{n + 100}\n" for n in reversed(range(12))))
    assert read_labels(tmp_path / "y.csv", feeds).tolist() == [n + 100 for n in numbers]


def test_groups_of_pictures_take_a_label_each(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "pictures", 8, corrupt=(1,))
    feeds = load_feeds(folder, [spec("x", 2, 3, 32, 32)], recipe="cifar10")
    labels = read_labels(save_labels(tmp_path / "y.npy", 8), feeds.take([2, 0]))
    assert labels.tolist() == [[50, 60], [0, 20]]


def test_labels_of_lines(tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("height,width\n" + "".join(f"{n},0\n\n" for n in range(20)))
    feeds = load_feeds(tmp_path / "x.csv", [X], limit=3)
    assert read_labels(save_labels(tmp_path / "y.npy", 20), feeds).tolist() == (10 * feeds.arrays["x"][:, 0]).tolist()


def test_labels_of_token_lines(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text("".join(f"[{n}, 7]\n" for n in range(9)))
    feeds = load_feeds(tmp_path / "x.jsonl", [spec("input_ids", "N", 2, dtype="int64")], recipe="bert-text", limit=2)
    assert read_labels(save_labels(tmp_path / "y.npy", 9), feeds).tolist() == [20, 60]


def test_labels_of_npy_files_and_sound_by_name(tmp_path: Path) -> None:
    (tmp_path / "arrays").mkdir()
    for number in (2, 10):
        np.save(tmp_path / "arrays" / f"{number}.npy", np.full(2, number, np.float32))
    (tmp_path / "y.csv").write_text("10.npy,1\n2.npy,0\n")
    assert read_labels(tmp_path / "y.csv", load_feeds(tmp_path / "arrays", [X])).tolist() == [0, 1]
    for name in ("a", "b"):
        with wave.open(str(tmp_path / f"{name}.wav"), "wb") as sound:
            sound.setparams((1, 2, 16000, 0, "NONE", ""))
            sound.writeframes(bytes(40 if name == "a" else 20))
    (tmp_path / "z.csv").write_text("a.wav,3\nb.wav,4\n")
    feeds = load_feeds(tmp_path, [spec("x", "N", 10)], recipe="audio-16k")
    assert read_labels(tmp_path / "z.csv", feeds).tolist() == [3, 3, 4]


def test_streams_that_were_not_read_to_their_end(tmp_path: Path) -> None:
    def endless() -> Iterator[dict[str, np.ndarray]]:
        number = 0
        while True:
            yield {"x": np.full((1, 2), number, np.float32)}
            number += 1

    feeds = load_feeds(endless(), [X], limit=3)
    assert read_labels(save_labels(tmp_path / "y.npy", 100), feeds).tolist() == [0, 10, 20]
    with pytest.raises(CalibrationError, match="holds 2 labels, but 3 samples were read"):
        read_labels(save_labels(tmp_path / "y.npy", 2), feeds)


def test_npz_by_key(tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", y=np.arange(4), boxes=np.zeros((4, 5), np.float32))
    feeds = load_feeds(counting(4), [X])
    assert read_labels(f"{tmp_path / 'd.npz'}:y", feeds).tolist() == [0, 1, 2, 3]
    assert read_labels(f"{tmp_path / 'd.npz'}:boxes", feeds).shape == (4, 5)
    with pytest.raises(CalibrationError, match=r"have no array 'z'; there are: 'y', 'boxes'"):
        read_labels(f"{tmp_path / 'd.npz'}:z", feeds)
    with pytest.raises(CalibrationError, match=r"hold several arrays .* name one as d\.npz:NAME"):
        read_labels(tmp_path / "d.npz", feeds)


def test_names_in_subfolders(tmp_path: Path) -> None:
    pictures(tmp_path / "p" / "cats", 1)
    pictures(tmp_path / "p" / "dogs", 1)
    feeds = load_feeds(tmp_path / "p", [PICTURES], recipe="cifar10")
    (tmp_path / "y.csv").write_text("cats/p0.png,1\ndogs/p0.png,2\n")
    assert read_labels(tmp_path / "y.csv", feeds).tolist() == [1, 2]
    (tmp_path / "y.csv").write_text("p0.png,1\n")
    with pytest.raises(CalibrationError, match=r"have none for 'cats/p0\.png'"):
        read_labels(tmp_path / "y.csv", feeds)
    alone = load_feeds(tmp_path / "p" / "cats", [PICTURES], recipe="cifar10")
    (tmp_path / "y.csv").write_text("val/p0.png,7\n")
    assert read_labels(tmp_path / "y.csv", alone).tolist() == [7]


@dataclass(frozen=True)
class Bad:
    id: str
    text: str
    message: str


BAD = [
    Bad("too few", "1\n2\n", r"y\.csv holds 2 labels, but the calibration source has 3 samples; give one label per"),
    Bad("too many", "1\n2\n3\n4\n", "holds 4 labels, but the calibration source has 3 samples"),
    Bad("header only", "label\n", "hold no rows"),
    Bad("empty", "\n", "hold no rows"),
    Bad("word", "1\ncat\n3\n", "line 2: 'cat' is no label; write number"),
    Bad("not a number", "1\nnan\n3\n", "line 2: 'nan' is no label"),
    Bad("three columns", "a,1,2\n", "line 1 has 3 columns"),
    Bad("ragged", "a,1\n2\n", "line 2: '2' is no label; write file name,number"),
    Bad("two labels", "a,1\na,2\n", "line 2: 'a' has two labels"),
    Bad("by name, no files", "a,1\nb,2\nc,3\n", "go by file name, but the samples are not files"),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.id)
def test_labels_that_do_not_match(tmp_path: Path, case: Bad) -> None:
    (tmp_path / "y.csv").write_text(case.text)
    with pytest.raises(CalibrationError, match=case.message):
        read_labels(tmp_path / "y.csv", load_feeds(counting(3), [X]))


def test_file_without_label(tmp_path: Path) -> None:
    feeds = load_feeds(pictures(tmp_path / "p", 2), [PICTURES], recipe="cifar10")
    (tmp_path / "y.csv").write_text("p0.png,1\np01.png,2\n")
    with pytest.raises(CalibrationError, match=r"have none for 'p1\.png'; did you mean 'p01\.png'\?"):
        read_labels(tmp_path / "y.csv", feeds)


def test_other_files_and_values(tmp_path: Path) -> None:
    feeds = load_feeds(counting(3), [X])
    np.save(tmp_path / "words.npy", np.array(["a", "b", "c"]))
    with pytest.raises(CalibrationError, match="holds <U1 values; give labels as numbers"):
        read_labels(tmp_path / "words.npy", feeds)
    np.save(tmp_path / "one.npy", np.float32(1))
    with pytest.raises(CalibrationError, match="holds 0 labels"):
        read_labels(tmp_path / "one.npy", feeds)
    np.save(tmp_path / "nan.npy", np.array([0, np.nan, 1]))
    with pytest.raises(CalibrationError, match="NaN or infinite"):
        read_labels(tmp_path / "nan.npy", feeds)
    with pytest.raises(CalibrationError, match=r"no\.npy do not exist"):
        read_labels(tmp_path / "no.npy", feeds)
    (tmp_path / "y.xls").write_bytes(b"1")
    with pytest.raises(CalibrationError, match="of no known kind"):
        read_labels(tmp_path / "y.xls", feeds)
    with pytest.raises(CalibrationError, match="the samples are made up"):
        read_labels(tmp_path / "one.npy", load_feeds(None, [X]))
