"""`onnxmpq cache`: what is in the folder, by kind, and removing it without touching what is not ours."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import onnx
import pytest

import onnxmpq
from onnxmpq.cache import Cache, content_hash
from onnxmpq.cache.contents import Held, clear, contents
from onnxmpq.files import Archive
from tests.cli.conftest import run
from tests.cli.folders import Run
from tests.conftest import QUICK
from tests.graphs import residual_cnn, samples_for
from tests.tables import int8_pays

__all__ = ["run"]
DOCS = (Path(__file__).parents[2] / "docs" / "cache.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that a conversion has used."""
    path = tmp_path_factory.mktemp("used")
    onnx.save_model(residual_cnn(), path / "m.onnx")
    options: dict[str, Any] = {"calibration": samples_for(residual_cnn(), 12), "effort": QUICK, "guard": False}
    table = int8_pays(path / "m.onnx", path)
    onnxmpq.convert(path / "m.onnx", latency="80%", cost_table=table, cache=path / "cache", **options)
    return path / "cache"


def test_every_kind_that_a_conversion_keeps_has_its_name(filled: Path) -> None:
    found = contents(filled)
    assert {"activation ranges", "rounded weights", "effects", "reference", "second rounding"} <= found.kinds.keys()
    files = [p for p in filled.glob("??/*.npz")]
    assert found.total == Held(len(files), sum(p.stat().st_size for p in files))
    kept = re.findall(r"^\| ([a-z ]+?)(?:, for one hour)? \|", DOCS, re.MULTILINE)
    assert {"activation ranges", "rounded weights", "effects", "reference", "second rounding"} <= set(kept)


def test_only_entries_are_removed(tmp_path: Path) -> None:
    cache = Cache(tmp_path)
    cache.put(content_hash("a"), Archive({}, 1))
    other = tmp_path / "aa"
    other.mkdir(exist_ok=True)
    (other / "mine.npz").write_text("mine")
    (tmp_path / "README").write_text("mine")
    (other / f"{'0' * 64}.npz").write_bytes(b"no archive")
    (other / f"{'1' * 64}.npz").symlink_to(tmp_path / "README")
    assert contents(tmp_path).kinds["damaged"].entries == 1
    assert clear(tmp_path).entries == 2
    assert contents(tmp_path).total == Held()
    assert {p.name for p in tmp_path.rglob("*") if not p.is_dir()} == {"mine.npz", "README", f"{'1' * 64}.npz"}
    assert contents(tmp_path / "none").kinds == {} and clear(tmp_path / "none") == Held()


def test_the_command(tmp_path: Path, run: Run) -> None:
    Cache(tmp_path).put(content_hash("a"), Archive({}, 1))
    shown = run("cache", "--cache", tmp_path)
    assert shown.code == 0 and str(tmp_path) in shown.out.replace("\n", "")
    asked = run("cache", "--cache", tmp_path, "--clear")
    assert asked.code == 2 and "add --yes" in asked.err
    assert json.loads(run("cache", "--cache", tmp_path, "--json").out)["total"]["entries"] == 1
    assert run("cache", "--cache", tmp_path, "--clear", "--yes").out.startswith("removed 1 entries")
