"""Damaged files of every kind: they load, or they are refused in one line, but nothing else ever happens."""

from __future__ import annotations

import io
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from onnxmpq.errors import OnnxmpqError
from onnxmpq.feeds import InputSpec, load_feeds
from tests.feeds.specs import spec


def npz_bytes(compressed: bool) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(buffer, x=np.linspace(0, 1, 12, dtype=np.float32).reshape(4, 3))
    return buffer.getvalue()


def npy_bytes() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.ones((4, 3), np.float32))
    return buffer.getvalue()


def picture_bytes(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(buffer, kind)
    return buffer.getvalue()


def wav_bytes() -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as sound:
        sound.setsampwidth(2)
        sound.setnchannels(1)
        sound.setframerate(16000)
        sound.writeframes(bytes(64))
    return buffer.getvalue()


@dataclass(frozen=True)
class Kind:
    file: str
    content: Callable[[], bytes]
    spec: InputSpec
    recipe: str | None = None


FLOATS, PICTURES = spec("x", "N", 3), spec("x", "N", 3, 32, 32)
KINDS = [
    Kind("stored.npz", lambda: npz_bytes(False), FLOATS),
    Kind("compressed.npz", lambda: npz_bytes(True), FLOATS),
    Kind("a.npy", npy_bytes, FLOATS),
    Kind("a.csv", lambda: b"a,b,c\n1,2,3\n4,5,6\n", FLOATS),
    Kind("a.jsonl", lambda: b'{"x": [1, 2, 3]}\n[4, 5, 6]\n', FLOATS),
    Kind(
        "ids.jsonl",
        lambda: b'{"input_ids": [1, 2, 3]}\n[4, 5]\n',
        spec("input_ids", "N", 4, dtype="int64"),
        "bert-text",
    ),
    Kind("a.png", lambda: picture_bytes("png"), PICTURES, "cifar10"),
    Kind("a.jpg", lambda: picture_bytes("jpeg"), PICTURES, "cifar10"),
    Kind("a.gif", lambda: picture_bytes("gif"), PICTURES, "cifar10"),
    Kind("a.tif", lambda: picture_bytes("tiff"), PICTURES, "cifar10"),
    Kind("a.wav", wav_bytes, spec("x", "N", 8), "audio-16k"),
]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.file)
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage(kind: Kind, tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(kind.content())
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / kind.file
    path.write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    try:
        feeds = load_feeds(path, [kind.spec], recipe=kind.recipe)
    except OnnxmpqError as error:
        assert str(path) in str(error)
        assert "\n" not in str(error)
    else:
        assert len(feeds) > 0
