"""Reader of sound through an audio recipe: consecutive windows of mono samples in [-1, 1]."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from onnxmpq.errors import CalibrationError
from onnxmpq.feeds.columns import MemoryColumn, RowColumn, assemble
from onnxmpq.feeds.files import RAW_SOUND_SUFFIXES, SOUND_SUFFIXES, file_places, find_files
from onnxmpq.feeds.fit import is_float, rows_per_sample, show_shape
from onnxmpq.feeds.memory import room_for
from onnxmpq.feeds.recipes import AudioRecipe
from onnxmpq.feeds.select import spread, whole_groups
from onnxmpq.feeds.sound import UNREADABLE, Sound, raw_sound, read_wav_header
from onnxmpq.feeds.types import Array, Feeds, InputSpec


@dataclass(frozen=True)
class Window:
    """A stretch of one file: where it begins, in frames."""

    sound: Sound
    start: int


class Windows:
    """All windows of some files, one after the other; a file may hold a hundred million of them."""

    def __init__(self, sounds: Sequence[Sound], length: int) -> None:
        self._sounds, self._length = sounds, length
        self._ends = list(accumulate(max(sound.frames // length, 1) for sound in sounds))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Window:
        file = bisect_right(self._ends, index)
        before = self._ends[file - 1] if file else 0
        return Window(self._sounds[file], (index - before) * self._length)


def read_audio(path: Path, specs: Sequence[InputSpec], recipe: AudioRecipe, limit: int | None) -> Feeds:
    """Feeds from a sound file or a folder of them; at most `limit` samples, evenly spread over all windows, or over the
    files by `lengths = "own"`.

    A file's incomplete last window is dropped, unless it is the file's only one: then zeros fill it up. Several
    channels become their mean. Files that cannot be read are skipped and named in the notes.
    """
    spec = _find_input(specs, recipe)
    length = _window_length(spec, recipe)
    group = rows_per_sample(spec) if len(spec.shape) > 1 else 1
    if recipe.lengths == "own" and not isinstance(spec.shape[-1], int) and group == 1:
        return _whole_files(path, spec, recipe, limit)
    sounds, notes = _find_sounds(path, recipe, length)
    windows = Windows(sounds, length)
    indices = spread(len(windows), None if limit is None else limit * group)
    chosen = [windows[index] for index in indices]
    kept, dropped = whole_groups(len(chosen), group, str(path), "windows")
    values = room_for((kept, length), np.dtype(np.float32), f"recipe {recipe.name}")
    for place, window in enumerate(chosen[:kept]):
        values[place] = _read_window(window, length)
    shaped = values.reshape(kept, *_window_shape(spec, length)).astype(spec.dtype)
    through = f"{path} through recipe {recipe.name}"
    source = f"{through}, from {len(windows)} windows of {length / recipe.sample_rate:.3g} s"
    folder = path if os.path.isdir(path) else path.parent
    places = file_places(folder, [window.sound.path for window in chosen[:kept]], indices[:kept], len(windows))
    columns = {spec.name: MemoryColumn(through, shaped)}
    return assemble(columns, specs, source=source, notes=[*notes, *dropped], places=places)


def _whole_files(path: Path, spec: InputSpec, recipe: AudioRecipe, limit: int | None) -> Feeds:
    """A sample per file."""
    sounds, notes = _find_sounds(path, recipe, 0)
    chosen = spread(len(sounds), limit)
    lengths = [min(sounds[i].frames, recipe.fallback_window) for i in chosen]
    cut = sum(sounds[i].frames > recipe.fallback_window for i in chosen)
    if cut:
        notes.append(f"{cut} of {len(chosen)} sounds were cut to {recipe.fallback_window / recipe.sample_rate:.3g} s")
    through = f"{path} through recipe {recipe.name}"

    def load(row: int) -> Array:
        values = _read_window(Window(sounds[chosen[row]], 0), lengths[row])
        return values.reshape(_window_shape(spec, lengths[row])).astype(spec.dtype)

    column = RowColumn(through, len(chosen), load, lambda row: str(sounds[chosen[row]].path))
    folder = path if os.path.isdir(path) else path.parent
    places = file_places(folder, [sounds[i].path for i in chosen], chosen, len(sounds))
    source = f"{through}, from {len(sounds)} files"
    return assemble({spec.name: column}, [spec], source=source, notes=notes, places=places)


def _find_input(specs: Sequence[InputSpec], recipe: AudioRecipe) -> InputSpec:
    listed = ", ".join(f"'{s.name}'" for s in specs)
    if len(specs) > 1 or recipe.input not in (None, specs[0].name):
        filled = "one input" if recipe.input is None else f"input '{recipe.input}'"
        raise CalibrationError(f"recipe {recipe.name} fills {filled}, but the model has {listed}; prepare an .npz")
    return specs[0]


def _window_length(spec: InputSpec, recipe: AudioRecipe) -> int:
    """Sound samples per window: the input's last axis. CalibrationError where the input takes no waveform."""
    middle = spec.shape[1:-1]
    if not spec.shape or not is_float(spec.dtype) or any(isinstance(axis, int) and axis != 1 for axis in middle):
        raise CalibrationError(
            f"recipe {recipe.name} gives a float waveform, but input '{spec.name}' takes {spec.dtype} "
            f"{show_shape(spec.shape)}; prepare an .npz (features such as spectrograms are not computed here)"
        )
    last = spec.shape[-1]
    return last if isinstance(last, int) else recipe.fallback_window


def _window_shape(spec: InputSpec, length: int) -> tuple[int, ...]:
    return (*(1 for _ in spec.shape[1:-1]), length)


def _find_sounds(path: Path, recipe: AudioRecipe, length: int) -> tuple[list[Sound], list[str]]:
    """Those that can be read and are not empty, for windows of `length` frames, and notes about the others."""
    files = find_files(path, SOUND_SUFFIXES) if os.path.isdir(path) else [path]
    sounds: list[Sound] = []
    skipped: list[str] = []
    mixed = padded = 0
    for file in files:
        try:
            sound = _open_sound(file, recipe)
        except UNREADABLE as error:
            skipped.append(f"{file} ({error or 'it ends too early'})")
            continue
        if sound.rate != recipe.sample_rate:
            raise CalibrationError(
                f"{file} has {sound.rate} Hz, recipe {recipe.name} takes {recipe.sample_rate} Hz; resample it"
            )
        frames = sound.frames
        if frames:
            sounds.append(sound)
        mixed += sound.channels > 1
        padded += 0 < frames < length
    if not sounds:
        reason = f"; the first: {skipped[0]}" if skipped else ""
        raise CalibrationError(f"{path} holds no readable sound{reason}; give PCM WAV files, or raw PCM")
    counted = [
        (mixed, "have several channels, which were averaged"),
        (padded, "are shorter than one window and were filled up with zeros"),
        (len(skipped), f"could not be read and were skipped: {', '.join(skipped[:3])}"),
    ]
    return sounds, [f"{count} of {len(files)} sound files {what}" for count, what in counted if count]


def _open_sound(file: Path, recipe: AudioRecipe) -> Sound:
    """One of `UNREADABLE` for a damaged file; CalibrationError where the recipe does not know raw samples."""
    if file.suffix.lower() not in RAW_SOUND_SUFFIXES:
        return read_wav_header(file)
    if recipe.raw_format is None:
        raise CalibrationError(
            f"{file} has no header, and recipe {recipe.name} does not say what is in it; "
            "add raw_format to your copy of the recipe, or give PCM WAV files"
        )
    return raw_sound(file, recipe.sample_rate, recipe.raw_channels, recipe.raw_format)


def _read_window(window: Window, length: int) -> NDArray[np.float32]:
    """`length` mono samples in [-1, 1], zeros after the file's end."""
    try:
        return window.sound.read(window.start, length)
    except UNREADABLE as error:
        raise CalibrationError(f"{window.sound.path} is damaged ({error}); remove or repair it") from error
