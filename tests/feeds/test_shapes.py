"""Samples of different shapes, several rows a sample, a batch that is not the first axis, one value for all samples."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.errors import CalibrationError
from onnxmpq.feeds import Feeds, InputSpec, load_feeds
from onnxmpq.feeds.types import Array, with_batch_axes
from onnxmpq.keys import feeds_hash
from tests.feeds.specs import spec

X = spec("x", "N", "T", 3)
MASK = spec("mask", "N", "T")
LENGTHS = (5, 2, 2, 7, 5, 3)


def sample(number: int, *shape: int) -> Array:
    return np.random.default_rng(number).standard_normal(shape).astype(np.float32)


def sequences(lengths: Sequence[int] = LENGTHS) -> list[Array]:
    return [sample(number, length, 3) for number, length in enumerate(lengths)]


def inputs_of(feeds: Feeds) -> list[Mapping[str, Array]]:
    return list(feeds.batches(1))


# ---- where they may come from --------------------------------------------------------------------


def as_files(folder: Path) -> object:
    for number, values in enumerate(sequences()):
        np.save(folder / f"{number}.npy", values)
    return folder


def as_files_of_an_input(folder: Path) -> object:
    (folder / "x").mkdir()
    for number, values in enumerate(sequences()):
        np.save(folder / "x" / f"{number}.npy", values[None])
    return folder


def as_numbered_arrays(folder: Path) -> object:
    np.savez(folder / "c.npz", **{f"x_{number}": values for number, values in enumerate(sequences())})
    return folder / "c.npz"


def as_lines(folder: Path) -> object:
    path = folder / "c.jsonl"
    path.write_text("\n".join(json.dumps({"x": values.tolist()}) for values in sequences()))
    return path


def as_generator(_: Path) -> object:
    def feeds() -> Iterator[dict[str, Array]]:
        buffer = np.zeros((1, max(LENGTHS), 3), np.float32)
        for values in sequences():
            buffer[0, : len(values)] = values  # a reader that uses its memory again
            yield {"x": buffer[:, : len(values)]}

    return feeds


SOURCES = [as_files, as_files_of_an_input, as_numbered_arrays, as_lines, as_generator, lambda _: sequences()]


@pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.__name__)
def test_samples_keep_their_shapes(source: Callable[[Path], object], tmp_path: Path) -> None:
    feeds = load_feeds(source(tmp_path), [X])
    assert len(feeds) == len(LENGTHS)
    for inputs, expected in zip(inputs_of(feeds), sequences(), strict=True):
        np.testing.assert_allclose(inputs["x"], expected[None], rtol=1e-6)
    assert "'x' 2x3 to 7x3" in feeds.source


@pytest.mark.parametrize("source", SOURCES[:4], ids=lambda s: s.__name__)
def test_only_what_is_chosen_is_read(source: Callable[[Path], object], tmp_path: Path) -> None:
    feeds = load_feeds(source(tmp_path), [X], limit=2)
    assert [inputs["x"].shape[1] for inputs in inputs_of(feeds)] == [LENGTHS[1], LENGTHS[4]]
    assert feeds.places is not None
    assert feeds.places.rows.tolist() == [1, 4]


@given(length=st.integers(1, 4), count=st.integers(1, 6), batch=st.sampled_from(["N", 1]), limit=st.integers(1, 6))
def test_a_stream_of_one_shape_is_the_stacked_array(length: int, count: int, batch: str | int, limit: int) -> None:
    declared, stacked = spec("x", batch, "T", 3), sample(count, count, length, 3)
    stream = load_feeds([{"x": values[None]} for values in stacked[:limit]], [declared])
    at_once = load_feeds({"x": stacked[:limit]}, [declared])
    assert stream.arrays["x"].tobytes() == at_once.arrays["x"].tobytes()
    assert (stream.arrays["x"].shape, stream.batchable) == (at_once.arrays["x"].shape, at_once.batchable)


# ---- laws of such feeds --------------------------------------------------------------------------

lengths = st.lists(st.integers(1, 4), min_size=1, max_size=12)


@given(lengths=lengths, size=st.integers(1, 5))
def test_runs_take_each_sample_once_in_order_and_never_mix_shapes(lengths: list[int], size: int) -> None:
    values = sequences(lengths)
    feeds = load_feeds([{"x": v[None], "mask": v[None, :, 0]} for v in values], [X, MASK])
    runs = list(feeds.batches(size))
    assert [row.tolist() for inputs in runs for row in inputs["x"]] == [v.tolist() for v in values]
    assert [row.tolist() for inputs in runs for row in inputs["mask"]] == [v[:, 0].tolist() for v in values]
    assert all(len(inputs["x"]) <= size for inputs in runs)


@given(lengths=lengths)
def test_the_typical_sample_has_the_median_size(lengths: list[int]) -> None:
    feeds = load_feeds([{"x": v[None]} for v in sequences(lengths)], [X])
    assert lengths[feeds.typical] == sorted(lengths)[(len(lengths) - 1) // 2]
    assert (lengths[feeds.largest], min(lengths[i] for i in feeds.extremes)) == (max(lengths), min(lengths))
    if len(set(lengths)) == 1:
        assert (feeds.typical, feeds.largest, feeds.extremes) == (0, 0, [0])
        assert not feeds.timed
    else:
        assert f"'x' [1, {lengths[feeds.typical]}, 3]" in feeds.timed


@given(lengths=lengths, data=st.data())
def test_taken_samples_are_the_same_samples(lengths: list[int], data: st.DataObject) -> None:
    feeds = load_feeds([{"x": v[None]} for v in sequences(lengths)], [X])
    order = data.draw(st.permutations(range(len(lengths))))
    for inputs, number in zip(feeds.take(order).batches(1), order, strict=True):
        assert inputs["x"].tobytes() == feeds.batch([number])["x"].tobytes()


def test_whole_samples_beside_single_rows() -> None:
    feeds = load_feeds([{"x": sample(0, 1, 2, 4, 3)}, {"x": sample(1, 1, 5, 3)}], [X])
    assert [inputs["x"].shape for inputs in inputs_of(feeds)] == [(2, 4, 3), (1, 5, 3)]


def test_an_output_that_follows_its_inputs_is_told_from_a_list() -> None:
    feeds = load_feeds([{"x": v[None]} for v in sequences((2, 3, 2))], [X])
    assert feeds.decide([(1, 2), (1, 3), (1, 2)])
    assert not feeds.decide([(1, 2), (1, 3), (1, 4)])


# ---- a batch that is fixed -----------------------------------------------------------------------


@dataclass(frozen=True)
class Fixed:
    """rows: of each feed, for a model that takes four at once."""

    id: str
    rows: tuple[int, ...]
    samples: int
    dropped: int


FIXED = [
    Fixed("whole", (4, 4), 2, 0),
    Fixed("one by one", (1,) * 10, 2, 2),
    Fixed("of any size", (3, 6, 2), 2, 3),
    Fixed("several at once", (8, 4), 3, 0),
]


@pytest.mark.parametrize("case", FIXED, ids=lambda case: case.id)
def test_rows_of_feeds_make_samples_of_a_fixed_batch(case: Fixed) -> None:
    rows = sample(0, sum(case.rows), 3)
    parts = np.split(rows, np.cumsum(case.rows)[:-1])
    for source in ({"x": rows}, [{"x": part} for part in parts]):
        feeds = load_feeds(source, [spec("x", 4, 3)])
        assert np.concatenate([i["x"] for i in feeds.batches(1)]).tobytes() == rows[: 4 * case.samples].tobytes()
        notes = f"the last {case.dropped} rows were dropped (the model takes 4 at once)"
        assert (notes in feeds.notes) == bool(case.dropped)
        assert feeds.places is not None
        assert feeds.places.rows.tolist() == np.arange(4 * case.samples).reshape(-1, 4).tolist()


@pytest.mark.parametrize("stream", [False, True], ids=["array", "stream"])
def test_channels_of_a_picture_without_a_batch_axis_are_no_samples(stream: bool) -> None:
    rgba = sample(0, 4, 8, 8)
    with pytest.raises(CalibrationError, match="has 4 rows, and input 'x' takes 3 at a time"):
        load_feeds([rgba] if stream else {"x": rgba}, [spec("x", 3, 8, 8)])


def test_rows_of_a_fixed_batch_that_differ_in_shape() -> None:
    declared = [spec("x", 2, "T")]
    feeds = load_feeds([sample(0, 1, length) for length in (3, 3, 5, 5)], declared)
    assert [i["x"].shape for i in feeds.batches(1)] == [(2, 3), (2, 5)]
    with pytest.raises(CalibrationError, match="rows have different shapes, and the model takes 2 at a time"):
        load_feeds([sample(0, 1, length) for length in (3, 5)], declared)


def test_files_of_a_fixed_batch(tmp_path: Path) -> None:
    for number, length in enumerate((3, 3, 5, 5, 2)):
        np.save(tmp_path / f"{number}.npy", sample(number, length))
    feeds = load_feeds(tmp_path, [spec("x", 2, "T")])
    assert [i["x"].shape for i in feeds.batches(1)] == [(2, 3), (2, 5)]
    assert any("the last 1 rows were dropped" in note for note in feeds.notes)
    with pytest.raises(CalibrationError, match=r"2\.npy has another shape than .*1\.npy"):
        (tmp_path / "0.npy").unlink()
        load_feeds(tmp_path, [spec("x", 2, "T")])


# ---- a batch that is not the first axis ----------------------------------------------------------

STATE = (spec("x", "batch", 3), spec("h", 2, "batch", 4))


@dataclass(frozen=True)
class State:
    id: str
    source: object


def states() -> tuple[Array, Array]:
    return sample(0, 6, 3), sample(1, 2, 6, 4)


def one_by_one(x: Array, h: Array) -> list[dict[str, Array]]:
    return [{"x": x[i : i + 1], "h": h[:, i : i + 1]} for i in range(6)]


STATES = [
    State("side by side", dict(zip("xh", states(), strict=True))),
    State("samples first", {"x": states()[0], "h": states()[1].transpose(1, 0, 2)[:, :, None]}),
    State("feeds of one", one_by_one(*states())),
    State("feeds of three", [{"x": states()[0][i : i + 3], "h": states()[1][:, i : i + 3]} for i in (0, 3)]),
    State(
        "without batch axes",
        [{n: np.squeeze(v, axis=int(n == "h")) for n, v in f.items()} for f in one_by_one(*states())],
    ),
]


@pytest.mark.parametrize("case", STATES, ids=lambda case: case.id)
def test_states_whose_second_axis_is_the_batch(case: State) -> None:
    feeds = load_feeds(case.source, STATE)
    x, h = states()
    for number, inputs in enumerate(feeds.batches(1)):
        np.testing.assert_array_equal(inputs["x"], x[number : number + 1])
        np.testing.assert_array_equal(inputs["h"], h[:, number : number + 1])
    assert feeds.batch([1, 4])["h"].tolist() == h[:, [1, 4]].tolist()


@dataclass(frozen=True)
class Named:
    id: str
    shape: tuple[int | str | None, ...]
    axis: int


NAMED = [
    Named("first", ("N", 3), 0),
    Named("second", (2, "batch_size", 4), 1),
    Named("time first", ("seq", "N", 4), 1),
    Named("no name", (2, None, 4), 0),
    Named("other name", (2, "T", 4), 0),
    Named("none", (), 0),
]


@pytest.mark.parametrize("case", NAMED, ids=lambda case: case.id)
def test_the_axis_of_the_batch_by_its_name(case: Named) -> None:
    [found] = with_batch_axes([spec("x", *case.shape)])
    assert found.batch_axis == case.axis


BESIDE = [
    Named("state", (2, None, 4), 1),
    Named("state with a name of its own", (2, "h1", 4), 1),
    Named("sequence that another input has too", (2, "T", 4), 0),
    Named("picture", (3, "H", "W"), 0),
    Named("mask", (1, None), 0),
]


@pytest.mark.parametrize("case", BESIDE, ids=lambda case: case.id)
def test_the_axis_of_the_batch_without_names(case: Named) -> None:
    x, other = with_batch_axes([spec("x", None, "T", 3), spec("h", *case.shape)])
    assert (x.batch_axis, other.batch_axis) == (0, case.axis)
    assert with_batch_axes([spec("b", "batch", 3), other])[1].batch_axis == 0, "names tell"


def test_made_up_states_have_a_batch_of_one() -> None:
    feeds = load_feeds(None, STATE, limit=3)
    assert [(i["x"].shape, i["h"].shape) for i in feeds.batches(1)] == [((1, 3), (2, 1, 4))] * 3


# ---- one value for all ---------------------------------------------------------------------------

SHARED = (spec("x", "N", "T", 3), spec("table", 4, 3), spec("scale"))


def one_for_all(x: object) -> dict[str, object]:
    return {"x": x, "table": sample(9, 4, 3), "scale": np.float32(2)}


def shared_files(folder: Path) -> object:
    for name, values in one_for_all(sample(0, 6, 5, 3)).items():
        np.save(folder / f"{name}.npy", np.asarray(values))
    return folder


def shared_beside_files(folder: Path) -> object:
    for number, values in enumerate(sequences()):
        np.save(folder / f"x_{number}.npy", values)
    for name, values in one_for_all(None).items():
        if name != "x":
            np.save(folder / f"{name}.npy", np.asarray(values))
    return folder


def shared_in_npz(folder: Path) -> object:
    others = {name: np.asarray(values) for name, values in one_for_all(None).items() if name != "x"}
    np.savez(folder / "c.npz", **others, **{f"x_{number}": values for number, values in enumerate(sequences())})
    return folder / "c.npz"


def shared_in_the_first_line(folder: Path) -> object:
    lines: list[dict[str, object]] = [{"x": values.tolist()} for values in sequences()]
    lines[0] |= {"table": sample(9, 4, 3).tolist(), "scale": 2}
    (folder / "c.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder / "c.jsonl"


SHARING = [
    lambda _: one_for_all(sample(0, 6, 5, 3)),
    lambda _: [one_for_all(values[None]) for values in sequences()],
    lambda _: [one_for_all(sample(0, 3, 5, 3)), one_for_all(sample(1, 3, 4, 3))],
    shared_files,
    shared_beside_files,
    shared_in_npz,
    shared_in_the_first_line,
]


@pytest.mark.parametrize("source", SHARING, ids=range(len(SHARING)))
def test_an_input_for_each_sample_and_others_for_all(source: Callable[[Path], object], tmp_path: Path) -> None:
    feeds = load_feeds(source(tmp_path), SHARED)
    assert len(feeds) == 6
    for inputs in feeds.batches(1):
        np.testing.assert_allclose(inputs["table"], sample(9, 4, 3), rtol=1e-6)
        assert (inputs["scale"].shape, float(inputs["scale"])) == ((), 2.0)
    if "table" in feeds.shared:
        assert "input 'table': one value for all 6 samples" in feeds.notes


def test_one_row_for_all_runs_with_several_samples() -> None:
    feeds = load_feeds({"x": sample(0, 6, 3), "y": sample(1, 1, 2)}, [spec("x", "N", 3), spec("y", "N", 2)])
    assert feeds.batch([2, 3])["y"].tolist() == [sample(1, 2).tolist()] * 2
    assert len(feeds.take([4, 1])) == 2


@dataclass(frozen=True)
class Bad:
    id: str
    source: object
    specs: Sequence[InputSpec]
    message: str


BAD = [
    Bad("counts", {"x": sample(0, 6, 3), "y": sample(0, 5, 3)}, [spec("x", "N", 3), spec("y", "N", 3)], "'x' 6, 'y' 5"),
    Bad(
        "counts in a feed",
        [{"x": sample(0, 3, 3), "y": sample(0, 2, 3)}],
        [spec("x", "N", 3), spec("y", "N", 3)],
        r"feed 0: .*'x' 3, 'y' 2.* or one value for all",
    ),
    Bad("a fixed axis", [sample(0, 1, 3), sample(0, 1, 4)], [spec("x", "N", 3)], r"feed 1, .* shape \[1, 4\]"),
    Bad("too few rows", [sample(0, 1, 3)], [spec("x", 4, 3)], "has 1 rows, and the model takes 4 at a time"),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case.id)
def test_what_does_not_fit_is_refused(case: Bad) -> None:
    with pytest.raises(CalibrationError, match=case.message):
        load_feeds(case.source, case.specs)


def test_numbered_arrays_that_lack_one(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", x_0=sample(0, 2, 3), x_1=sample(1, 4, 3), mask_0=sample(2, 2))
    with pytest.raises(CalibrationError, match="sample 1 has no array 'mask_1'; add it"):
        load_feeds(tmp_path / "c.npz", [X, MASK])


def test_a_number_that_is_none(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", **{"x_" + "9" * 5000: sample(0, 2, 3)})
    with pytest.raises(CalibrationError, match="input 'x' of the model is missing"):
        load_feeds(tmp_path / "c.npz", [X])


def test_python_objects_are_not_read(tmp_path: Path) -> None:
    values = np.empty(2, object)
    values[:] = sequences((2, 3))
    np.savez(tmp_path / "c.npz", x=values)
    with pytest.raises(CalibrationError, match=r"one by one under <input>_<number>"):
        load_feeds(tmp_path / "c.npz", [X])


def test_strings_stay_strings() -> None:
    words = np.array(["a", "bc", ""], object)
    declared = [spec("w", "N", dtype="object"), spec("x", "N", "T")]
    whole = load_feeds({"w": words, "x": sample(0, 3, 4)}, declared)
    stream = load_feeds([{"w": words[i : i + 1], "x": sample(i, 1, 2 + i)} for i in range(3)], declared)
    for feeds in (whole, stream):
        assert [inputs["w"].tolist() for inputs in feeds.batches(1)] == [["a"], ["bc"], [""]]
        assert feeds_hash(feeds) == feeds_hash(feeds.take([0, 1, 2]))
        assert feeds_hash(feeds) != feeds_hash(feeds.take([1, 0, 2]))
