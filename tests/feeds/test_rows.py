from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from onnxmpq.errors import CalibrationError
from onnxmpq.feeds import InputSpec, load_feeds
from tests.feeds.specs import spec

IDS = spec("tokens", "N", 3, dtype="int64")
FEATURES = spec("features", "N", 3)


def write(folder: Path, name: str, text: str) -> Path:
    (folder / name).write_text(text)
    return folder / name


def test_csv_of_token_ids(tmp_path: Path) -> None:
    feeds = load_feeds(write(tmp_path, "c.csv", "1,2,3\n\n4, 5,6\n"), [IDS])
    assert feeds.arrays["tokens"].tolist() == [[1, 2, 3], [4, 5, 6]]
    assert feeds.notes == ()


def test_csv_with_header_and_floats(tmp_path: Path) -> None:
    feeds = load_feeds(write(tmp_path, "c.csv", "height,width,age\n1,2.5,.5\n"), [FEATURES])
    assert feeds.arrays["features"].dtype == np.float32
    assert feeds.arrays["features"].tolist() == [[1, 2.5, 0.5]]


def test_json_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "c.jsonl", '{"tokens": [1, 2, 3], "features": [1, 2, 3.5]}\n' * 3)
    feeds = load_feeds(path, [IDS, FEATURES])
    assert feeds.arrays["tokens"].dtype == np.int64
    assert feeds.arrays["features"].shape == (3, 3)
    assert len(load_feeds(write(tmp_path, "d.jsonl", "[1, 2, 3]\n"), [IDS])) == 1


def test_limit_is_spread(tmp_path: Path) -> None:
    path = write(tmp_path, "c.csv", "a,b,c\n" + "".join(f"{n},0,0\n" for n in range(100)))
    assert load_feeds(path, [IDS], limit=4).arrays["tokens"][:, 0].tolist() == [12, 37, 62, 87]


def test_fixed_batch_takes_consecutive_rows(tmp_path: Path) -> None:
    path = write(tmp_path, "c.csv", "1,2,3\n" * 4)
    assert load_feeds(path, [spec("tokens", 2, 3, dtype="int64")]).arrays["tokens"].shape == (2, 2, 3)


@dataclass(frozen=True)
class Bad:
    id: str
    name: str
    text: str
    message: str
    specs: tuple[InputSpec, ...] = (IDS,)


BAD = [
    Bad("empty", "c.csv", "\n\n", "holds no rows"),
    Bad("header only", "c.csv", "a,b,c\n", "holds no rows"),
    Bad("no number", "c.csv", "1,2,3\n1,two,3\n", r"c\.csv, line 2: 'two' is no number"),
    Bad("empty cell", "c.csv", "1,2,3\n1,,3\n", "line 2: '' is no number"),
    Bad("ragged", "c.csv", "1,2,3\n1,2\n", r"line 2: input 'tokens' has shape \[1, 2\], but .* takes \[N, 3\]"),
    Bad("wrong length", "c.csv", "1,2\n1,2\n", r"takes \[N, 3\]"),
    Bad("fractions", "c.csv", "1,2,3.5\n", "holds float64 values, but input 'tokens' takes int64"),
    Bad("not a number", "c.csv", "1,2,nan\n", "NaN", (FEATURES,)),
    Bad("two inputs", "c.csv", "1,2,3\n", r"the model has 2 inputs .* use \.jsonl", (IDS, FEATURES)),
    Bad("no JSON", "c.jsonl", "[1,2,3]\n[1,2\n", "line 2 is not JSON"),
    Bad("no such name", "c.jsonl", '{"ids": [1,2,3]}', "line 1 has no values for input 'tokens'"),
    Bad("a list for two", "c.jsonl", "[1,2,3]", "line 1 has no values for input 'tokens'", (IDS, FEATURES)),
    Bad("ragged lists", "c.jsonl", "[[1],[1,2]]", "line 1: input 'tokens' has lists of different lengths"),
    Bad("texts", "c.jsonl", '["a"]', "holds <U1 values; give numbers"),
    Bad("huge", "c.jsonl", "[1,2,99999999999999999999999]", "holds object values"),
    Bad("empty list", "c.jsonl", "[]", r"has shape \[1, 0\]"),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.id)
def test_bad_rows_are_refused(case: Bad, tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match=case.message):
        load_feeds(write(tmp_path, case.name, case.text), case.specs)


def test_no_text(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(CalibrationError, match="cannot be read as UTF-8"):
        load_feeds(tmp_path / "c.csv", [IDS])
