"""What a conversion will need: said beforehand, and refused where the disk has no room."""

from __future__ import annotations

import weakref
from collections import namedtuple
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import onnx
import pytest

import onnxmpq
from onnxmpq.cost import Effort
from onnxmpq.errors import OutputError
from onnxmpq.execution import float_shapes
from onnxmpq.feeds import Feeds
from onnxmpq.menu import Menu
from onnxmpq.model import Model, Spill
from onnxmpq.needs import COMPARED_BYTES, announce, needs, scratch_bytes
from onnxmpq.opening import open_model, open_target
from onnxmpq.progress import Progress, Silent
from onnxmpq.weights import Techniques
from tests.graphs import feeds_for, graph, samples_for
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


def test_outputs_that_are_compared_take_memory() -> None:
    """Twice: as codes of every effect, and whole, of the samples that are held out."""

    def memory(proto: onnx.ModelProto, samples: int = 64) -> int:
        opened = open_model(proto, open_target("cpu"))
        shapes = float_shapes(opened.model, feeds_for(proto))
        return needs(opened.model, opened.menu(), shapes, samples, threads=1).memory_bytes

    narrow, wide = (
        graph("y = MatMul (x, w)", "float[N, 8] x", f"float[N, {n}] y", f"float[8, {n}] w") for n in (8, 8192)
    )
    more = memory(wide) - memory(narrow)
    assert more > 64 * 8184 * (4 * 2 + COMPARED_BYTES / 3)  # a weight in two formats, at the least
    assert memory(wide) > memory(wide, 32)


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


class Taken:
    """The most bytes that temporary files had at the same time, those without a name included."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.named: dict[Path, int] = {}
        self.lock = Lock()
        self.unnamed = self.most = 0
        write, array = Spill._write, Spill.array

        def written(spill: Spill, file: Path, content: Any) -> None:
            write(spill, file, content)
            self.look({file: len(content)})

        def mapped(spill: Spill, values: Any) -> Any:
            found = array(spill, values)
            if isinstance(found, np.memmap):
                self.unnamed += found.nbytes
                weakref.finalize(found._mmap, self.forget, found.nbytes)  # type: ignore[attr-defined]
            self.look({})
            return found

        monkeypatch.setattr(Spill, "_write", written)
        monkeypatch.setattr(Spill, "array", mapped)

    def forget(self, size: int) -> None:
        self.unnamed -= size

    def look(self, more: dict[Path, int]) -> None:
        with self.lock:
            self.named = {file: size for file, size in (self.named | more).items() if file.exists()}
        self.most = max(self.most, self.unnamed + sum(self.named.values()))


def tokens(width: int, layers: int) -> onnx.ModelProto:
    """Products behind an embedding, of weights that are worth a file."""
    steps = " ".join(f"a{n} = MatMul (r{n}, w{n}) r{n + 1} = Relu (a{n})" for n in range(layers))
    weights = ", ".join(f"float[{width}, {width}] w{n}" for n in range(layers))
    return graph(
        f"r0 = Gather (table, x) {steps} y = MatMul (r{layers}, head)",
        "int64[N, 6] x",
        f"float[N, 6, {2 * width}] y",
        f"float[{2 * width}, {width}] table, float[{width}, {2 * width}] head, {weights}",
    )


@pytest.mark.parametrize(
    ("schemes", "options"),
    [
        (("w8b128", "w4b32"), {}),
        (("w8b128", "w4b32"), {"without": ("gptq", "smoothquant", "equalisation")}),
        (("w8b128",), {}),
        (("w4b32", "w4b32-level0"), {}),
        ((), {}),
    ],
    ids=["two", "to_nearest", "one", "levels", "every"],
)
@pytest.mark.parametrize("plans", [1, 3])
def test_temporary_files_take_what_was_announced(
    plans: int, schemes: tuple[str, ...], options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """plans: that are measured to their end before one is held to be within the budgets, whatever the clock says."""
    monkeypatch.setattr("onnxmpq.model.spill.NEVER_WHOLE", 0)
    answers = iter([*[False] * (plans - 1), *[True] * 9])
    monkeypatch.setattr("onnxmpq.shipping.budgets.WithinBudgets._confirmed", lambda *_: next(answers))
    proto = tokens(256, 4)
    path = split(proto, tmp_path)
    taken, announced = Taken(monkeypatch), list[int]()

    def said(model: Model, menu: Menu, _: Feeds, __: Progress, techniques: Techniques) -> None:
        announced.append(scratch_bytes(model, menu, techniques))

    monkeypatch.setattr("onnxmpq.pipeline.announce", said)
    given = {"calibration": samples_for(proto, 16), "cache": False, "effort": Effort(0.02, 2, 2), "best_effort": True}
    onnxmpq.convert(path, size="40%", schemes=schemes, **given, **options)
    assert taken.most <= announced[0]
    assert announced[0] <= 1.7 * taken.most
