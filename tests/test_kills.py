"""A conversion that is killed leaves no half-written file, and the next one goes on to the same bytes."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from benchmarks.kills import Place, kill
from tests.tables import int8_pays

SAMPLE = Path(__file__).parent.parent / "samples" / "digits_cnn.onnx"
QUICK = ("--without", "gptq", "--without", "bias-correction")
pytestmark = pytest.mark.skipif(os.name != "posix" or sys.platform == "darwin", reason="looks into /proc")


def test_a_killed_conversion_is_as_if_it_had_not_been(tmp_path: Path) -> None:
    costs = int8_pays(SAMPLE, tmp_path)
    undisturbed = Place(tmp_path / "undisturbed", costs, QUICK)
    expected, _ = undisturbed.finish()
    most = len(undisturbed.cached)
    assert len(expected) == 2 and most > 8
    place = Place(tmp_path / "killed", costs, QUICK)
    for entries in (1, most // 2):  # moments of progress, not of a clock
        assert kill(place, lambda: len(place.cached) >= entries)  # noqa: B023 (called at once)
        assert place.written().items() <= expected.items()
        kept = place.cached
        assert len(kept) >= entries
    again, reused = place.finish()
    assert again == expected and reused
    assert set(kept) <= set(place.cached)
    visible = [name for name in place.leftovers() if not Path(name).name.startswith(".")]
    assert all(name.startswith("temporary") for name in visible)  # a hidden one is in nobody's way
