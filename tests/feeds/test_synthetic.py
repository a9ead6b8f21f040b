from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxmpq.errors import CalibrationError, UsageError
from onnxmpq.feeds import synthesize
from onnxmpq.feeds.recipes import ImageRecipe
from onnxmpq.feeds.recipes import find_recipe as find
from onnxmpq.feeds.synthetic import WARNING
from tests.feeds.specs import BERT, spec


def find_recipe(name: str) -> ImageRecipe:
    found = find(name)
    assert isinstance(found, ImageRecipe)
    return found


AXES = st.lists(st.one_of(st.integers(1, 4), st.sampled_from(["N", "T"]), st.none()), max_size=4)


@settings(max_examples=60, deadline=None)
@given(shape=AXES, dtype=st.sampled_from(["float32", "float16", "int64", "int8", "bool", "uint8"]))
def test_any_declared_input_gets_samples_that_fit(shape: list[int | str | None], dtype: str) -> None:
    one = spec("x", *shape, dtype=dtype)
    feeds = synthesize([one], 3, dims={"T": 5} if "T" in shape[1:] else None)
    assert len(feeds) == 3
    for batch in feeds.batches(1):
        assert batch["x"].dtype == dtype
        assert len(batch["x"].shape) == len(shape)
        fixed = [(size, have) for size, have in zip(shape, batch["x"].shape, strict=True) if isinstance(size, int)]
        assert all(size == have for size, have in fixed)


def test_notes_say_loudly_what_was_assumed() -> None:
    feeds = synthesize(BERT, 2)
    assert feeds.synthetic
    assert feeds.notes[0] == WARNING
    assert feeds.notes[1] == (
        "input 'input_ids' [batch, sequence] int64: uniform integers from 0 to 31; sequence = 128"
    )


def test_bert_inputs_by_their_names() -> None:
    arrays = synthesize(BERT, 4, dims={"sequence": 16}, bounds={"input_ids": 1000}).arrays
    assert {array.shape for array in arrays.values()} == {(4, 16)}
    assert 32 <= arrays["input_ids"].max() < 1000
    assert (arrays["attention_mask"] == 1).all()
    assert set(np.unique(arrays["token_type_ids"])) == {0, 1}
    positions = synthesize([spec("position_ids", "N", 6, dtype="int64")], 2).arrays["position_ids"]
    assert positions.tolist() == [[0, 1, 2, 3, 4, 5]] * 2


@pytest.mark.parametrize("shape", [("N", 3, 64, 64), (1, 64, 64, 3), (2, 1, 64, 64)], ids=str)
def test_pictures_are_smooth(shape: tuple[int | str, ...]) -> None:
    values = synthesize([spec("x", *shape)], 4).arrays["x"]
    vertical = -3 if shape[-1] == 3 else -2
    steps = np.diff(values, axis=vertical)
    assert steps.std() < 0.8 * values.std()  # white noise: 1.41


def test_pictures_have_the_statistics_of_normalised_photographs() -> None:
    values = synthesize([spec("x", "N", 3, 48, 48)], 32).arrays["x"]
    assert abs(values.mean()) < 0.25 and 0.9 < values.std() < 1.35  # photographs: 0 and 1.1
    contrasts = values.std(axis=(1, 2, 3))
    assert contrasts.max() > 1.5 * contrasts.min()
    correlation = np.corrcoef(values.transpose(1, 0, 2, 3).reshape(3, -1))
    assert 0.6 < correlation.min() < 0.95
    steps = np.abs(np.diff(values, axis=3))
    assert np.percentile(steps, 99) > 4 * np.median(steps)  # edges: of 1/f noise alone it is 3.8


def test_pictures_through_a_recipe() -> None:
    pixels = spec("images", 1, 3, 64, 64)
    feeds = synthesize([pixels], 4, recipe=find_recipe("yolo"))
    values = feeds.arrays["images"]
    assert values.shape == (4, 3, 64, 64)
    assert values.min() >= 0 and values.max() <= 1
    assert (values == np.float32(114 / 255)).mean() > 0.1  # the letterbox's border
    assert "recipe yolo" in feeds.notes[1]
    assert synthesize([spec("x", 2, 32, 32, 3)], 3, recipe=find_recipe("imagenet-tf")).arrays["x"].shape == (
        3,
        2,
        32,
        32,
        3,
    )
    with pytest.raises(CalibrationError, match="takes no pictures"):
        synthesize([spec("x", "N", 7)], 1, recipe=find_recipe("imagenet"))


def test_pictures_of_open_size_and_bytes() -> None:
    values = synthesize([spec("x", "N", 3, None, None, dtype="uint8")], 1, dims={"x[2]": 32}).arrays["x"]
    assert values.shape == (1, 3, 32, 224)
    assert 100 < values.mean() < 156


def test_same_seed_same_values() -> None:
    specs = [spec("x", "N", 3, 8, 8), spec("y", "N", 4, dtype="int64")]
    first, same, other = (synthesize(specs, 2, seed) for seed in (1, 1, 2))
    for name in ("x", "y"):
        np.testing.assert_array_equal(first.arrays[name], same.arrays[name])
        assert not np.array_equal(first.arrays[name], other.arrays[name])


def test_dims_and_bounds_that_the_model_lacks() -> None:
    with pytest.raises(UsageError, match="dimension 'sequense' is not in the model; did you mean sequence"):
        synthesize(BERT, dims={"sequense": 8})
    with pytest.raises(UsageError, match="bound of input 'zzz' is not in the model; it has attention_mask, input_ids"):
        synthesize(BERT, bounds={"zzz": 8})
    with pytest.raises(UsageError, match="dimension 'sequence' is 0"):
        synthesize(BERT, dims={"sequence": 0})
    with pytest.raises(UsageError, match="is 1000, but int8 ends at 127"):
        synthesize([spec("x", "N", dtype="int8")], bounds={"x": 1000})


def test_texts_cannot_be_made_up() -> None:
    with pytest.raises(
        CalibrationError, match="takes strings, or a type that NumPy does not have, which cannot be made up"
    ):
        synthesize([spec("x", "N", dtype="object")])
