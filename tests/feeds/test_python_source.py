from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from onnxmpq.errors import CalibrationError, UsageError
from onnxmpq.feeds import load_feeds
from onnxmpq.feeds.types import Array
from tests.feeds.specs import spec

X = spec("x", "N", 3)


class Reader:
    """The shape of onnxruntime's CalibrationDataReader."""

    def __init__(self, count: int) -> None:
        self.samples = [{"x": np.full((1, 3), i, np.float32)} for i in range(count)]
        self.position = 0

    def get_next(self) -> dict[str, Array] | None:
        self.position += 1
        return self.samples[self.position - 1] if self.position <= len(self.samples) else None

    def rewind(self) -> None:
        self.position = 0


def rows(*sizes: int) -> Iterator[dict[str, Array]]:
    for size in sizes:
        yield {"x": np.zeros((size, 3), np.float32)}


def broken() -> Iterator[dict[str, Array]]:
    yield from rows(1)
    raise KeyError("image")


def test_dict_of_arrays() -> None:
    feeds = load_feeds({"x": np.arange(30, dtype=np.float32).reshape(10, 3)}, [X], limit=2)
    assert feeds.arrays["x"][:, 0].tolist() == [6, 21]


def test_reader_is_read_from_its_start_each_time() -> None:
    reader = Reader(5)
    for _ in range(2):
        assert load_feeds(reader, [X]).arrays["x"][:, 0].tolist() == [0, 1, 2, 3, 4]


def test_reader_without_rewind() -> None:
    class Plain:
        get_next = Reader(2).get_next

    assert len(load_feeds(Plain(), [X])) == 2


def test_iterables_are_read_no_further_than_the_limit() -> None:
    def endless() -> Iterator[dict[str, Array]]:
        while True:
            yield from rows(4)

    feeds = load_feeds(endless(), [X], limit=6)
    assert feeds.arrays["x"].shape == (6, 3)
    assert "(6 samples)" in feeds.source


def test_batches_of_different_sizes_are_split() -> None:
    assert len(load_feeds(rows(4, 4, 2), [X])) == 10


def test_fixed_batch_is_one_sample() -> None:
    feeds = load_feeds(rows(4, 4), [spec("x", 4, 3)])
    assert feeds.arrays["x"].shape == (2, 4, 3)


def test_samples_without_batch_axis_and_bare_arrays() -> None:
    assert load_feeds([np.zeros(3, np.float32)] * 5, [X]).arrays["x"].shape == (5, 3)


def test_scalar_inputs() -> None:
    feeds = load_feeds([{"s": np.float32(1)}, {"s": np.float32(2)}], [spec("s")])
    assert [batch["s"].shape for batch in feeds.batches(1)] == [(), ()]


@pytest.mark.parametrize("shape", [(0,), (0, 3), ("N", 0), (2, "past", 4)], ids=str)
def test_inputs_without_elements(shape: tuple[int | str, ...]) -> None:
    """As a cache before the first step."""
    empty = np.zeros([0 if d == "past" else 1 if d == "N" else d for d in shape], np.float32)
    feeds = load_feeds([{"x": empty, "i": np.zeros(1, np.int64)}] * 3, [spec("x", *shape), spec("i", 1, dtype="int64")])
    assert [batch["x"].shape for batch in feeds.batches(1)] == [empty.shape] * 3


def test_callable_is_called() -> None:
    assert len(load_feeds(lambda: rows(3), [X])) == 3


def test_module_function_in_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_calibration.py").write_text(
        "import numpy as np\ndef samples():\n    yield {'x': np.zeros((2, 3), np.float32)}\n"
    )
    monkeypatch.chdir(tmp_path)
    feeds = load_feeds("my_calibration:samples", [X])
    assert feeds.source == "my_calibration:samples (2 samples)"
    with pytest.raises(UsageError, match=r"cannot be imported .*no attribute 'sample'"):
        load_feeds("my_calibration:sample", [X])
    with pytest.raises(UsageError, match=r"cannot be imported .*No module named 'my_calibrations'"):
        load_feeds("my_calibrations:samples", [X])


@dataclass(frozen=True)
class Bad:
    id: str
    source: object
    message: str


BAD = [
    Bad("number", 5, "gives int, which is no calibration data"),
    Bad("nothing yielded", iter(()), "yields nothing"),
    Bad("used-up reader", Reader(0), "yields nothing"),
    Bad("callable gives nothing", lambda: None, "gives NoneType"),
    Bad("tuple", [(np.zeros((1, 3)), 1)], "feed 0 is a tuple; yield dicts"),
    Bad("wrong name", [{"y": np.zeros((1, 3))}], "feed 0: input 'x' of the model is missing"),
    Bad("labels too", [{"x": np.zeros((1, 3)), "y": 1}], "feed 0: 'y' is no input"),
    Bad("no rows", [{"x": np.zeros((0, 3), np.float32)}], "holds no samples"),
    Bad("wrong shape", [{"x": np.zeros((1, 4))}], r"feed 0, input 'x' has shape \[1, 4\]"),
    Bad("its own error", broken(), "raised KeyError: 'image'; repair the source"),
    Bad("ragged", [{"x": [[1.0], [1.0, 2.0]]}], "no array of one shape"),
    Bad("empty dict", {}, "input 'x' of the model is missing"),
    Bad("integers", [{"x": np.zeros((1, 3), np.int64)}], "holds int64 values, but input 'x' takes float32"),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.id)
def test_bad_sources_are_refused(case: Bad) -> None:
    with pytest.raises(CalibrationError, match=case.message):
        load_feeds(case.source, [X])
