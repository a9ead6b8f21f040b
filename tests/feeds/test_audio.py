from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from onnxmpq.errors import CalibrationError
from onnxmpq.feeds import InputSpec, load_feeds
from tests.feeds.specs import spec

SOUND = spec("sound", "N", 8)


def save(path: Path, frames: bytes, width: int = 2, channels: int = 1, rate: int = 16000) -> Path:
    with wave.open(str(path), "wb") as sound:
        sound.setsampwidth(width)
        sound.setnchannels(channels)
        sound.setframerate(rate)
        sound.writeframes(frames)
    return path


def counting(count: int) -> bytes:
    return np.arange(count, dtype="<i2").tobytes()


def test_windows_follow_each_other_and_the_rest_is_dropped(tmp_path: Path) -> None:
    feeds = load_feeds(save(tmp_path / "a.wav", counting(20)), [SOUND], recipe="audio-16k")
    assert (feeds.arrays["sound"] * 2**15).tolist() == [list(range(8)), list(range(8, 16))]
    assert feeds.arrays["sound"].dtype == np.float32


def test_limit_is_spread_over_all_windows(tmp_path: Path) -> None:
    save(tmp_path / "a.wav", counting(80))
    save(tmp_path / "b.wav", counting(80))
    feeds = load_feeds(tmp_path, [SOUND], recipe="audio-16k", limit=4)
    assert (feeds.arrays["sound"][:, 0] * 2**15).tolist() == [16, 56, 16, 56]


@pytest.mark.parametrize("shape", [("N", 1, 8), (1, 8), ("N", 1, 1, 8), (8,)], ids=str)
def test_shapes(tmp_path: Path, shape: tuple[int | str, ...]) -> None:
    feeds = load_feeds(save(tmp_path / "a.wav", counting(16)), [spec("sound", *shape)], recipe="audio-16k")
    one = tuple(1 if isinstance(axis, str) else axis for axis in shape)
    assert [batch["sound"].shape for batch in feeds.batches(1)] == [one, one]


def test_open_length_takes_the_recipe_s(tmp_path: Path) -> None:
    feeds = load_feeds(save(tmp_path / "a.wav", counting(32000)), [spec("sound", "N", "T")], recipe="audio-16k")
    assert feeds.arrays["sound"].shape == (2, 16000)


def test_short_files_are_filled_up(tmp_path: Path) -> None:
    feeds = load_feeds(save(tmp_path / "a.wav", counting(3)), [SOUND], recipe="audio-16k")
    assert (feeds.arrays["sound"] * 2**15).tolist() == [[0, 1, 2, 0, 0, 0, 0, 0]]
    assert "shorter than one window" in feeds.notes[0]


def test_channels_are_averaged(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", np.tile(np.array([0, 64], "<i2"), 8).tobytes(), channels=2)
    feeds = load_feeds(path, [SOUND], recipe="audio-16k")
    assert (feeds.arrays["sound"] * 2**15 == 32).all()
    assert "have several channels, which were averaged" in feeds.notes[0]


@dataclass(frozen=True)
class Width:
    width: int
    low: bytes
    high: bytes


@pytest.mark.parametrize(
    "case",
    [
        Width(1, b"\x00", b"\xff"),
        Width(2, b"\x00\x80", b"\xff\x7f"),
        Width(3, b"\x00\x00\x80", b"\xff\xff\x7f"),
        Width(4, b"\x00\x00\x00\x80", b"\xff\xff\xff\x7f"),
    ],
    ids=lambda case: f"{8 * case.width} bits",
)
def test_full_range_of_each_width(tmp_path: Path, case: Width) -> None:
    path = save(tmp_path / "a.wav", (case.low + case.high) * 4, case.width)
    values = load_feeds(path, [SOUND], recipe="audio-16k").arrays["sound"][0]
    assert values[0] == -1
    assert 1 - 2.0 ** (1 - 8 * case.width) - 1e-6 <= values[1] <= 1


def test_unreadable_files_are_skipped_and_named(tmp_path: Path) -> None:
    save(tmp_path / "a.wav", counting(8))
    (tmp_path / "b.wav").write_bytes(b"no sound")
    (tmp_path / "c.wav").write_bytes(save(tmp_path / "c.wav", counting(100)).read_bytes()[:60])
    feeds = load_feeds(tmp_path, [SOUND], recipe="audio-16k")
    assert len(feeds) == 1
    assert feeds.notes[0].startswith("2 of 3 sound files could not be read")
    (tmp_path / "a.wav").unlink()
    with pytest.raises(CalibrationError, match=r"holds no readable sound; the first: .*b\.wav"):
        load_feeds(tmp_path, [SOUND], recipe="audio-16k")


def test_other_sample_rate(tmp_path: Path) -> None:
    path = save(tmp_path / "a.wav", counting(8), rate=44100)
    with pytest.raises(CalibrationError, match=r"a\.wav has 44100 Hz, recipe audio-16k takes 16000 Hz; resample it"):
        load_feeds(path, [SOUND], recipe="audio-16k")


@pytest.mark.parametrize(
    "other", [spec("mel", "N", 80, 3000), spec("x", "N", 8, dtype="int64"), spec("scalar")], ids=lambda s: s.name
)
def test_inputs_that_take_no_waveform(tmp_path: Path, other: InputSpec) -> None:
    with pytest.raises(CalibrationError, match=r"gives a float waveform, but .* prepare an \.npz"):
        load_feeds(save(tmp_path / "a.wav", counting(8)), [other], recipe="audio-16k")


def test_more_than_one_input(tmp_path: Path) -> None:
    with pytest.raises(CalibrationError, match="fills one input, but the model has 'sound', 'rate'"):
        load_feeds(save(tmp_path / "a.wav", counting(8)), [SOUND, spec("rate")], recipe="audio-16k")


@dataclass(frozen=True)
class Raw:
    """A raw format, and -1/2 and 1/4 in it."""

    format: str
    values: bytes


@pytest.mark.parametrize(
    "case",
    [
        Raw("uint8", b"\x40\xa0"),
        Raw("int8", b"\xc0\x20"),
        Raw("int16", b"\x00\xc0\x00\x20"),
        Raw("int24", b"\x00\x00\xc0\x00\x00\x20"),
        Raw("int32", b"\x00\x00\x00\xc0\x00\x00\x00\x20"),
        Raw("float32", np.array([-0.5, 0.25], "<f4").tobytes()),
    ],
    ids=lambda case: case.format,
)
def test_raw_samples_of_each_format(tmp_path: Path, case: Raw) -> None:
    (tmp_path / "a.pcm").write_bytes(case.values * 6)
    path = raw_recipe(tmp_path, case.format)
    feeds = load_feeds(tmp_path / "a.pcm", [SOUND], recipe=path)
    assert feeds.arrays["sound"].tolist() == [[-0.5, 0.25] * 4]


def raw_recipe(folder: Path, raw_format: str, channels: int = 1) -> str:
    text = f"""description = "a test"
kind = "audio"
sample_rate = 8000
fallback_window = 8
raw_format = "{raw_format}"
raw_channels = {channels}
"""
    (folder / "recipe.toml").write_text(text)
    return str(folder / "recipe.toml")


def test_raw_channels_are_averaged_and_windows_follow_each_other(tmp_path: Path) -> None:
    frames = np.stack([np.arange(20), np.arange(20) + 2], axis=1).astype("<i2")
    (tmp_path / "a.raw").write_bytes(frames.tobytes())
    feeds = load_feeds(tmp_path, [SOUND], recipe=raw_recipe(tmp_path, "int16", 2))
    assert (feeds.arrays["sound"] * 2**15).tolist() == [list(range(1, 9)), list(range(9, 17))]


def test_raw_files_go_through_the_shipped_recipe(tmp_path: Path) -> None:
    (tmp_path / "a.PCM").write_bytes(counting(8))
    feeds = load_feeds(tmp_path, [SOUND], recipe="audio-16k")
    assert (feeds.arrays["sound"] * 2**15).tolist() == [list(range(8))]


def test_raw_files_of_another_size_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.pcm").write_bytes(bytes(17))
    with pytest.raises(CalibrationError, match=r"a\.pcm \(its 17 bytes are no whole number of int16 samples"):
        load_feeds(tmp_path, [SOUND], recipe="audio-16k")


def test_raw_floats_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "a.pcm").write_bytes(np.full(16, 30000, "<i4").view("<f4").tobytes() + b"\x00\x00\x00\x50" * 8)
    with pytest.raises(CalibrationError, match=r"a\.pcm is damaged \(its samples are not float32 from -1 to 1\)"):
        load_feeds(tmp_path, [SOUND], recipe=raw_recipe(tmp_path, "float32"))


def test_raw_files_need_a_recipe_that_knows_them(tmp_path: Path) -> None:
    (tmp_path / "a.pcm").write_bytes(counting(8))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('description = "a test"\nkind = "audio"\nsample_rate = 8000\nfallback_window = 8\n')
    with pytest.raises(CalibrationError, match=r"a\.pcm has no header, and recipe .* add raw_format"):
        load_feeds(tmp_path / "a.pcm", [SOUND], recipe=str(recipe))


OWN = 'kind = "audio"\ndescription = "d"\nsample_rate = 16000\nfallback_window = 12\nlengths = "own"\n'


@pytest.mark.parametrize("shape", [("N", "T"), (1, "T"), ("T",), ("N", 1, "T")], ids=str)
def test_files_of_their_own_lengths(tmp_path: Path, shape: tuple[int | str, ...]) -> None:
    (tmp_path / "own.toml").write_text(OWN)
    folder = tmp_path / "sounds"
    folder.mkdir()
    for number, count in enumerate((5, 20, 8)):
        save(folder / f"{number}.wav", counting(count))
    feeds = load_feeds(folder, [spec("sound", *shape)], recipe=str(tmp_path / "own.toml"))
    assert [(run["sound"] * 2**15).ravel().tolist() for run in feeds.batches(1)] == [list(range(n)) for n in (5, 12, 8)]
    assert [run["sound"].ndim for run in feeds.batches(1)] == [len(shape)] * 3
    assert feeds.label(2) == "2.wav"
    assert any("1 of 3 sounds were cut to" in note for note in feeds.notes)
    fixed = load_feeds(folder, [spec("sound", "N", 4)], recipe=str(tmp_path / "own.toml"))
    assert fixed.arrays["sound"].shape == (1 + 5 + 2, 4)
