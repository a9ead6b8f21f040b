"""The cache: what was put is found by its content, what is damaged is not, and the folder stays in bounds."""

from __future__ import annotations

import io
import os
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxmpq.cache import Cache, content_hash
from onnxmpq.cache import cache as cache_module
from onnxmpq.files import Archive
from onnxmpq.progress import Progress
from onnxmpq.ranges import QuantParams

KEY = content_hash("a key")
ENTRY = Archive({"a": np.arange(12, dtype=np.float32).reshape(3, 4), "b": np.array(7, np.int8)}, {"kept": ["x", 1.5]})


class Warnings(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []
        self.details: list[str] = []

    def warn(self, message: str) -> None:
        self.lines.append(message)

    def detail(self, message: str) -> None:
        self.details.append(message)


def as_it_is(entry: Archive) -> Archive:
    return entry


def files(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file())


def assert_is_entry(found: Archive | None) -> None:
    assert found is not None
    assert found.meta == ENTRY.meta
    assert found.arrays.keys() == ENTRY.arrays.keys()
    for name, values in ENTRY.arrays.items():
        assert found.arrays[name].dtype == values.dtype
        np.testing.assert_array_equal(found.arrays[name], values)


def test_what_was_put_is_found_by_later_runs(tmp_path: Path) -> None:
    assert Cache(tmp_path).get(KEY, as_it_is) is None
    Cache(tmp_path).put(KEY, ENTRY)
    assert_is_entry(Cache(tmp_path).get(KEY, as_it_is))
    assert Cache(tmp_path).get(content_hash("another key"), as_it_is) is None
    assert [p.name for p in files(tmp_path)] == [f"{KEY}.npz"]


@given(hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(min_dims=0, min_side=0)))
def test_arrays_keep_their_bits(values: np.ndarray) -> None:
    found = Archive.from_bytes(Archive({"values": values}).to_bytes()).arrays["values"]
    assert (found.dtype, found.shape, found.tobytes()) == (values.dtype, values.shape, values.tobytes())


def test_a_cache_without_a_folder_keeps_nothing() -> None:
    empty = Cache(None)
    empty.put(KEY, ENTRY)
    assert empty.get(KEY, as_it_is) is None
    empty.count("effects", 0, 4)
    assert empty.reused == {}


# ---- damage -------------------------------------------------------------------------------------


def pickled() -> bytes:
    """A well-formed archive whose array is a pickle."""
    buffer, array = io.BytesIO(), io.BytesIO()
    np.lib.format.write_array(array, np.array([print], object), allow_pickle=True)
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("meta.json", "null")
        file.writestr("a.npy", array.getvalue())
    return buffer.getvalue()


def kept(entry: Archive = ENTRY, key: str = KEY) -> bytes:
    """The bytes of an entry in a folder."""
    return replace(entry, meta={"key": key, "meta": entry.meta}).to_bytes()


def rewritten(change: Callable[[list[tuple[str, bytes]]], object], kind: int = zipfile.ZIP_STORED) -> bytes:
    """The entry with other members."""
    with zipfile.ZipFile(io.BytesIO(kept())) as file:
        members = [(name, file.read(name)) for name in file.namelist()]
    change(members)
    buffer = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(buffer, "w", kind) as file:  # of names there twice
        for name, content in members:
            file.writestr(name, content)
    return buffer.getvalue()


def boastful() -> bytes:
    """A header of 4 TB over the 48 bytes that follow."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": (2**40,)})
    return header.getvalue() + bytes(48)


def flipped(content: bytes) -> bytes:
    """One bit of the first array's data is wrong."""
    place = content.index(ENTRY.arrays["a"].tobytes()) + 5
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


@dataclass(frozen=True)
class Damage:
    id: str
    content: bytes


GOOD = kept()
DAMAGES = [
    Damage("empty", b""),
    Damage("text", b"not an archive at all"),
    Damage("cut off", GOOD[: len(GOOD) // 2]),
    Damage("a flipped bit", flipped(GOOD)),
    Damage("zeros, as after a crash", bytes(len(GOOD))),
    Damage("a pickle", pickled()),
    Damage("of another key", kept(key=content_hash("another key"))),
    Damage("without a key", ENTRY.to_bytes()),
    Damage("compressed", rewritten(lambda _: None, zipfile.ZIP_DEFLATED)),
    Damage("two members of a name", rewritten(lambda m: m.append(m[-1]))),
    Damage("a header larger than the file", rewritten(lambda m: m.append(("c.npy", boastful())))),
    Damage("a member that is no array", rewritten(lambda m: m.append(("c.npy", b"text")))),
]


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda d: d.id)
def test_a_damaged_entry_is_not_there_and_is_written_anew(damage: Damage, tmp_path: Path) -> None:
    Cache(tmp_path).put(KEY, ENTRY)
    [path] = files(tmp_path)
    assert path.read_bytes() == kept()
    path.write_bytes(damage.content)
    told = Warnings()
    assert Cache(tmp_path, told).get(KEY, as_it_is) is None
    assert told.lines == [] and [line.split(":")[0] for line in told.details] == [f"cache entry {KEY[:12]} is not used"]
    Cache(tmp_path).put(KEY, ENTRY)
    assert_is_entry(Cache(tmp_path).get(KEY, as_it_is))


def test_what_does_not_fit_its_reader_is_not_there(tmp_path: Path) -> None:
    def read(entry: Archive) -> object:
        return entry.array("a", np.float32, 3, 5)

    told = Warnings()
    Cache(tmp_path).put(KEY, ENTRY)
    assert Cache(tmp_path, told).get(KEY, read) is None
    assert told.details == [f"cache entry {KEY[:12]} is not used: array 'a' is float32[3, 4], not float32[3, 5]"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    path = Cache(tmp_path)._path(KEY)
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    assert Cache(tmp_path).get(KEY, as_it_is) is None
    path.unlink()
    path.mkdir()
    assert Cache(tmp_path).get(KEY, as_it_is) is None
    path.rmdir()
    path.symlink_to("/dev/zero")
    assert Cache(tmp_path).get(KEY, as_it_is) is None


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path) -> None:
    Cache(tmp_path).put(KEY, ENTRY)
    assert Cache(tmp_path, limit_bytes=100).get(KEY, as_it_is) is None


WRONG = [
    ("c", np.float32, (3, 4), "is missing"),
    ("a", np.float64, (3, 4), r"is float32\[3, 4\], not float64"),
    ("a", np.float32, (4, 3), "is float32"),
    ("a", np.float32, (12,), "is float32"),
    ("b", np.int8, (1,), "is int8"),
    ("n", np.float32, (2,), "not finite"),
]


@pytest.mark.parametrize(("name", "dtype", "shape", "words"), WRONG, ids=lambda v: str(v))
def test_arrays_are_what_is_asked_for(name: str, dtype: type[np.generic], shape: tuple[int, ...], words: str) -> None:
    entry = replace(ENTRY, arrays={**ENTRY.arrays, "n": np.array([1, np.inf], np.float32)})
    assert entry.array("a", np.float32, 3, None) is ENTRY.arrays["a"] and entry.array("b", np.int8).shape == ()
    with pytest.raises(ValueError, match=words):
        entry.array(name, dtype, *shape)


def test_a_folder_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    told = Warnings()
    blocked = Cache(tmp_path / "file" / "cache", told)
    for number in range(3):
        blocked.put(content_hash(number), ENTRY)
        assert blocked.get(content_hash(number), as_it_is) is None
    assert len(told.lines) == 1
    assert "--no-cache" in told.lines[0] and str(tmp_path) in told.lines[0]


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Warnings()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    Cache(tmp_path, told).put(KEY, ENTRY)
    assert files(tmp_path) == []
    assert "No space left" in told.lines[0]


def test_runs_may_share_a_folder(tmp_path: Path) -> None:
    """Readers see an entry whole or not at all while others write and evict."""
    size = len(kept())

    def work(number: int) -> None:
        shared = Cache(tmp_path, told, limit_bytes=20 * size)
        for step in range(30):
            shared.put(content_hash(step % 7), ENTRY)
            found = shared.get(content_hash((step + number) % 7), as_it_is)
            if found is not None:
                assert_is_entry(found)

    told = Warnings()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))
    assert told.lines == []
    assert all(p.suffix == ".npz" for p in files(tmp_path))


# ---- size ---------------------------------------------------------------------------------------


def test_the_folder_stays_below_its_limit_and_what_was_used_last_stays(tmp_path: Path) -> None:
    size = len(kept())
    limited = Cache(tmp_path, limit_bytes=40 * size)
    (tmp_path / "ab").mkdir()
    mine = tmp_path / "ab" / "thesis.npz"
    mine.write_bytes(b"older than everything")
    os.utime(mine, (1, 1))
    keys = [content_hash(number) for number in range(200)]
    limited.put(keys[0], ENTRY)
    for age, key in enumerate(keys[1:]):
        limited.put(key, ENTRY)
        os.utime(limited._path(key), (1_000_000 + age, 1_000_000 + age))  # clocks of file systems are too coarse
        assert limited.get(keys[0], as_it_is) is not None
        held = sum(p.stat().st_size for p in files(tmp_path) if p != mine)
        assert held <= 40 * size
    assert held > 30 * size
    assert limited.get(keys[1], as_it_is) is None and limited.get(keys[-1], as_it_is) is not None
    assert mine.exists(), "not an entry, so not the cache's to remove"


def test_what_is_larger_than_the_cache_is_not_kept(tmp_path: Path) -> None:
    Cache(tmp_path, limit_bytes=100).put(KEY, ENTRY)
    assert files(tmp_path) == []


# ---- keys ---------------------------------------------------------------------------------------

DIFFERENT: list[object] = [
    *(None, True, 1, 1.0, "1", b"1", "", (), {}, frozenset(), (1,), ((1,),), (1, 1), {1: 1}, ("a", "b"), ("ab",)),
    *(np.zeros(shape, np.float32) for shape in ((2,), (2, 1), (1, 2), (2, 0), (0, 2))),
    *(np.zeros(2, np.int32), np.float32(0), 0.0, -0.0, {"a": 1}),
    *(QuantParams(0.1, 3), QuantParams(0.1, 4), {"scale": 0.1, "zero_point": 3}),
]


def test_different_values_have_different_hashes() -> None:
    assert len({content_hash(v) for v in DIFFERENT}) == len(DIFFERENT)


def test_the_order_of_mappings_and_the_layout_of_arrays_do_not_matter() -> None:
    assert content_hash({"a": 1, "b": 2}) == content_hash(OrderedDict(b=2, a=1))
    values = np.arange(6.0).reshape(2, 3)
    assert content_hash(values) == content_hash(np.asfortranarray(values))
    assert content_hash([1, 2]) == content_hash((1, 2))


nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner).map(tuple) | st.dictionaries(st.text(), inner),
)


@given(nested, nested)
def test_hashes_are_equal_exactly_for_equal_values(one: object, two: object) -> None:
    assert (content_hash(one) == content_hash(two)) == (repr(one) == repr(two) or _sorted(one) == _sorted(two))


def _sorted(value: object) -> str:
    """repr with the keys of mappings in order: tells 1 from 1.0 and 0.0 from -0.0, as the hash does."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{k!r}:{_sorted(value[k])}" for k in sorted(value)) + "}"
    return "(" + ",".join(map(_sorted, value)) + ")" if isinstance(value, tuple) else repr(value)


@pytest.mark.parametrize("value", [object(), print, np.array([None, "a"])], ids=["object", "function", "objects"])
def test_what_has_no_content_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="no content to hash"):
        content_hash(value)


def test_the_default_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()  # the fixture that keeps tests away from it
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for given_base, expected in (
        (str(tmp_path / "cache"), tmp_path / "cache" / "onnxmpq"),
        ("", tmp_path / "home" / ".cache" / "onnxmpq"),
        ("relative", tmp_path / "home" / ".cache" / "onnxmpq"),
    ):
        monkeypatch.setenv("XDG_CACHE_HOME", given_base)
        assert cache_module.default_folder() == expected


class Said(Progress):
    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


def test_a_machine_without_a_home_is_told_and_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache_module, "default_folder", lambda: None)
    said = Said()
    cache = Cache.of(True, said)
    assert cache.folder is None and "no home folder; name one with --cache" in said.lines[0]
    Cache.of(False, quiet := Said())
    assert not quiet.lines


def test_a_relative_base_is_ignored_and_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.undo()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    said = Said()
    assert Cache.of(True, said).folder == tmp_path / ".cache" / "onnxmpq"
    assert "'relative' is ignored" in said.lines[0]
