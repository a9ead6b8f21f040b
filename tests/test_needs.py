"""What a conversion will need: said beforehand, and refused where the disk has no room."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import pytest

from onnxmpq.errors import OutputError
from onnxmpq.execution import float_shapes
from onnxmpq.needs import announce, needs, scratch_bytes
from onnxmpq.opening import open_model, open_target
from onnxmpq.progress import Silent
from tests.graphs import feeds_for
from tests.model.test_spill import LAYERS, split

Usage = namedtuple("Usage", "total used free")


class Heard(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)


def test_a_model_that_memory_holds_needs_no_disk() -> None:
    opened = open_model(LAYERS, open_target("cpu"))
    found = needs(opened.model, opened.menu(), float_shapes(opened.model, feeds_for(LAYERS)), 64)
    assert found.scratch_bytes == 0 and found.memory_bytes > opened.model.prepared_bytes
    assert found.seconds is not None and found.seconds > 0
    heard = Heard()
    announce(opened.model, opened.menu(), feeds_for(LAYERS), heard)
    assert heard.lines == []


def test_fewer_schemes_need_less(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxmpq.model.spill.NEVER_WHOLE", 0)
    opened = open_model(split(LAYERS, tmp_path), open_target("cpu"))
    every, few = opened.menu(), opened.menu(requested=("w8",))
    assert 0 < scratch_bytes(opened.model, few) < scratch_bytes(opened.model, every)
    shapes = float_shapes(opened.model, feeds_for(LAYERS))
    fewer, more = (needs(opened.model, menu, shapes, 64).seconds for menu in (few, every))
    assert fewer is not None and more is not None and fewer < more
    assert needs(opened.model, every, None, 64).seconds is None


def test_a_disk_without_room_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxmpq.model.spill.NEVER_WHOLE", 0)
    opened, heard = open_model(split(LAYERS, tmp_path), open_target("cpu")), Heard()
    wanted = scratch_bytes(opened.model, opened.menu())
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(wanted, 0, wanted))
    announce(opened.model, opened.menu(), feeds_for(LAYERS), heard)
    assert "a conversion will need about" in heard.lines[0] and "up to" in heard.lines[0]
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(wanted, 1, wanted - 1))
    with pytest.raises(OutputError, match=r"are needed and .* are free; set TMPDIR to a folder with more room"):
        announce(opened.model, opened.menu(), feeds_for(LAYERS), heard)
