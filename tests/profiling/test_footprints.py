"""Memory and load time of sessions. No figure depends on the machine: only that large is more than small."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import pytest

from onnxmpq.profiling import Footprint, footprint, sessions_in_words
from onnxmpq.profiling import footprints as module
from onnxmpq.runtimes import SessionSettings
from tests.graphs import feeds_for, graph

WEIGHTS = 4 * 4000 * 4000  # bytes of the larger one's


def product(width: int) -> onnx.ModelProto:
    return graph("y = MatMul (x, w)", f"float[N, {width}] x", f"float[N, {width}] y", f"float[{width}, {width}] w")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read from /proc")
def test_memory_follows_the_weights(tmp_path: Path) -> None:
    small, large = product(8), product(4000)
    found = []
    for number, proto in enumerate((small, large)):
        onnx.save_model(proto, tmp_path / f"{number}.onnx")
        inputs = feeds_for(proto, 1).batch([0])
        found.append(footprint(str(tmp_path / f"{number}.onnx"), inputs, SessionSettings()))
    less, more = found
    assert less.peak_bytes is not None and more.peak_bytes is not None and more.held_bytes is not None
    assert more.peak_bytes > 0.9 * WEIGHTS > 2 * less.peak_bytes
    assert more.peak_bytes >= more.held_bytes > 0
    assert less.load_s > 0


def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "_STATUS", tmp_path / "none")
    assert module._resident("VmRSS") is None
    unknown = Footprint(0.002, None, None)
    assert sessions_in_words(unknown, unknown) == "session opens in 2.0 ms -> 2.0 ms"
