"""Files of PCM sound: WAV, and raw samples without a header, whose format a recipe knows."""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

RawFormat = Literal["uint8", "int8", "int16", "int24", "int32", "float32"]
RAW_BYTES: dict[RawFormat, int] = {"uint8": 1, "int8": 1, "int16": 2, "int24": 3, "int32": 4, "float32": 4}
_LOUDEST = 16.0  # a mix may be a little over 1; what is of another format is far beyond
UNREADABLE = (wave.Error, EOFError, OSError, RuntimeError, ValueError)


@dataclass(frozen=True)
class Sound:
    """A file whose header was read, or whose format is given. rate: Hz. frames: samples of every channel.

    raw: None for a WAV file.
    """

    path: Path
    rate: int
    channels: int
    frames: int
    raw: RawFormat | None = None

    def read(self, start: int, length: int) -> NDArray[np.float32]:
        """`length` frames from frame `start` on, averaged over the channels: float32 [length] in [-1, 1].

        Zeros after the file's end. One of `UNREADABLE` where it is damaged.
        """
        samples = self._wav(start, length) if self.raw is None else self._headerless(self.raw, start, length)
        whole = len(samples) - len(samples) % self.channels
        mono = samples[:whole].reshape(-1, self.channels).mean(axis=1, dtype=np.float32)
        return np.pad(mono, (0, length - len(mono)))

    def _wav(self, start: int, length: int) -> NDArray[np.float32]:
        with wave.open(str(self.path), "rb") as sound:
            sound.setpos(start)
            data, width = sound.readframes(length), sound.getsampwidth()
        return _decode("uint8" if width == 1 else "int", data, width)  # 8 bits are unsigned, as WAV has it

    def _headerless(self, raw: RawFormat, start: int, length: int) -> NDArray[np.float32]:
        width = RAW_BYTES[raw]
        with self.path.open("rb") as file:
            file.seek(start * self.channels * width)
            data = file.read(length * self.channels * width)
        samples = _decode(raw, data, width)
        if not np.abs(samples).max(initial=0.0) <= _LOUDEST:  # NaN as well
            raise ValueError(f"its samples are not {raw} from -1 to 1")
        return samples


def read_wav_header(path: Path) -> Sound:
    """One of `UNREADABLE` for a file that is damaged or no WAV."""
    with wave.open(str(path), "rb") as sound:
        width, channels, frames = sound.getsampwidth(), sound.getnchannels(), sound.getnframes()
        if width > 4:
            raise wave.Error(f"samples of {width} bytes")
        if frames * width * channels > path.stat().st_size:
            raise EOFError("it is shorter than its header says")
        return Sound(path, sound.getframerate(), channels, frames)


def raw_sound(path: Path, rate: int, channels: int, raw: RawFormat) -> Sound:
    """A file of samples alone, little-endian, channels interleaved. ValueError where its size does not fit."""
    frame, size = RAW_BYTES[raw] * channels, path.stat().st_size
    if size % frame:
        raise ValueError(f"its {size} bytes are no whole number of {raw} samples of {channels} channel(s)")
    return Sound(path, rate, channels, size // frame, raw)


def _decode(kind: str, data: bytes, width: int) -> NDArray[np.float32]:
    """Little-endian samples of `width` bytes each as float32; whole numbers become [-1, 1)."""
    data = data[: len(data) - len(data) % width]
    if kind == "float32":
        return np.frombuffer(data, "<f4").astype(np.float32)
    bytes_ = np.frombuffer(data, np.uint8)
    if kind == "uint8":
        return (bytes_.astype(np.float32) - np.float32(128)) / np.float32(128)
    wide = np.zeros((len(bytes_) // width, 4), np.uint8)
    wide[:, 4 - width :] = bytes_.reshape(-1, width)  # the high bytes of a little-endian int32
    scaled: NDArray[np.float32] = wide.view("<i4")[:, 0].astype(np.float32) / np.float32(2**31)
    return scaled
